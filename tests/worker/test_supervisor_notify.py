"""Telling of the end: a command on the container and a POST, by the supervisor alone."""

import http.server
import json
import os
import threading

import pytest
from fakes.sshd import wait_until
from fakes.supervised import Supervised
from moai_worker import notify
from moai_worker.evidence import Evidence
from moai_worker.jobdir import JobDir
from moai_worker.watchers import Limits

QUICK = {"look_every_s": 0.05, "stall_least_s": 0.5, "finish_s": 20, "webhook_pause_s": 0.05, "webhook_s": 5}
TELL = 'echo "$MOAI_EVENT $MOAI_JOB_STATE $MOAI_JOB_REASON $MOAI_JOB_ID" >> told; echo said'


@pytest.fixture
def job(tmp_path):
    made = []

    def make(script, name="command", private=None, watch=None, **more):
        step = {"name": name, "script": script}
        made.append(Supervised(tmp_path / str(len(made)), [step], private=private, watch=dict(QUICK, **(watch or {})), **more))
        return made[-1]

    yield make
    for one in made:
        one.kill()


class Listener:
    """An HTTP server that keeps what it was sent and answers with the codes it was given, the last for ever."""

    def __init__(self, codes):
        self.got, self.headers, left = [], [], list(codes)
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.got.append((self.path, json.loads(body.decode())))
                owner.headers.append(dict(self.headers))
                code = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *args):
                return

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.address = "http://127.0.0.1:%d/hook/S3CRET-path?token=S3CRET" % self.server.server_port
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(10)


