"""Several containers at once: the same call on each, partial failure as data, one merged stream.

Runs in the caller's process, a thread a host; one dead host delays no other. A ``Fleet`` may be used from
several threads, in a script, in a notebook and (through ``asyncio.to_thread``) inside a running event loop.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from moai import _api, _group
from moai._errors import MoaiError
from moai._events import EventStream
from moai._host import Host
from moai._html import table
from moai._job import Job
from moai._link.client import prepare_links
from moai._options import JobOptions, new_request_id
from moai._rpc import Say
from moai._ssh.prompts import Prompter
from moai._types import DeviceReport, JobInfo

T = TypeVar("T")


class Results(Generic[T], Mapping[str, "T | MoaiError"]):
    """What each host answered, in the fleet's order: a value, or the error instead of one.

    Attributes:
        ok: host name -> value. failed: host name -> error.
    """

    def __init__(self, answers: Mapping[str, T | MoaiError]) -> None:
        self._answers = dict(answers)
        self.ok: dict[str, T] = {n: a for n, a in self._answers.items() if not isinstance(a, MoaiError)}
        self.failed: dict[str, MoaiError] = {n: a for n, a in self._answers.items() if isinstance(a, MoaiError)}

    def __getitem__(self, name: str) -> T | MoaiError:
        return self._answers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return f"<moai.Results {len(self.ok)} ok, {len(self.failed)} failed>"

    def check(self) -> dict[str, T]:
        """The values; raises the first error when any host failed."""
        for error in self.failed.values():
            raise error
        return self.ok

    def _repr_html_(self) -> str:
        """A table for notebooks; everything from a host is escaped."""
        return table(("host", "answer"), [(name, _short(answer)) for name, answer in self._answers.items()])


def _short(answer: Any) -> str:
    if isinstance(answer, MoaiError):
        return f"{answer.reason}: {answer.message}"
    if isinstance(answer, DeviceReport):
        return ", ".join(f"{d.name} {d.flavor}".strip() + (" (busy)" if d.processes else "") for d in answer.devices)
    if isinstance(answer, Job):
        return f"{answer.id} {answer.state}"
    return str(answer)


class Fleet:
    """A group of hosts.

    Args:
        hosts: names, ``@group`` or ``all`` as for ``--on``; or ``Host`` objects.
        prompts, say: as for ``moai.hosts``; asked one host at a time.
    """

    def __init__(self, hosts: str | Iterable[Host] = "all", *, prompts: Prompter | None = None, say: Say | None = None) -> None:
        if isinstance(hosts, str):
            self.hosts = _api.hosts(hosts, prompts=prompts, say=say)
        else:
            self.hosts = list(hosts)
        if not self.hosts:
            raise MoaiError("USAGE", "a fleet without hosts", "moai remote add NAME user@host")

    def __repr__(self) -> str:
        return f"<moai.Fleet {', '.join(host.name for host in self.hosts)}>"

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release all channels; links, agents and jobs stay."""
        for host in self.hosts:
            host.close()

    # -- the same on each ----------------------------------------------------------------------

    def map(self, call: Callable[[Host], T], timeout: float | None = None) -> Results[T]:
        """``call(host)`` on every host at once.

        Args:
            timeout: seconds for all together; hosts that have not answered by then get TIMED_OUT as
                their answer (what they were asked may still happen).
        """
        answers: dict[str, T | MoaiError] = {}
        lock = threading.Lock()
        failure: list[BaseException] = []

        def one(host: Host) -> None:
            try:
                answer: T | MoaiError = call(host)
            except MoaiError as error:
                answer = error
            except BaseException as error:  # The caller's own defect: raised to the caller below.
                failure.append(error)
                return
            with lock:
                answers[host.name] = answer

        prepare_links(host.config for host in self.hosts if not host.session.is_connected)
        threads = [threading.Thread(target=one, args=(host,), name=f"moai-{host.name}", daemon=True) for host in self.hosts]
        for thread in threads:
            thread.start()
        import time

        end_s = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.join(None if end_s is None else max(0.0, end_s - time.monotonic()))
        if failure:
            raise failure[0]
        with lock:
            told = dict(answers)
        late = MoaiError("TIMED_OUT", f"no answer within {timeout:g} s" if timeout is not None else "no answer", "ask again")
        return Results({host.name: told.get(host.name, late) for host in self.hosts})

    def devices(self, timeout: float | None = None) -> Results[DeviceReport]:
        """The accelerators of every host."""
        return self.map(lambda host: host.devices(), timeout)

    def jobs(self, timeout: float | None = None) -> Results[list[JobInfo]]:
        """The jobs of every host."""
        return self.map(lambda host: host.jobs(), timeout)

    def submit(
        self, start: Callable[[Host, JobOptions], Job], options: JobOptions | None = None, timeout: float | None = None, fail_fast: bool = False
    ) -> Results[Job]:
        """``start(host, options)`` on every host at once; each gets options with a request id of its own.

        Args:
            fail_fast: when one host refuses, the jobs that the others have started are cancelled.
        """
        results = self.map(lambda host: start(host, _own(options, host)), timeout)
        if fail_fast and results.failed:
            for job in results.ok.values():
                job.cancel()
        return results

    def run(self, arguments: Sequence[str], options: JobOptions | None = None, timeout: float | None = None, **more: Any) -> Results[Job]:
        """The command as a job on every host; see ``Host.run``."""
        return self.map(lambda host: host.run(arguments, _own(options, host), **more), timeout)

    def train(self, model: str, dataset: str, options: JobOptions | None = None, timeout: float | None = None, **recipe: Any) -> Results[Job]:
        """The training as a job on every host; see ``Host.train``."""
        return self.map(lambda host: host.train(model, dataset, _own(options, host), **recipe), timeout)

    def train_together(
        self, model: str, dataset: str, options: JobOptions | None = None, *, settings: Mapping[str, Any] | None = None, **recipe: Any
    ) -> list[Job]:
        """One training over all hosts, a job on each, the first host's (the leader: rank 0) first.

        They are shown to reach each other before anything is submitted; a step's batch is over all of them.

        Raises MoaiError: PEERS_UNREACHABLE with every try; UNSUPPORTED on MoAI; what ``Host.train`` raises, after
        cancelling what was started.
        """
        return _group.train(self, model, dataset, options, settings, recipe)

    # -- choosing ------------------------------------------------------------------------------

    def first_free(self, flavor: str = "", timeout: float = 60.0) -> Host:
        """A host whose accelerator nobody uses and no job of ours waits for; the fleet's order decides.

        Args:
            flavor: only hosts whose default device has it (name or size, any spelling).

        Raises Conflict (DEVICE_IN_USE) saying per host why not, when none is free.
        """
        answers = self.map(lambda host: why_busy(host, flavor), timeout)
        for host in self.hosts:
            if answers[host.name] == "":
                return host
        shown = "; ".join(f"{name}: {a.message if isinstance(a, MoaiError) else a}" for name, a in answers.items())
        raise MoaiError("DEVICE_IN_USE", f"no host is free: {shown}", "submit to one of them; the job waits in its queue")

    def place(self, model: str, flavor: str = "", settings: Mapping[str, Any] | None = None, **recipe: Any) -> tuple[Host, str]:
        """The host to train on, and why it: it fits the plan, is free if any is, and has least to fetch.

        When none that fits is free, the one with the fewest jobs before it; the job then waits in its queue.

        Args:
            flavor: only hosts whose default device has it. settings, recipe: as in ``Host.estimate_training``.

        Raises NotFound (DEVICE_NOT_FOUND) saying per host what does not fit, or why it cannot be asked.
        """
        answers = self.map(lambda host: _fit(host, model, flavor, settings or {}, recipe))
        fitting = {name: fit for name, fit in answers.ok.items() if not fit.unfit}
        if not fitting:
            shown = "; ".join(f"{n}: {a.message if isinstance(a, MoaiError) else a.unfit}" for n, a in answers.items())
            raise MoaiError("DEVICE_NOT_FOUND", f"no host fits this training: {shown}", "name a host, or a smaller model or batch")
        names = [host.name for host in self.hosts]
        best = min(fitting, key=lambda name: (fitting[name].jobs, fitting[name].missing_bytes, names.index(name)))
        fit = fitting[best]
        why = "free" if not fit.jobs else f"none is free; {fit.jobs} before it"
        if fit.missing_bytes:
            why += f"; {fit.missing_bytes / 1e9:.1f} GB to fetch"
        return self.hosts[names.index(best)], why

    # -- following -----------------------------------------------------------------------------

    def events(
        self, jobs: Iterable[Job], log: bool = False, on_link: Callable[[str, MoaiError | None], None] | None = None, timeout: float | None = None
    ) -> EventStream:
        """One stream of several jobs: each item knows its host and job; each job's events 1..N in order.

        Ends when all have ended; ``close()`` of what is returned ends it earlier, from any thread. ``async for``
        reads it inside a running event loop.

        Args:
            log: the log's bytes too, each job's from the first to the last, before its terminal event.
            on_link: told of a lost link, ``(host, error)``, and of its return, ``(host, None)``; the stream takes
                it up again by itself. Called from other threads.
            timeout: seconds for all together.

        Raises WaitTimeout when the time is over. A job that cannot be followed (deleted, its host wants a sign-in)
        is told to ``on_link`` and raised when the others have ended.
        """
        return EventStream(jobs, log, on_link, timeout)


