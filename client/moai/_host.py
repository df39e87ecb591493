"""One container from Python: devices, environments, jobs, files.

A ``Host`` may be used from several threads. It connects on first use, through the link that the command
line shares (or by itself with ``link=False``), and holds nothing a job needs: closing it ends no job. Stubs are imported where they are needed: most
commands use one service of eight.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moai_proto.v1 import job_pb2, model_pb2

from moai import _convert, _files, _html, _index, _requirements, _submit
from moai import _types as t
from moai._admin import change_host
from moai._after import AfterTraining
from moai._config import HostConfig, config
from moai._degraded import REASONS, Inspector
from moai._devices import DeviceControl
from moai._errors import MoaiError
from moai._house import Housekeeping
from moai._job import DegradedJob, Job
from moai._options import DEFAULT_ACCELERATOR, JobOptions, hub_endpoint, hub_token, with_token
from moai._rpc import Say, Session
from moai._ssh.prompts import Prompter
from moai._training import Training


class Host(Training, AfterTraining, DeviceControl, Housekeeping):
    """A configured container, an SSH alias, ``user@host``, or ``local``.

    Args:
        config: its settings. prompts: who answers questions while connecting; nobody by default.
        say: called with progress for people. link: share the connection with other commands.
    """

    def __init__(self, config: HostConfig, prompts: Prompter | None = None, say: Say | None = None, link: bool = True) -> None:
        self.config = config
        self.session = Session(config, prompts, say, link)

    def __repr__(self) -> str:
        return f"<moai.Host {self.name} ({self.config.address})>"

    def _repr_html_(self) -> str:
        """A table for notebooks; the container is not asked."""
        rows = (("address", self.config.address), ("environment", self.config.environment or "-"), ("work", self.config.work or "-"))
        return _html.table((self.name, ""), rows)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return self.config.name

    def close(self) -> None:
        """Release the channel; link, agent and jobs stay."""
        self.session.close()

    # -- the host ------------------------------------------------------------------------------

    def info(self) -> t.HostInfo:
        """Facts about the agent and its host."""
        from moai_proto.v1 import agent_pb2, agent_pb2_grpc

        answer = self.session.call(agent_pb2_grpc.AgentServiceStub, "GetAgent", agent_pb2.GetAgentRequest())
        return _convert.host_info(self.name, answer)

    def down(self) -> None:
        """End the agent; jobs go on, and the next call starts it again."""
        from moai_proto.v1 import agent_pb2, agent_pb2_grpc

        self.session.call(agent_pb2_grpc.AgentServiceStub, "Shutdown", agent_pb2.ShutdownRequest())

    def up(self, force: bool = False) -> dict[str, Any]:
        """Install this moai's agent, replacing an older one; returns its facts. Jobs go on.

        Raises BootstrapError (CLIENT_TOO_OLD) when the one there is newer, unless ``force``.
        """
        from moai_proto.v1 import agent_pb2, agent_pb2_grpc

        if self.config.is_local:
            self.session.call(agent_pb2_grpc.AgentServiceStub, "GetAgent", agent_pb2.GetAgentRequest())
            return {"digest": self.info().digest, "version": self.info().version}
        return self.session.link_call("Up", force=force)

    def devices(self, environment: str = "", timeout: float = 15.0) -> t.DeviceReport:
        """The accelerators as the container's own tool shows them.

        Args:
            timeout: seconds the tool may take there.
        """
        from moai_proto.v1 import device_pb2, device_pb2_grpc

        request = device_pb2.ListDevicesRequest(environment=environment, timeout_seconds=timeout)
        stub = device_pb2_grpc.DeviceServiceStub
        answer = self.session.call(stub, "ListDevices", request, timeout_s=timeout + 45.0)
        return _convert.devices(self.name, answer)

    def environments(self, all_packages: bool = False) -> list[t.Environment]:
        """Python environments of the container, looked up anew; ``packages`` holds the four of training or all."""
        from moai_proto.v1 import environment_pb2, environment_pb2_grpc

        stub = environment_pb2_grpc.EnvironmentServiceStub
        request = environment_pb2.ListEnvironmentsRequest(all_packages_wanted=all_packages)
        answer = self.session.call(stub, "ListEnvironments", request, timeout_s=120.0)
        _index.remember_environments(self.name, [e.name for e in answer.environments])
        return [_convert.environment(e) for e in answer.environments]

    def environment(self, name: str = "") -> t.Environment:
        """One environment by name, folder or interpreter, or the one jobs run in; and why it is or is not that one."""
        from moai_proto.v1 import environment_pb2, environment_pb2_grpc

        request = environment_pb2.GetEnvironmentRequest(environment=name or self.config.environment)
        stub = environment_pb2_grpc.EnvironmentServiceStub
        answer = self.session.call(stub, "GetEnvironment", request, timeout_s=120.0)
        return _convert.one_environment(answer, bool(self.config.environment) and not name)

    def check(self, model: str = "", environment: str = "", deep: bool = False) -> list[t.Check]:
        """The checks made on the container, in the order a person would make them.

        Args:
            model: also its licence and whether it fits the disk. deep: also what attaches the
                accelerator for a moment (billed on MoAI).
        """
        from moai_proto.v1 import environment_pb2, environment_pb2_grpc

        wanted = environment or self.config.environment
        request = environment_pb2.CheckEnvironmentRequest(
            environment=wanted,
            model=model,
            token=hub_token()[0],
            endpoint=hub_endpoint(),
            work=self.config.work,
            deep=deep,
            proxy=self.config.proxy,
        )
        stub = environment_pb2_grpc.EnvironmentServiceStub
        answer = self.session.call(stub, "CheckEnvironment", request, timeout_s=600.0 if deep else 300.0)
        return [self._named(_convert.check(c)) for c in answer.checks]

    def _named(self, check: t.Check) -> t.Check:
        """The check with this host in its remedy, and without a fix for what our settings say already."""
        if check.fix == "remember-environment" and check.argument == self.config.environment:
            check = dataclasses.replace(check, fix="", argument="")
        return dataclasses.replace(check, remedy=re.sub(r"\bNAME\b", lambda _: self.name, check.remedy))

    def apply(self, check: t.Check, environment: str = "") -> str:
        """Run the safe remedy of a check; returns what was done. Nothing is installed or deleted.

        Raises Conflict (DEVICE_IN_USE) when the owner of the device lives after all, AgentError.
        """
        from moai_proto.v1 import environment_pb2, environment_pb2_grpc

        if check.fix == "remember-environment" and self.name in config().hosts:
            change_host(self.name, environment=check.argument)
            self.config = dataclasses.replace(self.config, environment=check.argument)
            return f"{self.name} uses {check.argument} when none is asked for"
        number = next((n for n, name in _convert.remedies().items() if name == check.fix), 0)
        request = environment_pb2.ApplyRemedyRequest(
            remedy=number,  # type: ignore[arg-type]
            argument=check.argument,
            environment=environment or self.config.environment,
        )
        stub = environment_pb2_grpc.EnvironmentServiceStub
        return str(self.session.call(stub, "ApplyRemedy", request, timeout_s=180.0).text)

    # -- jobs ----------------------------------------------------------------------------------

    def made(self, message: job_pb2.Job) -> Job:
        """A job that was just submitted; remembered in the laptop's index."""
        info = _convert.job(self.name, message)
        _index.remember(info.id, self.name, info.host_id)
        return Job(self, info)

    def jobs(self, limit: int = 1000) -> list[t.JobInfo]:
        """Jobs of this container, newest first."""
        try:
            return self._jobs(limit)
        except MoaiError as error:
            return self._inspector(error).jobs()[:limit]

    def _inspector(self, error: MoaiError) -> Inspector:
        """The way past an agent that cannot start; raises the error where that is not the cause."""
        if error.reason not in REASONS:
            raise error
        self.session.say(f"the agent cannot be started ({error.message}); reading job folders over plain SSH")
        return Inspector(self, error)

    def _jobs(self, limit: int) -> list[t.JobInfo]:
        from moai_proto.v1 import job_pb2, job_pb2_grpc

        found: list[t.JobInfo] = []
        token = ""
        while len(found) < limit:
            request = job_pb2.ListJobsRequest(page_size=min(500, limit - len(found)), page_token=token)
            answer = self.session.call(job_pb2_grpc.JobServiceStub, "ListJobs", request)
            found += [_convert.job(self.name, m) for m in answer.jobs]
            self.other_count = answer.other_count
            token = answer.next_page_token
            if not token:
                break
        return found

    def job(self, text: str) -> Job:
        """A job by id, unique prefix, name or ``last``."""
        from moai_proto.v1 import job_pb2, job_pb2_grpc

        try:
            answer = self.session.call(job_pb2_grpc.JobServiceStub, "GetJob", job_pb2.GetJobRequest(job=text))
        except MoaiError as error:
            inspector = self._inspector(error)
            return DegradedJob(self, inspector.job(text), inspector, error)
        info = _convert.job(self.name, answer.job)
        _index.remember_if_new(info.id, self.name, info.host_id)
        return Job(self, info)

    def run(
        self,
        arguments: Sequence[str],
        options: JobOptions | None = None,
        *,
        kind: str = "run",
        expected_paths: Sequence[str] = (),
        trust_exit_code: bool = False,
        log_pattern: str = "",
    ) -> Job:
        """Start a command as a job; returns as soon as the container has it on disk.

        Args:
            arguments: program and arguments, byte for byte; no shell.
            kind: ``run``, or ``train`` for a training script (judged by its log as well as its exit
                code; claims the accelerator).
            expected_paths: files that must exist in the end. trust_exit_code: only the code decides.
            log_pattern: regular expression with named groups step, total, loss, ... for own formats.
        """
        from moai_proto.v1 import job_pb2, job_pb2_grpc

        options = options or JobOptions()
        _submit.refuse_unsendable(arguments)
        message = options.message(self.config, takes_code=True)
        if options.code:
            message.snapshot, message.snapshot_folder = self.send_code(options.code, options.work)
        elif not options.git:
            _submit.refuse_missing_script(self, arguments, options)
        request = job_pb2.RunCommandRequest(
            options=message,
            arguments=list(arguments),
            kind=kind,
            expected_paths=list(expected_paths),
            exit_code_trusted=trust_exit_code,
            log_pattern=log_pattern,
        )
        return self.made(self.session.call(job_pb2_grpc.JobServiceStub, "RunCommand", request, timeout_s=120.0).job)

    def send_code(self, folder: str | os.PathLike[str], work: str = "") -> tuple[str, str]:
        """Send a snapshot of a folder here: (its id there, the folder inside it that was named).

        Only files that are not there yet travel; what git ignores and secrets do not. Raises MoaiError:
        FILE_NOT_HERE, USAGE (too large), DISK_FULL.
        """
        from moai_proto.v1 import agent_pb2, agent_pb2_grpc

        from moai import _snapshot

        here = Path(folder).expanduser()
        if self.session.is_connected or not here.is_dir():
            code = _snapshot.collect(here)
        else:
            # The folder is read while the host answers; the questions of a connection are asked in this thread.
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(1) as beside:
                reading = beside.submit(_snapshot.collect, here)
                self.session.call(agent_pb2_grpc.AgentServiceStub, "GetAgent", agent_pb2.GetAgentRequest())
                code = reading.result()
        return _snapshot.send(self.session, code, work or self.config.work), code.inside

    def download(
        self,
        repo: str,
        options: JobOptions | None = None,
        *,
        type: str = "model",
        revision: str = "",
        output: str = "",
        streams: int = 0,
    ) -> Job:
        """Fetch a model or dataset of the Hub into the container's cache (or the folder ``output``).

        ``streams``: parallel connections, 1 to 32; 0 = 4, and up to 16 where they are faster.
        """
        from moai_proto.v1 import model_pb2, model_pb2_grpc

        message = with_token(options or JobOptions()).message(self.config)
        if not 0 <= streams <= 32:
            raise MoaiError("USAGE", f"{streams} connections are not 1 to 32", "--streams 8")
        request = model_pb2.DownloadModelRequest(
            options=message, repo=_repo(repo, type, revision), output=output, streams=streams
        )
        return self.made(self.session.call(model_pb2_grpc.ModelServiceStub, "DownloadModel", request, timeout_s=120.0).job)

    def plan_download(
        self, repo: str, type: str = "model", revision: str = "", *, output: str = "", work: str = ""
    ) -> t.DownloadPlan:
        """What ``download`` would fetch; the Hub's refusals (licence, token, 404) come as typed errors."""
        from moai_proto.v1 import model_pb2, model_pb2_grpc

        token, source = hub_token()
        request = model_pb2.PlanDownloadRequest(
            repo=_repo(repo, type, revision),
            token=token,
            proxy=self.config.proxy,
            work=work or self.config.work,
            output=output,
        )
        answer = self.session.call(model_pb2_grpc.ModelServiceStub, "PlanDownload", request, timeout_s=120.0)
        return _convert.download_plan(answer, source)

    def generate(
        self,
        model: str,
        prompts: Sequence[str] = (),
        options: JobOptions | None = None,
        *,
        prompt_file: str = "",
        template: str = "",
        max_new_tokens: int = 0,
        compare: bool = False,
    ) -> Job:
        """Answer prompts with a job's result, a folder or a Hub model; see ``generated`` for the texts."""
        from moai_proto.v1 import training_pb2, training_pb2_grpc

        options = _submit.claiming(options or JobOptions())
        request = training_pb2.GenerateRequest(
            options=with_token(options).message(self.config),
            model=model,
            prompts=list(prompts),
            prompt_file=_submit.on_host(self, prompt_file),
            template=template,
            max_new_tokens=max_new_tokens,
            compare=compare,
            endpoint=hub_endpoint(),
        )
        stub = training_pb2_grpc.TrainingServiceStub
        return self.made(self.session.call(stub, "Generate", request, timeout_s=120.0).job)

    def install(
        self,
        requirements: Sequence[str],
        options: JobOptions | None = None,
        *,
        files: Sequence[str] = (),
        dry_run: bool = False,
    ) -> Job:
        """Install packages into an environment; what would change is resolved and reported first.

        A Moreh build of torch that is there is never replaced: the job fails with TORCH_PROTECTED then.

        Args:
            requirements: as pip takes them. files: requirements files: paths on the container, or
                ``laptop:PATH``. dry_run: only tell what would change, see ``install_plan``.
        """
        from moai_proto.v1 import environment_pb2, environment_pb2_grpc

        sent, count = _requirements.collect(files)
        request = environment_pb2.InstallRequirementsRequest(
            options=(options or JobOptions()).message(self.config),
            requirements=list(requirements),
            requirement_paths=[one for one in files if not one.startswith(_submit.LAPTOP)],
            requirement_files=sent,
            requirement_file_count=count,
            dry_run=dry_run,
        )
        stub = environment_pb2_grpc.EnvironmentServiceStub
        return self.made(self.session.call(stub, "InstallRequirements", request, timeout_s=120.0).job)

    def install_plan(self, job: Job) -> t.InstallPlan:
        """What an ``install`` job resolved. Raises MoaiError (FILE_NOT_FOUND) while it has not."""
        return _convert.install_plan(json.loads(self.read(f"{job.refresh().folder}/changes.json")))

    def create_environment(
        self,
        name: str,
        options: JobOptions | None = None,
        *,
        python: str = "",
        moreh: str = "",
        torch: str = "",
        source: str = "",
    ) -> Job:
        """Make a new environment; one that exists is never touched (ENVIRONMENT_EXISTS).

        Args:
            python: version; default: what fits. moreh: version of the Moreh framework; default: on MoAI
                the one the container has, elsewhere none; ``none`` = none. torch: its version.
            source: requirements file, environment.yml or uv.lock: a path on the container, or ``laptop:PATH``.
        """
        from moai_proto.v1 import environment_pb2, environment_pb2_grpc

        request = environment_pb2.CreateEnvironmentRequest(
            options=(options or JobOptions()).message(self.config),
            name=name,
            python_version=python,
            moreh_version=moreh,
            torch_version=torch,
            source_path="" if source.startswith(_submit.LAPTOP) else source,
            source_files=_requirements.collect_source(source),
        )
        stub = environment_pb2_grpc.EnvironmentServiceStub
        return self.made(self.session.call(stub, "CreateEnvironment", request, timeout_s=120.0).job)

    def generated(self, job: Job) -> list[dict[str, Any]]:
        """The answers of an ended ``generate`` job: ``{"prompt", "text", "base_text"}`` each."""
        raw = self.read(f"{job.refresh().folder}/generated.jsonl")
        return [json.loads(line) for line in raw.decode("utf-8").splitlines() if line.strip()]

    # -- files ---------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        """A whole file of the container; for small ones."""
        from moai_proto.v1 import file_pb2, file_pb2_grpc

        parts = self.session.stream(file_pb2_grpc.FileServiceStub, "GetFiles", file_pb2.GetFilesRequest(path=path))
        return b"".join(part.data for part in parts)

    def pull(
        self,
        path: str,
        target: str | Path = ".",
        only: str = "",
        say: _files.Report | None = None,
        left_out: list[t.FileEntry] | None = None,
    ) -> Path:
        """Copy a file or folder from the container into the folder ``target``; names from there are untrusted.

        Args:
            only: ``final`` (no checkpoints), ``adapter`` (the adapter or model alone), ``checkpoint`` (the newest
                complete one), or a pattern on file names. left_out: is filled with the files that stay there.
        """
        return _files.pull(self.session, path, Path(target), only, say, left_out)

    def push(self, path: str | Path, target: str = "", say: _files.Report | None = None) -> str:
        """Copy a file or folder to the container; returns its absolute path there."""
        return _files.push(self.session, Path(path).expanduser(), target, say)


def _repo(repo: str, type: str, revision: str) -> model_pb2.HubRepo:
    from moai_proto.v1 import model_pb2

    if type not in ("model", "dataset"):
        raise MoaiError("USAGE", f"a repository is a model or a dataset, not {type!r}")
    return model_pb2.HubRepo(id=repo, type=type, revision=revision, endpoint=hub_endpoint())


__all__ = ["DEFAULT_ACCELERATOR", "Host"]