@pytest.fixture
def listener():
    made = []

    def make(*codes):
        made.append(Listener(codes or (200,)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def told(one):
    path = one.work / "told"
    return path.read_text().splitlines() if path.exists() else []


def everything(one):
    """All bytes of the job folder."""
    return b"".join(path.read_bytes() for path in one.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("script", "state", "line"),
    [
        ("print('x')", "SUCCEEDED", "finish SUCCEEDED  calm-fox-0001"),
        ("raise SystemExit(3)", "FAILED", "failure FAILED COMMAND_FAILED calm-fox-0001"),
    ],
)
def test_the_command_is_told_how_the_job_ended(job, script, state, line):
    one = job(script, on_finish=TELL)
    assert one.end()["state"] == state
    assert told(one) == [line]
    event = line.split()[0]
    assert one.log().endswith("[moai] on-finish (%s): %s\n[moai] | said\n" % (event, TELL))
    assert not one.codes()


def test_a_command_that_fails_is_a_warning_and_changes_nothing(job):
    one = job("print('x', end='')", on_finish="echo Error: no; exit 7")
    end = one.end()
    assert (end["state"], end["exit_code"], end["reason"]) == ("SUCCEEDED", 0, None)
    assert "exit code 7" in one.message("NOTIFY_FAILED")["text"]
    assert one.log() == "x\n[moai] on-finish (finish): echo Error: no; exit 7\n[moai] | Error: no\n"


def test_a_command_without_end_is_ended_with_all_it_started(job):
    one = job("print('x')", on_finish="sleep 600 & echo $! > pid; sleep 600", watch={"finish_s": 0.5})
    assert one.end()["state"] == "SUCCEEDED"
    assert "longer than 0.5 s" in one.message("NOTIFY_FAILED")["text"]
    pid = (one.work / "pid").read_text().strip()
    state = "X"
    try:
        with open("/proc/%s/stat" % pid) as source:
            state = source.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        state = "X"
    assert state in "ZX"


def test_a_cancel_cuts_the_command_short_and_keeps_the_outcome(job):
    one = job("print('x')", on_finish="touch begun; sleep 600", watch={"finish_s": 600})
    one.until(lambda: (one.work / "begun").exists(), "the command")
    outcome = Evidence(JobDir(str(one.folder)))
    assert outcome.supervised and outcome.exit is None
    one.control("cancel", {"by": "mina"})
    assert one.end()["state"] == "SUCCEEDED"


def test_the_outcome_is_known_when_the_supervisor_is_killed_while_it_tells(job):
    one = job("raise SystemExit(3)", on_finish="touch begun; sleep 5", watch={"finish_s": 600})
    one.until(lambda: (one.work / "begun").exists(), "the command")
    one.process.kill()
    one.process.wait(20)
    verdict = Evidence(JobDir(str(one.folder))).verdict()
    assert (verdict["state"], verdict["exit_code"]) == ("FAILED", 3)


def test_much_output_is_cut(job):
    one = job("print('x')", on_finish="yes | head -c 500000")
    assert one.end()["state"] == "SUCCEEDED"
    assert len(one.log()) < 100000 and "more output was left out" in one.log()


def test_a_stall_is_told_while_the_job_runs(job, listener):
    heard = listener()
    script = """
import os, time
for number in range(1, 8):
    print("step %d/9 | loss 2" % number, flush=True); time.sleep(0.1)
end = time.monotonic() + 30
while not os.path.exists("told") and time.monotonic() < end: time.sleep(0.02)
"""
    one = job(script, name="train", private={"webhook": heard.address}, on_finish=TELL, webhook=True)
    assert one.end()["state"] == "SUCCEEDED"
    assert told(one)[0] == "stall RUNNING STALLED calm-fox-0001" and told(one)[-1].startswith("finish SUCCEEDED")
    assert [body["event"] for _, body in heard.got] == ["stall", "finish"]


def test_a_post_tells_what_happened_and_its_address_stays_in_memory(job, listener):
    heard = listener()
    one = job("raise SystemExit(3)", private={"webhook": heard.address}, webhook=True, name="command")
    assert one.end()["state"] == "FAILED"
    (path, body), = heard.got
    assert path == "/hook/S3CRET-path?token=S3CRET"
    assert body.pop("time").endswith("Z") and body.pop("host") and body["reason"].pop("message")
    assert body == {
        "schema": "moai.webhook/1", "job": "calm-fox-0001", "name": "", "event": "failure", "state": "FAILED",
        "reason": {"code": "COMMAND_FAILED", "next": ""},
    }  # fmt: skip
    assert b"S3CRET" not in everything(one)


def posted(tmp_path, address):
    """Warnings of a notifier that told of an end, without a supervisor around it."""
    warnings = []
    log = os.open(str(tmp_path / "log"), os.O_WRONLY | os.O_CREAT)
    private = {"webhook": address, "env": {"http_proxy": "http://127.0.0.1:9"}}
    told = notify.Notifier(JobDir(str(tmp_path)), {}, {}, private, Limits(QUICK), log, warnings.append)
    told.tell(notify.FINISH, "SUCCEEDED", None)
    wait_until(told.pump, "the posts")
    os.close(log)
    return warnings


def test_a_post_is_tried_three_times(listener, tmp_path):
    heard = listener(500, 503, 204)
    assert posted(tmp_path, heard.address) == []
    assert len(heard.got) == 3


@pytest.mark.parametrize("kind", ["refused", "500", "302", "nonsense"])
def test_a_post_that_fails_is_a_warning_without_the_address(listener, tmp_path, kind):
    heard = listener(int(kind) if kind.isdigit() else 200)
    address = {"refused": "http://127.0.0.1:9/S3CRET", "nonsense": "http://127.0.0.1:S3CRET/S3CRET"}.get(kind, heard.address)
    (warning,) = posted(tmp_path, address)
    assert "127.0.0.1" in warning and "S3CRET" not in warning
    assert len(heard.got) == (3 if kind.isdigit() else 0)
    assert all(path.startswith("/hook") for path, _ in heard.got), "a redirect is not followed"


def test_user_and_password_of_an_address_become_a_header(listener, tmp_path):
    heard = listener()
    assert posted(tmp_path, heard.address.replace("http://", "http://mina:s%40me@")) == []
    assert heard.headers[0]["Authorization"] == "Basic bWluYTpzQG1l"


def test_an_address_that_was_lost_is_said(job):
    one = job("print('x')", webhook=True)
    assert one.end()["state"] == "SUCCEEDED"
    assert "not known any more" in one.message("NOTIFY_FAILED")["text"]


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("https://hooks.example.com/T0/B0/x", True), ("http://127.0.0.1:8080", True), ("ftp://a/b", False), ("hooks.example.com", False),
        ("https://", False), ("https://a b/", False), ("https://a:x/", False), ("https://[::1", False), ("", False),
    ],
)  # fmt: skip
def test_an_address_is_checked_before_anything_runs(address, good):
    assert (notify.address_problem(address) == "") is good
