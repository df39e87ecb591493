"""What a download tells about itself: phases, warnings, bytes that never go back, rate, time left.

Runs in a step's process on the container; called from the download's main thread.
"""

import time
from collections import deque
from typing import Any, Deque, Tuple

from .hub import Plan

#: Rate and remaining time are those of this many seconds.
_RATE_WINDOW_S = 10.0


class Progress:
    """Bytes and files done, never going back, with the rate of the last seconds."""

    def __init__(self, report: Any, plan: Plan) -> None:
        self._report, self._plan = report, plan
        self._shown_bytes = 0
        self._marks: Deque[Tuple[float, int]] = deque()

    def phase(self, name: str, text: str) -> None:
        """Enter a phase."""
        if self._report is not None:
            self._report.phase(name, text, repo_id=self._plan.repo_id)

    def warn(self, text: str) -> None:
        """Tell the user something that is not a failure."""
        if self._report is not None:
            self._report.message(text, level="warning")

    def show(self, done_bytes: int, fetched_bytes: int, files_done: int, force: bool = False) -> None:
        """Report; ``fetched_bytes`` (network) gives the rate, ``done_bytes`` (content) the state."""
        now_s = time.monotonic()
        self._marks.append((now_s, fetched_bytes))
        while len(self._marks) > 2 and now_s - self._marks[0][0] > _RATE_WINDOW_S:
            self._marks.popleft()
        span_s = now_s - self._marks[0][0]
        rate = (fetched_bytes - self._marks[0][1]) / span_s if span_s > 0.5 else None
        self._shown_bytes = max(self._shown_bytes, done_bytes)
        left_bytes = self._plan.total_bytes - self._shown_bytes
        if self._report is not None:
            self._report.progress(
                self._shown_bytes,
                self._plan.total_bytes,
                "bytes",
                rate,
                left_bytes / rate if rate else None,
                force=force,
                files_done=files_done,
                files_total=len(self._plan.files),
            )
