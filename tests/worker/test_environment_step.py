"""Environments made and changed by the steps: real pip, real virtual environments, no index.

What cannot be real here stands in for it: a fake conda, a fake update-moreh on a real pseudo-terminal, a
fake uv. Moreh's builds of torch are wheels without code whose version is what counts.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fakes import wheels
from fakes.container import build_home
from moai_worker import packages, requirements
from moai_worker.errors import StepError
from moai_worker.reporter import Reporter
from moai_worker.steps import create, framework, install

MOREH = "1.13.1+cu116.moreh24.5.0"


# -- parts -----------------------------------------------------------------------------------------


class Reports:
    """What a step reported."""

    def __init__(self, folder):
        self.path = folder / "reports.jsonl"
        self.reporter = Reporter(str(self.path), "step")

    def of(self, kind):
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [line["data"] for line in lines if line["type"] == kind]

    def messages(self, code):
        return [data for data in self.of("message") if data["code"] == code]


@pytest.fixture
def report(tmp_path):
    one = Reports(tmp_path)
    yield one
    one.reporter.close()


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    """A folder of wheels that stands for every index."""
    folder = tmp_path_factory.mktemp("index")
    wheels.build(folder, "torch", MOREH)
    wheels.build(folder, "torch", "1.13.1+cu116.moreh24.2.0")
    wheels.build(folder, "torch", "2.1.0")
    wheels.build(folder, "tinypkg", "1.0", ["tinydep>=1"])
    wheels.build(folder, "tinypkg", "2.0", ["tinydep>=1"])
    wheels.build(folder, "tinydep", "1.5")
    wheels.build(folder, "accelerate", "0.30.1", ["torch>=1.10"])
    wheels.build(folder, "needsnew", "1.0", ["torch>=2.0"])
    wheels.build(folder, "eithertorch", "1.0", ["torch>=1.10"])
    wheels.build(folder, "eithertorch", "2.0", ["torch>=2.0"])
    wheels.build(folder, "transformers", "4.36.2")
    for version in ("0.13.3", "0.15.2"):
        wheels.build(folder, "tokenizers", version)
    return folder


@pytest.fixture(autouse=True)
def no_index(monkeypatch, index, tmp_path):
    """pip knows the folder only; nothing of the person who runs the tests reaches it."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "CONDA_")) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))


@pytest.fixture(scope="session")
def base_venv(tmp_path_factory):
    """A virtual environment with pip, made once; tests copy it."""
    folder = tmp_path_factory.mktemp("venv") / "env"
    subprocess.run([sys.executable, "-I", "-m", "venv", str(folder)], check=True)
    return folder


@pytest.fixture
def venv(tmp_path, base_venv):
    """An environment of the test's own; its interpreter."""
    folder = tmp_path / "env"
    # A copy keeps its absolute links; only pyvenv.cfg and bin/python decide where packages go.
    subprocess.run(["cp", "-a", str(base_venv), str(folder)], check=True)
    return folder / "bin" / "python"


def ask(python, code):
    return subprocess.run([str(python), "-I", "-c", code], check=True, stdout=subprocess.PIPE).stdout.decode().strip()


def pip(python, *words):
    subprocess.run([str(python), "-I", "-m", "pip", "install", "-q", *words], check=True)


def version_of(python, name):
    return packages.Interpreter(str(python), os.environ, "/").installed().get(name)


def installing(tmp_path, python, *wanted, **more):
    return dict(
        {
            "python": str(python), "environment": "env", "requirements": list(wanted), "paths": [], "files": [],
            "asked": 0, "cwd": str(tmp_path), "folder": str(tmp_path / "job" / "requirements"),
            "output": str(tmp_path / "changes.json"), "dry_run": False,
        },
        **more
    )  # fmt: skip


def refused(step, inputs, report, reason):
    with pytest.raises(StepError) as raised:
        step.run(inputs, report.reporter)
    assert raised.value.reason == reason, raised.value.message
    assert raised.value.next
    return raised.value


# -- install ---------------------------------------------------------------------------------------


