"""Every bad input ends with a documented exit code, one clear message that names it, and the next command.

Each case runs the real command line against a real container; none may submit, lose or end anything.
"""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from e2e.reach import bound_port, ready, said
from fakes import tinymodel
from fakes.box import CLI_TIMEOUT_S, Box
from fakes.container import build_home
from fakes.hub import HubServer
from fakes.news import write_jsonl
from fakes.smallbox import inside, small_box
from fakes.sshd import find_sshd, make_key, wait_until
from moai_agent.jobs import names

USAGE, ERROR, FAILED, UNREACHABLE, HOST_KEY, PERSON = 2, 1, 3, 4, 5, 9


class World:
    """A container with two environments, a laptop, a Hub, and eyes on what was submitted."""

    def __init__(self, box: Box, hub: HubServer) -> None:
        self.box, self.hub = box, hub
        self.work = box.laptop.folder / "work"

    def jobs(self) -> set[str]:
        """Ids of all jobs on the container."""
        hosts = self.box.moai_home / "hosts"
        return {path.name for path in hosts.glob("*/jobs/*") if not path.name.startswith(".")}

    def refused(self, *words: str, code: int, reason: str, names: tuple[str, ...] = (), json_too: bool = True, **env: str) -> str:
        """``moai remote WORDS`` must fail before anything is submitted; the message.

        The same with ``--json`` must say the same reason in one document.
        """
        before = self.jobs()
        second = self.box.laptop.start("remote", words[0], "--json", *words[1:], **env) if json_too else None
        done = self.box.moai("remote", *words, **env)
        if second is not None:
            output, errors = second.communicate(timeout=CLI_TIMEOUT_S)
            assert second.returncode == done.returncode, (said(done), output, errors)
        error = check_message(done, code, names)
        assert done.stdout == b""
        if second is not None:
            document = json.loads(output)
            assert set(document) == {"reason", "message", "next"} and document["reason"] == reason and document["next"]
        assert self.jobs() == before, "something was submitted"
        return error

    def fails(self, *words: str, reason: str, names: tuple[str, ...] = (), **env: str) -> str:
        """``moai remote WORDS`` must end as a failed job with this reason; what it said on stderr."""
        done = self.box.moai("remote", *words, **env)
        error = done.stderr.decode()
        assert done.returncode == FAILED, said(done)
        assert "Traceback" not in error and len(error.splitlines()) <= 6, error
        assert error.count(f"  {reason}: ") == 1 and "  next    " in error, error
        assert all(name in error for name in names), error
        # Nothing is lost by it: the job is there with its reason.
        job = error.split()[0]
        shown = json.loads(self.box.moai("remote", "show", job, "--json").stdout)
        assert (shown["state"], shown["reason"]["code"]) == ("FAILED", reason)
        assert shown["reason"]["message"] in error and shown["reason"]["next"]
        return error


def check_message(done: subprocess.CompletedProcess[bytes], code: int, names: tuple[str, ...]) -> str:
    """One error of at most six lines that names everything in ``names`` and what to do next."""
    error = done.stderr.decode()
    assert done.returncode == code, said(done)
    lines = error.splitlines()
    assert len(lines) <= 6 and sum(line.startswith("error: ") for line in lines) == 1, error
    assert "Traceback" not in error and "defect in moai" not in error, error
    assert lines[-1].startswith("  next: ") and lines[-1] != "  next: ", error
    assert all(name in error for name in names), (names, error)
    return error


def need_server() -> None:
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One container for all cases: none of them may leave a trace."""
    need_server()
    ready()
    folder = tmp_path_factory.mktemp("bad")
    home = folder / "home"
    home.mkdir()
    build_home(str(home), envs={"pytorch": tinymodel.train_python(), "other": None}, default_env=None)
    with Box(folder, home=home, look_alike=False, log_level="DEBUG1") as box, HubServer() as hub:
        hub.add_model("org/model", {"config.json": b"{}"})
        hub.add_model("org/gated", {"config.json": b"{}"}, gated=True)
        hub.add_dataset("org/data", {"train.jsonl": b'{"text": "a"}\n'})
        hub.tokens["hf_known"] = []
        assert box.moai("remote", "up").returncode == 0
        yield World(box, hub)


@pytest.fixture(scope="module")
def tokenizer(world):
    """A tokenizer's folder and ``--env`` with transformers; skips loudly without one."""
    python = tinymodel.train_python()
    if python is None:
        pytest.skip("SKIPPED LOUDLY: no environment with transformers (make train-env)")
    return str(tinymodel.build(world.box.folder / "tokenizer", python, weights=False))


