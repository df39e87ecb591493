"""Environments over a real sshd: made by conda and update-moreh, from requirements, installed into, protected.

The container is a look-alike: its conda makes real virtual environments, its update-moreh asks on a real
pseudo-terminal. pip is the real one and knows a folder of tiny wheels only.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import wheels
from fakes.box import Box
from fakes.sshd import find_sshd

#: The fake conda makes environments of this Python whatever it is asked for, and the step checks that.
THIS = "{}.{}".format(*sys.version_info)
MOREH = "1.13.1+cu116.moreh24.5.0"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    for version in (MOREH, "2.1.0"):
        wheels.build(folder, "torch", version)
    wheels.build(folder, "tinypkg", "2.0", ["tinydep>=1"])
    wheels.build(folder, "tinydep", "1.5")
    wheels.build(folder, "accelerate", "0.30.1", ["torch>=1.10"])
    wheels.build(folder, "needsnew", "1.0", ["torch>=2.0"])
    return folder


@pytest.fixture(scope="module")
def box(tmp_path_factory, index):
    """A MoAI look-alike whose environment ``pytorch`` is a real one with a Moreh torch in it."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("envs")
    venv = folder / "pytorch"
    subprocess.run([sys.executable, "-I", "-m", "venv", str(venv)], check=True)
    words = ["-q", "--no-index", "--find-links", str(index), "torch==" + MOREH]
    subprocess.run([str(venv / "bin" / "python"), "-I", "-m", "pip", "install", *words], check=True)
    with Box(folder, python=str(venv / "bin" / "python")) as one:
        one.pip = ["--setenv", "PIP_NO_INDEX=1", "--setenv", f"PIP_FIND_LINKS={index}", "--setenv", "PIP_CONFIG_FILE=/dev/null"]
        one.venv = venv
        yield one


def ok(box, *words, code=0, **more):
    done = box.moai("remote", *words, **more)
    assert done.returncode == code, (words, done.stdout.decode()[-3000:], done.stderr.decode()[-3000:])
    return done.stdout.decode()


