"""What a relay passes on of the agent, and that it loads next to nothing to do so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from moai_worker import jobdir, relay

WORKER = Path(relay.__file__).resolve().parents[1]
FACTS = {"boot": "0a", "digest": "d", "incarnation": "i", "pid": 4711, "protocol_max": 2, "version": 'a "pid": 9'}


def test_the_pid_is_found_as_we_write_it_and_however_else_it_is_written(tmp_path):
    jobdir.write_json(str(tmp_path / "agent.json"), FACTS)
    assert relay._pid_in((tmp_path / "agent.json").read_text()) == 4711
    assert relay._pid_in(json.dumps(FACTS)) == 4711
    assert relay._pid_in(json.dumps({"a": {"pid": 1}, "pid": 2}, indent=1, sort_keys=True)) == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": null}', '{"pid": 12', "null", '{"pid": []}', '{"pid": 1e999}', '{\n "pid": ²\n}'])
def test_what_holds_no_pid_is_nobodys(text):
    assert relay._pid_in(text) == 0


@pytest.mark.parametrize("text", ["plain-0a1b", 'a "quoted" \\ path', "/홈/moai", "line\nbreak", "\udcff", ""])
def test_a_quoted_string_is_json(text):
    assert json.loads(relay._quoted(text)) == text


def test_a_relay_loads_none_of_what_takes_long():
    heavy = ("json", "re", "enum", "socket", "typing", "hashlib", "signal", "selectors")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import moai_worker.relay; print(*sorted(set(sys.modules) & set(sys.argv[2:])))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(WORKER), *heavy], stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout.decode().split() == []