@pytest.fixture
def running(world):
    """A job that runs; ended afterwards."""
    done = world.box.moai("remote", "run", "-d", "--", "sleep", "600")
    job = done.stdout.decode().strip()
    assert done.returncode == 0, said(done)
    yield job
    assert state(world, job) == "RUNNING", "a refused command touched the job"
    assert world.box.moai("remote", "cancel", job, "--grace", "0.1").returncode == 0


def state(world: World, job: str) -> str:
    """A job's state now."""
    return json.loads(world.box.moai("remote", "show", job, "--json").stdout)["state"]


# -- the way there -------------------------------------------------------------------------------------


def test_an_alias_that_is_no_host(world):
    world.refused("run", "--on", "nosuch.invalid", "--", "true", code=UNREACHABLE, reason="HOST_UNREACHABLE", names=("nosuch.invalid", "ssh -v"))
    world.refused("train", "--model", "a/b", "--dataset", "c/d", code=UNREACHABLE, reason="HOST_UNREACHABLE", names=("nosuch.invalid",),
                  MOAI_HOST="nosuch.invalid")  # fmt: skip


@pytest.mark.parametrize("name", ["a b;c", "-oProxyCommand=x", "x\ny", "$(id)", "a@b@c d", "h:99999"])
def test_an_address_that_is_none(world, name):
    world.refused("run", f"--on={name}", "--", "true", code=USAGE, reason="USAGE", names=(repr(name),))


def test_a_group_without_members(world):
    world.refused("run", "--on", "@pool", "--", "true", code=USAGE, reason="HOST_UNKNOWN", names=("@pool",))


def test_a_port_that_refuses(world):
    with bound_port() as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        world.refused("run", "--on", address, "--", "true", code=UNREACHABLE, reason="HOST_UNREACHABLE",
                      names=(f"port {sock.getsockname()[1]}", "Connection refused", "TCP connect"))  # fmt: skip


def test_a_key_that_is_not_the_right_one(world):
    sshd, key = world.box.sshd, make_key(world.box.folder / "wrong_key")
    sshd.ssh_config(world.box.ssh_config, alias="stranger", append=True, IdentityFile=str(key))
    since = len(sshd.log_text())
    world.refused("run", "--on", "stranger", "--", "true", code=UNREACHABLE, reason="SIGN_IN_FAILED",
                  names=("stranger", sshd.user, str(key), "ssh -v stranger"))  # fmt: skip
    log = sshd.log_text()[since:]
    assert "userauth-request" in log and "Accepted" not in log
    # Two commands, a connection each: a refusal is not tried again.
    assert log.count("Connection from") == 2


@pytest.fixture(scope="module")
def strangers(world):
    """Aliases whose known_hosts holds no key, or another one, for the server; by either transport."""
    sshd, folder = world.box.sshd, world.box.folder
    other = make_key(folder / "other_host_key").with_suffix(".pub").read_text().split()
    (folder / "changed_hosts").write_text(f"{sshd.known_hosts_name} {other[0]} {other[1]}\n")
    settings = folder / "strangers" / "config.toml"
    settings.parent.mkdir()
    for alias, file in (("unknown", "no_hosts"), ("changed", "changed_hosts")):
        sshd.ssh_config(world.box.ssh_config, alias=alias, append=True, UserKnownHostsFile=str(folder / file), StrictHostKeyChecking="ask")
        for transport in ("paramiko", "openssh"):
            with open(settings, "a") as out:
                out.write(f'[hosts.{alias}-{transport}]\naddress = "{alias}"\ntransport = "{transport}"\n')
    return str(settings.parent)


@pytest.fixture(scope="module")
def fingerprint(world):
    """``SHA256:...`` of the server's key, as ssh-keygen says it."""
    argv = ["ssh-keygen", "-lf", str(world.box.sshd.folder / "host_ed25519.pub")]
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout.decode().split()[1]


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
@pytest.mark.parametrize("alias", ["unknown", "changed"])
def test_a_host_key_that_is_not_the_known_one(world, strangers, fingerprint, alias, transport):
    name, since = f"{alias}-{transport}", len(world.box.sshd.log_text())
    # ssh itself shows no fingerprint of a key it was not to ask about.
    names_ = (name, f"moai remote trust {name}", *([] if (alias, transport) == ("unknown", "openssh") else [fingerprint]))
    world.refused("run", "--on", name, "--", "true", code=HOST_KEY, reason=f"HOST_KEY_{alias.upper()}", names=names_, MOAI_CONFIG=strangers)
    nothing_was_authenticated(world, since, 2)