def test_what_would_change_is_told_first_and_a_dry_run_changes_nothing(tmp_path, venv, report):
    pip(venv, "tinypkg==1.0")
    result = install.run(installing(tmp_path, venv, "tinypkg", "accelerate", "torch==2.1.0", dry_run=True), report.reporter)
    kept = json.loads((tmp_path / "changes.json").read_text())
    assert kept["previewed"] and {(c["name"], c["action"], c["before"], c["after"]) for c in kept["changes"]} == {
        ("accelerate", "install", "", "0.30.1"), ("torch", "install", "", "2.1.0"),
    }  # fmt: skip
    assert result["changed"] == 2 and "install 2 (accelerate 0.30.1, torch 2.1.0)" in result["summary"]
    assert version_of(venv, "torch") is None and version_of(venv, "tinypkg") == "1.0"
    assert report.messages("CHANGES") and [p["phase"] for p in report.of("phase")] == ["resolving"]


def test_an_installation_is_real_and_a_second_one_has_nothing_to_do(tmp_path, venv, report):
    pip(venv, "tinypkg==1.0")
    result = install.run(installing(tmp_path, venv, "tinypkg>=2"), report.reporter)
    assert result["changed"] == 1 and result["summary"] == "upgrade 1 (tinypkg 1.0 -> 2.0)"
    assert ask(venv, "import tinypkg, tinydep; print(tinypkg.__version__)") == "2.0"
    assert [p["phase"] for p in report.of("phase")][:2] == ["resolving", "installing"]
    again = install.run(installing(tmp_path, venv, "tinypkg>=2"), report.reporter)
    assert again["reused"] and again["summary"] == "nothing would change"


@pytest.mark.parametrize("wanted", [["torch==2.1.0"], ["torch>=2"], ["needsnew"], ["tinypkg", "torch==1.13.1+cu116.moreh24.2.0"]])
def test_a_moreh_torch_is_never_replaced(tmp_path, venv, report, wanted):
    pip(venv, "torch==" + MOREH)
    error = refused(install, installing(tmp_path, venv, *wanted), report, "TORCH_PROTECTED")
    assert error.details["installed"] == MOREH and "env create" in error.next
    if wanted == ["needsnew"]:
        assert "needsnew 1.0 requires torch>=2.0" in error.message and error.details["would_be"] == "2.1.0"
    assert version_of(venv, "torch") == MOREH and version_of(venv, "tinypkg") is None


@pytest.mark.faults
def test_an_interpreter_that_works_elsewhere_is_not_used(tmp_path, venv, report):
    """A wrapper that starts another Python: the Moreh torch lies beside it, and its pip cannot see it."""
    inputs = dict(installing(tmp_path, venv, "tinypkg"), torch=MOREH)
    error = refused(install, inputs, report, "TORCH_PROTECTED")
    assert "does not see it" in error.message
    assert version_of(venv, "tinypkg") is None
    pip(venv, "torch==" + MOREH)
    install.run(inputs, report.reporter)
    assert version_of(venv, "tinypkg") == "2.0"


def test_packages_that_go_with_the_moreh_torch_are_chosen(tmp_path, venv, report):
    pip(venv, "torch==" + MOREH)
    install.run(installing(tmp_path, venv, "eithertorch", "torch==" + MOREH, "torch"), report.reporter)
    assert version_of(venv, "eithertorch") == "1.0" and version_of(venv, "torch") == MOREH


def test_the_tutorials_broken_pins_are_mended_and_told(tmp_path, venv, report):
    pip(venv, "torch==" + MOREH)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "base.txt").write_text("transformers== 4.36.2  # as on the page\ntokenizers==0.13.3\n")
    (tmp_path / "requirements" / "llama3.txt").write_text(
        "# Llama 3\n-r base.txt\nccelerate==0.30.1\ntorch==1.13.1+cu116.moreh24.2.0\ntinydep ; python_version >= '3'\n"
    )
    result = install.run(installing(tmp_path, venv, paths=["requirements/llama3.txt"]), report.reporter)
    told = {(r["file"], r["line"]): (r["was"], r["used"]) for r in (json.loads((tmp_path / "changes.json").read_text()))["repairs"]}
    assert told == {
        ("requirements/llama3.txt", 3): ("ccelerate==0.30.1", "accelerate==0.30.1"),
        ("requirements/llama3.txt", 4): ("torch==1.13.1+cu116.moreh24.2.0", ""),
        ("base.txt", 1): ("transformers== 4.36.2  # as on the page", "transformers==4.36.2  # as on the page"),
        ("base.txt", 2): ("tokenizers==0.13.3", "tokenizers>=0.14,<0.19"),
    }
    assert result["repairs"] == 4 and len(report.messages("REQUIREMENT_REPAIRED")) == 4
    text = report.messages("REQUIREMENT_REPAIRED")[0]["text"]
    assert "requirements/llama3.txt line 3: 'ccelerate==0.30.1' names no package" in text and "used instead: accelerate==0.30.1" in text
    have = packages.Interpreter(str(venv), os.environ, "/").installed()
    expected = {"accelerate": "0.30.1", "transformers": "4.36.2", "tokenizers": "0.15.2", "torch": MOREH, "tinydep": "1.5"}
    assert {name: have.get(name) for name in expected} == expected
    assert "ccelerate" in (tmp_path / "requirements" / "llama3.txt").read_text(), "the user's file is not changed"


