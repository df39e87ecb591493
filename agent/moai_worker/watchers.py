"""What goes wrong in a training without ending it: five watchers, each a small state machine.

Pure: fed with numbers and times, they return findings; nobody here reads a file or ends a job. Each finding
comes once an occurrence: it is armed again only after the value was well again (hysteresis). Used by
``moai_worker.watching``; standard library only. The limits are in ``Limits`` and in docs/jobs.md.
"""

import collections
import math
from typing import Any, Deque, Dict, Iterable, List, NamedTuple, Optional

NAN, SPIKE, STALL, DISK, MEMORY = "nan", "spike", "stall", "disk", "memory"
#: Words of ``--stop-on`` and the code of the event each stands for.
CODES = {NAN: "NAN_LOSS", SPIKE: "LOSS_SPIKE", STALL: "STALLED", DISK: "DISK_LOW", MEMORY: "MEMORY_HIGH"}


class Finding(NamedTuple):
    """``kind`` as in CODES; ``text`` what is seen, with the numbers; ``advice`` what to do."""

    kind: str
    text: str
    advice: str
    data: Dict[str, Any]


class Limits:
    """When a watcher speaks. ``given`` overrides by name (the job's ``spec.json``, key ``watch``; tests).

    Attributes:
        look_every_s: between looks at reports and log. spike_window: losses compared with. spike_least: losses needed before anything is judged.
        spike_mads: a spike is above median + so many MADs. spike_floor: the MAD counts as at least this
        share of the median. stall_factor, stall_least_s: no step for so many median step times and so
        many seconds. stall_steps: step times needed. disk_share, disk_bytes: of the two the smaller, for
        commands. disk_every_s, memory_every_s: between looks. memory_share: of the limit. memory_own_share: of what is used, that the job must hold. save_grace_s:
        seconds a recipe has for a last checkpoint. retry_first_s, retry_longest_s: waits between tries.
        finish_s: seconds of the command at the end. webhook_s, webhook_pause_s: a try, and between tries.
    """

    def __init__(self, given: Optional[Dict[str, Any]] = None) -> None:
        self.look_every_s = 1.0
        self.spike_window = 50
        self.spike_least = 20
        self.spike_mads = 6.0
        self.spike_floor = 0.02
        self.stall_factor = 10.0
        self.stall_least_s = 60.0
        self.stall_steps = 3
        self.disk_share = 0.02
        self.disk_bytes = 5e9
        self.disk_every_s = 10.0
        self.memory_every_s = 5.0
        self.memory_share = 0.9
        self.memory_own_share = 0.25
        self.save_grace_s = 120.0
        self.retry_first_s = 10.0
        self.retry_longest_s = 300.0
        self.finish_s = 60.0
        self.webhook_s = 10.0
        self.webhook_pause_s = 1.0
        for name, value in (given or {}).items():
            if hasattr(self, name) and isinstance(value, (int, float)):
                setattr(self, name, value)


def median(values: Iterable[float]) -> float:
    """Of at least one value. (The standard library's brings decimal and fractions along: 15 ms at each start.)"""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2.0


