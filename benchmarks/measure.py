"""Timing of whole commands side by side, and the table they end in."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Row:
    """One line of docs/performance.md. ``ours`` and ``theirs`` as shown; ``ratio`` the bare number or
    None; ``met`` whether the aim holds."""

    what: str
    against: str
    ours: str
    theirs: str
    ratio: float | None
    aim: str
    met: bool

    def line(self) -> str:
        """As Markdown."""
        ratio = f"{self.ratio:.2f}x" if self.ratio is not None else "-"
        return f"| {self.what} | {self.against} | {self.ours} | {self.theirs} | {ratio} | {self.aim} | {'yes' if self.met else '**no**'} |"


HEADER = "| what | against | ours | theirs | ratio | aim | met |\n|---|---|---|---|---|---|---|"


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    start_s = time.perf_counter()
    action()
    return time.perf_counter() - start_s


def side_by_side(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int, before: Callable[[], object] | None = None
) -> tuple[float, float]:
    """Medians of both, run alternately so that a noisy minute hits both; ``before`` is not timed."""
    mine, other = [], []
    for _ in range(rounds):
        if before is not None:
            before()
        mine.append(timed(ours))
        other.append(timed(theirs))
    return statistics.median(mine), statistics.median(other)


def run(argv: list[str], env: dict[str, str] | None = None, **more: object) -> None:
    """A command that must succeed; its output is read and dropped."""
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{argv[:6]} ended with {done.returncode}: {done.stderr[-800:]!r}")


def ms(seconds: float) -> str:
    """``231 ms``."""
    return f"{seconds * 1000:.0f} ms"


def rate(bytes_: float, seconds: float) -> str:
    """``123 MB/s``."""
    return f"{bytes_ / seconds / 1e6:.0f} MB/s"