@pytest.mark.parametrize("words", [
    ("devices",), ("env", "list"), ("jobs",), ("check",), ("push", "{file}"), ("pull", "~/x"), ("up", "{host}"), ("show", "last"),
    ("download", "org/model"), ("run", "--no-link", "--", "true"), ("cancel", "last"),
])  # fmt: skip
def test_no_command_goes_past_a_changed_host_key(world, strangers, fingerprint, words):
    (world.work / "file").write_text("secret")
    since, before = len(world.box.sshd.log_text()), world.jobs()
    known = (world.box.folder / "changed_hosts").read_bytes()
    on = [] if words[0] == "up" else ["--on", "changed-paramiko"]
    parts = [word.format(file="file", host="changed-paramiko") for word in words]
    at = 2 if words[0] == "env" else 1
    done = world.box.moai("remote", *parts[:at], *on, *parts[at:], HF_TOKEN="hf_secret", MOAI_CONFIG=strangers)
    assert done.returncode == HOST_KEY, said(done)
    assert b"Traceback" not in done.stderr and fingerprint.encode() in done.stdout + done.stderr
    nothing_was_authenticated(world, since, 1)
    assert world.jobs() == before and (world.box.folder / "changed_hosts").read_bytes() == known


def nothing_was_authenticated(world: World, since: int, connections: int) -> None:
    """The server saw key exchanges and then the end, no request to sign in."""
    log = world.box.sshd.log_text

    def ended() -> bool:
        text = log()[since:]
        return text.count("Connection closed by") + text.count("Connection reset by") >= connections

    wait_until(ended, "the connections to end")
    seen = log()[since:]
    assert "userauth-request" not in seen and "Accepted" not in seen and "Failed" not in seen
    assert seen.count("Connection from") == connections


# -- a full disk ---------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A container whose home is a file system of 2 MB, seen by its sshd alone."""
    need_server()
    ready()
    with small_box(tmp_path, "2m") as box:
        yield box


def test_a_disk_too_small_for_the_agent_and_one_that_fills_up_later(small):
    check_message_of_full_disk(small, ("the agent could not be installed", "No space left", "MOAI_HOME"), "remote", "run", "--", "true")
    assert ".new-" not in inside(small, 'find "$1"')
    inside(small, 'mount -o remount,size=48m "$1"')
    done = small.moai("remote", "run", "--", "echo", "now it fits")
    assert (done.returncode, done.stdout) == (0, b"now it fits\n"), said(done)
    inside(small, 'cat /dev/zero > "$1/ballast" || true')
    jobs = inside(small, 'ls -A "$1"/.moai/hosts/*/jobs')
    check_message_of_full_disk(small, ("the job folder cannot be written", str(small.home)), "remote", "run", "--", "true")
    assert inside(small, 'ls -A "$1"/.moai/hosts/*/jobs') == jobs
    large = small.laptop.folder / "work" / "large"
    large.write_bytes(b"x" * 2_000_000)
    check_message_of_full_disk(small, ("large", "No space left"), "remote", "push", str(large))
    assert inside(small, 'find "$1" -maxdepth 1 -name ".moai-part*" -o -maxdepth 1 -name large') == ""
    inside(small, 'rm "$1/ballast"')
    # What ran before is there, and new jobs run.
    done = small.moai("remote", "run", "--", "echo", "again")
    assert (done.returncode, done.stdout) == (0, b"again\n"), said(done)
    assert len(json.loads(small.moai("remote", "jobs", "--json").stdout)["jobs"]) == 2


def check_message_of_full_disk(box: Box, names: tuple[str, ...], *words: str) -> None:
    """DISK_FULL, by its words; what bootstrapping says on the way does not count."""
    done = box.moai(*words)
    kept = [line for line in done.stderr.decode().splitlines(keepends=True) if not line.startswith("· ")]
    done.stderr = "".join(kept).encode()
    check_message(done, ERROR, names)


# -- the Hub -------------------------------------------------------------------------------------------


def test_a_model_that_is_not_on_the_hub(world):
    world.fails("download", "no/such", reason="REPO_NOT_FOUND", names=("no/such", world.hub.endpoint), HF_ENDPOINT=world.hub.endpoint)
    world.refused("download", "no/such", "--dry-run", code=ERROR, reason="REPO_NOT_FOUND", names=("no/such",), HF_ENDPOINT=world.hub.endpoint)


def test_a_dataset_that_is_not_on_the_hub(world):
    env = {"HF_ENDPOINT": world.hub.endpoint}
    world.fails("download", "--dataset", "no/data", reason="REPO_NOT_FOUND", names=("dataset no/data",), **env)
    world.fails("prepare", "no/data", "--model", "org/model", "--env", "other", reason="REPO_NOT_FOUND", names=("dataset no/data",), **env)


