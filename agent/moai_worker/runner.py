"""Run one of our own steps inside the chosen Python and leave its result for the supervisor.

``main.py STEP MODULE JOBDIR``: reads the step's inputs from ``plan.json``, fills in results of
earlier steps, calls ``moai_worker.steps.MODULE.run`` and writes ``control/result-STEP.json``:
``{"ok", "skipped", "result", "error"}``. Exit code 0 only when ok; 1 for a ``StepError`` or a defect.

An input ``{"from": "download", "key": "path"}`` stands for that value of an earlier step's result.
"""

import importlib
import os
import sys
import traceback
from typing import Any, Dict, List

from moai_worker import launch
from moai_worker.errors import StepError
from moai_worker.jobdir import JobDir, read_json, write_json
from moai_worker.reporter import Reporter


def main(argv: List[str]) -> int:
    """See the module docstring."""
    name, module_name, folder = argv[:3]
    job = JobDir(folder)
    launch.separate_output(job.path)
    launch.began(job, name)
    plan = read_json(job.plan) or {}
    step = next(s for s in plan["steps"] if s["name"] == name)
    reporter = Reporter(job.reports, name)
    outcome: Dict[str, Any] = {"ok": False, "skipped": False, "result": {}, "error": None}
    try:
        inputs = _fill(step.get("inputs") or {}, job)
        module = importlib.import_module("moai_worker.steps." + module_name)
        result = module.run(inputs, reporter)
        outcome.update(ok=True, result=result, skipped=bool(result.get("reused")))
    except StepError as error:
        outcome["error"] = error.as_dict()
        print("moai: %s: %s" % (error.reason, error.message), file=sys.stderr, flush=True)
        if error.next:
            print("moai: next: %s" % error.next, file=sys.stderr, flush=True)
    except MemoryError:
        outcome["error"] = StepError("OUT_OF_MEMORY", "step %s ran out of memory" % name).as_dict()
        traceback.print_exc()
    except Exception as error:
        # An edge: a library's failure becomes the step's reason, its traceback goes to the log.
        traceback.print_exc()
        text = "%s: %s" % (type(error).__name__, str(error).strip() or "no message")
        code = "TRAINING_FAILED" if module_name == "train" else "INTERNAL"
        outcome["error"] = StepError(code, text[:1000], "see moai remote logs %s" % job.id).as_dict()
    _leave(job.control_file("result-" + name), outcome)
    reporter.close()
    sys.stdout.flush()
    sys.stderr.flush()
    if outcome["ok"]:
        return 0
    # Threads of a library (a data loader, a profiler) must not keep a failed step alive.
    os._exit(1)


def _leave(path: str, outcome: Dict[str, Any]) -> None:
    """Write the outcome. Of torchrun's processes the first here tells how it went; of failures the first stays: the
    others fail because of it."""
    if not launch.is_launched():
        write_json(path, outcome)
    elif not outcome["ok"]:
        if (read_json(path) or {"launching": True}).get("launching"):
            write_json(path, outcome)
    elif os.environ.get("LOCAL_RANK") == "0":
        write_json(path, outcome)


def _fill(value: Any, job: JobDir) -> Any:
    if isinstance(value, dict):
        if set(value) == {"from", "key"}:
            earlier = read_json(job.control_file("result-" + value["from"])) or {}
            result = earlier.get("result") or {}
            if value["key"] not in result:
                raise StepError("INTERNAL", "step %s left no %s" % (value["from"], value["key"]))
            return result[value["key"]]
        return {key: _fill(item, job) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, job) for item in value]
    return value
