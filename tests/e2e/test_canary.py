"""SECRET: values given as secrets are nowhere but in the one process they were given to.

One job over SSH carries four canaries at once (a declared secret, the Hub token, the token of a git
repository, the address of a webhook); everything that could hold one is read while the job runs and after
it failed: arguments and environment of every process of the machine, every file of container, laptop and
server, everything any command prints, the report, and what a crash says.
"""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from e2e.reach import ready, said
from fakes.box import Box, parent_of
from fakes.sshd import wait_until

pytestmark = [
    pytest.mark.usefixtures("need_sshd"),
    pytest.mark.skipif(shutil.which("git") is None, reason="SKIPPED LOUDLY: git is not installed"),
]
CANARIES = {
    "CANARY": "Canary-plain-" + os.urandom(12).hex(),
    "HF_TOKEN": "hf_" + os.urandom(16).hex(),
    "GIT_TOKEN": "Canary-git-" + os.urandom(12).hex(),
    "MOAI_WEBHOOK": "Canary-hook-" + os.urandom(12).hex(),
}


class Server(http.server.SimpleHTTPRequestHandler):
    """A repository for who knows the token, and an address to post to."""

    posted: list[str] = []

    def do_GET(self):
        given = base64.b64decode((self.headers.get("Authorization") or "Basic ").split(" ")[1]).decode()
        if given.partition(":")[2] != CANARIES["GIT_TOKEN"]:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()
        else:
            super().do_GET()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    (folder / "source").mkdir()
    (folder / "source" / "main.sh").write_text('test -n "$CANARY" && cat "$GATE"; exit 3\n')
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, "-C", str(folder / "source"), *words], check=True, timeout=60)
    subprocess.run([*git, "clone", "-q", "--bare", str(folder / "source"), str(folder / "served.git")], check=True, timeout=60)
    subprocess.run([*git, "-C", str(folder / "served.git"), "update-server-info"], check=True, timeout=60)
    Server.posted.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def holding(data: bytes) -> set[str]:
    """Names of the canaries in some bytes, plain, in base64 or as a query would have them."""
    forms = {name: [value.encode(), base64.b64encode(value.encode()).rstrip(b"=")[:-2]] for name, value in CANARIES.items()}
    return {name for name, wanted in forms.items() if any(one in data for one in wanted)}


def in_processes() -> dict[int, tuple[str, set[str]]]:
    """pid -> (where, which) of processes that hold a canary, this one left out."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        for part in ("cmdline", "environ"):
            try:
                held = holding(Path(f"/proc/{name}/{part}").read_bytes())
            except OSError:
                continue
            if held and int(name) != os.getpid():
                found[int(name)] = (part, held)
    return found


def in_files(*folders: Path) -> dict[str, set[str]]:
    """path -> which, of every regular file (databases, logs, journals, histories, core files) that holds one."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and (held := holding(path.read_bytes())):
                found[str(path)] = held
    return found


def test_no_secret_is_anywhere_but_in_the_job(tmp_path, server):
    ready()
    with Box(tmp_path, look_alike=False, log_level="DEBUG3") as box:
        gate = box.home / "gate"
        os.mkfifo(gate)
        given = dict(CANARIES, MOAI_WEBHOOK=f"{server}/{CANARIES['MOAI_WEBHOOK']}", MOAI_DEBUG="1")
        run = [
            "remote", "run", "--detach", "--git", f"{server}/served.git", "--secret", "CANARY", "--secret", "GIT_TOKEN",
            "--secret", "HF_TOKEN", "--setenv", f"GATE={gate}", "--", "sh", "main.sh",
        ]  # fmt: skip
        # The first command of all: it brings the agent, makes the link, and starts both.
        done = box.moai(*run, **given)
        assert done.returncode == 0, said(done)
        job = done.stdout.decode().strip()
        outputs = [done.stdout, done.stderr]
        wait_until(lambda: any("main.sh" in word for p in in_processes() for word in words_of(p)), "the command to run", 60)

        inside = in_processes()
        (command,) = [p for p in inside if "main.sh" in words_of(p)]
        for pid, (part, held) in inside.items():
            assert part == "environ", (words_of(pid), held)
            assert pid == command or parent_of(pid) in inside, ("not of the job", words_of(pid), held)
            # The repository's token and the address are for the steps that need them, not for the command.
            assert held <= {"CANARY", "HF_TOKEN"}, (words_of(pid), held)
        assert in_files(box.home, box.laptop.folder, box.sshd.folder) == {}

        gate.write_text("go")
        words: list[list[str]] = [
            ["wait", job], ["show", job], ["show", job, "--json", "--events"], ["jobs", "--json"], ["logs", job], [],
            ["report", job, "-o", str(tmp_path / "report.tar.gz")], ["show", job, "--toml"],
        ]  # fmt: skip
        for one in words:
            done = box.moai("remote", *one, **given)
            outputs += [done.stdout, done.stderr]
        # A command that crashes, one that is refused, and one that cannot connect.
        for env in ({"MOAI_CACHE": "/dev/null/x"}, {"MOAI_CONFIG": "/dev/null/x"}, {}):
            done = box.moai(*run[:2], "--request-id", "x", *run[2:], **dict(given, **env))
            outputs += [done.stdout, done.stderr]
            assert done.returncode in (1, 2), said(done)
        assert json.loads(box.moai("remote", "show", job, "--json").stdout)["exit_code"] == 3
        wait_until(lambda: bool(Server.posted), "the webhook to be called")
        assert Server.posted == ["/" + CANARIES["MOAI_WEBHOOK"]]
        assert [(text, holding(text)) for text in outputs if holding(text)] == []
        with tarfile.open(tmp_path / "report.tar.gz") as archive:
            kept = [(m.name, archive.extractfile(m).read()) for m in archive.getmembers() if m.isfile()]
        assert len(kept) > 4 and [name for name, data in kept if holding(data)] == []
        assert in_processes() == {}
        assert in_files(box.home, box.laptop.folder, box.sshd.folder) == {}


def words_of(pid: int) -> list[str]:
    """Arguments of a process; none when it is gone."""
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []


def test_the_search_would_find_a_leak(tmp_path):
    """The oracle itself: a canary in a file, a variable and an argument is seen."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.bin").write_bytes(b"\0\xff" + CANARIES["CANARY"].encode() + b"\0")
    assert list(in_files(tmp_path).values()) == [{"CANARY"}]
    leak = ["sh", "-c", "read x", CANARIES["GIT_TOKEN"]]
    with subprocess.Popen(leak, stdin=subprocess.PIPE, env={"A": CANARIES["HF_TOKEN"]}) as process:
        try:
            wait_until(lambda: process.pid in in_processes(), "the leak to be seen")
        finally:
            process.communicate(b"\n")
    assert holding(base64.b64encode(CANARIES["GIT_TOKEN"].encode())) == {"GIT_TOKEN"}


def test_what_a_command_gives_to_jobs_is_not_in_its_link(monkeypatch):
    """Also what a program passes through the Python API."""
    import moai
    from moai import _withheld

    monkeypatch.setenv("SOME_NAME", CANARIES["CANARY"])
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    monkeypatch.setenv("HF_TOKEN", CANARIES["HF_TOKEN"])
    moai.JobOptions(secrets={"OTHER_NAME": CANARIES["CANARY"]})
    left = _withheld.environment(X="1")
    assert left["X"] == "1" and left["SSH_AUTH_SOCK"] == "/tmp/agent" and not {"SOME_NAME", "HF_TOKEN"} & set(left)