@dataclasses.dataclass(frozen=True)
class _Fit:
    """How a training fits a host: why not ("" = it does), jobs before it, bytes still to fetch."""

    unfit: str
    jobs: int
    missing_bytes: float


def _fit(host: Host, model: str, flavor: str, settings: Mapping[str, Any], recipe: Mapping[str, Any]) -> _Fit:
    busy = why_busy(host, flavor)
    if busy.startswith(_OTHER_FLAVOR) or busy == _NO_DEVICE:
        return _Fit(busy, 0, 0.0)
    needs = host.estimate_training(model, settings=settings, quick=True, **recipe)
    unfit = next((one.text for one in needs.concerns if one.code in ("FLAVOR_TOO_SMALL", "DISK_TOO_SMALL")), "")
    download = needs.figure("download")
    before = sum(1 for info in host.jobs(200) if not info.ended and info.kind in ("train", "generate", "evaluate"))
    return _Fit(unfit, before or (1 if busy else 0), (download.value if download else None) or 0.0)


_NO_DEVICE, _OTHER_FLAVOR = "no device", "its flavor is "


def why_busy(host: Host, flavor: str = "") -> str:
    """Why a host's accelerator is not free now; "" when it is. Raises MoaiError when it cannot be asked."""
    report = host.devices()
    if report.error is not None:
        return report.error.message
    device = next((d for d in report.devices if d.is_default), report.devices[0] if report.devices else None)
    if device is None:
        return _NO_DEVICE
    if flavor and not _is_flavor(device.flavor, flavor):
        return _OTHER_FLAVOR + (device.flavor or "unknown")
    if device.processes:
        return f"in use by {device.processes[0].command or '?'} (pid {device.processes[0].pid})"
    for info in host.jobs(200):
        if not info.ended and info.kind in ("train", "generate", "evaluate"):
            return f"job {info.id} is {info.state.lower()}"
    return ""


def _is_flavor(there: str, wanted: str) -> bool:
    def size(text: str) -> str:
        return text.strip().lower().partition(".")[0] if not text.strip().lower().startswith("1.5") else "1.5xlarge"

    return there.lower() == wanted.lower() or size(there) == size(wanted)


def _own(options: JobOptions | None, host: Host) -> JobOptions:
    """Options for one host: a request id is good for one job, so each host gets its own."""
    options = options or JobOptions()
    base = options.request_id or new_request_id()
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in host.name)
    return dataclasses.replace(options, request_id=f"{base}.{name}"[:128])


