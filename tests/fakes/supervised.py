"""A job folder with a real supervisor process and no agent: what the supervisor does by itself.

The supervisor runs as the agent would start it (``-I -S``, its private input on descriptor 3). Runs on
Python 3.8 too.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

MAIN = Path(__file__).resolve().parents[2] / "agent" / "main.py"
_DEADLINE_S = 30.0


class Supervised:
    """One job.

    Args:
        folder: empty; the state folder is made in it. steps: plan, each with ``name`` and ``argv`` or a
        ``script`` for this Python. spec: more of spec.json. private: ``env``, ``secrets``, ``webhook``.
    """

    def __init__(
        self, folder: Path, steps: List[Dict[str, Any]], private: Optional[Dict[str, Any]] = None, output: str = "", **spec: Any
    ) -> None:
        # Processes are found by host and job: two tests at once must not share them.
        host = folder / "hosts" / ("h" + os.urandom(6).hex())
        self.folder = host / "jobs" / "calm-fox-0001"
        (self.folder / "control").mkdir(parents=True)
        (host / "run" / "queue").mkdir(parents=True)
        self.work = folder / "work"
        self.work.mkdir()
        for number, step in enumerate(steps):
            if "script" in step:
                path = folder / ("step%d.py" % number)
                path.write_text(step.pop("script"))
                step["argv"] = [sys.executable, "-u", str(path)]
            step.setdefault("cwd", str(self.work))
        self._write("spec.json", dict(spec, id=self.folder.name))
        self._write("plan.json", {"steps": steps, "output": output})
        env = dict({"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(folder)}, **(private or {}).pop("env", {}))
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(MAIN), "moai_worker.supervisor", str(self.folder)],
            preexec_fn=lambda: os.dup2(read, 3), pass_fds=(3, read),
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        os.close(read)
        with os.fdopen(write, "wb") as out:
            out.write(json.dumps(dict(private or {}, env=env)).encode())

    def _write(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(json.dumps(value))

    def control(self, name: str, value: Any) -> None:
        """Leave a request, as the agent does: whole or not at all."""
        temp = self.folder / "control" / ".new"
        temp.write_text(json.dumps(value))
        os.replace(str(temp), str(self.folder / "control" / (name + ".json")))

    def reports(self, type: str = "") -> List[Dict[str, Any]]:
        """``data`` of the report lines of a type, with the type under ``type`` when all are asked."""
        found = []
        path = self.folder / "reports.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            value = json.loads(line)
            if not type:
                found.append(dict(value["data"], type=value["type"]))
            elif value["type"] == type:
                found.append(value["data"])
        return found

    def codes(self) -> List[str]:
        """Codes of the messages, in order."""
        return [data["code"] for data in self.reports("message")]

    def message(self, code: str) -> Dict[str, Any]:
        """The only message of that code."""
        found = [data for data in self.reports("message") if data["code"] == code]
        assert len(found) == 1, (code, self.reports("message"))
        return found[0]

    def log(self) -> str:
        """The log so far."""
        return (self.folder / "log").read_text()

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Poll with a deadline."""
        end_s = time.monotonic() + _DEADLINE_S
        while time.monotonic() < end_s:
            value = condition()
            if value:
                return value
            assert self.process.poll() is None or condition(), "%s did not come: %s" % (what, self.reports())
            time.sleep(0.02)
        raise AssertionError("%s did not come within %g s: %s" % (what, _DEADLINE_S, self.reports()))

    def end(self) -> Dict[str, Any]:
        """exit.json, once the supervisor has left."""
        _, errors = self.process.communicate(timeout=_DEADLINE_S)
        assert self.process.returncode == 0, errors.decode()
        return json.loads((self.folder / "exit.json").read_text())

    def kill(self) -> None:
        """End what is left."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.process.stderr is not None:
            self.process.stderr.close()
