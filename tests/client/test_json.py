"""What ``--json`` prints, run for real against the agent on this machine, against the schemas that ship.

Every line is checked three ways: it is JSON as RFC 8259 has it (no NaN), it fits its schema, and its
fields stand in the schema's order.
"""

import base64
import json
import os
import random
import shutil
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import moai
import pytest
from fakes import tinymodel, wheels
from fakes.hub import HubServer
from moai._cli.follow import _at_a_character, log_line

SCHEMAS = Path(moai.__file__).parent / "schemas"
ENDS = ("SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED", "UNKNOWN")
#: A host that refuses every connection: nothing listens on port 1 of the loopback.
NOWHERE = "nobody@127.0.0.1:1"


# -- reading ---------------------------------------------------------------------------------------


def load(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def no_constant(text):
    raise AssertionError(f"{text} is not JSON")


def parse(line):
    """One line of strict JSON."""
    return json.loads(line.decode("utf-8"), parse_constant=no_constant)


def check(value, name):
    """Raises unless the value fits the schema, fields in order; returns it."""
    schema = load(name)
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)
    ordered(value, schema, schema)
    return value


def ordered(value, node, root):
    """Asserts that the fields of every object whose fields are all ours stand as in the schema."""
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    for part in [*node.get("anyOf", []), *node.get("oneOf", [])]:
        if jsonschema.Draft202012Validator({**part, "$defs": root.get("$defs", {})}).is_valid(value):
            ordered(value, part, root)
    if isinstance(value, dict):
        known = node.get("properties", {})
        if node.get("additionalProperties") is False:
            assert list(value) == [name for name in known if name in value]
        for name, inner in value.items():
            more = node.get("additionalProperties")
            part = known.get(name, more if isinstance(more, dict) else None)
            if part is not None:
                ordered(inner, part, root)
    elif isinstance(value, list) and isinstance(node.get("items"), dict):
        for inner in value:
            ordered(inner, node["items"], root)


def document(done, name, code=0):
    """The one document a command printed."""
    assert done.returncode == code, (done.returncode, done.stderr.decode())
    assert done.stdout.endswith(b"\n") and done.stdout.count(b"\n") == 1, done.stdout
    return check(parse(done.stdout), name)


def failure(done, reason, code):
    """The one error a command printed: JSON on standard output, words on standard error."""
    error = document(done, "error-1", code)
    assert error["reason"] == reason
    said = done.stderr.decode()
    assert f"error: {error['message']} [{error['reason']}]" in said.splitlines()
    assert error["next"] in said and "Traceback" not in said
    return error


def stream(done, code=0):
    """(events, bytes of the log) of a followed job, after checking everything that is promised of a stream."""
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr.decode())
    assert done.stdout.endswith(b"\n")
    return judged(done.stdout[:-1].split(b"\n"))


def judged(lines):
    values = [check(parse(line), "events-1") for line in lines]
    events = [value for value in values if value["type"] != "log"]
    pieces = [value for value in values if value["type"] == "log"]
    assert len({(value["host"], value["job"]) for value in values}) == 1
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert values[-1]["type"] == "state" and values[-1]["data"]["state"] in ENDS
    assert [e for e in events[:-1] if e["type"] == "state" and e["data"]["state"] in ENDS] == []
    log = b""
    for piece in pieces:
        assert "sequence" not in piece and piece["offset"] == len(log)
        data = bytes_of(piece)
        assert data
        log += data
    return events, log


def bytes_of(piece):
    data = piece["data"]
    if data["base64"] is None:
        return data["text"].encode("utf-8")
    raw = base64.b64decode(data["base64"], validate=True)
    assert raw.decode("utf-8", "replace") == data["text"]
    return raw


def end_of(events):
    return events[-1]["data"]


def run(local, *words, program=None, code=0, **more):
    """Run a Python program as a job; (events, log)."""
    words = words or (sys.executable, "-c", program)
    return stream(local.moai("remote", "run", "--on", "local", "--json", "--", *words, **more), code)


@contextmanager
def following(local, *words):
    """A command that follows a job; killed when the block fails, or when it is still there after a minute."""
    with local.start(*words) as follower:
        watchdog = threading.Timer(60.0, follower.kill)
        watchdog.start()
        try:
            yield follower
            follower.wait()
        finally:
            watchdog.cancel()
            follower.kill()


