"""From a request to a running job: check, choose the environment, plan, publish, start.

The one way every job takes. Blocking parts run in an executor thread.
"""

import asyncio
import os
import re
import shutil
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from google.protobuf import json_format
from google.protobuf.message import Message
from moai_proto.v1 import dataset_pb2, job_pb2, model_pb2, training_pb2
from moai_worker import access, gitrepo, jobdir
from moai_worker.errors import StepError

from moai_agent import expiry, work
from moai_agent.errors import AgentError
from moai_agent.jobs import groups, names, plans, watching, writable
from moai_agent.jobs.store import Entry, request_digest
from moai_agent.snapshots import Snapshots

_REQUEST_ID = re.compile(r"^[A-Za-z0-9_.-]{8,128}$")
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
#: Of a command, for people: characters.
_MOST_SHOWN = 2000
_PUBLIC_HUB = "https://huggingface.co"


class Request:
    """What every kind of job needs to be submitted.

    Args:
        agent: the agent. message: the whole request (its digest tells repeats from conflicts).
        options: its JobOptions. kind, command: as listed. need_torch: see environments.choose.
    """

    def __init__(
        self, agent: Any, message: Message, options: job_pb2.JobOptions, kind: str, command: str, need_torch: bool
    ) -> None:
        self.agent, self.options, self.kind, self.command = agent, options, kind, command
        self.need_torch = need_torch
        #: False for a job that makes an environment: its steps run on the agent's own Python.
        self.needs_environment = True
        #: Further lines that open the journal; the plan may add some.
        self.notes: List[Dict[str, Any]] = []
        #: Secrets that commands do not get.
        self.withheld: Set[str] = set()
        #: These come before all others.
        self.first_notes: List[Dict[str, Any]] = []
        self.parent = ""
        self.extra: Dict[str, Any] = {}
        self.digest = _digest(message)
        #: The request as ``again`` repeats it; None for kinds it does not repeat.
        self.record = _recorded(message)
        _check_options(options)

    def names_job(self, field: str, entry: Optional[Entry]) -> None:
        """Record the job a field meant by its id: "last", a name or a prefix may be another one some day."""
        if entry is not None and self.record is not None:
            self.record["message"][field] = entry.job.id

    async def submit(self, make_plan: Callable[[plans.Place], Tuple[List[Dict[str, Any]], str]]) -> Entry:
        """Publish and start, or find the job an earlier try made.

        Args:
            make_plan: gives the steps and the folder of the results ("" = none).
        """
        loop = asyncio.get_running_loop()
        job_id = await loop.run_in_executor(None, self._submit, make_plan)
        entry = self.agent.store.entry_or_none(job_id)
        if entry is None:
            raise AgentError("INTERNAL", "job %s vanished while it was submitted" % job_id)
        return entry

    def _submit(self, make_plan: Callable[[plans.Place], Tuple[List[Dict[str, Any]], str]]) -> str:
        store, config = self.agent.store, self.agent.config
        existing = store.find_request(self.options.request_id, self.digest)
        if existing is not None and jobdir.read_json(store.host.job(existing).exit) is not None:
            return existing
        environment, why, active = self._environment()
        variables = _job_variables(active.variables)
        if existing is not None:
            store.respawn_if_unstarted(existing, self._private(variables))
            return existing
        job_id = next(c for c in names.candidates(self.options.request_id) if not os.path.exists(store.host.job(c).path))
        folder = self._work(variables)
        snapshot, git = self._snapshot(folder), self._git()
        if snapshot or git:
            expiry.remember(config, folder)
        copy = os.path.join(folder, "code", "jobs", job_id)
        cwd = os.path.join(copy, self.options.snapshot_folder) if snapshot or git else self._workdir(variables)
        place = plans.Place(
            job_path=store.host.job(job_id).path,
            main_py=config.main_py,
            python=environment.python,
            work=folder,
            hf_home="",
            endpoint="",
            cwd=cwd,
            environment=environment,
        )
        given = dict(self.options.variables)
        place.hf_home = given.get("HF_HOME") or variables.get("HF_HOME") or os.path.join(place.work, "huggingface")
        place.endpoint = self.extra.pop("endpoint", "") or given.get("HF_ENDPOINT") or variables.get("HF_ENDPOINT") or ""
        place.endpoint = (place.endpoint or _PUBLIC_HUB).rstrip("/")
        steps, output = make_plan(place)
        if snapshot:
            steps.insert(0, plans.code_step(place, snapshot, copy))
        if git:
            options = self.options
            step = plans.git_step(place, git, options.git_revision, options.git_submodules_wanted, copy, options.snapshot_folder)
            steps.insert(0, step)
            self.extra["git"] = {"url": git, "revision": options.git_revision}
        for step in steps:
            self._complete(step, place, given)
        plan = {"schema": jobdir.SCHEMA, "steps": steps, "output": output}
        spec = self._spec(job_id, environment, why)
        notes = list(self.first_notes)
        if self.needs_environment:
            notes.append(note("environment %s (%s): %s" % (environment.name, environment.python, why), "ENVIRONMENT"))
        notes += [note(problem, "ENVIRONMENT", "warning") for problem in active.problems] + self.notes
        store.create(spec, plan, self._private(variables), notes)
        return job_id

    def _environment(self) -> Tuple[Any, str, Any]:
        registry = self.agent.registry
        if not self.needs_environment:
            return registry.own(), "the agent's own Python; the environment is still to be made", registry.tools_of("")
        environment, why = registry.choose(self.options.environment, self.need_torch)
        return environment, why, registry.activated(environment)

    def _private(self, variables: Dict[str, str]) -> Dict[str, Any]:
        return dict({"env": variables, "secrets": dict(self.options.secrets)}, **watching.private(self.options))

    def _work(self, variables: Dict[str, str]) -> str:
        home = variables.get("HOME") or os.path.expanduser("~")
        return work.asked(self.options.work, home) or work.folder(self.agent.config)

    def _snapshot(self, folder: str) -> Optional[Snapshots]:
        if not self.options.snapshot:
            return None
        if self.options.workdir:
            raise AgentError("USAGE", "a snapshot and a working folder were both given", "leave one out")
        self._check_inside()
        snapshots = Snapshots(folder)
        missing = snapshots.missing_of(self.options.snapshot)
        if missing:
            raise AgentError("FILE_NOT_FOUND", "the snapshot lacks %d files" % missing, "submit again: they are sent then")
        return snapshots.named(self.options.snapshot)

    def _check_inside(self) -> None:
        inside = os.path.normpath("/" + self.options.snapshot_folder)[1:]
        if self.options.snapshot_folder and inside != self.options.snapshot_folder:
            raise AgentError("USAGE", "%r is no folder inside a snapshot" % self.options.snapshot_folder, "name one inside")

    def _git(self) -> str:
        """The repository to clone; "" for none."""
        options = self.options
        if not options.git_url:
            return ""
        if options.snapshot or options.workdir:
            raise AgentError("USAGE", "a git repository and %s were both given" % ("a snapshot" if options.snapshot else "a working folder"), "leave one out")
        self._check_inside()
        try:
            gitrepo.check(options.git_url, options.git_revision)
        except StepError as error:
            raise AgentError(error.reason, error.message, error.next)
        # It opens the repository, and the command has no business with it.
        self.withheld.add("GIT_TOKEN")
        return options.git_url

    def _workdir(self, variables: Dict[str, str]) -> str:
        home = variables.get("HOME") or os.path.expanduser("~")
        asked = self.options.workdir
        path = os.path.normpath(os.path.join(home, os.path.expanduser(asked))) if asked else home
        if not os.path.isdir(path):
            raise AgentError(
                "WORKDIR_NOT_FOUND", "the working folder %s does not exist on the container" % path,
                "make it, or give another one with --workdir",
            )
        return path

    def _complete(self, step: Dict[str, Any], place: plans.Place, given: Dict[str, str]) -> None:
        """Variables, secrets and the setup line of a step."""
        env = {"HF_HOME": place.hf_home} if step.get("module") else {}
        if step.get("module") and place.endpoint != _PUBLIC_HUB:
            env["HF_ENDPOINT"] = place.endpoint
        if self.options.proxy and step.get("module") in plans.NETWORKED:
            for name in ("http_proxy", "https_proxy"):
                env[name] = env[name.upper()] = self.options.proxy
        if self.options.wait_for_access and step.get("module") == "download":
            step["inputs"]["wait_for_access"] = self.options.max_duration_seconds or access.DEFAULT_LIMIT_S
        env.update(given)
        step["env"] = env
        held = sorted(self.options.secrets)
        if step.get("module"):
            step["secrets"] = [s for s in step.pop("optional_secrets", []) if s in held]
        else:
            step["secrets"] = [s for s in held if s not in self.withheld]
        if self.options.setup:
            script = self.options.setup + '\nexec "$@"'
            # The words people know are bash's: dash, which is sh on Ubuntu, has no `source`.
            shell = shutil.which("bash", path="/bin:/usr/bin:/usr/local/bin") or "/bin/sh"
            step["argv"] = [shell, "-c", script, "sh"] + step["argv"]

    def _spec(self, job_id: str, environment: Any, why: str) -> Dict[str, Any]:
        options = self.options
        return dict(
            {
                "schema": jobdir.SCHEMA,
                "id": job_id,
                "kind": self.kind,
                "name": options.name,
                "owner": options.owner,
                "command": self.command,
                "request_id": options.request_id,
                "request_digest": self.digest,
                "create_time": time.time(),
                "boot": self.agent.config.boot,
                "host_id": self.agent.config.host_id,
                "agent_digest": self.agent.config.digest,
                "accelerator": options.accelerator,
                "max_duration_seconds": options.max_duration_seconds,
                "environment": {
                    "name": environment.name,
                    "python": environment.python,
                    "prefix": environment.prefix,
                    "torch": environment.torch_version or "",
                },
                "environment_reason": why,
                "secrets": sorted(options.secrets),
                "variables": dict(options.variables),
                "setup": options.setup,
                "labels": dict(options.labels),
                "parent": self.parent,
                "request": self.record,
            },
            **watching.spec(options),
            **self.extra
        )


