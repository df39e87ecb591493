"""A git repository on the container: one bare mirror a URL, shared by all jobs, and a copy a job.

Owns ``WORK/code/git/<name>-<digest>.git`` and the lock beside it: two jobs never fetch the same thing
twice. Drives the container's own git; a token reaches it by an askpass program that reads the
environment, so it is in no argument and in no file. Refuses transports that run programs (``ext::``).
Standard library only; runs on the agent's Python.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from typing import Any, Dict, List, Optional, Tuple

from .errors import StepError

#: Longest wait for another job that fetches the same repository.
LOCK_S = 2 * 3600.0
#: A transfer below 1 kB/s for so long is given up.
STALL_S = 120
PROTOCOLS = "https:http:ssh:git"
_URL = re.compile(r"^(?:(?:https?|ssh|git|file)://[^\s]+|[\w.-]+@[\w.-]+:[^\s]+|/[^\s]*)$")
_WITH_PASSWORD = re.compile(r"^\w+://[^/@:]*:[^/@]*@")
_REVISION = re.compile(r"^[A-Za-z0-9_][\w./+-]{0,250}$")
_COMMIT = re.compile(r"^[0-9a-f]{40}(?:[0-9a-f]{24})?$")
_PROGRESS = re.compile(r"^(?:remote: )?(Receiving objects|Resolving deltas|Updating files):\s+\d+% \((\d+)/(\d+)\)")
#: Said to git once, whatever the host asks: the token goes to the repository's own server only.
_ASKPASS = """#!/bin/sh
case "$1" in *"$MOAI_GIT_HOST"*) ;; *) exit 1 ;; esac
case "$1" in Username*) printf '%s\\n' x-access-token ;; *) printf '%s\\n' "$MOAI_GIT_TOKEN" ;; esac
"""
_REFUSED = re.compile(
    r"Authentication failed|could not read (?:Username|Password)|terminal prompts disabled|Permission denied \(|"
    r"returned error: 40[13]|Host key verification failed|Invalid username or|access denied", re.IGNORECASE,
)  # fmt: skip
_AWAY = re.compile(
    r"Could not resolve|Failed to connect|Couldn't connect|Connection (?:refused|timed out|reset)|Network is unreachable|"
    r"Operation too slow|Operation timed out|Empty reply|unable to connect|No route to host|SSL|"
    r"returned error: 5\d\d|early EOF|Connection closed|Temporary failure|unexpected disconnect", re.IGNORECASE,
)  # fmt: skip
_NOT_THERE = re.compile(
    r"[Rr]epository not found|repository '.*' not found|does not appear to be a git repository|does not exist|"
    r"returned error: 404|No such file or directory|not found", re.IGNORECASE,
)  # fmt: skip


def check(url: str, revision: str) -> None:
    """Raise StepError USAGE for an address or revision that is not one, or that holds a password."""
    if not _URL.match(url) or url.startswith("-") or "::" in url.split("/")[0]:
        raise StepError(
            "USAGE", "{!r} is no address of a git repository".format(url[:200]),
            "https://HOST/ORG/REPO, ssh://..., git@HOST:ORG/REPO, or an absolute path on the container",
        )  # fmt: skip
    if _WITH_PASSWORD.match(url):
        raise StepError(
            "USAGE", "the git address holds a password, which would be kept with the job", "export GIT_TOKEN=..., then --secret GIT_TOKEN"
        )
    if revision and (not _REVISION.match(revision) or ".." in revision or revision.endswith((".lock", "/"))):
        raise StepError("USAGE", "{!r} is no branch, tag or commit".format(revision[:200]), "URL@REV")


class Repository:
    """One URL.

    Args:
        url, folder: the address; ``WORK/code/git``.
        scratch: a private folder of this job, for the askpass program.
        token: for https; "" leaves it to what the container has.
        report: the step's Reporter.
    """

    def __init__(self, url: str, folder: str, scratch: str, token: str, report: Any) -> None:
        check(url, "")
        self.url, self.report = url, report
        name = re.sub(r"[^\w.-]+", "-", re.sub(r"\.git/?$", "", url).rstrip("/").split("/")[-1].split(":")[-1])[:60]
        self.mirror = os.path.join(folder, "{}-{}.git".format(name or "repo", hashlib.sha256(url.encode()).hexdigest()[:12]))
        self.git = shutil.which("git") or ""
        if not self.git:
            raise StepError("COMMAND_NOT_FOUND", "git is not installed on the container", "install git there, or send the code: --sync DIR")
        self._env = _environment(url, scratch, token)
        self._options = ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime={}".format(STALL_S), "-c", "gc.auto=0"]
        if token:
            self._options += ["-c", "credential.helper="]  # None of the container's helpers may keep it.

    def fetch(self, revision: str) -> str:
        """The commit of a revision ("" = the server's default branch), there afterwards.

        A commit that is there costs no network. Killed and repeated, it goes on; what git itself had not
        finished receiving is received again. Raises StepError: REVISION_NOT_FOUND, REPO_NOT_FOUND,
        GIT_REFUSED, GIT_UNREACHABLE, DISK_FULL, TIMED_OUT, COMMAND_FAILED.
        """
        check(self.url, revision)
        lock = self._lock()
        try:
            self._prepare()
            if _COMMIT.match(revision) and self._has(revision):
                return self._keep(revision)
            # Only the lock's holder is here: what a killed git left would stop the next one.
            self.report.phase("cloning", "fetching {}".format(self.url))
            if not revision:
                self._run(["fetch", "--no-tags", "--progress", "--", self.url, "+HEAD:refs/moai/head"])
                return self._keep(self._commit("refs/moai/head") or "")
            self._run(["fetch", "--tags", "--prune", "--progress", "--force", "--", self.url, "+refs/heads/*:refs/heads/*"])
            commit = self._find(revision)
            if commit is None and _COMMIT.match(revision):
                # Of a pull request, say; servers may give single commits that no branch has.
                self._run(["fetch", "--no-tags", "--progress", "--", self.url, revision], missing_ok=True)
                commit = revision if self._has(revision) else None
            if commit is None:
                raise self._not_found(revision)
            return self._keep(commit)
        finally:
            os.close(lock)

    def copy(self, commit: str, target: str, submodules: bool) -> None:
        """A clone of its own at ``commit``; the objects are hard links, so it costs the files only."""
        if os.path.lexists(target):
            shutil.rmtree(target)  # Of this job's earlier try, cut short.
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        self.report.phase("copying", "{} of {}".format(commit[:12], self.url))
        files = "{}:file".format(PROTOCOLS)
        self._run(["clone", "--quiet", "--no-checkout", "--local", "--", self.mirror, target], protocols=files, bare=False)
        here = ["-C", target]
        self._run(here + ["fetch", "--quiet", "--no-tags", self.mirror, "refs/moai/" + commit], protocols=files, bare=False)
        self._run(here + ["remote", "set-url", "origin", self.url], bare=False)
        self._run(here + ["checkout", "--quiet", "--detach", commit], bare=False)
        with open(os.path.join(target, ".git", "info", "exclude"), "a") as out:
            out.write("/.moai/\n")
        if submodules:
            allowed = files if self.url.startswith(("/", "file:")) else PROTOCOLS
            update = ["submodule", "update", "--init", "--recursive"]
            config = ["-c", "protocol.file.allow=always"] if allowed == files else []
            self._run(config + here + update, protocols=allowed, bare=False)

    # -- the mirror ----------------------------------------------------------------------------

    def _lock(self) -> int:
        os.makedirs(os.path.dirname(self.mirror), mode=0o700, exist_ok=True)
        path = self.mirror[: -len(".git")] + ".lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end_s, said = time.monotonic() + LOCK_S, False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.utime(path)  # When it was last used, for who clears away.
                return fd
            except BlockingIOError:
                if not said:
                    self.report.phase("waiting", "another job fetches {}".format(self.url))
                    said = True
                if time.monotonic() > end_s:
                    os.close(fd)
                    raise StepError("TIMED_OUT", "another job has fetched {} for {:.0f} hours".format(self.url, LOCK_S / 3600), "cancel that job")
                time.sleep(0.1)

    def _prepare(self) -> None:
        if not os.path.isdir(os.path.join(self.mirror, "objects")):
            self._run(["init", "--quiet", "--bare", self.mirror], bare=False)
        for folder, _, names in os.walk(self.mirror):
            for name in names:
                if name.endswith(".lock") or name.startswith("tmp_"):
                    os.unlink(os.path.join(folder, name))

    def _find(self, revision: str) -> Optional[str]:
        for name in ("refs/heads/" + revision, "refs/tags/" + revision):
            commit = self._commit(name)
            if commit:
                return commit
        return self._commit(revision) if re.match(r"^[0-9a-f]{7,64}$", revision) else None

    def _commit(self, name: str) -> Optional[str]:
        done = self._git(["rev-parse", "--verify", "--quiet", name + "^{commit}"])
        return done[1].strip() if done[0] == 0 else None

    def _has(self, commit: str) -> bool:
        return self._commit(commit) is not None

    def _keep(self, commit: str) -> str:
        """A ref for it, so that it stays and clones can ask for it."""
        self._run(["update-ref", "refs/moai/" + commit, commit])
        return commit

    def _not_found(self, revision: str) -> StepError:
        import difflib

        listed = self._git(["for-each-ref", "--format=%(refname:strip=2)", "refs/heads", "refs/tags"])[1].split()
        near = difflib.get_close_matches(revision, listed, n=3) or listed[:5]
        return StepError(
            "REVISION_NOT_FOUND", "{} has no branch, tag or commit {}".format(self.url, revision),
            "There are: {}".format(", ".join(near)) if near else "The repository is empty.",
        )  # fmt: skip

    # -- git -----------------------------------------------------------------------------------

    def _git(self, words: List[str]) -> Tuple[int, str]:
        done = subprocess.run(
            [self.git, "--git-dir=" + self.mirror] + words, env=self._env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600,
        )  # fmt: skip
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def _run(self, words: List[str], protocols: str = "", bare: bool = True, missing_ok: bool = False) -> None:
        """Run git to its end, telling its progress; raise what its words mean."""
        where = ["--git-dir=" + self.mirror] if bare else []
        allowed = protocols or (PROTOCOLS + ":file" if self.url.startswith(("/", "file:")) else PROTOCOLS)
        with subprocess.Popen(
            [self.git] + self._options + where + words, env=dict(self._env, GIT_ALLOW_PROTOCOL=allowed),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ) as child:  # fmt: skip
            said = _follow(child.stderr, self.report)
        if child.returncode and not missing_ok:
            raise _failure(self.url, words, said)


def _follow(stream: Any, report: Any) -> str:
    """What git says, its progress as reports; the last 20 other lines."""
    kept: List[str] = []
    rest = b""
    while True:
        data = os.read(stream.fileno(), 65536)
        if not data:
            break
        parts = re.split(rb"[\r\n]", rest + data)
        rest = parts.pop()
        for line in parts:
            text = line.decode("utf-8", "replace").strip()
            found = _PROGRESS.match(text)
            if found:
                report.progress(int(found.group(2)), int(found.group(3)), "objects" if "objects" in found.group(1) else "files")
            elif text:
                kept = kept[-19:] + [text]
    return "\n".join(kept + [rest.decode("utf-8", "replace").strip()]).strip()


def _failure(url: str, words: List[str], said: str) -> StepError:
    verb = next((w for w in words if w in ("fetch", "clone", "checkout", "submodule", "init")), words[0])
    last = " ".join(said.split("\n")[-3:])[:500] or "git {} failed without a word".format(verb)
    if "No space left" in said or os.strerror(errno.EDQUOT) in said:
        return StepError("DISK_FULL", "no room for {}: {}".format(url, last), "free some space in the work folder")
    if _REFUSED.search(said):
        return StepError(
            "GIT_REFUSED", "{} does not let us in: {}".format(url, last),
            "export GIT_TOKEN=..., then the same with --secret GIT_TOKEN; an ssh address needs a key on the container",
        )  # fmt: skip
    if _AWAY.search(said):
        return StepError("GIT_UNREACHABLE", "{} cannot be reached from the container: {}".format(url, last), "check the address and the host's proxy, or send the code: --sync DIR")
    if "find remote ref" in said:
        return StepError("REVISION_NOT_FOUND", "{} has no commit to start from: {}".format(url, last), "name a branch: URL@BRANCH")
    if verb in ("fetch", "clone", "submodule") and _NOT_THERE.search(said):
        return StepError("REPO_NOT_FOUND", "there is no repository {}: {}".format(url, last), "check the address; a private one needs --secret GIT_TOKEN")
    return StepError("COMMAND_FAILED", "git {} failed for {}: {}".format(verb, url, last), "see moai remote logs")


def _environment(url: str, scratch: str, token: str) -> Dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_PROXY_COMMAND")}
    env.update(LC_ALL="C", GIT_TERMINAL_PROMPT="0", GIT_CONFIG_NOSYSTEM=os.environ.get("GIT_CONFIG_NOSYSTEM", "0"))
    env["GIT_SSH_COMMAND"] = os.environ.get("GIT_SSH_COMMAND") or "ssh -o BatchMode=yes -o ServerAliveInterval=15 -o ConnectTimeout=30"
    env["GIT_ASKPASS"] = env["SSH_ASKPASS"] = "/bin/false"
    host = re.match(r"^https?://(?:[^/@]*@)?([^/]+)", url)
    if token and host:
        path = os.path.join(scratch, "askpass")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700), "w") as out:
            out.write(_ASKPASS)
        env.update(GIT_ASKPASS=path, MOAI_GIT_TOKEN=token, MOAI_GIT_HOST=host.group(1))
    return env