def started(local, *words):
    """Id of a job that runs."""
    job = local.moai("remote", "run", "--on", "local", "--detach", *words).stdout.decode().strip()
    with following(local, "remote", "attach", job, "--json") as follower:
        for line in follower.stdout:
            if parse(line)["data"].get("state") == "RUNNING" and parse(line)["type"] == "state":
                follower.kill()
                return job
    raise AssertionError(f"{job} never ran")


def submitted(local, *words):
    """Id of a job that was started and has ended."""
    job = local.moai("remote", "run", "--on", "local", "--detach", "--", *words).stdout.decode().strip()
    local.moai("remote", "wait", job)
    return job


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add_model(
            "org/name", {"config.json": b"{}", "model.safetensors": b"x" * 100_000, "pytorch_model.bin": b"y" * 10}
        )
        yield server


# -- the schemas themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda p: p.stem)
def test_a_schema_is_valid_and_strict(path):
    schema = load(path.stem)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:moai:schema:{path.stem}"

    def walk(node):
        if isinstance(node, dict):
            if "properties" in node:
                assert "additionalProperties" in node and "required" in node
                if node["additionalProperties"] is not False:
                    opened.append(node["description"].partition(".")[0])
            for inner in node.values():
                walk(inner)
        elif isinstance(node, list):
            for inner in node:
                walk(inner)

    opened = []
    walk(schema)
    # What a job's own reports, and the steps, may add to.
    assert set(opened) <= {
        "A step", "A step entered a phase", "How far the step is", "Numbers measured at a training step",
        "A sentence for people", "Something was produced",
    }  # fmt: skip


# -- following a job -------------------------------------------------------------------------------


def test_a_stream_of_a_job_that_succeeds(local):
    text = "héllo 한글 🙂\nno end"
    events, log = run(local, "printf", "%s", text)
    assert log == text.encode()
    assert end_of(events) == {"state": "SUCCEEDED", "exit_code": 0, "reason": None}
    assert [e["data"]["state"] for e in events if e["type"] == "state"] == ["STARTING", "RUNNING", "SUCCEEDED"]
    steps = [e["data"] for e in events if e["type"] == "step"]
    assert [step["state"] for step in steps] == ["RUNNING", "SUCCEEDED"]
    assert steps[0]["pid"] > 0 and steps[0]["pid_start_ticks"] > 0 and steps[1]["pid"] is None


def test_a_stream_of_a_job_that_fails_says_so_without_an_error_line(local):
    events, log = run(local, "sh", "-c", "printf out; printf err >&2; exit 42", code=3)
    assert log == b"outerr"
    assert end_of(events)["state"] == "FAILED" and end_of(events)["exit_code"] == 42
    assert end_of(events)["reason"]["code"] == "COMMAND_FAILED"


def test_a_stream_of_a_program_that_does_not_exist(local):
    events, log = run(local, "/nowhere/program", code=3)
    assert log == b"" and end_of(events)["exit_code"] == 127
    assert end_of(events)["reason"]["code"] == "COMMAND_NOT_FOUND" and end_of(events)["reason"]["next"]


def test_a_stream_of_a_job_that_a_signal_ends(local):
    events, _ = run(local, "sh", "-c", "kill -TERM $$", code=3)
    assert end_of(events)["exit_code"] == 128 + 15 and end_of(events)["reason"]["code"] == "COMMAND_KILLED"


def test_bytes_that_are_not_utf8_come_as_base64(local):
    written = b"ok\n\xff\xfe broken \xed\xa0\x80 end \xe2\x82"
    events, log = run(local, program=f"import os; os.write(1, {written!r})")
    assert log == written and end_of(events)["state"] == "SUCCEEDED"


def test_random_bytes_pass_whole_through_stream_and_logs(local):
    program = "import random, sys; sys.stdout.buffer.write(random.Random(7).randbytes(1_300_000))"
    written = random.Random(7).randbytes(1_300_000)
    events, log = run(local, program=program)
    assert log == written
    job = events[0]["job"]
    assert local.moai("remote", "logs", job).stdout == written
    assert local.moai("remote", "logs", job, "--follow").stdout == written
    assert local.moai("remote", "logs", job, "--offset", "-1000").stdout == written[-1000:]
    assert local.moai("remote", "logs", job, "--offset", "1299990").stdout == written[-10:]


