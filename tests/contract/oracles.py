"""What must hold after any fault, named once: EV, LOG, EXIT, ONE (see docs/reliability.md)."""

import hashlib
import json
from pathlib import Path
from typing import Any

TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED", "UNKNOWN")


def read_events(path: Path) -> list[dict[str, Any]]:
    """Events as the listener kept them."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_ev(events: list[dict[str, Any]]) -> None:
    """EV: 1..N, no gap, no repeat; the terminal event is the last and the only one."""
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    ends = [e for e in events if e["type"] == "state" and e["data"]["state"] in TERMINAL]
    assert ends == events[-1:], ends


def check_log(delivered: bytes, produced_sha256: str) -> None:
    """LOG: the delivered bytes are the producer's."""
    assert hashlib.sha256(delivered).hexdigest() == produced_sha256


def check_exit(events: list[dict[str, Any]], state: str, code: Any) -> None:
    """EXIT: how it ended, as the producer ended."""
    assert (events[-1]["data"]["state"], events[-1]["data"]["exit_code"]) == (state, code)


def check_one(folder: Path, events: list[dict[str, Any]]) -> None:
    """ONE: the workload was started once, and the process is the same throughout."""
    spawned = (folder / "spawned").read_text().split()
    assert len(spawned) == 1, spawned
    started = [e["data"] for e in events if e["type"] == "step" and e["data"]["state"] == "RUNNING"]
    assert len(started) == 1
    assert str(started[0]["pid"]) == spawned[0]


def metrics_of(events: list[dict[str, Any]]) -> list[int]:
    """Training steps of the metric events, in order; the supervisor's own figures, one a minute, have none."""
    return [e["data"]["step"] for e in events if e["type"] == "metric" and e["data"]["step"] is not None]
