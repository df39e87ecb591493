"""How the command line reads what was typed and written: durations, pairs, sources of values, moai.toml."""

from __future__ import annotations

import itertools
import re

import moai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moai._cli.common import SEVERITY, pairs, seconds, worst
from moai._cli.settings import RECIPE, merge

quick = settings(deadline=None, max_examples=150)


# -- what was typed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1.5h", 5400), ("0", 0)])
def test_a_duration_has_a_unit_or_counts_seconds(text, value):
    assert seconds(text, "--timeout") == value


@pytest.mark.parametrize("text", ["", "m", "-5", "-5m", "5w", "5 minutes", "nan", "inf", "1e99d", "h2", "2h30m", "--", "\x1b[2J"])
def test_what_is_no_duration_is_refused_with_the_option_and_the_text(text):
    with pytest.raises(moai.UsageError) as refused:
        seconds(text, "--timeout")
    assert "--timeout" in refused.value.message and repr(text) in refused.value.message and refused.value.next


@quick
@given(st.text(max_size=8))
def test_a_duration_is_a_bounded_number_or_an_error(text):
    try:
        assert 0 <= seconds(text, "--timeout") < 1e10
    except moai.UsageError:
        return


def test_of_several_exit_codes_the_gravest_counts():
    assert SEVERITY[:8] == (5, 4, 6, 9, 3, 8, 7, 2) and SEVERITY[-1] == 1
    for better, worse in itertools.combinations(reversed(SEVERITY), 2):
        assert worst([better, 0, worse]) == worst([worse, better]) == worse
    assert worst([]) == worst([0, 0]) == 0
    assert worst([0, 124]) == 124, "a code outside the table is not lost"


@pytest.mark.parametrize("text", ["A", "=x", "", "A B"])
def test_a_pair_that_is_none_is_named(text):
    with pytest.raises(moai.UsageError, match="--setenv takes NAME=VALUE, not"):
        pairs(["OK=1", text], "--setenv")


def test_pairs_keep_everything_after_the_first_equals_sign():
    assert pairs(["A=", "B=x=y ", "A=2"], "--set") == {"A": "2", "B": "x=y "}


# -- where a value comes from --------------------------------------------------------------------------


