"""What every submission carries: who, under which request id, with which environment and secrets.

Runs in the caller's process. The Hub's token is looked for on the laptop only here; it travels as a
secret of the job and is never written.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moai_proto.v1 import job_pb2

from moai._config import HostConfig
from moai._errors import MoaiError
from moai._version import __version__
from moai._withheld import withhold

#: One accelerator's queue is named so when the user names none.
DEFAULT_ACCELERATOR = "default"

#: What a supervisor watches, in the words of ``--stop-on``.
WATCHERS = ("nan", "spike", "stall", "disk", "memory")

_REQUEST_ID = re.compile(r"^[A-Za-z0-9_.-]{8,128}$")
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
#: As the container's own check has them; it looks again at what arrives.
_GIT_URL = re.compile(r"^(?:(?:https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:(?!:)\S+|/\S*)$")
_GIT_REVISION = re.compile(r"^(?!.*\.\.)(?!.*(?:\.lock|/)$)[A-Za-z0-9_][\w./+-]{0,250}$")
#: What would change the programs a job runs before they start; refused unless it is given with --setenv.
_RISKY = ("LD_", "DYLD_", "PYTHONSTARTUP", "PYTHONHOME", "BASH_ENV", "ENV")


@dataclass
class JobOptions:
    """Options common to everything that becomes a job.

    Attributes:
        name: for people. environment: conda name, folder or interpreter on the container.
        variables: added to the job's environment. secrets: kept in the supervisor's memory only.
        workdir: working folder on the container. accelerator: whose queue to wait in; "" = none.
        max_duration_s: of the whole job; 0 = no limit. request_id: 8 to 128 of ``[A-Za-z0-9_.-]``;
        repeating a request with the same id finds the first job. setup: shell lines run before each
        command. work: folder for models, datasets and results. code: a folder of the laptop; the command
        runs in a copy of it (a snapshot, ``moai.Host.send_code``). git: a repository the container clones
        instead; git_revision: branch, tag or commit of it; git_submodules: those too; the secret
        GIT_TOKEN opens it. labels: kept with the job, for people and tools. wait_for_access: a gated repository
        is asked for again until access is granted, for ``max_duration_s`` or else 24 hours. retries: times a
        failed step is run again, 0 to 100. stop_on: watchers that end the job (``WATCHERS``); the others only
        warn. on_finish: shell command there when the job ends or stalls. webhook: address that is sent the
        same as JSON; kept in memory only. on_checkpoint, on_stop: signals (``SIGUSR1``) that a command takes for
        ``Job.signal``; only a command has them.
    """

    name: str = ""
    environment: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    accelerator: str = ""
    max_duration_s: float = 0.0
    request_id: str = ""
    setup: str = ""
    work: str = ""
    code: str | os.PathLike[str] = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    wait_for_access: bool = False
    retries: int = 0
    stop_on: Sequence[str] = ()
    on_finish: str = ""
    webhook: str = field(default="", repr=False)
    git: str = ""
    git_revision: str = ""
    git_submodules: bool = False
    on_checkpoint: str = ""
    on_stop: str = ""

    def __post_init__(self) -> None:
        for value in [*self.secrets.values(), self.webhook]:
            withhold(value)

    def message(self, host: HostConfig, takes_code: bool = False) -> job_pb2.JobOptions:
        """The wire form, completed from the host's settings. Raises MoaiError (USAGE)."""
        request_id = self.request_id or new_request_id()
        if not _REQUEST_ID.match(request_id):
            raise MoaiError("USAGE", f"request id {request_id!r} is not 8 to 128 of [A-Za-z0-9_.-]", "choose another one")
        for name in [*self.variables, *self.secrets]:
            if not _VARIABLE.match(name):
                raise MoaiError("USAGE", f"{name!r} is not the name of a variable", "use letters, digits and _")
        for name in self.secrets:
            if name.startswith(_RISKY):
                raise MoaiError("USAGE", f"{name} cannot be a secret: it changes how programs start", f"--setenv {name}=VALUE")
        if self.max_duration_s < 0:
            raise MoaiError("USAGE", f"the longest duration is negative: {self.max_duration_s:g} s", "--max-duration 2h")
        self._check_watching()
        if self.code and not takes_code:
            raise MoaiError("USAGE", f"{self.code} would be sent, and only a command runs in a copy of it", "leave code out, or use run")
        if self.code and self.workdir:
            raise MoaiError("USAGE", "a folder to sync and a working folder there were both given", "leave out --workdir, or --sync")
        if self.git and not takes_code:
            raise MoaiError("USAGE", f"{self.git} would be cloned, and only a command runs in a copy of it", "leave git out, or use run")
        if (self.on_checkpoint or self.on_stop) and not takes_code:
            raise MoaiError("USAGE", "signals were declared, and only a command takes them", "leave out --on-checkpoint and --on-stop")
        if self.git and (self.code or self.workdir):
            raise MoaiError("USAGE", "a git repository and another folder to run in were both given", "leave out --sync and --workdir, or --git")
        return job_pb2.JobOptions(
            git_url=self.git,
            git_revision=self.git_revision,
            git_submodules_wanted=self.git_submodules,
            request_id=request_id,
            name=self.name,
            owner=owner(),
            environment=self.environment or host.environment,
            variables=dict(self.variables),
            secrets=dict(self.secrets),
            workdir=self.workdir,
            accelerator=self.accelerator,
            max_duration_seconds=self.max_duration_s,
            labels={**self.labels, "moai": __version__, "machine": platform.node(), "system": platform.system()},
            setup=self.setup,
            work=self.work or host.work,
            proxy=host.proxy,
            wait_for_access=self.wait_for_access,
            retries=self.retries,
            stop_on=list(self.stop_on),
            on_finish=self.on_finish,
            webhook=self.webhook,
            on_checkpoint=self.on_checkpoint,
            on_stop=self.on_stop,
        )

    def _check_watching(self) -> None:
        if not 0 <= self.retries <= 100:
            raise MoaiError("USAGE", f"{self.retries} retries are not 0 to 100", "--retries 3")
        unknown = [name for name in self.stop_on if name not in WATCHERS]
        if unknown:
            raise MoaiError("USAGE", f"there is no watcher {', '.join(unknown)}", f"--stop-on takes some of {','.join(WATCHERS)}")
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            # The address may hold a secret, so it is not repeated.
            raise MoaiError("USAGE", "the webhook is no http:// or https:// address", "--webhook https://HOST/PATH")


