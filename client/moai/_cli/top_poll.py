"""Asks every container in turn for its jobs and accelerators, and tells a ``Model``.

Two threads a host, so that neither a dead host nor a hanging device tool delays anything else. At most
``SLOTS`` questions are young at a time; a question older than ``PATIENCE_S`` gives its slot to another host.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import moai
from moai._cli.top_model import Model

SLOTS = 16
PATIENCE_S = 2.0
#: A device tool is a process there each time: not more often than this, and a slow one a tenth of the time.
DEVICES_S = 2.5
_SHARE = 9.0
#: All jobs are listed this often; in between only as many as can hold the ones that have not ended.
_WHOLE_S = 30.0
_WHOLE_JOBS = 500
#: A host that does not answer is tried again after at most this; one that is slow waits at most a third of it.
_RETRY_S = 15.0


Losses = Callable[[Any, moai.JobInfo], Sequence[tuple[int, float]]]


def _losses(host: Any, info: moai.JobInfo) -> Sequence[tuple[int, float]]:
    return moai.Job(host, info).refresh().losses


class Slots:
    """A bound on questions that were asked lately.

    Args:
        count: at most so many younger than ``patience_s``.
    """

    def __init__(self, count: int = SLOTS, patience_s: float = PATIENCE_S) -> None:
        self._count, self._patience_s = count, patience_s
        self._open: dict[object, float] = {}
        self._change = threading.Condition()

    def enter(self) -> object:
        """Wait for a slot; returns what ``leave`` takes."""
        token = object()
        with self._change:
            while True:
                now = time.monotonic()
                young = sorted(start for start in self._open.values() if now - start < self._patience_s)
                if len(young) < self._count:
                    self._open[token] = now
                    return token
                self._change.wait(max(0.001, young[0] + self._patience_s - now))

    def leave(self, token: object) -> None:
        """The question is answered."""
        with self._change:
            self._open.pop(token, None)
            self._change.notify()


class Poller:
    """Keeps a model fresh until closed.

    Args:
        hosts: ``moai.Host`` objects of the model's names. interval_s: between two looks at a host's jobs.
        losses: how to ask for the whole loss curve of a job; lists of jobs do not carry it.
    """

    def __init__(self, hosts: Sequence[Any], model: Model, interval_s: float = 1.0, losses: Losses = _losses) -> None:
        self._losses = losses
        self._hosts, self._model, self._interval_s = list(hosts), model, interval_s
        self._jobs, self._devices = Slots(), Slots(SLOTS // 2)
        self._closed = threading.Event()
        self._alive = {host.name: threading.Event() for host in self._hosts}
        self._whole_s: dict[str, float] = {}

    def start(self) -> None:
        """Start asking; the first answers come in the order hosts give them."""
        # Where a link is up, the answer is a millisecond away: those first.
        for host in sorted(self._hosts, key=lambda h: not (h.config.is_local or moai.is_linked(h.config))):
            for loop in (self._watch_jobs, self._watch_devices):
                threading.Thread(target=loop, args=(host,), name=f"moai-top-{host.name}", daemon=True).start()

    def close(self) -> None:
        """Stop asking; questions that are open end with the process."""
        self._closed.set()
        for alive in self._alive.values():
            alive.set()

    def _watch_jobs(self, host: Any) -> None:
        failures = 0
        while not self._closed.is_set():
            token = self._jobs.enter()
            start_s, needs_person = time.monotonic(), False
            self._model.asking(host.name, time.time())
            try:
                self.look(host)
                failures = 0
                self._alive[host.name].set()
            except Exception as error:  # An edge: a defect must show in its row, not as a frozen one.
                failures += 1
                told = error if isinstance(error, moai.MoaiError) else moai.MoaiError("INTERNAL", f"a defect in moai: {error!r}")
                self._model.failed(host.name, told, time.time())
                if not self._closed.is_set():
                    self._alive[host.name].clear()
                needs_person = told.exit_code in (5, 9)
            finally:
                self._jobs.leave(token)
            took_s = time.monotonic() - start_s
            pause_s = min(_RETRY_S, self._interval_s * 2**failures) if failures else self._interval_s
            # A host that takes long (a slow link; job folders read over plain SSH) is asked less often.
            self._closed.wait(max(pause_s - took_s, min(took_s, _RETRY_S / 3)))
            # Trying to sign in again and again would lock somebody out; a link made by hand is noticed.
            while needs_person and not moai.is_linked(host.config) and not self._closed.wait(_RETRY_S / 3):
                continue

    def look(self, host: Any) -> None:
        """One look at a host's jobs, and at loss curves that were not seen yet. Raises MoaiError."""
        now_s = time.monotonic()
        whole = now_s - self._whole_s.get(host.name, -_WHOLE_S) >= _WHOLE_S
        infos = host.jobs(_WHOLE_JOBS if whole else self._model.page(host.name))
        if whole:
            self._whole_s[host.name] = now_s
        self._model.answered(host.name, infos, whole, time.time())
        by_id = {info.id: info for info in infos}
        for job_id in self._model.wants_curve(host.name, time.time()):
            if job_id in by_id:
                self._model.curve(host.name, job_id, self._losses(host, by_id[job_id]), time.time())

    def _watch_devices(self, host: Any) -> None:
        while True:
            self._alive[host.name].wait()
            if self._closed.is_set():
                return
            token = self._devices.enter()
            start_s = time.monotonic()
            try:
                self.look_devices(host)
            finally:
                self._devices.leave(token)
            self._closed.wait(max(self._interval_s, DEVICES_S, _SHARE * (time.monotonic() - start_s)))

    def look_devices(self, host: Any) -> None:
        """One look at a host's accelerators; a failure is told to the model."""
        try:
            self._model.reported(host.name, host.devices(), time.time())
        except Exception as error:  # As above.
            if not (isinstance(error, moai.MoaiError) and error.exit_code == 4):  # The way to the host is the other thread's story.
                self._model.no_devices(host.name, str(error))
