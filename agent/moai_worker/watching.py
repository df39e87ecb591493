"""Feeds the watchers of one running step: its reports, its log, the disk, the memory.

Owns what is read and how often; the judging is in ``moai_worker.watchers``. A look costs a few small reads:
new bytes of two files, two files of the cgroup every 5 s, one statvfs every 10 s. The disk is asked in a
thread, because a network file system that hangs must not hang the supervisor. Ends nothing itself.
"""

import json
import os
import threading
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from moai_worker import cgroup, steplines, watchers
from moai_worker.jobdir import JobDir
from moai_worker.vitals import Vitals

_READ_BYTES = 256 * 1024
_WORDS = (b'"metric"', b'"progress"', b'"phase"', b'"artifact"')


class Watch:
    """One attempt at one step.

    Args:
        job, spec, plan, step: what runs. limits: when to speak.
        family: process ids of the job's processes.

    Attributes:
        save_s: the longest saving of a checkpoint seen. is_recipe: it can be told to save and end.
    """

    def __init__(
        self,
        job: JobDir,
        spec: Dict[str, Any],
        plan: Dict[str, Any],
        step: Dict[str, Any],
        limits: watchers.Limits,
        family: Callable[[], Iterable[int]],
    ) -> None:
        self._name, self._family, self._limits = step["name"], family, limits
        self.is_recipe = step.get("module") == "train"
        self._is_command = not step.get("module")
        self._reports, self._reports_at = job.reports, _size(job.reports)
        self._log = steplines.StepLines(job.log, _size(job.log), spec.get("log_pattern") or "")
        self._places = _places(job, plan, step) if self.is_recipe or self._is_command else []
        self._loss, self._stall = watchers.LossWatch(limits), watchers.StallWatch(limits)
        self._disk, self._memory = watchers.DiskWatch(limits), watchers.MemoryWatch(limits)
        self._files = cgroup.MemoryFiles()
        self._space = _Aside()
        self._checkpoint_bytes = 0
        self._looked_s = self._disk_s = self._memory_s = float("-inf")
        self._phase, self._phase_s, self.save_s = "", 0.0, 0.0
        self.recovered = False

    @property
    def stalled(self) -> bool:
        """No step comes."""
        return self._stall.stalled

    def look(self, now_s: float) -> List[watchers.Finding]:
        """What is new and wrong. ``recovered`` says whether a stall ended in this look."""
        self.recovered = False
        if now_s - self._looked_s < self._limits.look_every_s:
            return []
        self._looked_s = now_s
        found = self._read_reports(now_s)
        if self._is_command:
            found += self._read_log(now_s)
        found += self._stall.look(now_s)
        if now_s - self._disk_s >= self._limits.disk_every_s and self._places:
            self._disk_s = now_s
            self._space.start(self._free)
        for place, free, total in self._space.result() or ():
            found += self._disk.look(place, free, total, self._checkpoint_bytes if self.is_recipe else 0)
        if now_s - self._memory_s >= self._limits.memory_every_s:
            self._memory_s = now_s
            found += self._look_at_memory()
        return found

    def _steps(self, steps: List[Optional[int]], losses: List[Tuple[Optional[int], float]], now_s: float) -> List[watchers.Finding]:
        found = [finding for step, loss in losses for finding in self._loss.feed(step, loss)]
        if steps:
            # All lines of a look have the same time: only the last one tells how fast it goes.
            self.recovered = self._stall.step(steps[-1], now_s) or self.recovered
        return found

    def _read_log(self, now_s: float) -> List[watchers.Finding]:
        seen = self._log.read()
        signs = [one for one in seen if one.step is None and one.loss is None]
        if signs:
            self.recovered = self._stall.sign(now_s) or self.recovered
        steps = [one.step for one in seen if one.step is not None or one.loss is not None]
        return self._steps(steps, [(one.step, one.loss) for one in seen if one.loss is not None], now_s)

    def _read_reports(self, now_s: float) -> List[watchers.Finding]:
        steps: List[Optional[int]] = []
        losses: List[Tuple[Optional[int], float]] = []
        for kind, data in self._new_reports():
            if kind == "metric":
                values = data.get("values")
                loss = values.get("loss") if isinstance(values, dict) else None
                if isinstance(loss, (int, float)):
                    step = data.get("step") if isinstance(data.get("step"), int) else None
                    losses.append((step, float(loss)))
                    steps.append(step)
            elif kind == "progress" and data.get("unit") == "steps" and isinstance(data.get("done"), (int, float)):
                steps.append(int(data["done"]))
            elif kind == "phase" and self.is_recipe:
                self._enter(str(data.get("phase") or ""), now_s)
                self._note_size(data.get("checkpoint_bytes"))
            elif kind == "artifact" and data.get("kind") == "checkpoint":
                self._note_size(data.get("size_bytes"))
        return self._steps(steps, losses, now_s)

    def _note_size(self, size: Any) -> None:
        if isinstance(size, (int, float)) and size > 0:
            self._checkpoint_bytes = int(size)

    def _enter(self, phase: str, now_s: float) -> None:
        if self._phase == "saving" and phase != "saving":
            self.save_s = max(self.save_s, now_s - self._phase_s)
        if phase != self._phase:
            self._phase, self._phase_s = phase, now_s
        self._stall.pause(phase != "training", now_s)

    def _new_reports(self) -> List[Tuple[str, Dict[str, Any]]]:
        try:
            fd = os.open(self._reports, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            size = os.fstat(fd).st_size
            if size - self._reports_at > _READ_BYTES:
                self._reports_at = size - _READ_BYTES  # Its first line is torn, and no JSON.
            data = os.pread(fd, _READ_BYTES, self._reports_at) if size > self._reports_at else b""
        except OSError:
            return []
        finally:
            os.close(fd)
        whole = data.rfind(b"\n") + 1
        self._reports_at += whole
        found = []
        for line in data[:whole].split(b"\n"):
            if any(word in line for word in _WORDS):
                try:
                    value = json.loads(line.decode("utf-8", "replace"))
                except (ValueError, RecursionError):
                    continue
                # A program of the user's may leave the step out; ours never do.
                mine = isinstance(value, dict) and (self._is_command or value.get("step") == self._name)
                if mine and isinstance(value.get("data"), dict):
                    found.append((str(value.get("type")), value["data"]))
        return found

    def _free(self) -> List[Tuple[str, int, int]]:
        found, seen = [], set()
        for place in self._places:
            try:
                there = os.statvfs(_existing(place))
            except OSError:
                continue
            key = (there.f_blocks, there.f_bavail, there.f_files)
            if there.f_blocks and key not in seen:
                seen.add(key)
                found.append((place, there.f_bavail * there.f_frsize, there.f_blocks * there.f_frsize))
        return found

    def _look_at_memory(self) -> List[watchers.Finding]:
        memory = self._files.read()
        if memory is None:
            return []
        family = 0
        if self._memory.wants_family(memory.limit, memory.used):
            family = int(Vitals().sample(self._family())["process_rss_bytes"])
        return self._memory.look(memory.limit, memory.used, family)


class _Aside:
    """One call at a time in a daemon thread; its result is fetched later, or never."""

    def __init__(self) -> None:
        self._busy = False
        self._result: Optional[List[Tuple[str, int, int]]] = None

    def start(self, call: Callable[[], List[Tuple[str, int, int]]]) -> None:
        """Nothing happens while the last call has not come back."""
        if not self._busy:
            self._busy = True
            threading.Thread(target=self._run, args=(call,), daemon=True).start()

    def _run(self, call: Callable[[], List[Tuple[str, int, int]]]) -> None:
        try:
            self._result = call()
        finally:
            self._busy = False

    def result(self) -> Optional[List[Tuple[str, int, int]]]:
        """What the last call gave, once."""
        result, self._result = self._result, None
        return result


def _places(job: JobDir, plan: Dict[str, Any], step: Dict[str, Any]) -> List[str]:
    if step.get("module"):
        return [str((step.get("inputs") or {}).get("output") or plan.get("output") or job.path)]
    return [str(step.get("cwd") or "/"), job.path]


def _existing(path: str) -> str:
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