def changing(box, *words, code=0):
    """Events of a job that changes environments."""
    lines = [json.loads(line) for line in ok(box, *words, *box.pip, "--json", code=code).splitlines()]
    events = [line for line in lines if line["type"] != "log"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    return events


def messages(events, code):
    return [event["data"]["text"] for event in events if event["type"] == "message" and event["data"]["code"] == code]


def torch_of(python):
    code = "import importlib.metadata as m; print(m.version('torch'))"
    return subprocess.run([str(python), "-I", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_create_with_update_moreh_then_show_then_never_again(box):
    events = changing(box, "env", "create", "fresh", "--python", THIS)
    ended = {e["data"]["name"]: e["data"] for e in events if e["type"] == "step" and e["data"]["state"] != "RUNNING"}
    assert [(name, data["state"]) for name, data in ended.items()] == [("create", "SUCCEEDED"), ("framework", "SUCCEEDED")]
    assert ended["framework"]["result"] == {"torch": MOREH, "by": "update-moreh", "summary": f"torch {MOREH} by update-moreh"}
    assert messages(events, "FRAMEWORK")[0] == f"torch {MOREH}: the framework of pytorch; one token, one version"
    assert not messages(events, "ENVIRONMENT"), "no environment is chosen to make one"
    python = box.kit.prefix("fresh") + "/bin/python"
    assert torch_of(python) == MOREH

    shown = json.loads(ok(box, "env", "show", "fresh", "--json"))
    assert (shown["name"], shown["kind"], shown["prefix"]) == ("fresh", "conda", box.kit.prefix("fresh"))
    assert (shown["torch_version"], shown["moreh_version"]) == (MOREH, "24.5.0")
    assert not shown["is_default"] and "pytorch" in shown["reason"]
    text = ok(box, "env", "show")
    assert "pytorch" in text and "chosen        yes: " in text and "transformers  not installed" in text

    again = box.moai("remote", "env", "create", "fresh", "--json")
    assert again.returncode == 1 and json.loads(again.stdout)["reason"] == "ENVIRONMENT_EXISTS"
    assert torch_of(python) == MOREH


def test_a_virtual_environment_from_the_laptops_requirements_runs_a_job(box, tmp_path):
    (tmp_path / "more.txt").write_text("tinydep\n")
    (tmp_path / "requirements.txt").write_text("-r more.txt\ntinypkg==2.0\n")
    source = f"laptop:{tmp_path / 'requirements.txt'}"
    changing(box, "env", "create", "small", "--from", source, "--moreh", "none")
    shown = json.loads(ok(box, "env", "show", "small", "--json"))
    assert shown["kind"] == "venv" and Path(shown["prefix"]).parent == box.home / "moai-work" / "envs"
    said = ok(box, "run", "--env", "small", "--", "python", "-c", "import tinypkg; print(tinypkg.__version__)")
    assert said == "2.0\n"


def test_a_creation_that_failed_later_is_resumed_in_the_same_environment(box, index, tmp_path):
    (tmp_path / "requirements.txt").write_text("tinydep\nlater==1.0\n")
    words = ["env", "create", "again", "--from", f"laptop:{tmp_path / 'requirements.txt'}", "--moreh", "none"]
    events = changing(box, *words, code=3)
    reason = events[-1]["data"]["reason"]
    assert reason["code"] == "INSTALL_FAILED" and "later" in reason["message"]
    wheels.build(index, "later", "1.0")
    try:
        lines = [json.loads(line) for line in ok(box, "resume", events[0]["job"], "--json").splitlines()]
    finally:
        (index / "later-1.0-py3-none-any.whl").unlink()
    ended = [(e["data"]["name"], e["data"]["state"]) for e in lines if e["type"] == "step" and e["data"]["state"] != "RUNNING"]
    assert ended == [("create", "SKIPPED"), ("install", "SUCCEEDED")]
    assert ok(box, "run", "--env", "again", "--", "python", "-c", "import later, tinydep; print('ok')") == "ok\n"


def test_a_moreh_torch_is_refused_to_be_replaced_and_nothing_changes(box):
    done = box.moai("remote", "env", "install", "--env", "pytorch", "tinypkg", "needsnew", *box.pip)
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 3 and "TORCH_PROTECTED" in said and "needsnew 1.0 requires torch>=2.0" in said
    assert "moai remote env create NAME --moreh VERSION" in said
    assert torch_of(box.venv / "bin" / "python") == MOREH
    plan = json.loads(ok(box, "env", "install", "--env", "pytorch", "tinypkg", "--dry-run", "--json", *box.pip))
    assert plan["schema"] == "moai.install-plan/1" and plan["held"] == {"torch": MOREH}
    assert {c["name"]: (c["action"], c["before"], c["after"]) for c in plan["changes"]} == {
        "tinydep": ("install", None, "1.5"), "tinypkg": ("install", None, "2.0"),
    }  # fmt: skip
    refused = json.loads(ok(box, "env", "install", "--env", "pytorch", "torch==2.1.0", "--dry-run", "--json", *box.pip, code=3))
    assert refused["reason"] == "TORCH_PROTECTED"
    shown = ok(box, "env", "install", "--env", "pytorch", "tinypkg", "--dry-run", *box.pip)
    assert shown.splitlines()[0].split() == ["NAME", "ACTION", "NOW", "THEN"]


def test_broken_pins_of_the_tutorials_are_mended(box, tmp_path):
    (tmp_path / "r.txt").write_text("tinydep\nccelerate==0.30.1\ntorch==1.13.1+cu116.moreh24.2.0\n")
    events = changing(box, "env", "install", "--env", "pytorch", "-r", f"laptop:{tmp_path / 'r.txt'}")
    told = messages(events, "REQUIREMENT_REPAIRED")
    assert [text.split(":")[0] for text in told] == ["r.txt line 2", "r.txt line 3"]
    assert "used instead: accelerate==0.30.1" in told[0] and told[1].endswith("left out")
    assert messages(events, "CHANGED") == ["done in pytorch: install 2 (accelerate 0.30.1, tinydep 1.5)"]
    assert torch_of(box.venv / "bin" / "python") == MOREH


def test_an_installation_is_repeated_with_the_files_it_had(box, tmp_path):
    (tmp_path / "more.txt").write_text("tinydep\n")
    (tmp_path / "r.txt").write_text("-r more.txt\n")
    first = changing(box, "env", "install", "--env", "pytorch", "-r", f"laptop:{tmp_path / 'r.txt'}")[0]["job"]
    recorded = json.loads(ok(box, "show", first, "--json"))["spec"]["request"]
    assert recorded["type"] == "InstallRequirementsRequest" and "tinydep" not in json.dumps(recorded), "the plan has the files"
    for name in ("r.txt", "more.txt"):
        (tmp_path / name).unlink()
    again = [json.loads(line) for line in ok(box, "again", first, "--json").splitlines()]
    assert again[-1]["data"]["state"] == "SUCCEEDED" and again[0]["job"] != first
    files = [step["inputs"]["files"] for job in (first, again[0]["job"]) for step in json.loads(ok(box, "show", job, "--json"))["plan"]["steps"]]
    assert files[0] == files[1] == [{"name": "r.txt", "text": "-r more.txt\n"}, {"name": "more.txt", "text": "tinydep\n"}]

    dry = ok(box, "env", "install", "--env", "pytorch", "tinypkg", "--dry-run", *box.pip)
    assert ok(box, "again", "last").endswith(dry), "what it would change is shown again"
    changing(box, "env", "create", "twice", "--moreh", "none", "--python", THIS)
    refused = box.moai("remote", "again", "last", "--json")
    assert refused.returncode == 1 and json.loads(refused.stdout)["reason"] == "ENVIRONMENT_EXISTS"


def test_a_change_under_a_running_job_is_warned_of(box):
    job = ok(box, "run", "--env", "pytorch", "-d", "--", "sleep", "600").strip()
    try:
        events = changing(box, "env", "install", "--env", "pytorch", "tinydep==1.5")
        assert job in messages(events, "ENVIRONMENT_IN_USE")[0]
    finally:
        ok(box, "cancel", job, "--grace", "1")


@pytest.mark.parametrize(
    "words, reason, code",
    [
        (["create", "bad/name"], "USAGE", 2),
        (["create", "base"], "USAGE", 2),
        (["create", "x", "--python", "two"], "USAGE", 2),
        (["create", "x", "--from", "uv.lock"], "FILE_NOT_FOUND", 1),
        (["install", "--env", "pytorch", "-r", "absent.txt"], "FILE_NOT_FOUND", 1),
        (["create", "x", "--from", "laptop:/no/such/requirements.txt"], "FILE_NOT_HERE", 2),
        (["create", "pytorch"], "ENVIRONMENT_EXISTS", 1),
        (["install"], "USAGE", 2),
        (["install", "--", "--index-url=x"], "USAGE", 2),
        (["install", "--env", "nowhere", "x"], "ENVIRONMENT_NOT_FOUND", 2),
        (["show", "nowhere"], "ENVIRONMENT_NOT_FOUND", 2),
    ],
)
def test_what_cannot_be_is_refused_at_once(box, words, reason, code):
    before = len(json.loads(ok(box, "jobs", "--json"))["jobs"])
    done = box.moai("remote", "env", words[0], "--json", *words[1:])
    assert done.returncode == code, done.stderr.decode()
    error = json.loads(done.stdout)
    assert error["reason"] == reason and (error["next"] or reason == "USAGE")
    assert len(json.loads(ok(box, "jobs", "--json"))["jobs"]) == before


def test_a_proxy_reaches_pip_and_not_update_moreh_and_setup_speaks_bash(box):
    ok(box, "set", "box", "--proxy", "http://127.0.0.1:9")
    try:
        # update-moreh refuses to run behind a proxy, so success says that it had none.
        changing(box, "env", "create", "proxied", "--python", THIS)
        words = ["env", "install", "--env", "proxied", "tinydep", "--setup", "source /dev/null && env | grep -i _proxy"]
        job = changing(box, *words)[0]["job"]
        assert "https_proxy=http://127.0.0.1:9" in ok(box, "logs", job)
    finally:
        ok(box, "set", "box", "--proxy", "")
    assert ok(box, "run", "--setup", "source /dev/null && export GREETING=hi", "--", "sh", "-c", "echo $GREETING") == "hi\n"
    assert ok(box, "run", "--", "sh", "-c", "env | grep -ci _proxy || true").strip() == "0"


def test_the_python_api_does_the_same(box, as_laptop, index):
    import moai

    as_laptop(box.laptop)
    given = moai.JobOptions(environment="pytorch", variables={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)})
    with moai.connect("box") as host:
        job = host.install(["tinypkg"], given, dry_run=True)
        job.wait()
        plan = host.install_plan(job)
        assert plan.previewed and plan.held == {"torch": MOREH} and "tinypkg" in {change.name for change in plan.changes}
        assert host.environment("pytorch").moreh_version == "24.5.0"
        with pytest.raises(moai.Conflict):
            host.create_environment("pytorch")