def value_of(name: str, number: int):
    """A value of the right type, and how it is typed."""
    kind = RECIPE[name][0]
    value = kind(number) if kind is not str else ("full", "lora")[number % 2] if name == "method" else f"v{number}"
    return value, str(value)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes and reads a moai.toml; returns None for an empty table."""
    monkeypatch.chdir(tmp_path)

    def make(text: str):
        (tmp_path / "moai.toml").write_text(text, encoding="utf-8")
        return moai.load_project()

    return make


@pytest.mark.parametrize("name", RECIPE)
def test_the_nearest_source_of_a_value_wins(name, project, monkeypatch):
    (flag, _), (_, given), (_, environment), (toml, _) = (value_of(name, n) for n in (2, 3, 4, 5))
    file = project(f"[train]\n{name} = {toml!r}\n")
    flag_name = {"learning_rate": "--lr"}.get(name, "--" + name.replace("_", "-"))
    sources = [flag_name, f"--set {name}", f"MOAI_{name.upper()}", str(file.path)]
    for there in itertools.product((False, True), repeat=4):
        monkeypatch.delenv(f"MOAI_{name.upper()}", raising=False)
        if there[2]:
            monkeypatch.setenv(f"MOAI_{name.upper()}", environment)
        found, further = merge({name: flag if there[0] else None}, {name: given} if there[1] else {}, file if there[3] else None)
        assert further == {}
        if not any(there):
            assert name not in found
            continue
        nearest = there.index(True)
        assert found[name].source == sources[nearest]
        assert found[name].value == [value_of(name, n)[0] for n in (2, 3, 4, 5)][nearest]


def test_further_settings_come_from_the_file_and_from_set_which_wins(project):
    file = project('[train.settings]\nwarmup_steps = 20\nbf16 = true\n"lora.r" = 16\n')
    recipe, further = merge({}, {"warmup_steps": "30", "optim": "adamw_torch", "betas": "[0.9, 0.95]"}, file)
    assert recipe == {}
    shown = {name: (one.value, one.source) for name, one in further.items()}
    assert shown == {
        "warmup_steps": (30, "--set"), "optim": ("adamw_torch", "--set"), "betas": ([0.9, 0.95], "--set"),
        "bf16": (True, str(file.path)), "lora.r": (16, str(file.path)),
    }  # fmt: skip


def test_a_tutorial_gives_what_nobody_else_does(project):
    file = project("[train]\nbatch_size = 4\n[train.settings]\nsave_minutes = 10\n")
    one = moai.tutorial("llama3-70b")
    recipe, further = merge({"epochs": 2.0}, {"learning_rate": "3e-5"}, file, one)
    source = "--tutorial llama3-70b"
    assert {name: value.source for name, value in recipe.items()} == {
        **dict.fromkeys(one.values, source), "epochs": "--epochs", "learning_rate": "--set learning_rate", "batch_size": str(file.path),
    }  # fmt: skip
    assert further["save_minutes"].value == 10
    assert merge({}, {"save_minutes": "5"}, None, one)[1]["save_minutes"].value == 5
    assert (merge({}, {}, None, one)[1]["save_minutes"].source) == source


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("3", "train.git is 3: input should be a valid string"), ('""', "train.git: '' is no address of a git repository"),
        ('"./here"', "'./here' is no address"), ('"ext::sh -c x"', "is no address"), ('"https://h/o/r@"', "names no revision after the @"),
        ('"https://h/o/r@a b"', "'a b' is no branch, tag or commit"), ('"https://h/o/r@a..b"', "is no branch"), ('"https://h/o/r@x.lock"', "is no branch"),
        ('"https://me:secret@h/o/r"', "holds a password"),
    ],
)  # fmt: skip
def test_a_clone_that_cannot_be_one_is_refused_by_name(project, value, said):
    with pytest.raises(moai.UsageError) as refused:
        project(f"[train]\ngit = {value}\n")
    assert refused.value.reason == "CONFIG_INVALID" and said in refused.value.message and "train.git" in refused.value.message
    assert "secret" not in refused.value.message.replace("--secret", "")
    with pytest.raises(moai.UsageError) as refused:
        moai.edit_project({"train": {"git": "https://me:secret@h/o/r"}}, "other.toml")
    assert "holds a password" in refused.value.message and "me:" not in refused.value.message


@pytest.mark.parametrize("one", moai.tutorials(), ids=lambda t: t.name)
def test_a_tutorial_is_whole(one):
    assert set(one.values) <= set(RECIPE) and {"model", "dataset", "template", "batch_size", "epochs", "learning_rate"} <= set(one.values)
    assert all(isinstance(value, RECIPE[name][0]) for name, value in one.values.items())
    assert one.licence in ("", f"https://huggingface.co/{one.values['model']}") and one.title and one.rows > 0 < one.disk_gb
    assert re.fullmatch(r"\d+xLarge\.\d+GB", one.flavor) and one.pins
    assert all(bool(pin.was) <= bool(pin.why) for pin in one.pins) and not any(pin.requirement.startswith("ccelerate") for pin in one.pins)


def test_a_tutorial_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(moai.UsageError, match="llama3-8b") as refused:
        moai.tutorial("lama3-8b")
    assert refused.value.next == "--tutorial llama3-8b"


def test_every_mistake_in_settings_is_named_at_once(project, monkeypatch):
    monkeypatch.setenv("MOAI_EPOCHS", "many")
    monkeypatch.setenv("MOAI_LEARNING_RATE", "nan")
    file = project("[train.settings]\nmax_steps = 3\n")
    with pytest.raises(moai.UsageError) as refused:
        merge({}, {"batch_size": "2.5", "sample": "all"}, file)
    for part in (
        "MOAI_EPOCHS is 'many', not a number", "MOAI_LEARNING_RATE is 'nan', not a number", "--set batch_size is '2.5', not a whole number",
        "--set sample is 'all', not a whole number", f"train.settings.max_steps belongs into [train] of {file.path}",
    ):  # fmt: skip
        assert part in refused.value.message
    assert refused.value.exit_code == 2 and refused.value.next


# -- moai.toml -----------------------------------------------------------------------------------------

BROKEN = """
path = "/etc"
hosst = "kt"
secrets = "A"
log = 5
[train]
modle = "org/model"
method = "qlora"
max_steps = 0
batch_size = 2.5
learning_rate = inf
[train.settings]
when = 1979-05-27
nested = {x = 1}
rate = nan
[variables]
A = 1
"""


def test_every_mistake_of_a_file_is_named_at_once(project, tmp_path):
    with pytest.raises(moai.UsageError) as refused:
        project(BROKEN)
    error = refused.value
    assert error.reason == "CONFIG_INVALID" and error.next == f"edit {tmp_path / 'moai.toml'}"
    said = error.message.removeprefix(f"{tmp_path / 'moai.toml'}: ").split("; ")
    named = ["path", "hosst", "secrets", "log", "train.modle", "train.method", "train.max_steps", "train.batch_size"]
    named += ["train.learning_rate", "train.settings.when", "train.settings.nested", "train.settings.rate", "variables.A"]
    assert len(said) == len(named), said
    assert all(sum(re.search(rf"(^|'){re.escape(name)}('| is)", one) is not None for one in said) == 1 for name in named), said


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"[train\n", "line 1"),
        (b"[train]\nmodel = \n", "line 2"),
        (b'[train]\nmodel = "a"\nmodel = "b"\n', "line 3"),
        (b'name = "\xff"\n', "is not UTF-8"),
        (b"train = 5\n", "train is not a table"),
        (b"[train]\nsettings = []\n", "train.settings is not a table"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(raw, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moai.toml").write_bytes(raw)
    with pytest.raises(moai.UsageError) as refused:
        moai.load_project()
    assert refused.value.reason == "CONFIG_INVALID" and part in refused.value.message
    assert str(tmp_path / "moai.toml") in refused.value.message


def test_a_file_is_found_in_the_folders_above_and_the_nearest_counts(tmp_path, monkeypatch):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    (tmp_path / "moai.toml").write_bytes(b'\xef\xbb\xbfname = "outer"\n')  # with the mark some editors put first
    assert moai.load_project().name == "outer"
    (tmp_path / "a" / "moai.toml").write_text('name = "inner"\n[train]\nepochs = 2\n')
    found = moai.load_project()
    assert (found.name, found.train.epochs, found.path) == ("inner", 2, tmp_path / "a" / "moai.toml")