def _check_options(options: job_pb2.JobOptions) -> None:
    if not _REQUEST_ID.match(options.request_id):
        raise AgentError("USAGE", "request id %r is not 8 to 128 of [A-Za-z0-9_.-]" % options.request_id[:140])
    for name in list(options.variables) + list(options.secrets):
        if not _VARIABLE.match(name):
            raise AgentError("USAGE", "%r is not the name of a variable" % name, "use letters, digits and _")
    if options.max_duration_seconds < 0:
        raise AgentError("USAGE", "the longest duration is negative: %g" % options.max_duration_seconds)
    watching.check(options)


def _digest(message: Message) -> str:
    """Digest of a request less its secrets, labels and meeting place, which may differ between two tries."""
    copy = type(message)()
    copy.CopyFrom(message)
    for name in sorted(copy.options.secrets):
        copy.options.secrets[name] = ""
    watching.hide(copy.options)
    copy.options.ClearField("labels")
    groups.without_address(copy)
    return request_digest(type(message).__name__.encode(), copy.SerializeToString(deterministic=True))


#: Requests that ``moai remote again`` repeats. A resumed job keeps the record of the first.
_REPEATABLE = (
    "RunCommandRequest", "StartTrainingRequest", "PrepareDatasetRequest", "PreviewDatasetRequest", "DownloadModelRequest",
    "GenerateRequest", "EvaluateRequest", "MergeModelRequest", "UploadModelRequest", "InstallRequirementsRequest",
    "CreateEnvironmentRequest",
)  # fmt: skip


