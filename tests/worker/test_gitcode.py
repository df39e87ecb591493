"""The ``code`` step of a git repository: real git, repositories on disk and behind a server that wants a token."""

import base64
import fcntl
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading

import pytest
from moai_worker import gitrepo
from moai_worker.errors import StepError
from moai_worker.steps import gitcode

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="SKIPPED LOUDLY: git is not installed")


class Report:
    """Keeps what a step says."""

    def __init__(self):
        self.said = []

    def __getattr__(self, name):
        return lambda *args, **data: self.said.append((name, args, data))

    def phases(self):
        return [args[0] for name, args, _ in self.said if name == "phase"]


def git(folder, *arguments):
    """Run git as somebody; its output."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", "-C", str(folder)] + who + list(arguments), check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.stdout.decode().strip()


def commit(folder, text):
    """A commit that says ``text`` in main.py; its id."""
    (folder / "main.py").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", text)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A repository: two commits on main, the first tagged v1."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in [n for n in os.environ if n.startswith("GIT_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "source"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "checkout", "-qb", "main")
    commit(folder, "one")
    git(folder, "tag", "v1")
    commit(folder, "two")
    return folder


@pytest.fixture
def step(tmp_path, source):
    """Run the step for a job of its own: (result, report, copy)."""
    count = [0]

    def run(revision="", url=str(source), **more):
        count[0] += 1
        job = tmp_path / ("job-%d" % count[0])
        (job / "control").mkdir(parents=True)
        (job / "spec.json").write_text(json.dumps({"git": {"url": url, "revision": revision}}))
        target = tmp_path / "work" / "code" / "jobs" / job.name
        inputs = dict(
            {"url": url, "revision": revision, "submodules": False, "mirrors": str(tmp_path / "work" / "code" / "git"), "target": str(target), "job": str(job), "folder": ""},
            **more
        )  # fmt: skip
        report = Report()
        return gitcode.run(inputs, report), report, target, inputs

    return run


def failure(step, *arguments, **more):
    """The StepError of a run."""
    with pytest.raises(StepError) as caught:
        step(*arguments, **more)
    assert caught.value.message and caught.value.next
    return caught.value


@pytest.mark.parametrize(("revision", "text"), [("", "two"), ("main", "two"), ("v1", "one"), ("short", "one"), ("full", "one")])
def test_a_revision_is_resolved_recorded_and_laid_out(step, source, tmp_path, revision, text):
    one = git(source, "rev-parse", "v1")
    revision = {"short": one[:9], "full": one}.get(revision, revision)
    result, report, target, inputs = step(revision)
    wanted = one if text == "one" else git(source, "rev-parse", "main")
    assert (result["commit"], (target / "main.py").read_text()) == (wanted, text)
    assert git(target, "rev-parse", "HEAD") == wanted and git(target, "status", "--porcelain") == ""
    assert git(target, "remote", "get-url", "origin") == str(source)
    assert (target / ".moai" / "commit").read_text() == wanted + "\n"
    assert json.loads((tmp_path / "job-1" / "spec.json").read_text())["git"]["commit"] == wanted
    assert [data["commit"] for name, _, data in report.said if name == "message"] == [wanted]
    (target / "main.py").write_text("mine")
    assert gitcode.run(inputs, Report())["reused"] and (target / "main.py").read_text() == "mine"


def test_a_moved_branch_is_fetched_and_a_known_commit_needs_no_server(step, source, tmp_path):
    step("main")
    three = commit(source, "three")
    assert step("main")[0]["commit"] == three
    source.rename(tmp_path / "away")
    again, report, target, _ = step(three)
    assert (target / "main.py").read_text() == "three" and "cloning" not in report.phases()
    assert len(list((tmp_path / "work" / "code" / "git").glob("*.git"))) == 1


def test_what_a_killed_try_left_is_in_nobodys_way(step, source, tmp_path):
    step("main")
    mirror = next((tmp_path / "work" / "code" / "git").glob("*.git"))
    (mirror / "packed-refs.lock").write_text("")
    (mirror / "refs" / "heads" / "main.lock").write_text("")
    half = tmp_path / "work" / "code" / "jobs" / "job-2"
    half.mkdir()
    (half / "main.py").write_text("half")
    three = commit(source, "three")
    assert step("main")[0]["commit"] == three and (half / "main.py").read_text() == "three"


def test_the_second_of_two_waits_for_the_first_and_says_so(step, source, tmp_path):
    step("main")
    lock = next((tmp_path / "work" / "code" / "git").glob("*.lock"))
    held = os.open(str(lock), os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)

    class Freed(Report):
        def phase(self, name, text):
            self.said.append(("phase", (name, text), {}))
            if name == "waiting":
                os.close(held)

    report = Freed()
    inputs = {
        "url": str(source), "revision": "v1", "mirrors": str(lock.parent), "target": str(tmp_path / "copy"), "job": str(tmp_path / "job-1"),
    }  # fmt: skip
    gitcode.run(inputs, report)
    assert report.phases() == ["waiting", "cloning", "copying"]


def test_a_lock_held_for_ever_ends_the_step(step, source, tmp_path, monkeypatch):
    step("main")
    held = os.open(str(next((tmp_path / "work" / "code" / "git").glob("*.lock"))), os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr(gitrepo, "LOCK_S", 0.0)
    assert failure(step, "main").reason == "TIMED_OUT"
    os.close(held)


@pytest.mark.parametrize("wanted", [False, True])
def test_submodules_only_when_they_are_asked_for(step, source, tmp_path, wanted):
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q")
    commit(library, "library")
    git(source, "submodule", "--quiet", "add", str(library), "library")
    commit(source, "with a submodule")
    target = step("", submodules=wanted)[2]
    assert (target / "library" / "main.py").exists() == wanted


def test_what_is_not_there_is_told_apart(step, tmp_path, monkeypatch):
    assert failure(step, url=str(tmp_path / "none")).reason == "REPO_NOT_FOUND"
    error = failure(step, "mian")
    assert error.reason == "REVISION_NOT_FOUND" and "main" in error.next
    assert failure(step, "0" * 40).reason == "REVISION_NOT_FOUND"
    assert failure(step, "main", folder="nowhere").reason == "WORKDIR_NOT_FOUND"
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    assert failure(step, url=str(empty)).reason == "REVISION_NOT_FOUND"
    monkeypatch.setenv("PATH", str(tmp_path))
    error = failure(step, "main")
    assert error.reason == "COMMAND_NOT_FOUND" and "--sync" in error.next


@pytest.mark.parametrize("url", ["ext::sh -c true", "-oProxyCommand=x", "https://me:hf_secret@example.org/a", "relative/path", "https://a b/c", ""])
@pytest.mark.parametrize("revision", [""])
def test_an_address_that_runs_a_program_or_holds_a_password_is_refused(url, revision):
    with pytest.raises(StepError) as caught:
        gitrepo.check(url, revision)
    assert caught.value.reason == "USAGE"


@pytest.mark.parametrize("revision", ["-x", "--upload-pack=x", "a..b", "a b", "a:b", "HEAD^{/x}", "x" * 300])
def test_a_revision_that_is_an_option_or_an_expression_is_refused(revision):
    with pytest.raises(StepError):
        gitrepo.check("https://example.org/a", revision)


class Server(http.server.SimpleHTTPRequestHandler):
    """A repository as plain files, for who knows the token."""

    asked = []
    token = "hf_" + "canary" * 4

    def do_GET(self):
        self.asked.append(self.path)
        given = base64.b64decode((self.headers.get("Authorization") or "Basic ").split(" ")[1]).decode()
        if not given:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()
        elif given.split(":")[1] != self.token:
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def server(source, tmp_path):
    """Its address."""
    git(tmp_path, "clone", "-q", "--bare", str(source), "served.git")
    git(tmp_path / "served.git", "update-server-info")
    handler = functools.partial(Server, directory=str(tmp_path))
    Server.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield "http://127.0.0.1:%d/served.git" % running.server_address[1]
        running.shutdown()
        thread.join()


def test_a_token_opens_the_repository_and_lies_nowhere(step, server, tmp_path, monkeypatch):
    assert failure(step, url=server).reason == "GIT_REFUSED"
    monkeypatch.setenv("GIT_TOKEN", "wrong")
    assert failure(step, url=server).reason == "GIT_REFUSED"
    monkeypatch.setenv("GIT_TOKEN", Server.token)
    commands = []
    popen = subprocess.Popen
    monkeypatch.setattr(gitrepo.subprocess, "Popen", lambda argv, **more: commands.append(argv) or popen(argv, **more))
    assert (step("v1", url=server)[2] / "main.py").read_text() == "one"
    assert failure(step, url=server.replace("served", "other")).reason == "REPO_NOT_FOUND"
    assert commands and not any(Server.token in word for argv in commands for word in argv)
    for folder, _, names in os.walk(str(tmp_path)):
        for name in names:
            with open(os.path.join(folder, name), "rb") as held:
                assert Server.token.encode() not in held.read(), name


def test_a_server_that_is_away_is_told_apart(step, server):
    port = server.split(":")[2].split("/")[0]
    error = failure(step, url=server.replace(port, "1"))
    assert error.reason == "GIT_UNREACHABLE" and "--sync" in error.next
    assert not Server.asked


def test_the_token_is_for_its_own_server_only(tmp_path):
    env = gitrepo._environment("https://git.example.org/a/b", str(tmp_path), "secret")
    asked = [
        subprocess.run([env["GIT_ASKPASS"], text], env=env, stdout=subprocess.PIPE).stdout
        for text in ("Username for 'https://git.example.org': ", "Password for 'https://x@git.example.org': ", "Password for 'https://evil.example.com': ")
    ]
    assert asked == [b"x-access-token\n", b"secret\n", b""]
    assert "secret" not in (tmp_path / "askpass").read_text()