def test_files_of_the_laptop_name_each_other(tmp_path, venv, report):
    files = [{"name": "all.txt", "text": "-r more.txt\ntinydep\n"}, {"name": "more.txt", "text": "tinypkg==1.0\n"}]
    install.run(installing(tmp_path, venv, files=files, asked=1), report.reporter)
    assert version_of(venv, "tinypkg") == "1.0"


@pytest.mark.parametrize(
    "wanted, paths, reason, said",
    [
        (["no-such-package-x"], [], "INSTALL_FAILED", "no-such-package-x"),
        (["tinypkg==1.0", "tinypkg==2.0"], [], "INSTALL_FAILED", "user requested tinypkg==1.0"),
        ([], ["absent.txt"], "FILE_NOT_FOUND", "absent.txt"),
        ([], ["binary.txt"], "USAGE", "UTF-8"),
        (["tinypkg==>=1"], [], "INSTALL_FAILED", "tinypkg==>=1"),
    ],
)
def test_what_cannot_be_installed_is_said_in_pips_words(tmp_path, venv, report, wanted, paths, reason, said):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    error = refused(install, installing(tmp_path, venv, *wanted, paths=paths), report, reason)
    assert said.lower() in error.message.lower()


def test_an_old_pip_is_said_to_tell_nothing_and_still_cannot_replace_torch(tmp_path, venv, report, monkeypatch):
    pip(venv, "torch==" + MOREH)
    monkeypatch.setattr(packages.Interpreter, "pip_version", lambda self: (21, 1, 1))
    result = install.run(installing(tmp_path, venv, "eithertorch"), report.reporter)
    assert not result["previewed"] and report.messages("PREVIEW_UNAVAILABLE")[0]["text"].startswith("pip 21.1.1 cannot tell")
    assert version_of(venv, "eithertorch") == "1.0" and version_of(venv, "torch") == MOREH
    refused(install, installing(tmp_path, venv, "torch==2.1.0"), report, "TORCH_PROTECTED")
    refused(install, installing(tmp_path, venv, "needsnew"), report, "INSTALL_FAILED")
    assert version_of(venv, "torch") == MOREH


def test_an_environment_without_pip_and_one_that_does_not_start(tmp_path, report):
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    error = refused(install, installing(tmp_path, tmp_path / "bare" / "bin" / "python", "tinypkg"), report, "PACKAGE_MISSING")
    assert "ensurepip" in error.next
    refused(install, installing(tmp_path, "/bin/false", "tinypkg"), report, "ENVIRONMENT_NOT_FOUND")


def test_neither_the_folder_nor_pythonpath_nor_the_home_gets_in_pips_way(tmp_path, venv, report, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    install.run(installing(tmp_path, venv, "tinydep"), report.reporter)
    assert version_of(venv, "tinydep") == "1.5" and not (tmp_path / ".local").exists()


def test_passwords_of_an_index_are_not_shown(capsys):
    code = "print('Looking in indexes: https://mina:s3cret@pypi.example/simple')"
    ended = packages.run([sys.executable, "-I", "-c", code], os.environ, "/")
    assert ended.lines == ["Looking in indexes: https://****@pypi.example/simple"]
    assert "s3cret" not in capsys.readouterr().out


# -- requirements ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, used",
    [
        ("tokenizers==0.13.3\ntransformers==4.33.1\n", None),
        ("tokenizers==0.15.2\ntransformers==4.36.2\n", None),
        ("tokenizers==0.20.3\ntransformers==4.46.2\n", None),
        ("tokenizers==0.15.2\ntransformers==4.46.2\n", "tokenizers>=0.20,<0.21"),
        ("transformers==4.27.2\ntokenizers==0.15.2\n", "tokenizers>=0.11.1,<0.14"),
        ("transformers==5.1.0\ntokenizers==0.15.2\n", None),
        ("torch==1.13.1\n", None),
        ("torch==1.13.1+cu116.moreh24.5.0\n", None),
        ("torch==2.1.0\n", None),
        ("ccelerate==1 \\\n  --hash=sha256:00\n", None),
        ("accelerate[x]== 0.30.1; python_version<'4'\n", "accelerate[x]==0.30.1; python_version<'4'"),
        ("transformers ==4.36.2\n", None),
        ("ccelerate== 0.30.1\n", "accelerate==0.30.1"),
    ],
)
def test_lines_are_mended_only_where_they_are_known_to_be_wrong(text, used):
    lines, repairs = requirements.mend(text, "x.txt", {"torch": MOREH})
    assert [repair.used for repair in repairs] == ([used] if used else [])
    assert lines == text.splitlines() if not used else used in lines