def _recorded(message: Message) -> Optional[Dict[str, Any]]:
    """A request as JSON, to be sent once more: no secret, nothing that belongs to one submission.

    Prompts and the texts of files are left out: the plan has them, and an answer with both could be too long.
    """
    kind = type(message).__name__
    if kind not in _REPEATABLE:
        return None
    copy: Any = type(message)()
    copy.CopyFrom(message)
    for name in ("secrets", "webhook", "labels", "proxy", "request_id", "owner"):
        copy.options.ClearField(name)
    if kind == "GenerateRequest":
        copy.ClearField("prompts")
    for name in ("requirement_files", "source_files"):
        for file in getattr(copy, name, ()):
            file.text = ""
    return {"type": kind, "message": json_format.MessageToDict(copy, preserving_proto_field_name=True)}


def _job_variables(variables: Dict[str, str]) -> Dict[str, str]:
    """The login environment with our defaults below it; what the user set wins."""
    env = {"PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    env.update(variables)
    if not any(env.get(name) for name in ("LANG", "LC_ALL", "LC_CTYPE")):
        env["LANG"] = "C.UTF-8"
    for name in ("MOAI_HOME", "MOAI_JOB", "MOAI_REPORTS", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY"):
        env.pop(name, None)
    return env


def note(text: str, code: str, level: str = "info") -> Dict[str, Any]:
    """A message that opens a job's journal."""
    return {"step": "", "type": "message", "data": {"text": text, "level": level, "code": code}}


def shown(arguments: List[str]) -> str:
    """A command as a person would type it; its beginning when that is long (the plan has every word)."""
    text = " ".join(a if re.match(r"^[\w@%+=:,./-]+$", a) else "'" + a.replace("'", "'\\''") + "'" for a in arguments)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


async def command(agent: Any, message: job_pb2.RunCommandRequest) -> Entry:
    """RunCommand."""
    arguments = list(message.arguments)
    if not arguments or not arguments[0]:
        raise AgentError("USAGE", "no command was given", "moai remote run -- python script.py")
    if any("\0" in argument for argument in arguments):
        raise AgentError("USAGE", "an argument holds a NUL byte")
    if message.log_pattern:
        try:
            re.compile(message.log_pattern)
        except re.error as error:
            raise AgentError("USAGE", "the log pattern is not a regular expression: %s" % error)
    is_training = message.kind == "train"
    options = message.options
    request = Request(agent, message, options, "train" if is_training else "command", shown(arguments), False)
    request.extra = {"log_pattern": message.log_pattern}

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        step = {
            "name": "train" if is_training else "command",
            "argv": arguments,
            "cwd": place.cwd,
            "expected_paths": list(message.expected_paths),
            "log_judged": is_training and not message.exit_code_trusted,
            "signals": watching.signals(options),
        }
        return [step], ""

    return await request.submit(make)


async def training(agent: Any, message: training_pb2.StartTrainingRequest) -> Entry:
    """StartTraining."""
    spec = message.training
    check_training(spec)
    text = "train %s on %s (%s)" % (spec.model, spec.dataset.source, spec.method or "full")
    request = Request(agent, message, message.options, "train", text, True)
    request.extra = {"endpoint": spec.endpoint}
    if plans._value(spec.settings.get("trust_remote_code", "false")) is True:
        request.notes.append(note("code that the model brings along is run (trust_remote_code)", "TRUST_REMOTE_CODE", "warning"))
    if spec.upload_repo:
        await writable.check(agent, spec.upload_repo, spec.endpoint, message.options)

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        output = training_output(place, spec, message.options.name)
        return plans.train_steps(place, spec, output, plans.card_facts(message.options)), output

    return await request.submit(make)


def training_output(place: plans.Place, spec: training_pb2.TrainingSpec, name: str) -> str:
    """The folder asked for, else ``WORK/runs/<name>-<job>``."""
    if spec.output:
        return os.path.abspath(os.path.join(place.cwd, os.path.expanduser(spec.output)))
    return plans.run_output(place, name, spec.model)


def check_training(spec: training_pb2.TrainingSpec) -> None:
    """USAGE naming the first thing that cannot be."""
    if not spec.model:
        raise AgentError("USAGE", "no model was given", "--model ORG/NAME or --model FOLDER")
    if not spec.dataset.source:
        raise AgentError("USAGE", "no dataset was given", "--dataset ORG/NAME, a path, or laptop:PATH")
    if spec.method not in ("", "full", "lora"):
        raise AgentError("USAGE", "method %r is neither full nor lora" % spec.method)
    if spec.HasField("group"):
        groups.check(spec.group)
    for name, value in (
        ("max steps", spec.max_steps),
        ("epochs", spec.epochs),
        ("batch size", spec.batch_size),
        ("block size", spec.dataset.block_size),
        ("learning rate", spec.learning_rate),
    ):
        if value < 0:
            raise AgentError("USAGE", "the %s is negative: %s" % (name, value))
    if spec.method != "lora" and plans._value(spec.settings.get("merged_output", "false")) is True:
        raise AgentError("USAGE", "merged_output merges a LoRA adapter, and the method is full", "add --method lora, or leave it out")


async def preparing(agent: Any, message: dataset_pb2.PrepareDatasetRequest) -> Entry:
    """PrepareDataset."""
    if not message.dataset.source or not message.model:
        raise AgentError("USAGE", "a dataset and a model are needed", "moai remote prepare DATASET --model MODEL")
    text = "prepare %s for %s" % (message.dataset.source, message.model)
    request = Request(agent, message, message.options, "prepare", text, True)
    request.extra = {"endpoint": message.endpoint}

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        steps = plans.prepare_steps(place, message.dataset, message.model, message.model_revision)
        return steps, steps[-1]["inputs"]["output"]

    return await request.submit(make)


async def previewing(agent: Any, message: dataset_pb2.PreviewDatasetRequest) -> Entry:
    """PreviewDataset."""
    if not message.dataset.source or not message.model:
        raise AgentError("USAGE", "a dataset and a model are needed", "moai remote prepare DATASET --model MODEL --preview 3")
    rows = message.rows or 3
    if not 1 <= rows <= 100:
        raise AgentError("USAGE", "%d rows cannot be shown" % rows, "--preview takes 1 to 100")
    text = "preview %s for %s" % (message.dataset.source, message.model)
    request = Request(agent, message, message.options, "prepare", text, True)
    request.extra = {"endpoint": message.endpoint}
    return await request.submit(
        lambda place: (plans.preview_steps(place, message.dataset, message.model, message.model_revision, rows), "")
    )


async def downloading(agent: Any, message: model_pb2.DownloadModelRequest) -> Entry:
    """DownloadModel."""
    repo = message.repo
    if not repo.id:
        raise AgentError("USAGE", "no repository was given", "moai remote download ORG/NAME")
    if not 0 <= message.streams <= 32:
        raise AgentError("USAGE", "%d connections are not 1 to 32" % message.streams, "--streams 8")
    request = Request(agent, message, message.options, "download", "download %s" % repo.id, False)
    request.extra = {"endpoint": repo.endpoint}

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        output = message.output and os.path.abspath(os.path.join(place.cwd, os.path.expanduser(message.output)))
        step = plans.download(place, "download", repo.id, repo.type or "model", repo.revision, output)
        if message.streams:
            step["inputs"]["streams"] = message.streams
        return [step], output

    return await request.submit(make)


async def generating(agent: Any, message: training_pb2.GenerateRequest) -> Entry:
    """Generate, from a job, a folder or a Hub id."""
    model, base, trust, entry = message.model, None, False, None
    shaped = training_pb2.GenerateRequest()
    shaped.CopyFrom(message)
    if not message.prompts and not message.prompt_file:
        raise AgentError("USAGE", "no prompt was given", "--prompt TEXT or --file FILE")
    if not plans.is_path(model) and "/" not in model:
        entry = agent.store.find(model)
        model = entry.view.get("output") or entry.plan.get("output") or ""
        if not model:
            raise AgentError("MODEL_INVALID", "job %s has no output to generate with" % entry.job.id, "name a training job")
        base, trust = trained_model(entry), trained_settings(entry).get("trust_remote_code", False)
        if not shaped.template:
            shaped.template = trained_template(entry)
    if shaped.template == "none":
        shaped.template = ""
    request = Request(agent, message, message.options, "generate", "generate with %s" % message.model, True)
    request.extra = {"endpoint": message.endpoint}
    request.names_job("model", entry)
    return await request.submit(lambda place: (plans.generate_steps(place, shaped, model, base, trust), ""))


def trained_model(entry: Entry) -> Optional[str]:
    """The base model a training job used, once its download has told."""
    for step in entry.plan.get("steps", []):
        if step["name"] == "train" and step.get("module"):
            value = step["inputs"].get("model")
            if isinstance(value, str):
                return value
            result = jobdir.read_json(entry.job.control_file("result-download")) or {}
            return (result.get("result") or {}).get("path")
    return None


def trained_settings(entry: Entry) -> Dict[str, Any]:
    """Inputs of a training job's recipe; empty for any other job."""
    return next((step["inputs"] for step in entry.plan.get("steps", []) if step.get("module") == "train"), {})


def trained_template(entry: Entry) -> str:
    """The template a training job's rows were rendered with; "" when it rendered none."""
    if entry.spec.get("kind") != "train":
        return ""
    return next(
        (str(s["inputs"].get("template") or "") for s in entry.plan.get("steps", []) if s.get("module") == "prepare"), ""
    )
