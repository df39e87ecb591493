"""Append typed reports to a job's ``reports.jsonl``.

Used by the supervisor and by our own steps; a user's program may write the same lines to the file
named by ``MOAI_REPORTS``. Every line is one ``write`` to a file opened with ``O_APPEND``, so lines
of several writers never mix on a local disk (POSIX write(2), O_APPEND). The agent reads the file
and turns each line into one event of the journal; nothing here waits for a reader.

Line format (UTF-8 JSON, one object a line, at most 64 KiB): ``{"t": wall seconds, "step": name or
"", "type": TYPE, "data": {...}}``. TYPE is one of ``state step phase progress metric message
artifact``; ``state`` and ``step`` lines count only when the supervisor wrote them.
"""

import json
import os
import time
from typing import Any, Dict, Optional

#: Lines longer than this are refused by the reader (see moai_worker.records).
MAX_LINE_BYTES = 64 * 1024


class Reporter:
    """Writes report lines; safe from several threads and processes at once.

    Args:
        path: the job's ``reports.jsonl``. Created with mode 0600 if missing.
        step: name of the step that reports, put on every line.
        min_interval_s: ``progress`` calls closer together than this are merged (the last one of a
            burst that is never followed by another is lost, so finish with ``force=True``).

    Raises OSError when the file cannot be opened or written (disk full, folder gone).
    """

    def __init__(self, path: str, step: str = "", min_interval_s: float = 0.2) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._step = step
        self._min_interval_s = min_interval_s
        self._last_progress = 0.0

    def close(self) -> None:
        """Close the file; later calls raise OSError."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The descriptor written to."""
        return self._fd

    def write(self, type: str, data: Dict[str, Any], step: Optional[str] = None) -> None:
        """Append one report. Strings longer than 4096 characters are cut so a line stays small."""
        line = {
            "t": round(time.time(), 6),
            "step": self._step if step is None else step,
            "type": type,
            "data": {k: _short(v) for k, v in data.items()},
        }
        raw = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=True)
        os.write(self._fd, raw.encode("utf-8", "replace") + b"\n")

    def phase(self, name: str, text: str = "", **data: Any) -> None:
        """Enter a phase, for example ``loading`` or ``training``; ``text`` is for people."""
        self.write("phase", dict(data, phase=name, text=text))

    def progress(
        self,
        done: float,
        total: Optional[float],
        unit: str,
        rate: Optional[float] = None,
        eta_seconds: Optional[float] = None,
        force: bool = False,
        **data: Any
    ) -> None:
        """Say how far the step is.

        Args:
            done, total: in ``unit``; total is None while unknown.
            unit: ``bytes``, ``rows``, ``steps`` or ``files``.
            rate: units per second of wall clock; None if unknown.
            eta_seconds: seconds left; None if unknown.
            force: write even if the last line is younger than ``min_interval_s``.
        """
        now = time.monotonic()
        if not force and now - self._last_progress < self._min_interval_s:
            return
        self._last_progress = now
        self.write(
            "progress",
            dict(data, done=done, total=total, unit=unit, rate=rate, eta_seconds=eta_seconds),
        )

    def metric(self, step: Optional[int], values: Dict[str, Any], **data: Any) -> None:
        """Report named numbers (``loss``, ``learning_rate``, ``tokens_per_second`` ...) at a
        training step (1-based; None when the numbers belong to no step)."""
        self.write("metric", dict(data, step=step, values=values))

    def message(self, text: str, level: str = "info", code: str = "", **data: Any) -> None:
        """A sentence for the user; level is ``info``, ``warning`` or ``error``."""
        self.write("message", dict(data, text=text, level=level, code=code))

    def artifact(self, kind: str, path: str, **data: Any) -> None:
        """Something was produced at ``path`` (absolute, on the container). Kinds: ``model``,
        ``dataset``, ``checkpoint``, ``adapter``, ``text``, ``output``."""
        self.write("artifact", dict(data, kind=kind, path=path))


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 4096:
        return value[:4096] + "..."
    return value