def split_git(text: str) -> tuple[str, str]:
    """``URL[@REV]`` as (URL, REV): the ``@`` of ``user@host`` belongs to the address.

    Raises UsageError for what is no address (``_GIT_URL``), no revision, or holds a password; the message of the
    last does not repeat it. Whether they exist is for the container to find out.
    """
    head = re.match(r"^(?:\w+://[^/]*|[\w.-]+@[\w.-]+:)", text)
    if head and re.match(r"\w+://[^/@:]*:[^/@]*@", head[0]):
        raise MoaiError(
            "USAGE", "the git address holds a password, which would be kept with the job", "export GIT_TOKEN=..., then --secret GIT_TOKEN"
        )
    start = head.end() if head else 0
    before, at, after = text[start:].rpartition("@")
    path, revision = (before, after) if at else (after, "")
    url = text[:start] + path
    if at and not revision:
        raise MoaiError("USAGE", f"{text} names no revision after the @", "URL@BRANCH, URL@TAG or URL@COMMIT")
    if not _GIT_URL.match(url):
        raise MoaiError(
            "USAGE", f"{url[:200]!r} is no address of a git repository",
            "https://HOST/ORG/REPO, ssh://..., git@HOST:ORG/REPO, or an absolute path on the container",
        )  # fmt: skip
    if revision and not _GIT_REVISION.match(revision):
        raise MoaiError("USAGE", f"{revision[:200]!r} is no branch, tag or commit", "URL@BRANCH, URL@TAG or URL@COMMIT")
    return url, revision


def new_request_id() -> str:
    """A request id nobody has used."""
    return uuid.uuid4().hex


def owner() -> str:
    """``user@laptop``: whose jobs are whose."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def hub_token() -> tuple[str, str]:
    """The laptop's Hub token and where it was found; ("", "") when there is none.

    Order as in huggingface_hub: ``HF_TOKEN``, then the file it keeps (``HF_TOKEN_PATH``,
    ``HF_HOME/token``, ``~/.cache/huggingface/token``).
    """
    value = os.environ.get("HF_TOKEN", "").strip()
    if value:
        return value, "HF_TOKEN"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    path = Path(os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")))
    try:
        value = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return "", ""
    return (value, str(path)) if value else ("", "")


def hub_endpoint() -> str:
    """The laptop's ``HF_ENDPOINT``; "" leaves it to the container."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/")


def with_token(options: JobOptions) -> JobOptions:
    """The options with the laptop's Hub token as the secret HF_TOKEN, unless one is given."""
    import dataclasses

    token, _ = hub_token()
    if not token or "HF_TOKEN" in options.secrets or "HF_TOKEN" in options.variables:
        return options
    return dataclasses.replace(options, secrets={**options.secrets, "HF_TOKEN": token})


def setting(value: Any) -> str:
    """A recipe setting's wire form: text as it is, everything else as JSON."""
    import json

    return value if isinstance(value, str) else json.dumps(value)
