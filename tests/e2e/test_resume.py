"""resume and again of commands: started again and said so, secrets asked for again, another container."""

import json
import os
import pty
import shutil
import subprocess
from pathlib import Path

import moai
import pytest
from fakes.box import Box
from fakes.sshd import find_sshd
from moai import _carry
from moai._config import config
from moai_proto.v1 import training_pb2


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Two containers and one laptop that reaches both."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("again")
    with Box(folder / "one", look_alike=False) as one, Box(folder / "two", look_alike=False, alias="two") as two:
        with open(one.ssh_config, "a") as out:
            out.write(two.ssh_config.read_text())
        with open(one.laptop.folder / "config" / "config.toml", "a") as out:
            out.write('[hosts.two]\naddress = "two"\n')
        assert one.moai("remote", "devices", "--on", "all").returncode == 0
        yield one, two


@pytest.fixture
def box(boxes, as_laptop):
    """The first container; this process uses its laptop."""
    as_laptop(boxes[0].laptop)
    return boxes[0]


@pytest.fixture
def project(tmp_path):
    """A program with a neighbour."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "part.txt").write_text("first\n")
    (folder / "main.sh").write_text("cat part.txt\n")
    return folder


def shown(box, job="last"):
    """``show --json``."""
    return json.loads(box.moai("remote", "show", job, "--json").stdout)


def test_a_command_starts_again_and_says_so_in_its_first_event(box):
    once = box.home / "once"
    failed = box.moai("remote", "train", "--name", "mine", "--", "sh", "-c", f"[ -e {once} ] || {{ touch {once}; exit 4; }}; echo done")
    assert failed.returncode == 3
    done = box.moai("remote", "resume", "last", "--json")
    assert done.returncode == 0 and b"started again from its beginning" in done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["data"]["code"] == "RESUME" and "started again" in events[0]["data"]["text"]
    assert shown(box)["name"] == "mine"
    refused = box.moai("remote", "resume", "last", "--set", "lr=1", "--json")
    assert json.loads(refused.stdout)["reason"] == "UNSUPPORTED"


@pytest.mark.parametrize("verb", ["resume", "again"])
def test_secrets_are_kept_nowhere_and_asked_for_again(box, verb):
    first = box.moai("remote", "run", "--secret", "MY_KEY", "--", "sh", "-c", "echo got ${#MY_KEY}", MY_KEY="abc")
    assert first.stdout == b"got 3\n", first.stderr
    refused = box.moai("remote", verb, "last", "--json")
    assert refused.returncode == 9 and json.loads(refused.stdout)["reason"] == "SECRET_NEEDED"
    with moai.connect("box") as host, pytest.raises(moai.PersonNeeded, match="MY_KEY"):
        getattr(host.job("last"), verb)()
    done = box.moai("remote", verb, "last", MY_KEY="abcde")
    assert done.returncode == 0 and done.stdout.endswith(b"got 5\n"), done.stderr


def test_again_is_the_same_request_with_a_new_id(box, project):
    words = ("--sync", str(project), "-e", "X=1", "--name", "twice", "--expect", "out.txt")
    done = box.moai("remote", "run", *words, "--", "sh", "-c", "sh main.sh; echo $X; touch out.txt")
    assert done.returncode == 0, done.stderr
    first = shown(box)
    (project / "part.txt").write_text("second\n")
    again = box.moai("remote", "again", "last")
    assert (again.returncode, again.stdout) == (0, b"first\n1\n"), again.stderr
    second = shown(box)
    assert second["job"] != first["job"] and second["parent"] is None and second["name"] == "twice"
    assert second["spec"]["request"] == {**first["spec"]["request"], "message": {**first["spec"]["request"]["message"], "options": second["spec"]["request"]["message"]["options"]}}
    assert second["spec"]["environment"] == first["spec"]["environment"]
    assert json.loads(box.moai("remote", "again", "last", "--set", "a=1", "--json").stdout)["reason"] == "UNSUPPORTED"


def test_again_elsewhere_takes_its_code_along_and_names_what_stays(box, boxes, project):
    done = box.moai("remote", "run", "--sync", str(project), "--on", "box", "--", "sh", "main.sh")
    assert done.returncode == 0, done.stderr
    job = shown(box)["job"]
    again = box.moai("remote", "again", job, "--on", "two")
    assert (again.returncode, again.stdout) == (0, b"first\n"), again.stderr
    assert b"2 files sent to two" in again.stderr
    assert (boxes[1].home / "moai-work" / "code" / "jobs").is_dir() or list(boxes[1].home.glob("**/code/jobs/*"))
    plain = box.moai("remote", "run", "--on", "box", "--workdir", str(box.home), "--", "true")
    assert plain.returncode == 0
    with moai.connect("box") as host, moai.Host(config().pick("two")[0], say=(told := []).append) as two:
        assert host.job("last").again(on=two).wait(timeout=60).state == "SUCCEEDED"
    assert any(f"the working folder {box.home} is not sent" in text for text in told), told


def test_what_was_cleared_away_is_said(box, boxes, project, tmp_path):
    (project / "part.txt").write_text("seen by one container only\n")
    assert box.moai("remote", "run", "--sync", str(project), "--", "sh", "main.sh").returncode == 0
    code = shown(box)
    inputs = next(step["inputs"] for step in code["plan"]["steps"] if step["name"] == "code")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x"}\n')
    with moai.connect("box") as host, moai.Host(config().pick("two")[0]) as two:
        message = training_pb2.GenerateRequest(model="/models/there", prompt_file=host.push(tmp_path / "prompts.jsonl"))
        sent = message.prompt_file
        _carry.refuse_gone(message, host, "swift-otter")
        _carry.move(message, {}, host, two, (told := []).append, "swift-otter")
        assert message.prompt_file.startswith(str(boxes[1].home)) and Path(message.prompt_file).read_text() == '{"prompt": "x"}\n'
        assert told == ["/models/there is not sent: the job looks for it on two", "prompts.jsonl sent to two"]
        os.unlink(sent)
        message.prompt_file = sent
        for refusing in (lambda: _carry.refuse_gone(message, host, "swift-otter"), lambda: _carry.move(message, {}, host, two, told.append, "swift-otter")):
            with pytest.raises(moai.NotFound, match="prompts.jsonl, which was sent for job swift-otter, was cleared away from box") as refused:
                refusing()
            assert refused.value.next == "submit it anew with laptop:prompts.jsonl"
    shutil.rmtree(inputs["contents"])
    for more in ((), ("--on", "two")):
        refused = json.loads(box.moai("remote", "again", code["job"], *more, "--json").stdout)
        assert refused["reason"] == "FILE_NOT_FOUND" and f"the code of job {code['job']} was cleared away from box" in refused["message"]
        assert refused["next"] == "submit it anew with --sync DIR"


def test_a_fast_tokenizer_of_the_other_container_is_not_asked_for(box, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    message = training_pb2.StartTrainingRequest()
    message.training.dataset.engine.name = "auto"
    message.training.dataset.engine.candidates.add(name="fastokens", python="/there/only", snapshot="0" * 32)
    with moai.Host(config().pick("two")[0]) as two:
        _carry.renew_engine(message, two, True)
    found = message.training.dataset.engine
    assert not [one for one in found.candidates if one.python == "/there/only"] and (found.candidates or found.note)
    plain = training_pb2.EvaluateRequest(model="/models/there")
    _carry.renew_engine(plain, None, True)
    assert not plain.HasField("dataset")


def test_on_a_terminal_smaller_passes_are_offered_and_elsewhere_the_command_is_printed(box):
    """A look-alike of a training that ended by the device's memory: only the offer is looked at."""
    code = (
        "import json,os,sys\n"
        "from moai._cli import resume\n"
        "import moai\n"
        "class One:\n"
        "    id = 'swift-otter'\n"
        "    def smaller_passes(self): return {'gradient_accumulation': 2}\n"
        "print(json.dumps(resume._offer(One(), False)))\n"
    )
    argv = [box.laptop.argv[0], "-c", code]
    silent = subprocess.run(argv, env=box.laptop.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    assert silent.stdout == b"{}\n" and b"moai remote resume swift-otter --set gradient_accumulation=2" in silent.stderr
    for answer, expected in ((b"y\n", {"gradient_accumulation": 2}), (b"n\n", {})):
        ours, theirs = pty.openpty()
        with subprocess.Popen(argv, env=box.laptop.env, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE) as child:
            os.close(theirs)
            os.write(ours, answer)
            out = child.stdout.read()
            child.wait(60)
        os.close(ours)
        assert json.loads(out) == expected