def test_a_character_that_is_written_in_two_parts_is_printed_whole(local, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # Opening the pipe blocks until the other side opens it, so the two writes are two pieces of the log.
    program = f"import os; os.write(1, b'A\\xed\\x95'); open({str(gate)!r}).read(); os.write(1, b'\\x9c\\xe2\\x82')"
    lines = []
    with following(local, "remote", "run", "--on", "local", "--json", "--", sys.executable, "-c", program) as follower:
        for line in follower.stdout:
            lines.append(line.rstrip(b"\n"))
            if parse(line)["type"] == "log" and parse(line)["offset"] == 0:
                gate.write_bytes(b"")
    assert follower.returncode == 0
    _, log = judged(lines)
    assert log == b"A\xed\x95\x9c\xe2\x82"
    pieces = [piece["data"] for piece in map(parse, lines) if piece["type"] == "log"]
    assert pieces[:2] == [{"text": "A", "base64": None}, {"text": "한", "base64": None}]
    assert pieces[2] == {"text": "\ufffd", "base64": base64.b64encode(b"\xe2\x82").decode()}


@pytest.mark.parametrize("written", ["aé한🙂z".encode(), b"\xff\xed\x95\x9ca\x80\xf0\x9f\xe2\x82\xff\xf5"], ids=["utf8", "broken"])
def test_a_log_cut_anywhere_gives_the_same_bytes(written):
    for first in range(len(written) + 1):
        for second in range(first, len(written) + 1):
            parts = [written[:first], written[first:second], written[second:]]
            lines, rest, at = [], None, 0
            for part in filter(None, parts):
                whole, rest = _at_a_character(moai.LogChunk("h", "j", at, part), rest)
                at += len(part)
                lines += [log_line(whole)] if whole.data else []
            lines += [log_line(rest)] if rest is not None else []
            assert b"".join(bytes_of(check(line, "events-1")) for line in lines) == written
            ends = [line["offset"] + len(bytes_of(line)) for line in lines]
            assert [line["offset"] for line in lines] == [0, *ends[:-1]]
            if written.decode("utf-8", "ignore").encode() == written:
                assert all(line["data"]["base64"] is None for line in lines)


REPORTS = """
import json, os
# Reports of a program may overtake its own RUNNING, which begins a step anew.
while '"RUNNING"' not in open(os.environ["MOAI_REPORTS"]).read():
    pass
print("{'loss': 2.0, 'learning_rate': 1e-05, 'epoch': 0.1}")
print("[Step 1/4] Loss: 1.5")
with open(os.environ["MOAI_REPORTS"], "a") as out:
    for type, data in (
        ("phase", {"phase": "mine", "rows": 3}),
        ("progress", {"done": 1, "total": 4, "unit": "bottles"}),
        ("progress", {}),
        ("metric", {"step": 2, "values": {"loss": 1.25, "text": "no number"}}),
        ("metric", {}),
        ("message", {"text": "hello", "level": "warning", "next": "do"}),
        ("artifact", {"kind": "text", "path": "/there", "size_bytes": 1}),
    ):
        out.write(json.dumps({"type": type, "data": data}) + "\\n")
    out.write("not a report\\n")
"""


def test_every_type_of_event_fits_its_schema(local):
    done = local.moai("remote", "train", "--on", "local", "--json", "--", sys.executable, "-c", REPORTS)
    events, log = stream(done)
    kinds = {node["properties"]["type"]["const"] for name, node in load("events-1")["$defs"].items() if "event_" in name}
    assert {event["type"] for event in events} == kinds
    assert log.startswith(b"{'loss': 2.0")
    metrics = [event["data"] for event in events if event["type"] == "metric"]
    assert {"step": 2, "total": None, "values": {"loss": 1.25}} in metrics
    assert any(data["values"].get("loss") == 1.5 and data["total"] == 4 for data in metrics)
    gap = next(event["data"] for event in events if event["type"] == "gap")
    assert gap["source"] == "reports" and gap["end_offset"] - gap["start_offset"] == len("not a report\n")
    shown = document(local.moai("remote", "show", events[0]["job"], "--json", "--events"), "job-1")
    assert shown["events"] == events and shown["kind"] == "train" and shown["metrics"]["loss"] in (1.25, 1.5)
    assert shown["losses"] and all(isinstance(step, int) for step, _ in shown["losses"])
    assert shown["progress"] is not None


def test_attach_prints_the_same_stream_again_and_goes_on_after_a_sequence(local):
    events, log = run(local, "printf", "abc")
    job = events[0]["job"]
    assert stream(local.moai("remote", "attach", job, "--json")) == (events, log)
    rest = local.moai("remote", "attach", job, "--json", "--after", "2").stdout.splitlines()
    again = [check(parse(line), "events-1") for line in rest]
    assert [value for value in again if value["type"] != "log"] == events[2:]
    failure(local.moai("remote", "attach", job, "--json", "--after", "99"), "SEQUENCE_OUT_OF_RANGE", 1)


def test_a_download_is_a_stream_and_its_plan_a_document(local, hub):
    words = ("remote", "download", "org/name", "--on", "local", "--json")
    plan = document(local.moai(*words, "--dry-run", HF_ENDPOINT=hub.endpoint), "download-plan-1")
    assert plan["size_bytes"] == 100_002 and plan["file_count"] == 2 and list(plan["left_out"]) == ["pytorch_model.bin"]
    assert plan["missing_bytes"] == 100_002 and not any(file["here"] for file in plan["files"]) and plan["token_source"] is None
    events, _ = stream(local.moai(*words, HF_ENDPOINT=hub.endpoint))
    assert {"phase", "progress", "artifact"} <= {event["type"] for event in events}
    result = next(e["data"]["result"] for e in events if e["type"] == "step" and e["data"]["state"] == "SUCCEEDED")
    assert result["bytes"] == 100_002 and result["commit"] == plan["commit"]
    again = document(local.moai(*words, "--dry-run", HF_ENDPOINT=hub.endpoint), "download-plan-1")
    assert again["missing_bytes"] == again["needed_bytes"] == 0 and all(file["here"] for file in again["files"])
    failure(
        local.moai("remote", "download", "org/no", "--on", "local", "--json", "--dry-run", HF_ENDPOINT=hub.endpoint),
        "REPO_NOT_FOUND",
        1,
    )


def test_a_download_waits_for_access_when_told_to_and_says_where_to_accept(local, hub):
    hub.add_model("org/gated", {"config.json": b"{}"}, gated=True)
    hub.tokens["hf_someone"] = []
    env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_someone"}
    words = ("remote", "download", "org/gated", "--on", "local", "--detach", "--json")
    job = document(local.moai(*words, "--wait-for-access", "--max-duration", "2h", "--streams", "3", **env), "job-1")
    handle = moai.job(job["job"])
    waiting = next(e for e in handle.events() if e.type == "phase" and e.data["phase"] == "waiting")
    assert hub.endpoint + "/org/gated" in waiting.data["text"] and waiting.data["limit_seconds"] == 7200
    assert handle.spec_and_plan()[1]["steps"][0]["inputs"]["streams"] == 3
    handle.cancel()
    assert handle.wait(timeout=30, check=False).state == "CANCELLED"
    refused = document(local.moai(*words, **env), "job-1")
    assert moai.job(refused["job"]).wait(timeout=30, check=False).reason.code == "ACCESS_GATED"


# -- documents about jobs --------------------------------------------------------------------------


def test_a_job_in_every_document_that_shows_it(local):
    events, _ = run(local, "sh", "-c", "exit 5", code=3)
    job = events[0]["job"]
    listed = document(local.moai("remote", "jobs", "--on", "local", "--json"), "jobs-1")
    assert listed["errors"] == []
    one = listed["jobs"][0]
    assert one["job"] == job and one["exit_code"] == 5 and one["steps"] == [{"name": "command", "state": "FAILED"}]
    assert one["end_time"] >= one["start_time"] >= one["create_time"]
    shown = document(local.moai("remote", "show", job, "--json", "--events"), "job-1")
    assert shown["events"] == events
    assert {key: shown[key] for key in one} == one
    assert "events" not in document(local.moai("remote", "show", job, "--json"), "job-1")
    waited = document(local.moai("remote", "wait", job, "--json"), "job-1", 3)
    assert {key: waited[key] for key in one} == one and list(waited) == ["schema", *one]
    own = document(local.moai("remote", "wait", job, "--json", "--exit-code", "job"), "job-1", 5)
    assert own == waited


def test_a_resumed_job_names_its_parent(local):
    first = submitted(local, "true")
    plan = document(local.moai("remote", "resume", first, "--dry-run", "--json"), "resume-plan-1")
    assert plan["changes"] == plan["fixed"] == [] and "started again" in plan["text"]
    failure(local.moai("remote", "resume", first, "--json", "--set", "a=1"), "UNSUPPORTED", 1)
    again = document(local.moai("remote", "again", first, "--detach", "--json"), "job-1")
    assert again["parent"] is None and again["job"] != first
    events, _ = stream(local.moai("remote", "resume", first, "--json"))
    assert document(local.moai("remote", "show", events[0]["job"], "--json"), "job-1")["parent"] == first
    assert document(local.moai("remote", "show", first, "--json"), "job-1")["parent"] is None


def test_a_running_job_and_its_cancelling(local):
    job = started(local, "--name", "한글", "--", "sleep", "600")
    failure(local.moai("remote", "wait", job, "--json", "--timeout", "0s"), "TIMED_OUT", 124)
    running = document(local.moai("remote", "show", job, "--json"), "job-1")
    assert (running["state"], running["name"], running["exit_code"], running["end_time"]) == ("RUNNING", "한글", None, None)
    ended = document(local.moai("remote", "cancel", job, "--json"), "job-1")
    assert ended["state"] == "CANCELLED" and ended["reason"]["code"] == "CANCELLED"
    assert document(local.moai("remote", "wait", job, "--json"), "job-1", 7)["state"] == "CANCELLED"
    events, _ = stream(local.moai("remote", "attach", job, "--json"), 7)
    assert "STOPPING" in [event["data"]["state"] for event in events if event["type"] == "state"]
    assert document(local.moai("remote", "cancel", job, "--json"), "job-1") == ended


def test_a_queued_job_shows_its_condition(local):
    first = started(local, "--accelerator", "a", "--", "sleep", "600")
    second = local.moai("remote", "run", "--on", "local", "-d", "--accelerator", "a", "--", "true").stdout.decode().strip()
    lines, seen = [], False
    with following(local, "remote", "attach", second, "--json") as follower:
        for line in follower.stdout:
            lines.append(line.rstrip(b"\n"))
            value = parse(line)
            if value["type"] == "state" and value["data"]["state"] == "QUEUED":
                seen = True
                assert value["data"]["reason"]["code"] == "WAITING_FOR_DEVICE" and value["data"]["exit_code"] is None
                listed = document(local.moai("remote", "jobs", "--on", "local", "--json", "--running"), "jobs-1")
                queued = next(job for job in listed["jobs"] if job["job"] == second)
                assert queued["conditions"][0]["type"] == "WAITING_FOR_DEVICE" and first in queued["conditions"][0]["message"]
                assert queued["start_time"] is None and queued["state"] == "QUEUED"
                local.moai("remote", "cancel", first)
    assert seen and follower.returncode == 0
    judged(lines)


@pytest.mark.slow
def test_the_answers_of_a_model(local, tmp_path):
    python = tinymodel.train_python()
    if python is None:
        pytest.skip("no train environment: set MOAI_TRAIN_PYTHON or make .venv-train")
    model = tinymodel.build(tmp_path / "model", python, vocab_size=600, hidden=32, max_length=128)
    words = ("remote", "generate", str(model), "--on", "local", "--env", python, "--max-new-tokens", "2", "--json")
    answered = document(local.moai(*words, "--prompt", "안녕", "--prompt", "two"), "generated-1")
    assert [answer["prompt"] for answer in answered["answers"]] == ["안녕", "two"]
    assert [answer["base_text"] for answer in answered["answers"]] == [None, None]
    shutil.rmtree(model)
    failure(local.moai(*words, "--prompt", "x"), "MODEL_INVALID", 3)


# -- documents about hosts -------------------------------------------------------------------------


def test_devices(local):
    devices = document(local.moai("remote", "devices", "--on", "local", "--json"), "devices-1")["hosts"]
    assert [host["host"] for host in devices] == ["local"] and devices[0]["error"] is None and devices[0]["devices"]


def test_devices_of_a_moai_container_and_their_changes(box):
    def ask(*words):
        return box.moai("remote", *words, "--json")

    [host] = document(ask("devices"), "devices-1")["hosts"]
    assert host["provider"] == "moreh-smi" and host["platform_version"] and host["devices"][0]["flavor"]
    before = document(ask("device", "flavors"), "flavors-1")["flavors"]
    [current] = [flavor["name"] for flavor in before if flavor["is_current"]]
    assert current == host["devices"][0]["flavor"] and current.lower() != "small"
    switched = document(ask("device", "switch", "xlarge", "--yes"), "flavor-1")
    assert switched["previous"] == current and switched["flavor"].lower().startswith("xlarge")
    again = document(ask("device", "switch", switched["flavor"], "--yes"), "flavor-1")
    assert again["flavor"] == again["previous"] == switched["flavor"]
    assert document(ask("device", "reset"), "reset-1")["released"] is False
    number = str(host["devices"][0]["id"])
    assert document(ask("device", "select", number), "devices-1")["hosts"][0]["devices"][0]["is_default"]
    failure(ask("device", "switch", "huge", "--yes"), "FLAVOR_NOT_FOUND", 1)
    failure(ask("device", "switch", "large"), "USAGE", 2)
    failure(ask("device", "select", "99"), "DEVICE_NOT_FOUND", 1)
    box.kit.set_running(os.getpid(), "python train.py", 1000)
    [busy] = document(ask("devices"), "devices-1")["hosts"]
    assert busy["devices"][0]["processes"][0]["pid"] == os.getpid()
    failure(ask("device", "reset"), "DEVICE_IN_USE", 1)


def test_environments(local):
    [host] = document(local.moai("remote", "env", "list", "--on", "local", "--json"), "environments-1")["hosts"]
    assert host["error"] is None and all(Path(one["python"]).is_absolute() for one in host["environments"])


def test_one_environment_and_what_an_installation_would_change(local, tmp_path):
    wheels.build(tmp_path / "index", "tinypkg", "2.0")
    here = ("--on", "local", "--json")
    one = document(local.moai("remote", "env", "show", sys.prefix, *here), "environment-1")
    assert one["host"] == "local" and one["prefix"] == sys.prefix and one["reason"]
    failure(local.moai("remote", "env", "show", "nowhere", *here), "ENVIRONMENT_NOT_FOUND", 2)
    words = ("remote", "env", "install", "tinypkg", "--env", sys.prefix, "--dry-run", *here)
    given = ("--setenv", "PIP_NO_INDEX=1", "--setenv", f"PIP_FIND_LINKS={tmp_path / 'index'}")
    plan = document(local.moai(*words, *given), "install-plan-1")
    assert plan["changes"] == [{"name": "tinypkg", "action": "install", "before": None, "after": "2.0"}]
    failure(local.moai(*words, "nothing-of-that-name", *given), "INSTALL_FAILED", 3)


def test_checks(local, hub):
    words = ("remote", "check", "--on", "local", "--json", "--env", sys.prefix, "--model", "org/name")
    done = local.moai(*words, HF_ENDPOINT=hub.endpoint)
    [host] = document(done, "check-1", done.returncode)["hosts"]
    assert done.returncode == (1 if any(c["verdict"] == "failed" for c in host["checks"]) else 0)
    names = [
        "ssh", "host key", "agent", "clock", "login", "locale", "proxy", "sshd", "home", "work folder", "disk", "inodes", "mounts",
        "device", "environment", "torch", "local packages", "packages", "accelerator", "token", "licence", "hub",
    ]  # fmt: skip
    assert [one["name"] for one in host["checks"]] == names and host["fixes"] == []
    verdicts = {one["name"]: one["verdict"] for one in host["checks"]}
    assert verdicts["ssh"] == "skipped" and verdicts["agent"] == verdicts["environment"] == verdicts["hub"] == "ok"


def test_checks_after_a_fix(local, hub):
    words = ("remote", "check", "--on", "local", "--json", "--fix", "--yes", "--env", sys.prefix)
    done = local.moai(*words, HF_ENDPOINT=hub.endpoint)
    [host] = document(done, "check-1", done.returncode)["hosts"]
    assert [(one["fix"], one["done"]) for one in host["fixes"]] == [("make-work-folder", True), ("remember-environment", True)]
    assert all(one["fix"] is None for one in host["checks"])
    failure(local.moai(*words[:-3], "--env", sys.base_prefix, HF_ENDPOINT=hub.endpoint), "USAGE", 2)


def test_a_report(local):
    job = submitted(local, "echo", "hello")
    made = document(local.moai("remote", "report", job, "--json", "-o", "x.tar.gz"), "report-1")
    assert made["path"] == str(local.folder / "work" / "x.tar.gz") and made["size_bytes"] == os.path.getsize(made["path"])
    assert {"README.txt", "log.txt", "events.jsonl", "agent.log"} <= set(made["files"]) and made["missing"] == []
    failure(local.moai("remote", "report", job, "--json", "-o", "x.tar.gz"), "USAGE", 2)


def test_hosts_and_everything_that_asks_several(local):
    assert document(local.moai("remote", "list", "--json"), "hosts-1")["hosts"] == []
    local.moai("remote", "add", "here", "local", "--no-check")
    local.moai("remote", "add", "away", NOWHERE, "--no-check", "--group", "g", "--env", "pytorch", "--work", "/data")
    here, away = document(local.moai("remote", "list", "--json"), "hosts-1")["hosts"]
    assert here["default"] and here["environment"] is None and here["work"] is None and not here["linked"]
    assert (away["environment"], away["work"], away["groups"], away["default"]) == ("pytorch", "/data", ["g"], False)
    job = submitted(local, "true")

    devices = document(local.moai("remote", "devices", "--on", "all", "--json"), "devices-1", 4)["hosts"]
    assert devices[0]["error"] is None and devices[1]["error"]["reason"] == "HOST_UNREACHABLE"
    assert devices[1]["provider"] is None and devices[1]["devices"] == []
    found = document(local.moai("remote", "env", "list", "--on", "away,here", "--json"), "environments-1", 4)["hosts"]
    assert [host["host"] for host in found] == ["away", "here"] and found[0]["error"]["reason"] == "HOST_UNREACHABLE"
    jobs = document(local.moai("remote", "jobs", "--json"), "jobs-1", 4)
    assert [one["job"] for one in jobs["jobs"]] == [job] and [one["host"] for one in jobs["errors"]] == ["away"]
    checked = document(local.moai("remote", "check", "--on", "@g", "--json"), "check-1", 4)["hosts"]
    assert [(c["name"], c["verdict"]) for c in checked[0]["checks"]] == [("ssh", "failed")]
    first = document(local.moai("remote", "--json"), "digest-1", 4)
    assert first["since"] is None and [one["job"] for one in first["ended"]] == [job] and len(first["errors"]) == 1


def test_a_plan(local):
    words = ("remote", "train", "--on", "local", "--dry-run", "--json", "--env", sys.prefix)
    done = local.moai(*words, "--model", "org/model", "--dataset", "org/data", "--set", "warmup_steps=3", "--batch-size", "4")
    plan = document(done, "plan-1")
    assert plan["values"]["batch_size"] == {"value": 4, "source": "--batch-size"}
    assert plan["values"]["warmup_steps"] == {"value": 3, "source": "--set"}
    assert plan["values"]["seed" if "seed" in plan["values"] else "epochs"] == {"value": None, "source": "default"}
    assert [step["name"] for step in plan["steps"]] == ["download", "download-dataset", "prepare", "train", "verify"]


def test_files_there_and_back(local):
    work = local.folder / "work"
    (work / "set").mkdir()
    for name in ("a.txt", "b 한글.txt"):
        (work / "set" / name).write_text(name)
    pushed = document(local.moai("remote", "push", "set", "--on", "local", "--json"), "push-1")
    assert pushed["files"] == 2 and Path(pushed["path"], "a.txt").read_text() == "a.txt"
    assert document(local.moai("remote", "push", "set", "--on", "local", "--json"), "push-1")["files"] == 0
    pulled = document(local.moai("remote", "pull", pushed["path"], "back", "--on", "local", "--json"), "pull-1")
    assert pulled["files"] == 2 and Path(pulled["path"]) == work / "back" / "set"
    assert document(local.moai("remote", "pull", "~/set/a.txt", "back", "--on", "local", "--json"), "pull-1")["files"] == 1


def test_versions(local):
    assert document(local.moai("version", "--json"), "version-1")["moai"] == moai.__version__


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason", "code"),
    [
        (("show", "nosuch", "--on", "local"), "JOB_NOT_FOUND", 1),
        (("wait", "nosuch"), "JOB_NOT_FOUND", 1),
        (("attach", "last", "--on", "local"), "JOB_NOT_FOUND", 1),
        (("show", "--nonsense"), "USAGE", 2),
        (("nosuchverb",), "USAGE", 2),
        (("run",), "USAGE", 2),
        (("jobs",), "USAGE", 2),
        (("jobs", "--limit", "0"), "USAGE", 2),
        (("attach", "last", "--exit-code", "mine"), "USAGE", 2),
        (("devices", "--on", "@none"), "HOST_UNKNOWN", 2),
        (("push", "/nowhere", "--on", "local"), "FILE_NOT_HERE", 2),
        (("pull", "/nowhere", "--on", "local"), "FILE_NOT_FOUND", 1),
        (("train", "--on", "local", "--model", "a/b"), "USAGE", 2),
        (("train", "--on", "local", "--dry-run", "--model", "a/b", "--dataset", "c/d", "--env", "/no"), "ENVIRONMENT_NOT_FOUND", 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_failure_is_one_object_and_words_beside_it(local, words, reason, code):
    failure(local.moai("remote", *words, "--json"), reason, code)


def test_a_host_that_is_away_is_a_failure_of_the_one_asked(local):
    done = local.moai("remote", "run", "--on", NOWHERE, "--json", "--", "true")
    failure(done, "HOST_UNREACHABLE", 4)


def test_a_secret_that_nobody_can_give_needs_a_person(local):
    done = local.moai("remote", "run", "--on", "local", "--json", "--secret", "NOT_SET_ANYWHERE", "--", "true")
    failure(done, "SECRET_NEEDED", 9)


def test_json_behind_the_command_is_the_commands_own(local):
    done = local.moai("remote", "run", "--on", "local", "--nonsense", "--", "echo", "--json")
    assert done.returncode == 2 and done.stdout == b"" and b"--nonsense" in done.stderr


# -- known defects: each mark goes away with its cause ---------------------------------------------


def test_a_number_that_is_not_finite_is_null(local):
    program = """import os; open(os.environ["MOAI_REPORTS"], "a").write('''
{"type": "metric", "data": {"step": 1, "values": {"loss": NaN, "grad_norm": Infinity, "epoch": 0.5}}}
{"type": "progress", "data": {"done": 1, "rate": NaN, "unit": "rows", "mine": -Infinity}}
''')"""
    events, _ = run(local, program=program)
    metric = next(event["data"] for event in events if event["type"] == "metric")
    assert metric["values"] == {"loss": None, "grad_norm": None, "epoch": 0.5}
    shown = document(local.moai("remote", "show", events[0]["job"], "--json"), "job-1")
    assert shown["metrics"]["loss"] is None and shown["losses"] == [[1, None]] and shown["progress"]["rate"] is None


def test_a_detached_job_is_a_document(local):
    done = local.moai("remote", "run", "--on", "local", "--json", "--detach", "--", "true")
    assert document(done, "job-1")["state"] in ("QUEUED", "STARTING", "RUNNING", "SUCCEEDED")


def test_the_digest_without_hosts_is_a_document(local):
    empty = document(local.moai("remote", "--json"), "digest-1")
    assert empty["running"] == empty["ended"] == empty["errors"] == []


def test_the_digest_says_since_when(local):
    local.moai("remote", "add", "here", "local", "--no-check")
    local.moai("remote", "--json")
    assert document(local.moai("remote", "--json"), "digest-1")["since"]


def test_json_is_utf8_in_every_locale(local):
    _, log = run(local, "printf", "한글", PYTHONIOENCODING="ascii")
    assert log == "한글".encode()


def test_attach_after_the_last_event_ends(local):
    events, _ = run(local, "true")
    after = str(events[-1]["sequence"])
    done = local.moai("remote", "attach", events[0]["job"], "--json", "--after", after, timeout=10.0)
    assert done.returncode == 0 and done.stdout == b""


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "state", "data": {"state": "SUCCEEDED"}}',
        '{"type": "state", "data": {"state": "NO STATE"}}',
        '{"type": "state", "data": {}}',
        '{"type": "step", "data": {"name": "command", "state": "FAILED", "exit_code": 1e12}}',
        '{"type": "metric", "data": {"step": 1e30, "values": {"loss": 1}}}',
        '{"type": "metric", "data": {"step": "one", "values": {"loss": 1}}}',
        '{"type": "phase", "data": {"phase": "\\ud800"}}',
        '{"type": "progress", "t": 1e300, "data": {"done": 1}}',
    ],
)
def test_no_report_of_a_job_ends_it_or_breaks_a_reader(local, tmp_path, line):
    # Two gates: a reader that opens one again may meet the writer that has not closed it yet.
    begin, end = tmp_path / "begin", tmp_path / "end"
    os.mkfifo(begin)
    os.mkfifo(end)
    script = 'read go < "$2"; echo "$1" >> "$MOAI_REPORTS"; read go < "$3"; exit 9'
    words = ("remote", "run", "--on", "local", "--json", "--", "sh", "-c", script, "sh", line, str(begin), str(end))
    lines, asked = [], False
    with following(local, *words) as follower:
        for got in follower.stdout:
            lines.append(got.rstrip(b"\n"))
            value = parse(got)
            if value.get("type") == "state" and value["data"]["state"] == "RUNNING":
                begin.write_text("go\n")
            if not asked and value.get("type") in ("gap", "metric", "phase", "progress"):
                asked = True
                document(local.moai("remote", "jobs", "--on", "local", "--json"), "jobs-1")
                document(local.moai("remote", "show", "last", "--json"), "job-1")
                end.write_text("go\n")
    assert asked and follower.returncode == 3
    events, _ = judged(lines)
    assert end_of(events)["state"] == "FAILED" and end_of(events)["exit_code"] == 9
