"""``--sync``: a command runs in its own copy of the laptop's folder, of which only changes travel."""

import json
import subprocess

import moai
import pytest
from fakes.box import Box
from fakes.sshd import find_sshd
from moai_proto.v1 import file_pb2, file_pb2_grpc


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """A container with its agent up."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    with Box(tmp_path_factory.mktemp("sync"), look_alike=False) as box:
        assert box.moai("remote", "up").returncode == 0
        yield box


@pytest.fixture
def box(synced, as_laptop):
    """The container; this process uses its laptop."""
    as_laptop(synced.laptop)
    return synced


@pytest.fixture
def project(tmp_path):
    """A folder with a program that reads its neighbours."""
    folder = tmp_path / "project"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "part.txt").write_text("first\n")
    (folder / "main.sh").write_text("cat lib/part.txt; pwd; cat .moai/snapshot\n")
    (folder / "tool").write_text("#!/bin/sh\necho tool ran\n")
    (folder / "tool").chmod(0o755)
    return folder


def put(host, requests):
    """PutContents by hand; the MoaiError it ends with."""
    with pytest.raises(moai.MoaiError) as caught:
        host.session.upload(file_pb2_grpc.FileServiceStub, "PutContents", lambda: requests, timeout_s=60.0)
    return caught.value


def test_a_command_runs_in_a_copy_of_its_own(box, project):
    done = box.moai("remote", "run", "--sync", str(project), "--", "sh", "main.sh")
    assert done.returncode == 0, done.stderr
    text, folder, snapshot = done.stdout.decode().split("\n")[:3]
    assert text == "first" and "/code/jobs/" in folder and len(snapshot) == 32
    assert box.moai("remote", "run", "--sync", str(project), "--", "./tool").stdout == b"tool ran\n", "modes travel"


def test_a_folder_inside_is_where_it_runs(box, project):
    subprocess.run(["git", "init", "-q", project], check=True)
    done = box.moai("remote", "run", "--sync", str(project / "lib"), "--", "sh", "-c", "cat part.txt; ls ..")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"first\nlib\nmain.sh\ntool\n"


def test_a_later_change_never_reaches_a_job_that_waits(box, project):
    gate = box.home / "go"
    wait = f"while [ ! -e {gate} ]; do sleep 0.05; done; cat lib/part.txt"
    with moai.connect("box") as host:
        first = host.run(["sh", "-c", wait], moai.JobOptions(code=project))
        (project / "lib" / "part.txt").write_text("second\n")
        second = host.run(["sh", "-c", wait], moai.JobOptions(code=project))
        gate.touch()
        assert first.wait(timeout=60).state == "SUCCEEDED" and second.wait(timeout=60).state == "SUCCEEDED"
        assert b"".join(first.log()).strip().endswith(b"first")
        assert b"".join(second.log()).strip().endswith(b"second")


def test_only_what_changed_travels(box, project, monkeypatch):
    with moai.connect("box") as host:
        first, _ = host.send_code(project)
        (project / "new.txt").write_text("something new\n")
        sent = []
        upload = host.session.upload
        monkeypatch.setattr(host.session, "upload", lambda stub, m, requests, **k: upload(stub, m, lambda: [sent.append(r) or r for r in requests()], **k))
        second, _ = host.send_code(project)
        assert second != first and [r.data for r in sent] == [b"something new\n"]
        sent.clear()
        assert host.send_code(project)[0] == second and not sent, "nothing new, nothing sent"


def test_a_content_that_is_not_its_digest_is_refused(box):
    with moai.connect("box") as host:
        error = put(host, [file_pb2.PutContentsRequest(sha256="a" * 64, data=b"other", last=True)])
        assert error.reason == "DOWNLOAD_CORRUPT"
        assert put(host, [file_pb2.PutContentsRequest(sha256="../../x", data=b"o", last=True)]).reason == "USAGE"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a//b", "a/./b", "", "a/../../b", "x" * 5000, ".moai/snapshot"])
def test_a_path_that_leads_out_is_refused(box, path):
    file = file_pb2.SnapshotFile(path=path, sha256="a" * 64, size_bytes=1)
    with moai.connect("box") as host, pytest.raises(moai.MoaiError) as caught:
        host.session.call(file_pb2_grpc.FileServiceStub, "PlanSnapshot", file_pb2.PlanSnapshotRequest(files=[file]))
    assert caught.value.reason == "USAGE"


def test_sync_and_workdir_are_not_both(box, project):
    done = box.moai("remote", "run", "--sync", str(project), "--workdir", "~", "--", "true")
    assert done.returncode == 2 and b"--workdir" in done.stderr


def test_moai_toml_syncs_its_folder(box, project):
    (project / "moai.toml").write_text('sync = "."\n')
    done = subprocess.run(
        [*box.laptop.argv, "remote", "run", "--", "cat", "lib/part.txt"],
        env=box.laptop.env, cwd=project / "lib", stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"first\n"), done.stderr


def test_a_training_script_of_ones_own(box, project):
    (project / "train.py").write_text("for n in range(1, 4):\n    print(f'[Step {n}/3] | Loss: {3.0 - n}', flush=True)\n")
    done = box.moai("remote", "train", "--sync", str(project), "--", "python3", "train.py")
    assert done.returncode == 0, done.stderr
    with moai.connect("box") as host:
        job = host.job("last")
        assert [e.data["step"] for e in job.events() if e.type == "metric"] == [1, 2, 3]


def test_the_recipe_takes_no_code(box, project):
    done = box.moai("remote", "train", "--sync", str(project), "--model", "a/b", "--dataset", "c/d")
    assert done.returncode == 2 and b"brings its own" in done.stderr


def test_only_what_uses_the_accelerator_waits_for_it_and_sync_is_for_commands(box, project):
    (project / "moai.toml").write_text('sync = "."\naccelerator = "pool"\n')
    laptop = {"env": box.laptop.env, "cwd": project, "stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 120, "check": False}
    fetched = subprocess.run([*box.laptop.argv, "remote", "download", "a/b", "-d"], **laptop)
    ran = subprocess.run([*box.laptop.argv, "remote", "run", "-d", "--", "true"], **laptop)
    assert (fetched.returncode, ran.returncode) == (0, 0), fetched.stderr + ran.stderr
    with moai.connect("box") as host:
        specs = [(box.job_dir(done.stdout.decode().strip()) / "spec.json").read_text() for done in (fetched, ran)]
        assert '"pool"' not in specs[0] and '"pool"' in specs[1]
        host.job(ran.stdout.decode().strip()).wait(timeout=60)


def test_a_project_cannot_have_both_a_folder_there_and_code_from_here(box, project):
    (project / "moai.toml").write_text('sync = "."\nworkdir = "~"\n')
    done = subprocess.run(
        [*box.laptop.argv, "remote", "run", "--", "true"],
        env=box.laptop.env, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and b"exclude each other" in done.stderr


def test_a_resumed_job_goes_on_in_its_own_copy(box, project):
    (project / "main.sh").write_text("cat lib/part.txt; [ -e again ] || { touch again; exit 1; }\n")
    failed = box.moai("remote", "run", "--sync", str(project), "--", "sh", "main.sh")
    assert failed.returncode != 0
    (project / "lib" / "part.txt").write_text("second\n")
    done = box.moai("remote", "resume", "last")
    assert done.returncode == 0 and b"first" in done.stdout, done.stderr


def test_code_that_nothing_would_run_is_refused(box, project):
    with moai.connect("box") as host, pytest.raises(moai.MoaiError, match="only a command runs"):
        host.download("a/b", moai.JobOptions(code=project))


def test_a_copy_that_is_sent_again_is_copied_whole(box, project):
    """Marks of an earlier copy are no code: a half-made copy would count as whole."""
    (project / ".moai").mkdir()
    (project / ".moai" / "snapshot").write_text("x" * 32 + "\n")
    done = box.moai("remote", "run", "--sync", str(project), "--", "sh", "main.sh")
    assert done.returncode == 0 and done.stdout.startswith(b"first\n") and b"xxxx" not in done.stdout


@pytest.fixture
def repository(project, tmp_path):
    """The project as a git repository; its first commit."""
    who = ["git", "-C", str(project), "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["checkout", "-qb", "main"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*who, *words], check=True)
    head = subprocess.run([*who, "rev-parse", "HEAD"], check=True, capture_output=True).stdout.decode().strip()

    def change(text):
        (project / "lib" / "part.txt").write_text(text)
        subprocess.run([*who, "commit", "-qam", text], check=True)

    return project, head, change


def test_a_command_runs_in_a_clone_that_the_container_makes(box, repository):
    folder, head, change = repository
    words = ("--secret", "GIT_TOKEN", "--secret", "OTHER")
    script = "cat lib/part.txt; git rev-parse HEAD; echo token=$GIT_TOKEN other=$OTHER; [ -e again ] || { touch again; exit 1; }"
    failed = box.moai("remote", "run", "--git", f"{folder}@main", *words, "--", "sh", "-c", script, GIT_TOKEN="canary", OTHER="x")
    assert failed.returncode == 3 and failed.stdout.decode().split("\n")[:3] == ["first", head, "token= other=x"], failed.stderr
    change("second\n")
    shown = json.loads(box.moai("remote", "show", "last", "--json").stdout)
    assert shown["spec"]["git"] == {"url": str(folder), "revision": "main", "commit": head}
    resumed = box.moai("remote", "resume", "last", OTHER="y")
    assert resumed.returncode == 0 and resumed.stdout.decode().split("\n")[:3] == ["first", head, "token= other=y"], resumed.stderr
    again = box.moai("remote", "again", shown["job"], OTHER="z")
    assert again.returncode == 3 and again.stdout.decode().split("\n")[:3] == ["first", head, "token= other=z"], again.stderr
    newer = box.moai("remote", "train", "--git", str(folder), "--", "cat", "lib/part.txt")
    assert newer.stdout == b"second\n", newer.stderr


def test_a_clone_that_cannot_be_made_says_why(box, repository):
    folder, _, _ = repository
    done = box.moai("remote", "run", "--git", f"{folder}@mian", "--", "true")
    assert done.returncode == 3 and b"REVISION_NOT_FOUND" in done.stderr and b"main" in done.stderr
    for more in (["--sync", str(folder)], ["--workdir", "~"]):
        done = box.moai("remote", "run", "--git", str(folder), *more, "--", "true")
        assert done.returncode == 2 and b"--git clones its own copy" in done.stderr
    done = box.moai("remote", "run", "--git", "https://me:secret@example.org/a", "--json", "--", "true")
    error = json.loads(done.stdout)
    assert done.returncode == 2 and "GIT_TOKEN" in error["next"] and "secret@" not in error["message"]


def at(box, folder, *words, code=0):
    """A command of the laptop typed in a folder; its output."""
    done = subprocess.run(
        [*box.laptop.argv, "remote", *words], env=box.laptop.env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode() + (done.stderr.decode() if code else "")


def test_a_clone_for_trainings_from_moai_toml(box, repository, tmp_path):
    folder, head, change = repository
    change("second\n")
    here = tmp_path / "here"
    here.mkdir()
    (here / "local.txt").write_text("of the laptop\n")
    (here / "moai.toml").write_text(f'sync = "."\n[train]\ngit = "{folder}@{head}"\n')
    assert at(box, here, "train", "--", "cat", "lib/part.txt") == "first\n"
    assert at(box, here, "train", "--git", f"{folder}@main", "--", "cat", "lib/part.txt") == "second\n", "the command line counts first"
    assert at(box, here, "train", "--sync", ".", "--", "cat", "local.txt") == "of the laptop\n"
    assert at(box, here, "train", "--workdir", str(box.home), "--", "pwd") == f"{box.home}\n"
    assert at(box, here, "run", "--", "cat", "local.txt") == "of the laptop\n", "a run is no training"
    assert f"{folder}@{head}" in at(box, here, "train", "--dry-run", "--", "cat", "x")
    assert "brings its own" not in at(box, here, "train", "--model", "a/b", "--dry-run", code=2), "the recipe has no use for it"


def test_save_keeps_a_clone_and_show_prints_it(box, repository, tmp_path):
    folder, head, change = repository
    here = tmp_path / "here"
    here.mkdir()
    at(box, here, "train", "--save", "--git", f"{folder}@main", "--git-submodules", "--", "cat", "lib/part.txt")
    kept = moai.load_project(here)
    assert (kept.train.git, kept.train.git_submodules) == (f"{folder}@main", True)
    job = json.loads(at(box, here, "show", "last", "--json"))["job"]
    change("second\n")
    refused = at(box, here, "train", "--save", "--sync", ".", "--", "true", code=2)
    assert "counts before it" in refused and moai.load_project(here).sync is None

    text = at(box, here, "show", job, "--toml")
    (here / "moai.toml").write_text(text)
    shown = moai.load_project(here)
    assert (shown.train.git, shown.train.git_submodules, shown.workdir) == (f"{folder}@{head}", True, None)
    assert "# main stood for that commit" in text and "--sync" not in text
    assert at(box, here, "train", "--", "cat", "lib/part.txt") == "first\n", "the commit it had, though the branch moved"
    (here / "moai.toml").unlink()
    at(box, here, "run", "--git", str(folder), "--", "true")
    newest = json.loads(at(box, here, "show", "last", "--json"))
    assert f"# moai remote run --git {folder}@{newest['spec']['git']['commit']} -- true\n" in at(box, here, "show", "last", "--toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/o/r@main", ("https://h/o/r", "main")), ("https://u@h/o/r", ("https://u@h/o/r", "")),
        ("git@h:o/r.git@feature/x", ("git@h:o/r.git", "feature/x")), ("ssh://git@h:22/o/r@v1", ("ssh://git@h:22/o/r", "v1")), ("/a/b@c", ("/a/b", "c")),
        ("/a@b/r@main", ("/a@b/r", "main")),
    ],
)  # fmt: skip
def test_the_at_of_a_user_is_not_the_one_of_a_revision(text, expected):
    assert moai.split_git(text) == expected


def test_a_tutorials_trainer_runs_unmodified_and_must_leave_what_was_expected(box, project):
    """Lines as loguru prints them in the platform's tutorials; evaluation fails after the last step."""
    (project / "train.py").write_text(
        "import sys, pathlib\n"
        "line = '2024-07-12 05:10:1{0} | INFO     | __main__:main:140 - [Step {0}/4] | Loss: {1} | Duration: 5.00 | Throughput: 104857.60 tokens/sec'\n"
        "for step in range(1, 5): print(line.format(step, 4.5 - step), flush=True)\n"
        "if 'fail' in sys.argv: raise ValueError('eval set is empty')\n"
        "if 'caught' in sys.argv: print('Traceback (most recent call last):\\nValueError: eval set is empty')\n"
        "if 'save' in sys.argv: pathlib.Path('model.bin').write_text('x')\n"
    )

    def train(*more, words=()):
        return box.moai("remote", "train", "--sync", str(project), "--expect", "model.bin", *words, "--json", "--", "python3", "train.py", *more)

    def ended(done):
        events = [json.loads(line) for line in done.stdout.splitlines()]
        metrics = [e["data"] for e in events if e["type"] == "metric" and "loss" in e["data"]["values"]]
        assert [(m["step"], m["total"], m["values"]["printed_tokens_per_second"]) for m in metrics] == [(n, 4, 104857.6) for n in range(1, 5)]
        return (events[-1]["data"]["reason"] or {}).get("code"), (events[-1]["data"]["reason"] or {}).get("message", "")

    assert ended(train("save", "--batch-size", "512")) == (None, "")
    missing = ended(train())
    assert missing[0] == "OUTPUT_MISSING" and "model.bin" in missing[1]
    failed = ended(train("save", "fail"))
    assert failed[0] == "COMMAND_FAILED" and "eval set is empty" in failed[1]
    caught = ended(train("save", "caught"))
    assert caught[0] == "FATAL_LINE" and "eval set is empty" in caught[1]
    assert ended(train("save", "caught", words=["--trust-exit-code"])) == (None, "")


def test_a_pattern_of_ones_own_from_moai_toml(box, project):
    (project / "moai.toml").write_text("sync = \".\"\n[log]\npattern = '^it=(?P<step>\\d+) of (?P<total>\\d+) L=(?P<loss>[\\d.]+)'\n")
    done = subprocess.run(
        [*box.laptop.argv, "remote", "train", "--json", "--", "sh", "-c", "for n in 1 2 3; do echo it=$n of 3 L=2.$n; done"],
        env=box.laptop.env, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    found = [(e["data"]["step"], e["data"]["values"]["loss"]) for e in events if e["type"] == "metric" and "loss" in e["data"]["values"]]
    assert found == [(1, 2.1), (2, 2.2), (3, 2.3)]