@pytest.mark.parametrize("words", [
    ("download", "org/model", "--revision", "v9"),
    ("prepare", "org/data", "--model", "org/model", "--model-revision", "v9", "--env", "other"),
    ("train", "--model", "org/model", "--dataset", "org/data", "--dataset-revision", "v9", "--env", "other"),
])  # fmt: skip
def test_a_revision_that_is_not_there(world, words):
    world.fails(*words, reason="REVISION_NOT_FOUND", names=("v9", "/tree/main"), HF_ENDPOINT=world.hub.endpoint)


@pytest.mark.parametrize("token", ["", "hf_known"])
def test_a_gated_model_names_the_page_of_its_licence(world, token):
    env = {"HF_ENDPOINT": world.hub.endpoint} | ({"HF_TOKEN": token} if token else {})
    page = f"{world.hub.endpoint}/org/gated"
    how = ("to this token",) if token else ("without a token", "HF_TOKEN")
    error = world.fails("download", "org/gated", reason="ACCESS_GATED", names=("org/gated", page, "licence", *how), **env)
    assert not token or token not in error
    world.refused("download", "org/gated", "--dry-run", code=PERSON, reason="ACCESS_GATED", names=(page, "licence"), **env)


def test_a_token_that_is_not_valid(world):
    env = {"HF_ENDPOINT": world.hub.endpoint, "HF_TOKEN": "hf_nobody"}
    error = world.fails("download", "org/model", reason="TOKEN_INVALID", names=(world.hub.endpoint, "HF_TOKEN"), **env)
    assert "hf_nobody" not in error
    world.refused("download", "org/model", "--dry-run", code=ERROR, reason="TOKEN_INVALID", names=("HF_TOKEN",), **env)


@pytest.mark.parametrize("repo", ["../x", "a/b/c", "no such", "https://huggingface.co/org/model"])
def test_a_name_that_is_none_of_the_hub(world, repo):
    error = world.fails("download", repo, reason="USAGE", names=(repo, "ORG/NAME"), HF_ENDPOINT=world.hub.endpoint)
    assert "Asking" not in error


# -- data ----------------------------------------------------------------------------------------------


def test_a_template_that_names_a_missing_column(world, tokenizer):
    (world.box.home / "rows.jsonl").write_text('{"text": "a", "titel": "b"}\n{"text": "c", "titel": "d"}\n')
    words = ("prepare", "./rows.jsonl", "--model", tokenizer, "--env", "pytorch")
    world.fails(*words, reason="COLUMN_MISSING", names=("'article'", "'text'", "'titel'"))
    world.fails(*words, "--template", "{title}", reason="COLUMN_MISSING", names=("'title'", "did you mean 'titel'?"))


@pytest.mark.parametrize("template", ["{text.__class__}", "{text", "no column", "nosuch.txt", "{}"])
def test_a_template_that_is_none(world, tokenizer, template):
    (world.box.home / "rows.jsonl").write_text('{"text": "a"}\n')
    words = ("prepare", "./rows.jsonl", "--model", tokenizer, "--env", "pytorch", "--template", template)
    world.fails(*words, reason="FILE_NOT_FOUND" if template == "nosuch.txt" else "TEMPLATE_INVALID")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_dataset_without_rows(world, tokenizer, text):
    (world.box.home / "empty.jsonl").write_text(text)
    world.fails("prepare", "./empty.jsonl", "--model", tokenizer, "--env", "pytorch", reason="DATASET_EMPTY", names=("empty.jsonl", "no rows"))


def test_a_dataset_that_is_broken_or_not_there(world, tokenizer):
    write_jsonl(str(world.box.home / "broken.jsonl"), 3)
    with open(world.box.home / "broken.jsonl", "a") as out:
        out.write('{"article": "a", \n')
    words = ("--model", tokenizer, "--env", "pytorch")
    world.fails("prepare", "./broken.jsonl", *words, reason="DATASET_INVALID", names=("broken.jsonl", "4"))
    world.fails("prepare", "./gone.jsonl", *words, reason="FILE_NOT_FOUND", names=("gone.jsonl",))
    world.refused("prepare", "laptop:gone.jsonl", *words, code=USAGE, reason="FILE_NOT_HERE", names=("gone.jsonl",))
    world.refused("prepare", "laptop:.", *words, code=USAGE, reason="FILE_NOT_HERE", names=("folder",))


def test_a_model_folder_that_is_not_there_or_empty(world, tokenizer):
    (world.box.home / "rows.jsonl").write_text('{"text": "a"}\n')
    (world.box.home / "empty_model").mkdir(exist_ok=True)
    for model in ("./gone", "./empty_model"):
        error = world.box.moai("remote", "prepare", "./rows.jsonl", "--model", model, "--env", "pytorch", "--template", "{text}")
        assert error.returncode == FAILED, said(error)
        assert model[2:].encode() in error.stderr and b"  next    " in error.stderr and b"Traceback" not in error.stderr