def test_without_a_moreh_torch_its_pins_are_pips_business():
    assert requirements.mend("torch==1.13.1+cu116.moreh24.2.0\n", "x.txt", {})[1] == []


def test_paths_in_a_copied_file_lead_to_the_same_place(tmp_path):
    (tmp_path / "a" / "wheels").mkdir(parents=True)
    (tmp_path / "a" / "constraints.txt").write_text("x==1\n")
    (tmp_path / "a" / "r.txt").write_text("-c constraints.txt\n--find-links wheels\n-r ./r.txt\n-r https://host/r.txt\n--find-links=https://x/\n")
    [copy] = requirements.prepare(["a/r.txt"], [], 0, str(tmp_path / "out"), {}, str(tmp_path)).paths
    constraint, links, itself, far, more = Path(copy).read_text().splitlines()
    assert Path(constraint.split()[1]).read_text() == "x==1\n" and itself == "-r " + copy
    assert links == "--find-links " + str(tmp_path / "a" / "wheels")
    assert (far, more) == ("-r https://host/r.txt", "--find-links=https://x/")


@pytest.mark.parametrize(
    "torch, moreh, text",
    [
        ("1.13.1", "24.5.0", MOREH),
        ("1.7.1", "22.8.0", "1.7.1+cu110.moreh22.8.0"),
        ("1.10.0", "23.9.0", "1.10.0+cu111.moreh23.9.0"),
        ("2.1.0", "25.5.3005", "2.1.0+moreh25.5.3005"),
    ],
)
def test_version_strings_of_the_framework(torch, moreh, text):
    assert requirements.moreh_version(torch, moreh) == text
    assert requirements.MOREH.fullmatch(text).group("torch", "moreh") == (torch, moreh)


# -- create ----------------------------------------------------------------------------------------


def creating(tmp_path, kind="venv", **more):
    return dict(
        {
            "name": "new", "kind": kind, "prefix": str(tmp_path / "envs" / "new"), "tool": "", "python_version": "",
            "pythons": [sys.executable], "path": "", "files": [], "folder": str(tmp_path / "source"), "made_for": "request-1",
        },
        **more
    )  # fmt: skip


def test_a_virtual_environment_from_requirements_imports_what_was_asked(tmp_path, report):
    made = create.run(creating(tmp_path, pythons=["/no/such/python", sys.executable]), report.reporter)
    assert made["python"] == str(tmp_path / "envs" / "new" / "bin" / "python") and made["kind"] == "venv"
    assert report.of("artifact")[0]["path"] == made["prefix"]
    files = [{"name": "requirements.txt", "text": "tinypkg==2.0\n"}]
    install.run(installing(tmp_path, made["python"], files=files, asked=1), report.reporter)
    assert ask(made["python"], "import tinypkg; print(tinypkg.__version__)") == "2.0"
    again = create.run(creating(tmp_path), report.reporter)
    assert again["reused"], "a resumed job goes on with its own"
    refused(create, creating(tmp_path, made_for="request-2"), report, "ENVIRONMENT_EXISTS")
    assert ask(made["python"], "import tinypkg; print(tinypkg.__version__)") == "2.0"


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_is_there_is_never_touched(tmp_path, report, what):
    prefix = tmp_path / "envs" / "new"
    prefix.parent.mkdir()
    if what == "folder":
        prefix.mkdir()
        (prefix / "mine").write_text("precious")
    elif what == "file":
        prefix.write_text("precious")
    else:
        prefix.symlink_to(tmp_path / "nowhere")
    refused(create, creating(tmp_path), report, "ENVIRONMENT_EXISTS")
    kept = prefix / "mine" if what == "folder" else prefix
    assert kept.is_symlink() if what == "link" else kept.read_text() == "precious"


