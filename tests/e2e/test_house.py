"""The days after the first: disk, clean, people, second laptops, completion, and moai gone without a trace."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import moai
import pytest
from e2e.reach import ready, said
from fakes.box import Box, Laptop, processes_of
from fakes.sshd import find_sshd, wait_until

SCHEMAS = Path(moai.__file__).parent / "schemas"


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """One container without a MoAI look, its agent not up yet, and what its home looked like before."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    ready()
    with Box(tmp_path_factory.mktemp("house"), look_alike=False) as one:
        (one.home / "notes.txt").write_text("mine\n")
        one.before = tree(one.home)
        yield one


def tree(folder: Path, but: tuple[str, ...] = ()) -> list[str]:
    """Names, modes and hashes of the contents below a folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.startswith(but) and but:
            continue
        facts = path.lstat()
        body = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append(f"{name} {facts.st_mode:o} {hashlib.sha256(body).hexdigest()}")
    return found


def ok(laptop, *words: str, code: int = 0, **more: str) -> str:
    """Standard output of a command that must end with this code."""
    done = laptop.moai(*words, **more)
    assert done.returncode == code, (words, said(done))
    return done.stdout.decode()


def document(laptop, name: str, *words: str, code: int = 0):
    value = json.loads(ok(laptop, *words, code=code))
    schema = json.loads((SCHEMAS / f"{name}-1.json").read_text())
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)
    return value


def old(folder: Path, days: float = 30.0) -> None:
    """Make everything below a folder look old."""
    then = time.time() - days * 86400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then), follow_symlinks=False)


def on_a_terminal(box: Box, typed: str, *words: str) -> int:
    """Exit code of a command whose question is answered on a terminal."""
    mine, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            [*box.laptop.argv, *words], env=box.laptop.env, cwd=box.laptop.folder / "work",
            stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.write(mine, typed.encode())
        return process.wait(60)
    finally:
        os.close(mine)
        os.close(theirs)


def test_disk_and_clean_from_the_command_line(box):
    done = ok(box, "remote", "run", "-d", "--", "sh", "-c", "echo hello").strip()
    ok(box, "remote", "wait", done)
    running = ok(box, "remote", "run", "-d", "--", "sleep", "600").strip()
    upload = box.home / "moai-work" / "uploads" / "0123" / "data"
    upload.parent.mkdir(parents=True)
    upload.write_text("x" * 100000)
    old(upload.parent)
    [row] = document(box, "disk", "remote", "disk", "--json")["hosts"]
    assert {"job", "log", "bundle", "upload"} <= set(row["kinds"]) and row["mounts"] and row["stopped"] is None
    assert {i["job"]: i["state"] for i in row["items"] if i["kind"] == "job"} == {done: "SUCCEEDED", running: "RUNNING"}
    text = ok(box, "remote", "disk")
    assert "upload" in text and "% full" in text and done in text
    dead = document(box, "disk", "remote", "disk", "--on", "box,nobody@127.0.0.1:1", "--json", code=4)
    assert [h["error"] is None for h in dead["hosts"]] == [True, False]

    refused = box.moai("remote", "clean", "--older", "0s")
    assert refused.returncode == 2 and "nobody can be asked" in refused.stderr.decode(), "never without a terminal or --yes"
    assert on_a_terminal(box, "n\n", "remote", "clean", "--older", "0s") == 1 and upload.exists()
    trial = document(box, "clean", "remote", "clean", "--older", "0s", "--dry-run", "--json")["hosts"][0]
    assert {i["kind"] for i in trial["items"]} == {"job", "upload"} and upload.exists()
    assert any(i["job"] == running and "not ended" in i["kept_because"] for i in trial["kept"])
    gone = document(box, "clean", "remote", "clean", "--older", "0s", "--yes", "--json")["hosts"][0]
    assert gone["size_bytes"] >= 100000 and {i["job"] for i in gone["items"] if i["job"]} == {done}
    assert not upload.exists() and not box.job_dir(done).exists() and box.job_dir(running).exists()
    assert "nothing to remove" in box.moai("remote", "clean").stderr.decode()
    missing = box.moai("remote", "clean", "--results", "no-such-job", "--dry-run")
    assert missing.returncode == 1 and "JOB_NOT_FOUND" in missing.stderr.decode()
    ok(box, "remote", "cancel", running, "--grace", "1")


def test_jobs_of_people(box):
    mine = ok(box, "remote", "run", "-d", "--name", "who", "--", "true").strip()
    theirs = ok(box, "remote", "run", "-d", "--", "true", LOGNAME="joe", USER="joe").strip()
    ok(box, "remote", "wait", theirs)

    def listed(*words):
        return {j["job"] for j in json.loads(ok(box, "remote", "jobs", "--json", *words))["jobs"]}

    assert theirs in listed("--owner", "joe") and mine not in listed("--owner", "joe")
    assert mine in listed("--mine") and theirs not in listed("--mine")
    assert len(listed("--mine", "-n", "1")) == 1 and not listed("--owner", "nobody")
    trial = json.loads(ok(box, "remote", "clean", "--older", "0s", "--dry-run", "--json"))["hosts"][0]
    assert theirs not in {i["job"] for i in trial["items"]} and theirs in {i["job"] for i in trial["kept"]}


def test_a_second_laptop_follows_by_host_and_job(box, tmp_path):
    job = ok(box, "remote", "run", "-d", "--", "sh", "-c", "echo from the first; exit 3").strip()
    other = Laptop(tmp_path / "other", box.ssh_config)
    (tmp_path / "other" / "config" / "config.toml").write_text('[hosts.box]\naddress = "box"\n')
    try:
        assert ok(other, "remote", "wait", f"box/{job}", code=3).split()[:2] == [job, "FAILED"]
        assert ok(other, "remote", "attach", f"box/{job}", code=3) == "from the first\n"
        assert ok(other, "remote", "logs", job) == "from the first\n", "known by now"
        ok(other, "remote", "disconnect", "box")
    finally:
        for pid in processes_of(tmp_path / "other"):
            os.kill(pid, 9)


def test_another_container_under_a_known_name_has_no_part_in_its_jobs(box):
    job = ok(box, "remote", "run", "-d", "--name", "earlier", "--", "true").strip()
    ok(box, "remote", "wait", job)
    # As after a re-creation on the same disk: its own identity is gone, and the folders are still there.
    ok(box, "remote", "down", "box")
    host = box.host_dir
    [identity] = (box.moai_home / "hosts").glob(".id-*")
    kept = identity.read_bytes()
    identity.unlink()
    try:
        said_now = box.moai("remote", "jobs")
        assert said_now.returncode == 0 and job not in said_now.stdout.decode()
        assert "jobs of another container lie in this home" in said_now.stderr.decode()
        shown = json.loads(ok(box, "remote", "jobs", "--others", "--json"))["jobs"]
        [row] = [j for j in shown if j["job"] == job]
        assert row["conditions"][0]["type"] == "NOT_THIS_CONTAINER" and host.name in row["conditions"][0]["message"]
        refused = box.moai("remote", "show", job)
        assert refused.returncode == 1 and host.name in refused.stderr.decode() and "jobs --others" in refused.stderr.decode()
        # A new disk as well: the job is nowhere, and the laptop can say why.
        aside = host.with_name(".aside")
        host.rename(aside)
        refused = box.moai("remote", "show", job)
        aside.rename(host)
        assert refused.returncode == 1 and "is another container now" in refused.stderr.decode(), said(refused)
    finally:
        ok(box, "remote", "down", "box")
        import shutil

        for folder in [p for p in (box.moai_home / "hosts").iterdir() if p.is_dir() and p != host]:
            shutil.rmtree(folder)
        identity.write_bytes(kept)
    assert ok(box, "remote", "show", job).split()[0] == job


# -- a job as a moai.toml, flags kept in one -------------------------------------------------------


def test_show_toml_repeats_a_command(box):
    words = ["--name", "again", "-e", "A=1 2", "--setup", "export B=3", "--workdir", str(box.home)]
    job = ok(box, "remote", "run", "-d", *words, "--", "sh", "-c", 'echo "$A $B $(pwd)"').strip()
    ok(box, "remote", "wait", job)
    text = ok(box, "remote", "show", job, "--toml")
    work = box.laptop.folder / "work"
    (work / "moai.toml").write_text(text)
    try:
        command = next(line[2:] for line in text.splitlines() if line.startswith("# moai remote run"))
        import shlex

        repeated = ok(box, *shlex.split(command)[1:])
        assert repeated == ok(box, "remote", "logs", job) == f"1 2 3 {box.home}\n"
        again = moai.load_project(work)
        assert again.name == "again" and again.host == "box"
    finally:
        (work / "moai.toml").unlink()


def test_save_keeps_comments_and_asks_before_it_replaces(box):
    work = box.laptop.folder / "work"
    path = work / "moai.toml"
    path.write_text('# ours\nname = "old"  # a name\n\n[train]\nmethod = "lora"  # cheap\n')
    try:
        refused = box.moai("remote", "run", "--save", "--name", "new", "-d", "--", "true")
        assert refused.returncode == 2 and '+name = "new"' in refused.stderr.decode() and "old" in path.read_text()
        done = box.moai("remote", "run", "--save", "--setup", "export Q=1", "-e", "K=V", "-d", "--", "true")
        assert done.returncode == 0, said(done)
        text = path.read_text()
        assert '+setup = "export Q=1"' in done.stderr.decode() and "# ours" in text and "# cheap" in text
        project = moai.load_project(work)
        assert project.setup == "export Q=1" and project.variables == {"K": "V"} and project.train.method == "lora"
        same = box.moai("remote", "run", "--save", "--setup", "export Q=1", "-d", "--", "true")
        assert "says that already" in same.stderr.decode() and path.read_text() == text
    finally:
        path.unlink()


def test_train_save_writes_the_recipe(local):
    path = local.folder / "work" / "moai.toml"
    words = ["--model", "a/b", "--dataset", "c/d", "--lr", "1e-4", "--set", "warmup_steps=3", "--set", "batch_size=2"]
    done = local.moai("remote", "train", "--save", "--on", "local", "--dry-run", *words, MOAI_MAX_STEPS="9")
    assert path.exists(), said(done)
    project = moai.load_project(path.parent)
    assert project.train.model == "a/b" and project.train.learning_rate == 1e-4 and project.train.batch_size == 2
    assert project.train.settings == {"warmup_steps": 3} and project.train.max_steps is None, "variables are not flags"


# -- completion ------------------------------------------------------------------------------------


def complete(laptop, line: str, script: Path) -> list[str]:
    """What bash offers behind a line, as its own completion asks for it."""
    words = line.split(" ")
    code = (
        f"source {script}; COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; "
        f"COMP_LINE={line!r}; COMP_POINT={len(line)}; _moai_completion moai; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    bin_folder = script.parent / "bin"
    bin_folder.mkdir(exist_ok=True)
    (bin_folder / "moai").write_text(f'#!/bin/sh\nexec {sys.executable} -m moai "$@"\n')
    (bin_folder / "moai").chmod(0o755)
    env = dict(laptop.env, PATH=f"{bin_folder}:{laptop.env['PATH']}")
    done = subprocess.run(["bash", "--norc", "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash_completes_commands_hosts_jobs_and_environments(tmp_path):
    laptop = Laptop(tmp_path / "laptop")
    config = '[hosts.kt]\naddress = "nobody@127.0.0.1:1"\ngroups = ["pool"]\n[hosts.spare]\naddress = "nobody@127.0.0.1:1"\n'
    (laptop.folder / "config" / "config.toml").write_text(config)
    jobs = {"swift-otter-7f3a": {"host": "kt", "time": 2.0}, "calm-heron-11aa": {"host": "spare", "time": 1.0}}
    (laptop.folder / "cache" / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    (laptop.folder / "cache" / "environments.json").write_text(json.dumps({"kt": ["pytorch", "py38"]}))
    script = tmp_path / "moai.bash"
    script.write_text(ok(laptop, "completion", "bash"))
    assert complete(laptop, "moai remote di", script) == ["disconnect", "disk"]
    assert complete(laptop, "moai remote devices --on k", script) == ["kt"]
    assert complete(laptop, "moai remote devices --on kt,@", script) == ["kt,@pool"]
    assert complete(laptop, "moai remote show ", script) == ["swift-otter-7f3a", "calm-heron-11aa", "last"]
    assert complete(laptop, "moai remote logs kt/", script) == ["kt/swift-otter-7f3a"]
    assert complete(laptop, "moai remote run --env py", script) == ["py38", "pytorch"]
    assert complete(laptop, "moai remote remove sp", script) == ["spare"]
    assert "--keep-last" in complete(laptop, "moai remote clean --keep", script)
    for shell in ("zsh", "fish"):
        assert "_MOAI_COMPLETE" in ok(laptop, "completion", shell)
    assert not list((laptop.folder / "cache").glob("links/*")), "no host was asked"


# -- gone ------------------------------------------------------------------------------------------


def test_purge_leaves_the_home_as_it_was(box):
    result = box.home / "moai-work" / "runs" / "mine" / "model.bin"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text("weights")
    code = box.laptop.folder / "work" / "project"
    code.mkdir(exist_ok=True)
    (code / "a.py").write_text("print('hi')\n")
    assert ok(box, "remote", "run", "--sync", str(code), "--", "python3", "a.py") == "hi\n"
    running = ok(box, "remote", "run", "-d", "--", "sleep", "600").strip()
    refused = box.moai("remote", "remove", "box", "--purge", "--yes")
    assert refused.returncode == 1 and running in refused.stderr.decode() and "JOB_ACTIVE" in refused.stderr.decode()
    asked = box.moai("remote", "remove", "box", "--purge", "--force")
    assert asked.returncode == 2 and box.job_dir(running).exists(), "never without a yes"
    done = box.moai("remote", "remove", "box", "--purge", "--force", "--yes")
    assert done.returncode == 0, said(done)
    assert "stays:" in done.stderr.decode() and result.read_text() == "weights"
    assert tree(box.home, ("moai-work",)) == box.before
    assert sorted(str(p.relative_to(box.home)) for p in box.home.rglob("*") if p.is_file()) == ["moai-work/runs/mine/model.bin", "notes.txt"]
    wait_until(lambda: not box.agent_pids(), "the agent to leave", 20)
    assert "box" not in json.loads(ok(box, "remote", "list", "--json"))["hosts"]


def test_uninstall_takes_everything_off_the_laptop(local, box):
    laptop = box.laptop
    ok(laptop, "remote", "add", "box", "box", "--no-check")
    ok(laptop, "remote", "run", "--", "true")
    assert [argv for argv in processes_of(laptop.folder).values() if "moai._link.holder" in argv]
    refused = laptop.moai("uninstall")
    assert refused.returncode == 2 and (laptop.folder / "config" / "config.toml").exists()
    assert "settings" in refused.stdout.decode() and "cache" in refused.stdout.decode()
    (laptop.folder / "cache" / "not-ours").write_text("mine")
    assert "containers keep their agents" in refused.stderr.decode()
    (laptop.folder / "config" / "of-mine.txt").write_text("mine")
    ok(laptop, "uninstall", "--yes")
    assert [p.name for p in (laptop.folder / "cache").iterdir()] == ["not-ours"]
    assert [p.name for p in (laptop.folder / "config").iterdir()] == ["of-mine.txt"]
    wait_until(lambda: not processes_of(laptop.folder / "cache"), "the holders to end", 20)
    assert not [argv for argv in processes_of(laptop.folder).values() if "moai._link.holder" in argv]


def test_uninstall_is_blocked_by_jobs_of_the_laptop_itself(local):
    job = ok(local, "remote", "run", "--on", "local", "-d", "--", "sleep", "600").strip()
    refused = local.moai("uninstall", "--yes")
    assert refused.returncode == 1 and job in refused.stderr.decode() and "JOB_ACTIVE" in refused.stderr.decode()
    assert local.moai_home.exists()
    done = local.moai("uninstall", "--yes", "--force")
    assert done.returncode == 0, said(done)
    assert not local.moai_home.exists() and not (local.folder / "cache").exists()
    wait_until(lambda: not processes_of(local.moai_home), "agent and job to end", 20)