# -- environments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["pytroch", "/no/such/bin/python", "~/gone"])
def test_an_environment_that_is_not_there(world, env):
    world.refused("run", "--env", env, "--", "true", code=USAGE, reason="ENVIRONMENT_NOT_FOUND", names=(env, "pytorch", "other", "--env"))


def test_an_environment_from_a_variable_that_is_not_there(world):
    world.refused("run", "--", "true", code=USAGE, reason="ENVIRONMENT_NOT_FOUND", names=("pytroch",), MOAI_ENV="pytroch")


@pytest.mark.parametrize("words", [("prepare", "./rows.jsonl", "--model", "/m"), ("train", "--model", "/m", "--dataset", "./rows.jsonl")])
def test_several_environments_and_no_choice_show_the_table(world, words):
    error = world.refused(*words, code=USAGE, reason="ENVIRONMENT_AMBIGUOUS", names=("other", "pytorch", "choose one with --env NAME"))
    rows = [line for line in error.splitlines() if line.startswith("  ") and "torch" in line and "next" not in line]
    assert len(rows) == 2 and all("Python 3." in row and str(world.box.home) in row for row in rows), error


def test_env_with_an_equals_sign_names_setenv(world):
    world.refused("run", "--env", "A=B", "--", "true", code=USAGE, reason="USAGE", names=("(A=B)", "--setenv A=B"))


# -- what was typed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "near"), [("jbos", "jobs"), ("trian", "train"), ("pul", "pull"), ("kil", "kill"), ("doctro", "doctor")])
def test_an_unknown_verb_names_the_nearest(world, typed, near):
    world.refused(typed, code=USAGE, reason="USAGE", names=(repr(typed), f"Did you mean {near!r}?", "moai remote --help"), json_too=False)


def test_unknown_words_and_options(world):
    world.refused("xyzzy", code=USAGE, reason="USAGE", names=("'xyzzy'", "--help"), json_too=False)
    world.refused("run", "--detatch", "--", "true", code=USAGE, reason="USAGE", names=("--detatch", "moai remote run --help"))
    world.refused("run", code=USAGE, reason="USAGE", names=("CMD", "moai remote run --help"))
    world.refused("show", "a", "b", code=USAGE, reason="USAGE", names=("b",))
    done = world.box.moai("rmote", "jobs")
    check_message(done, USAGE, ("'rmote'", "'remote'"))


@pytest.mark.parametrize(("option", "value", "shown"), [
    ("--setenv", "A", "'A'"), ("--setenv", "=x", "'=x'"), ("--setenv", "1A=x", "'1A'"), ("--setenv", "A B=x", "'A B'"),
    ("--secret", "1A", "'1A'"), ("--secret", "", "''"), ("--max-duration", "soon", "'soon'"), ("--max-duration", "-5m", "'-5m'"),
    ("--max-duration", "nan", "'nan'"), ("--request-id", "short", "'short'"), ("--request-id", "with blanks in it", "'with blanks in it'"),
    ("--exit-code", "theirs", "'theirs'"),
])  # fmt: skip
def test_values_of_run_that_are_none(world, option, value, shown):
    world.refused("run", option, value, "--", "true", code=USAGE, reason="USAGE", names=(shown,))


def test_a_secret_is_named_and_never_shown(world):
    error = world.refused("run", "--secret", "KEY=hunter2", "--", "true", code=USAGE, reason="USAGE", names=("--secret NAME",))
    assert "hunter2" not in error
    world.refused("run", "--secret", "NOT_SET", "--", "true", code=PERSON, reason="SECRET_NEEDED", names=("NOT_SET", "export NOT_SET="))
    world.refused("run", "--secret", "BASH_ENV", "--", "true", code=USAGE, reason="USAGE", names=("BASH_ENV", "--setenv"), BASH_ENV="hunter2")


RECIPE = ("train", "--model", "org/model", "--dataset", "org/data")


