"""olah (a Hub nobody here wrote: pypi.org/project/olah, MIT) serving git repositories of this machine.

Two instances: A serves the repositories and is offline; B in front of A adds ranges. Each revision is
announced to A beforehand (``_seed``), because offline it otherwise answers 401 where the Hub answers
404, and 401 for a repository without a revision.

Needs git, git-lfs, and a Python with olah; only the differential test starts it.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any, Dict, List

_START_S = 60.0
_ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"


class Olah:
    """The pair; a context manager. ``endpoint`` answers like a Hub.

    Args:
        python: interpreter that has olah. folder: empty, for repositories, settings and logs.
    """

    def __init__(self, python: str, folder: str) -> None:
        self._python, self._folder = python, folder
        self._children: List[subprocess.Popen] = []
        self._commits: Dict[str, str] = {}
        self.endpoint = ""

    def add(self, kind: str, name: str, files: Dict[str, bytes]) -> str:
        """Make a repository of one commit (kind ``model`` or ``dataset``); returns the commit. ``.gitattributes``
        is added, and what it names is LFS."""
        path = os.path.join(self._folder, "mirrors", kind + "s", *name.split("/"))
        os.makedirs(path)
        for relative, content in dict(files, **{".gitattributes": _ATTRIBUTES.encode()}).items():
            full = os.path.join(path, relative)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as stream:
                stream.write(content)
        who = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
        for words in (["init", "-q", "-b", "main"], ["lfs", "install", "--local"], ["add", "-A"], who + ["commit", "-q", "-m", "data"]):
            _git(path, *words)
        commit = _git(path, "rev-parse", "HEAD")
        self._commits["%ss/%s" % (kind, name)] = commit
        return commit

    def start(self) -> None:
        """Start both instances; ``endpoint`` is then set. Raises RuntimeError with the end of a log."""
        dead = _free_port()
        first, second = _free_port(), _free_port()
        self._seed(os.path.join(self._folder, "repos-a"))
        self._launch("a", first, dead, offline=True)
        self._launch("b", second, first, offline=False)
        self.endpoint = "http://127.0.0.1:%d" % second

    def __enter__(self) -> "Olah":
        return self

    def __exit__(self, *_: Any) -> None:
        for child in self._children:
            child.terminate()
        for child in self._children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _seed(self, repos: str) -> None:
        for repo, commit in self._commits.items():
            about = {"id": repo.split("/", 1)[1], "sha": commit, "lastModified": "2024-01-01T00:00:00.000Z"}
            for revision in ("main", commit):
                folder = os.path.join(repos, "api", repo, "revision", revision)
                os.makedirs(folder)
                kept = {"status_code": 200, "headers": {}, "content": json.dumps(about).encode().hex()}
                for name in ("meta_head.json", "meta_get.json"):
                    with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
                        json.dump(kept, stream)

    def _launch(self, name: str, port: int, upstream: int, offline: bool) -> None:
        mirrors = json.dumps([os.path.join(self._folder, "mirrors")] if offline else [])
        lines = [
            "[basic]",
            'host = "127.0.0.1"',
            "port = %d" % port,
            "repos-path = %s" % json.dumps(os.path.join(self._folder, "repos-" + name)),
            'hf-scheme = "http"',
            'hf-netloc = "127.0.0.1:%d"' % upstream,
            'hf-lfs-netloc = "127.0.0.1:%d"' % upstream,
            'mirror-scheme = "http"',
            'mirror-netloc = "127.0.0.1:%d"' % port,
            'mirror-lfs-netloc = "127.0.0.1:%d"' % port,
            "mirrors-path = %s" % mirrors,
            "[accessibility]",
            "offline = %s" % ("true" if offline else "false"),
        ]
        settings = os.path.join(self._folder, name + ".toml")
        with open(settings, "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
        log = os.path.join(self._folder, name + ".log")
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
        with open(log, "wb") as out:
            argv = [self._python, "-m", "olah.server", "-c", settings]
            child = subprocess.Popen(argv, cwd=self._folder, env=env, stdout=out, stderr=subprocess.STDOUT)
        self._children.append(child)
        end = time.monotonic() + _START_S
        while not _answers(port):
            if child.poll() is not None or time.monotonic() > end:
                with open(log, "rb") as stream:
                    raise RuntimeError("olah did not start: %s" % stream.read()[-2000:].decode("utf-8", "replace"))


def _git(path: str, *words: str) -> str:
    done = subprocess.run(["git", "-C", path] + list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError("git %s: %s" % (words[0], done.stdout.decode("utf-8", "replace")))
    return done.stdout.decode().strip()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://127.0.0.1:%d/api/none" % port, timeout=1.0):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