class LossWatch:
    """NaN, infinity, and spikes of the training loss."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._losses: Deque[float] = collections.deque(maxlen=int(limits.spike_window))
        self._bad = False
        self._good_in_a_row = 0
        self._high = False

    def feed(self, step: Optional[int], loss: float) -> List[Finding]:
        """One loss as reported or printed."""
        where = "" if step is None else " at step %d" % step
        if not math.isfinite(loss):
            self._good_in_a_row = 0
            if self._bad:
                return []
            self._bad = True
            advice = "lower the learning rate, add warm-up, or look at the rows of this step; the weights may be spoilt"
            return [Finding(NAN, "the loss is %s%s" % (loss, where), advice, {"step": step, "loss": str(loss)})]
        self._good_in_a_row += 1
        if self._good_in_a_row >= 10:
            self._bad = False
        return self._spike(where, step, loss)

    def _spike(self, where: str, step: Optional[int], loss: float) -> List[Finding]:
        limits, found = self._limits, []
        if len(self._losses) >= limits.spike_least:
            middle = median(self._losses)
            spread = median(abs(value - middle) for value in self._losses)
            spread = max(spread, limits.spike_floor * abs(middle), 1e-12)
            edge = middle + limits.spike_mads * spread
            if loss > edge and not self._high:
                self._high = True
                text = "the loss jumped to %.4g%s; the last %d have a median of %.4g and none was expected above %.4g" % (
                    loss, where, len(self._losses), middle, edge,
                )  # fmt: skip
                advice = "one spike often heals; when it stays, go back to a checkpoint with a lower learning rate"
                found.append(Finding(SPIKE, text, advice, {"step": step, "loss": loss, "median": middle, "limit": edge}))
            elif loss <= middle + limits.spike_mads * spread / 2:
                self._high = False
        self._losses.append(loss)
        return found


class StallWatch:
    """No step for much longer than steps take. ``stalled`` while that is so."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._gaps: Deque[float] = collections.deque(maxlen=101)
        self._step: Optional[int] = None
        self._step_s: Optional[float] = None
        self._sign_s: Optional[float] = None
        self._paused = False
        self.stalled = False

    def step(self, number: Optional[int], now_s: float) -> bool:
        """A step line; one without a number, or with another one, counts. True when it ends a stall."""
        if number is not None and number == self._step:
            return self.sign(now_s)
        behind = number is not None and self._step is not None and number < self._step
        if self._step_s is not None and not self.stalled and not behind:
            steps = max(1, number - self._step) if number is not None and self._step is not None else 1
            # An evaluation or a checkpoint in between makes one gap long, which the median does not mind.
            self._gaps.extend([max(0.0, now_s - self._step_s) / steps] * min(steps, 10))
        self._step, self._step_s = number, now_s
        return self.sign(now_s)

    def sign(self, now_s: float) -> bool:
        """Some other sign of work. True when it ends a stall."""
        self._sign_s = now_s
        ended, self.stalled = self.stalled, False
        return ended

    def pause(self, paused: bool, now_s: float) -> None:
        """The recipe says that it evaluates, saves or loads: no step is expected."""
        if paused or self._paused:
            self._sign_s = now_s
        self._paused = paused

    def look(self, now_s: float) -> List[Finding]:
        """To be called every second or so."""
        limits = self._limits
        if self.stalled or self._paused or self._sign_s is None or len(self._gaps) < limits.stall_steps:
            return []
        usual = median(self._gaps)
        allowed = max(limits.stall_least_s, limits.stall_factor * usual)
        waited = now_s - self._sign_s
        if waited <= allowed:
            return []
        self.stalled = True
        last = "" if self._step is None else " since step %d" % self._step
        text = "no step for %.0f s%s; a step takes %.3g s (median of %d)" % (waited, last, usual, len(self._gaps))
        advice = "moai remote logs shows the last words; --stop-on stall with --retries starts such a run again"
        return [Finding(STALL, text, advice, {"step": self._step, "waited_seconds": round(waited, 1), "usual_seconds": usual})]


class LevelWatch:
    """A quantity that crosses a limit and comes back; the two have some room between them."""

    def __init__(self) -> None:
        self._over = False

    def crossed(self, is_over: bool, is_well: bool) -> bool:
        """True in the look that first finds it over; not again before it was well."""
        if is_over and not self._over:
            self._over = True
            return True
        if is_well:
            self._over = False
        return False


class DiskWatch:
    """Free space against the next checkpoint, or for a command against a floor."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._levels: Dict[str, LevelWatch] = {}

    def look(self, place: str, free: int, total: int, checkpoint: int) -> List[Finding]:
        """Args: place: folder. free, total: bytes of its file system. checkpoint: bytes of the next; 0 = not known."""
        needed = 1.05 * checkpoint if checkpoint else min(self._limits.disk_share * total, self._limits.disk_bytes)
        if not self._levels.setdefault(place, LevelWatch()).crossed(free < needed, free > 1.25 * needed):
            return []
        what = "the next checkpoint takes %.1f GB" % (checkpoint / 1e9) if checkpoint else "below %.1f GB writes soon fail" % (needed / 1e9)
        text = "%s has %.1f GB free; %s" % (place, free / 1e9, what)
        advice = "remove what is not needed there; fewer checkpoints are kept with --set keep_checkpoints=1"
        if not checkpoint:
            advice = "remove what is not needed there"
        return [Finding(DISK, text, advice, {"path": place, "free_bytes": free, "needed_bytes": int(needed)})]


class MemoryWatch:
    """Memory in use against the limit behind which the kernel kills."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._level = LevelWatch()

    def wants_family(self, limit: int, used: int) -> bool:
        """Whether the job's own share must be known (reading it costs more than the rest)."""
        return used >= self._limits.memory_share * limit

    def look(self, limit: int, used: int, family: int) -> List[Finding]:
        """Args: limit, used: bytes of the container. family: bytes resident in the job's processes."""
        share = self._limits.memory_share
        # A job that holds little of what is used is not to blame.
        over = used >= share * limit and family >= self._limits.memory_own_share * used
        if not self._level.crossed(over, used < 0.95 * share * limit):
            return []
        text = "%.1f of %.1f GB of memory are in use (%.0f %%), %.1f GB by this job; at the limit the kernel kills it" % (
            used / 1e9, limit / 1e9, 100.0 * used / limit, family / 1e9,
        )  # fmt: skip
        advice = "fewer data loader workers, or a smaller batch"
        return [Finding(MEMORY, text, advice, {"used_bytes": used, "limit_bytes": limit, "job_bytes": family})]