@pytest.mark.parametrize(("words", "shown"), [
    (("--set", "rate"), ("'rate'", "--set NAME=VALUE")),
    (("--set", "max_steps=many", "--set", "batch_size=2.5"), ("'many'", "'2.5'", "not a whole number")),
    (("--set", "learning_rate=nan"), ("learning_rate", "'nan'")),
    (("--set", "block_size=-3"), ("block_size", "-3")),
    (("--max-steps", "-1"), ("--max-steps",)),
    (("--max-steps", "x"), ("--max-steps",)),
    (("--batch-size", "0"), ("--batch-size",)),
    (("--block-size", "1"), ("--block-size",)),
    (("--sample", "-1"), ("--sample",)),
    (("--epochs", "-2"), ("--epochs", "-2")),
    (("--epochs", "inf"), ("--epochs", "inf")),
    (("--lr", "0"), ("--lr", "0")),
    (("--lr", "nan"), ("--lr", "nan")),
    (("--method", "qlora"), ("--method", "'qlora'")),
    (("--max-duration", "1w"), ("'1w'",)),
    (("--env", "A=B"), ("--setenv A=B",)),
])  # fmt: skip
def test_values_of_train_that_are_none(world, words, shown):
    world.refused(*RECIPE, *words, code=USAGE, reason="USAGE", names=shown, json_too=False)


def test_train_without_model_or_dataset(world):
    world.refused("train", code=USAGE, reason="USAGE", names=("no model and no dataset", "--model"))
    world.refused("train", "--dataset", "a/b", code=USAGE, reason="USAGE", names=("no model",))
    world.refused("train", "--model", "a/b", code=USAGE, reason="USAGE", names=("no dataset",))
    world.refused("prepare", "a/b", code=USAGE, reason="USAGE", names=("no model", "--model"))
    world.refused("train", "--model", "a/b", "--", "python", "x.py", code=USAGE, reason="USAGE", names=("--model",))
    world.refused("generate", "a/b", code=USAGE, reason="USAGE", names=("no prompt", "--prompt"))
    world.refused("generate", "a/b", "--file", "gone.jsonl", code=USAGE, reason="FILE_NOT_HERE", names=("gone.jsonl", "container:"))


@pytest.mark.parametrize("words", [
    ("jobs", "-n", "0"), ("jobs", "-n", "-1"), ("prepare", "a/b", "--model", "c/d", "--block-size", "-1"),
    ("prepare", "a/b", "--model", "c/d", "--sample", "-1"), ("attach", "last", "--after", "-1"), ("cancel", "last", "--grace", "-1"),
    ("generate", "a/b", "--max-new-tokens", "0"), ("devices", "--interval", "0"), ("run", "--max-duration", "-1", "--", "true"),
])  # fmt: skip
def test_numbers_below_their_range(world, words):
    option = words[[at for at, word in enumerate(words) if word.lstrip("-").isdigit()][0] - 1]
    error = world.refused(*words, code=USAGE, reason="USAGE", json_too=False)
    assert option in error


def test_a_working_folder_that_is_not_there(world):
    (world.box.home / "a_file").write_text("")
    for folder in ("/no/such", "gone", "~/a_file"):
        world.refused("run", "--workdir", folder, "--", "true", code=USAGE, reason="WORKDIR_NOT_FOUND", names=(folder.strip("~"), "--workdir"))


def test_a_script_that_is_here_but_not_there(world):
    (world.work / "train.py").write_text("")
    (world.work / "sub").mkdir(exist_ok=True)
    shutil.copy(world.work / "train.py", world.work / "sub" / "deep.py")
    for words, where in ((("--", "python", "train.py"), "~/train.py"), (("--workdir", "/tmp", "--", "python", "-u", "sub/deep.py"), "/tmp/sub/deep.py")):
        script = where.split("/", 1)[1] if where.startswith("~") else "sub/deep.py"
        names_ = (script, "on the laptop but not on box", "--sync . runs it in a copy")
        world.refused("run", *words, code=USAGE, reason="SCRIPT_NOT_ON_HOST", names=names_)
        world.refused("train", *words, code=USAGE, reason="SCRIPT_NOT_ON_HOST", names=names_)


# -- settings files ------------------------------------------------------------------------------------


@pytest.fixture
def project(world):
    """Writes a moai.toml into the laptop's folder; gone afterwards."""
    path = world.work / "moai.toml"

    def write(text: str | bytes) -> str:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    yield write
    path.unlink(missing_ok=True)


def test_a_broken_project_file_names_all_mistakes_at_once(world, project):
    path = project('hosst = "box"\nsecrets = "A"\n[train]\nmodle = "a"\nmax_steps = "x"\nmethod = "qlora"\n[train.settings]\na = [1]\n')
    names_ = (path, "'hosst'", "secrets", "'train.modle'", "train.max_steps is 'x'", "'qlora'", "train.settings.a", f"edit {path}")
    for words in (("run", "--", "true"), RECIPE, ("prepare", "a/b", "--model", "c/d")):
        world.refused(*words, code=USAGE, reason="CONFIG_INVALID", names=names_)
    # What does not need it works.
    assert world.box.moai("remote", "jobs").returncode == 0