def test_what_cannot_be_finished_is_removed(tmp_path, report):
    error = refused(create, creating(tmp_path, pythons=["/bin/false", "/no/such"]), report, "PACKAGE_MISSING")
    assert "/bin/false" in error.message and not (tmp_path / "envs" / "new").exists()
    refused(create, creating(tmp_path, python_version="3.99"), report, "INSTALL_FAILED")
    assert not (tmp_path / "envs" / "new").exists()


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_a_cancelled_creation_leaves_nothing(tmp_path, report):
    ready = tmp_path / "ready"
    os.mkfifo(str(ready))
    slow = script(tmp_path / "slow", 'mkdir -p "$4/lib"; echo > {}; exec sleep 600\n'.format(ready))
    log = tmp_path / "log"
    child = subprocess.Popen(
        [sys.executable, "-c", _STEP, str(Path(create.__file__).resolve().parents[2]), json.dumps(creating(tmp_path, pythons=[slow])), str(log)],
        start_new_session=True,
    )
    ready.read_text()
    assert (tmp_path / "envs" / "new" / "lib").is_dir()
    os.killpg(child.pid, signal.SIGTERM)
    assert child.wait(60) == 0
    assert json.loads(log.read_text().splitlines()[-1])["data"]["text"] == "CANCELLED"
    assert not (tmp_path / "envs" / "new").exists()


