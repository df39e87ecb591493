"""A failed command's reason says what its log says: code, numbers, advice."""

import json

from moai_agent.jobs import explain
from moai_agent.jobs.logparse import LogParser

OOM = """\
[Step 3/20] | Loss: 1.5 | Duration: 2.71 | Throughput: 48365.87 tokens/sec
Traceback (most recent call last):
  File "train.py", line 161, in main
RuntimeError: Error Code 4: OUT_OF_MEMORY

Moreh solution has detected that the application requires more memory than the capacity of a physical device.
>> Memory requested : 90112000000 bytes
>> Memory available : 68702699520 bytes
"""


def reason_of(code="COMMAND_FAILED", message="the command ended with exit code 1"):
    return {"code": code, "message": message, "next": "", "details": {}}


def fatal_of(text):
    parser = LogParser(None, None)
    parser.feed(text.encode(), 0)
    parser.finish()
    return parser.fatal


def test_out_of_memory_has_its_numbers_and_a_way_out():
    told = explain.refined(reason_of(), fatal_of(OOM), ["6xLarge.3072GB"])
    assert told["code"] == "DEVICE_OUT_OF_MEMORY"
    assert "exit code 1" in told["message"] and "needs 90.1 GB where 68.7 GB are" in told["message"]
    assert told["details"]["requested_bytes"] == "90112000000"
    assert told["next"] == "moai remote device switch 6xLarge.3072GB, or a smaller batch"
    assert "device switch" in explain.refined(reason_of(), fatal_of(OOM), [])["next"]
    json.dumps(told)


def test_an_ordinary_traceback_is_quoted_under_the_recorded_code():
    told = explain.refined(reason_of(), fatal_of("Traceback (most recent call last):\nValueError: no rows\n"), [])
    assert told["code"] == "COMMAND_FAILED" and told["message"].endswith("exit code 1: ValueError: no rows")


def test_what_the_log_does_not_say_is_not_invented():
    assert explain.refined(reason_of(), fatal_of("all is well\n"), []) == reason_of()
    assert explain.refined(None, fatal_of(OOM), []) is None
    for code in ("CANCELLED", "TIMED_OUT", "MODEL_INVALID", "CONTAINER_RESTARTED"):
        assert explain.refined(reason_of(code), fatal_of(OOM), []) == reason_of(code)
    survived = OOM + "[Step 4/20] | Loss: 1.4 | Duration: 2.71 | Throughput: 48365.87 tokens/sec\n"
    assert explain.refined(reason_of(), fatal_of(survived), []) == reason_of()