@pytest.mark.parametrize(("text", "shown"), [
    (b"[train\n", "line 1"), (b'name = "\xff"\n', "UTF-8"), (b"train = 1\n", "train is not a table"), (b'path = "/"\n', "'path'"),
])  # fmt: skip
def test_a_project_file_that_cannot_be_read(world, project, text, shown):
    path = project(text)
    world.refused("run", "--", "true", code=USAGE, reason="CONFIG_INVALID", names=(path, shown))


def test_values_of_a_project_file_that_the_container_refuses(world, project):
    project('workdir = "/no/such"\n')
    world.refused("run", "--", "true", code=USAGE, reason="WORKDIR_NOT_FOUND", names=("/no/such",))
    project('environment = "pytroch"\n')
    world.refused("run", "--", "true", code=USAGE, reason="ENVIRONMENT_NOT_FOUND", names=("pytroch",))
    project('secrets = ["NOT_SET"]\n')
    world.refused("run", "--", "true", code=PERSON, reason="SECRET_NEEDED", names=("NOT_SET",))


@pytest.mark.parametrize(("text", "shown"), [
    (b"default = [", ("config.toml",)),
    (b'defalt = "box"\n[hosts.box]\naddress = "box"\nport = 5\ntransport = "telnet"\n[hosts.b]\nwork = 1\n',
     ("'defalt'", "hosts.box: unknown setting 'port'", "'telnet'", "hosts.b.work", "hosts.b.address is missing")),
    (b'default = "kt"\n', ("'kt'",)),
    (b'default = ["kt"]\n', ("default",)),
    (b'hosts = 5\n', ("hosts is not a table",)),
    (b'[hosts."a b"]\naddress = "x"\n', ("a b",)),
    (b'default = "\xff"\n', ("UTF-8",)),
])  # fmt: skip
def test_a_broken_settings_file_names_all_mistakes_at_once(world, tmp_path, text, shown):
    path = tmp_path / "config.toml"
    path.write_bytes(text)
    world.refused("jobs", code=USAGE, reason="CONFIG_INVALID", names=(str(path), f"edit {path}", *shown), MOAI_CONFIG=str(tmp_path))
    # A command that would rewrite the file leaves the broken one alone.
    done = world.box.moai("remote", "use", "box", MOAI_CONFIG=str(tmp_path))
    check_message(done, USAGE, (str(path),))
    assert path.read_bytes() == text


@pytest.mark.parametrize("words", [("use", "bix"), ("set", "bix", "--work", "/w"), ("remove", "bix", "--yes")])
def test_a_host_that_is_not_configured(world, words):
    world.refused(*words, code=USAGE, reason="HOST_UNKNOWN", names=("'bix'", "did you mean box?"), json_too=False)


def test_questions_without_a_terminal_name_the_flag(world):
    settings = (world.box.laptop.folder / "config" / "config.toml").read_text()
    world.refused("remove", "box", code=USAGE, reason="USAGE", names=("Forget box?", "moai remote remove box --yes"), json_too=False)
    world.refused("add", "all", "box", "--no-check", code=USAGE, reason="USAGE", names=("'all'",), json_too=False)
    world.refused("add", "box", "elsewhere", "--no-check", code=USAGE, reason="USAGE", names=("box is box already",), json_too=False)
    world.refused("set", "box", code=USAGE, reason="USAGE", names=("nothing to change",), json_too=False)
    assert (world.box.laptop.folder / "config" / "config.toml").read_text() == settings


# -- jobs ----------------------------------------------------------------------------------------------


def test_a_request_id_that_was_used_for_something_else(world):
    words = ("run", "-d", "--request-id", "bad-input-request")
    first = world.box.moai("remote", *words, "--", "echo", "first")
    assert first.returncode == 0
    world.refused(*words, "--", "echo", "second", code=ERROR, reason="REQUEST_CONFLICT", names=("bad-input-request",))
    again = world.box.moai("remote", *words, "--", "echo", "first")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    logs = world.box.moai("remote", "logs", "-f", first.stdout.decode().strip())
    assert logs.stdout == b"first\n"


@pytest.mark.parametrize("verb", ["show", "attach", "wait", "cancel", "resume"])
def test_a_job_that_is_not_there(world, verb):
    world.refused(verb, "nosuch-job", code=ERROR, reason="JOB_NOT_FOUND", names=("'nosuch-job'", "moai remote jobs"))
    world.refused(verb, "box/nosuch-job", code=ERROR, reason="JOB_NOT_FOUND", names=("'nosuch-job'", "moai remote jobs"))


