"""One process of the train environment that runs steps for tests, one after the other.

Importing torch and transformers takes seconds, so a test file shares a child. A step can be held
after a training step, to send it a request or to kill it there: no test depends on timing. The
network is cut off in the child.
"""

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional

_AGENT = Path(__file__).resolve().parents[2] / "agent"
_ANSWER_TIMEOUT_S = 120

_CHILD = r"""
import importlib, json, os, socket, sys
answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
sys.path.insert(0, sys.argv[1])
from moai_worker.errors import StepError
from moai_worker.reporter import Reporter

def cut(*a, **k): raise AssertionError("the step asked the network")
socket.socket.connect = cut

def say(value):
    answers.write(json.dumps(value) + "\n")
    answers.flush()

class Held(Reporter):
    hold_at = None
    def metric(self, step, values, **data):
        Reporter.metric(self, step, values, **data)
        if self.hold_at is not None and step == self.hold_at:
            self.hold_at = None
            say({"held": step})
            sys.stdin.readline()

while True:
    line = sys.stdin.readline()
    if not line:
        break
    asked = json.loads(line)
    if "code" in asked:
        scope = dict(asked["values"])
        exec(asked["code"], scope)
        say({"answer": scope.get("answer")})
        continue
    report = Held(asked["report"], asked["step"])
    report.hold_at = asked["hold_at"]
    try:
        step = importlib.import_module("moai_worker.steps." + asked["step"])
        say({"result": step.run(asked["inputs"], report)})
    except StepError as error:
        say({"error": error.as_dict()})
    report.close()
"""


class StepChild:
    """A child process.

    Args:
        python: interpreter of the train environment.
        folder: its log and the reports of its steps go here.
    """

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = folder
        self.report = folder / "reports.jsonl"
        self._log = folder / "child.log"
        with open(str(self._log), "wb") as stderr:
            self.process = subprocess.Popen(
                [python, "-c", _CHILD, str(_AGENT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                universal_newlines=True,
                encoding="utf-8",
                env=dict(os.environ, PYTHONUTF8="1"),
            )

    def run(self, step: str, inputs: Dict[str, Any], hold_at: Optional[int] = None) -> Dict[str, Any]:
        """Run a step: ``{"result"}``, ``{"error"}``, or ``{"held"}`` when it waits after ``hold_at``.

        Reports of earlier runs are forgotten.
        """
        if self.report.exists():
            self.report.unlink()
        return self._ask({"step": step, "inputs": inputs, "report": str(self.report), "hold_at": hold_at})

    def go_on(self) -> Dict[str, Any]:
        """Let a held step go on; its outcome."""
        return self._ask({})

    def code(self, code: str, **values: Any) -> Any:
        """Execute ``code`` with ``values`` as its names; returns what it left in ``answer``."""
        return self._ask({"code": code, "values": values})["answer"]

    def reports(self, kind: str = "") -> List[Dict[str, Any]]:
        """``data`` of the last step's reports, all or of one type."""
        lines = [json.loads(line) for line in self.report.read_text(encoding="utf-8").splitlines()]
        return [line["data"] for line in lines if not kind or line["type"] == kind]

    def log(self) -> str:
        """What the child printed."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, as the kernel or a crash would end it."""
        self.process.kill()
        self._reap()

    def close(self) -> None:
        """Let it end by itself."""
        self.process.stdin.close()
        self._reap()

    def _reap(self) -> None:
        self.process.wait(_ANSWER_TIMEOUT_S)
        for stream in (self.process.stdin, self.process.stdout):
            if not stream.closed:
                stream.close()

    def _ask(self, what: Dict[str, Any]) -> Dict[str, Any]:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        stop = threading.Timer(_ANSWER_TIMEOUT_S, self.process.kill)
        stop.start()
        try:
            line = self.process.stdout.readline()
        finally:
            stop.cancel()
        assert line, self.log()[-3000:]
        return json.loads(line)
