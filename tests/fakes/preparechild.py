"""A process of the train environment that runs the prepare step again and again, the network cut off.

Its imports are most of the time a test of the step takes, so one child serves a whole file.
"""

import json
import os
import subprocess
import threading
from pathlib import Path

_AGENT = Path(__file__).resolve().parents[2] / "agent"
ANSWER_TIMEOUT_S = 120

_CHILD = r"""
import json, os, socket, sys, traceback
answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
sys.path.insert(0, sys.argv[1])
from moai_worker.errors import StepError
from moai_worker.steps import prepare
prepare._NICE = -20  # a loaded machine would starve the tests

class Report:
    def __init__(self): self.seen = []
    def _take(self, *a, **k): self.seen.append((a, k))
    def phase(self, name, text="", **d): self.seen.append(["phase", name])
    def progress(self, done, total, unit, rate=None, eta_seconds=None, force=False, **d):
        self.seen.append(["progress", done, total, unit, rate, eta_seconds])
    def message(self, text, level="info", code="", **d): self.seen.append(["message", code, text])
    def artifact(self, kind, path, **d): self.seen.append(["artifact", kind, path])

def cut(*a, **k): raise AssertionError("the step asked the network")
socket.socket.connect = cut

def run(**inputs):
    report = Report()
    try:
        result = prepare.run(inputs, report)
    except StepError as error:
        return {"error": error.as_dict(), "seen": report.seen}
    return {"result": result, "seen": report.seen}

def arrow(folder):
    import datasets
    loaded = datasets.load_from_disk(folder)
    return {name: {c: list(part[:][c]) for c in part.column_names} for name, part in loaded.items()}

for line in sys.stdin:
    asked = json.loads(line)
    scope = dict(asked["values"], run=run, arrow=arrow, prepare=prepare)
    try:
        exec(asked["code"], scope)
    except Exception:
        scope["answer"] = {"raised": traceback.format_exc()}
    answers.write(json.dumps(scope["answer"]) + "\n")
    answers.flush()
"""


class Child:
    def __init__(self, python, log):
        self._log = log
        with open(str(log), "wb") as stderr:
            self.process = subprocess.Popen(
                [python, "-c", _CHILD, str(_AGENT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                universal_newlines=True,
                encoding="utf-8",
                env=dict(os.environ, PYTHONUTF8="1"),
            )

    def ask(self, code, **values):
        """Run ``code`` in the child and return what it left in ``answer``."""
        self.send(code, **values)
        return self.answer()

    def send(self, code, **values):
        self.process.stdin.write(json.dumps({"code": code, "values": values}) + "\n")
        self.process.stdin.flush()

    def answer(self):
        stop = threading.Timer(ANSWER_TIMEOUT_S, self.process.kill)
        stop.start()
        try:
            line = self.process.stdout.readline()
        finally:
            stop.cancel()
        assert line, self._log.read_text(errors="replace")[-3000:]
        answer = json.loads(line)
        assert not (isinstance(answer, dict) and "raised" in answer), answer["raised"]
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait(ANSWER_TIMEOUT_S)
        self.process.stdout.close()