_STEP = """
import json, sys
sys.path.insert(0, sys.argv[1])
from moai_worker.errors import StepError
from moai_worker.reporter import Reporter
from moai_worker.steps import create
report = Reporter(sys.argv[3])
try:
    create.run(json.loads(sys.argv[2]), report)
except StepError as error:
    report.message(error.reason)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A look-alike home of MAF 24.5 without any environment, its tools on PATH."""
    kit = build_home(str(tmp_path / "home"), envs={}, latest="24.5.0")
    monkeypatch.setenv("HOME", kit.home)
    path = os.pathsep.join([kit.tools, os.path.join(kit.conda_base, "bin"), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    return kit


def conda_made(home, report, **more):
    inputs = creating(Path(home.home), "conda", prefix=home.prefix("new"), tool=os.path.join(home.conda_base, "bin", "conda"))
    return create.run(dict(inputs, **more), report.reporter)


def test_conda_makes_an_environment_and_its_y_never_removes_one(home, report):
    made = conda_made(home, report)
    assert made["python"] == home.prefix("new") + "/bin/python" and version_of(made["python"], "pip")
    before = sorted(os.listdir(home.prefix("new")))
    with pytest.raises(StepError) as raised:
        conda_made(home, report, made_for="request-2")
    assert raised.value.reason == "ENVIRONMENT_EXISTS" and sorted(os.listdir(home.prefix("new"))) == before
    with pytest.raises(StepError) as raised:
        conda_made(home, report, prefix=home.prefix("other"), python_version="3.99")
    assert raised.value.reason == "INSTALL_FAILED" and "PackagesNotFoundError" in raised.value.message
    assert not os.path.exists(home.prefix("other"))


def test_an_environment_yml_goes_through_conda(home, report, capfd):
    files = [{"name": "environment.yml", "text": "name: x\ndependencies:\n  - python\n"}]
    made = conda_made(home, report, kind="conda-file", files=files)
    assert made["kind"] == "conda-file" and "dependencies:" in capfd.readouterr().out


def test_a_uv_lock_goes_through_uv(tmp_path, report):
    uv = script(
        tmp_path / "bin" / "uv",
        'echo "$@" > {0}/said; pwd >> {0}/said; ls >> {0}/said; exec {1} -I -m venv --without-pip "$UV_PROJECT_ENVIRONMENT"\n'.format(tmp_path, sys.executable),
    )
    files = [{"name": "uv.lock", "text": "version = 1\n"}, {"name": "pyproject.toml", "text": "[project]\nname='x'\n"}]
    made = create.run(creating(tmp_path, "uv", tool=uv, files=files), report.reporter)
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0] == "sync --frozen --project {} --no-install-project".format(tmp_path / "source")
    assert said[1:] == [str(tmp_path / "source"), "pyproject.toml", "uv.lock"] and made["kind"] == "uv"
    broken = script(tmp_path / "bin" / "uv2", "echo 'error: Failed to parse `uv.lock`' >&2; exit 2\n")
    error = refused(create, creating(tmp_path, "uv", tool=broken, files=files, prefix=str(tmp_path / "envs" / "b")), report, "INSTALL_FAILED")
    assert "Failed to parse" in error.message and not (tmp_path / "envs" / "b").exists()


# -- the framework ---------------------------------------------------------------------------------


def framing(home, made, **more):
    tool = os.path.join(home.tools, "update-moreh") if home else ""
    return dict(
        {
            "python": made["python"], "prefix": made["prefix"], "name": "new", "conda": True, "torch": "1.13.1",
            "moreh": "24.5.0", "update_moreh": tool, "others": {},
        },
        **more
    )  # fmt: skip


def test_update_moreh_is_driven_and_the_version_read_again(home, report, capfd, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    made = conda_made(home, report)
    result = framework.run(framing(home, made, others={"old": "24.2.0", "same": "24.5.0"}), report.reporter)
    assert result["by"] == "update-moreh" and result["torch"] == MOREH == version_of(made["python"], "torch")
    said = capfd.readouterr().out
    assert "Do you want to proceed? (y/n, default:n)" in said and "installation successful" in said
    assert "old (24.2.0)" in report.messages("FRAMEWORK_DIFFERS")[0]["text"]
    assert framework.run(framing(home, made), report.reporter)["reused"]


def like(python):
    """An environment as the step ``create`` returns it."""
    return {"python": str(python), "prefix": str(python.parent.parent)}


LIES = "echo 'Do you want to proceed? (y/n, default:n)'; read x; echo 'Moreh Framework installation successful.'\n"
GONE = "echo 'Moreh AI Platform is not available.'; echo 'Latest Version is '; exit 0\n"


@pytest.mark.parametrize("text, said", [(LIES, "has torch none"), (GONE, "did not report success"), ("exit 3\n", "said nothing")])
def test_pip_takes_over_where_update_moreh_fails(tmp_path, venv, report, text, said):
    tool = script(tmp_path / "bad-update", text)
    result = framework.run(framing(None, like(venv), update_moreh=tool), report.reporter)
    assert result["by"] == "pip" and version_of(venv, "torch") == MOREH
    assert said in report.messages("UPDATE_MOREH_FAILED")[0]["text"]


def test_a_hung_update_moreh_is_ended_and_pip_takes_over(tmp_path, venv, report, monkeypatch):
    monkeypatch.setattr(framework, "_TIMEOUT_S", 1.0)
    tool = script(tmp_path / "hung", "echo working; exec sleep 600\n")
    assert framework.run(framing(None, like(venv), update_moreh=tool), report.reporter)["by"] == "pip"
    assert "did not end" in report.messages("UPDATE_MOREH_FAILED")[0]["text"]


def test_later_releases_are_pips_and_a_missing_build_is_said(venv, report):
    made = like(venv)
    with pytest.raises(StepError) as raised:
        framework.run(framing(None, made, torch="2.1.0", moreh="25.1.202", update_moreh="/bin/false"), report.reporter)
    assert raised.value.reason == "INSTALL_FAILED" and "2.1.0+moreh25.1.202" in raised.value.message
    assert not report.messages("UPDATE_MOREH_FAILED")
    plain = framework.run(framing(None, made, torch="2.1.0", moreh=""), report.reporter)
    assert plain["torch"] == "2.1.0" and plain["by"] == "pip"


def test_a_second_creation_waits_for_the_first(tmp_path, report):
    """Two of one name at once: one makes it, the other is refused."""
    outcomes = []

    def one(number):
        try:
            create_in_child(tmp_path, number, outcomes)
        except AssertionError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=one, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(outcomes) == ["", "ENVIRONMENT_EXISTS"]


def create_in_child(tmp_path, number, outcomes):
    log = tmp_path / "log-{}".format(number)
    inputs = creating(tmp_path, made_for="request-{}".format(number))
    root = str(Path(create.__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", _STEP, root, json.dumps(inputs), str(log)])
    assert done.returncode == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    outcomes.append(next((line["data"]["text"] for line in lines if line["type"] == "message"), ""))