@pytest.mark.parametrize("words", [("logs",), ("stop",), ("checkpoint",), ("delete", "--yes"), ("pull",), ("plot",)])
def test_a_job_that_is_not_there_for_every_other_verb(world, words):
    world.refused(*words, "nosuch-job", code=ERROR, reason="JOB_NOT_FOUND", names=("'nosuch-job'", "moai remote jobs"), json_too=False)


def test_a_beginning_that_fits_several_jobs(world):
    found: dict[str, str] = {}
    for number in range(10_000):
        request = f"ambiguous-{number:05d}"
        prefix = next(names.candidates(request)).rsplit("-", 1)[0]
        if prefix in found:
            requests = (found[prefix], request)
            break
        found[prefix] = request
    jobs = [world.box.moai("remote", "run", "-d", "--request-id", one, "--", "true").stdout.decode().strip() for one in requests]
    assert all(job.startswith(prefix) for job in jobs)
    for verb in ("show", "cancel"):
        world.refused(verb, prefix, code=ERROR, reason="JOB_AMBIGUOUS", names=(repr(prefix), *jobs, "type more"))
        world.refused(verb, f"box/{prefix}", code=ERROR, reason="JOB_AMBIGUOUS", names=(repr(prefix), *jobs, "type more"))
    assert world.box.moai("remote", "show", jobs[0]).returncode == 0


def test_a_running_job_is_not_deleted_resumed_or_told_what_it_cannot_hear(world, running):
    world.refused("delete", running, "--yes", code=ERROR, reason="JOB_ACTIVE", names=(running, f"moai remote cancel {running}"), json_too=False)
    world.refused("delete", running, "--force", "--yes", code=ERROR, reason="JOB_ACTIVE", names=(running,), json_too=False)
    world.refused("resume", running, code=ERROR, reason="JOB_ACTIVE", names=(running, f"moai remote attach {running}"))
    for verb in ("stop", "checkpoint"):
        world.refused(verb, running, code=ERROR, reason="UNSUPPORTED", names=(running, f"moai remote cancel {running}"), json_too=False)
    world.refused("pull", running, code=ERROR, reason="FILE_NOT_FOUND", names=(running, f"moai remote show {running}"))
    world.refused("plot", running, code=USAGE, reason="USAGE", names=(running,), json_too=False)
    world.refused("generate", running, "--prompt", "x", code=ERROR, reason="MODEL_INVALID", names=(running,))
    world.refused("logs", running, "--offset", "5000", code=ERROR, reason="OFFSET_OUT_OF_RANGE", names=(running, "5000"), json_too=False)
    world.refused("attach", running, "--after", "5000", code=ERROR, reason="SEQUENCE_OUT_OF_RANGE", names=(running, "5000"))


def test_waiting_has_an_end_when_asked_and_refuses_what_is_no_time(world, running):
    world.refused("wait", running, "--timeout", "soon", code=USAGE, reason="USAGE", names=("--timeout", "'soon'"))
    world.refused("wait", running, "--timeout", "0.1s", code=124, reason="TIMED_OUT", names=(running, f"moai remote attach {running}"))


def test_somebody_elses_job_needs_force(world, running):
    other = {"USER": "eve", "LOGNAME": "eve"}
    for words in (("cancel", running), ("stop", running), ("checkpoint", running), ("delete", running, "--yes")):
        world.refused(*words, code=ERROR, reason="JOB_NOT_OWNED", names=(running, "mina@", "--force"), json_too=words[0] == "cancel", **other)
    assert state(world, running) == "RUNNING"
    done = world.box.moai("remote", "run", "-d", "--", "sleep", "600", **other)
    job = done.stdout.decode().strip()
    world.refused("cancel", job, code=ERROR, reason="JOB_NOT_OWNED", names=(job, "eve@"))
    assert world.box.moai("remote", "cancel", job, "--force", "--grace", "0.1").stdout.decode().strip() == f"{job} CANCELLED"
    world.refused("delete", job, "--yes", code=ERROR, reason="JOB_NOT_OWNED", names=(job, "eve@"), json_too=False)


def test_an_ended_job_is_not_deleted_unasked_and_not_stopped(world):
    done = world.box.moai("remote", "run", "-d", "--", "true")
    job = done.stdout.decode().strip()
    assert world.box.moai("remote", "wait", job).returncode == 0
    world.refused("delete", job, code=USAGE, reason="USAGE", names=(job, f"moai remote delete {job} --yes"), json_too=False)
    for verb in ("stop", "checkpoint"):
        world.refused(verb, job, code=ERROR, reason="JOB_FINISHED", names=(job,), json_too=False)
    assert state(world, job) == "SUCCEEDED"
