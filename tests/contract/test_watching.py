"""Retries, watchers, notices and signals from the laptop's words to the container's deeds."""

import http.server
import json
import os
import signal
import threading
from pathlib import Path

import moai
import pytest
from fakes import box as boxes
from fakes.sshd import wait_until

STEPS = "for n in range(1, 5): print('[Step %d/9] | Loss: %s' % (n, 'nan' if n > 2 else 1.5), flush=True)\n"


@pytest.fixture
def host(local):
    with moai.connect("local") as one:
        yield one


@pytest.fixture
def heard():
    """What was posted, and the address to post to."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield got, f"http://127.0.0.1:{server.server_port}/T0/S3CRET-hook"
    server.shutdown()
    server.server_close()
    thread.join(10)


def messages(job):
    return [event.data for event in job.events() if event.type == "message"]


def files_with(folder: Path, word: bytes):
    return [str(p) for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and word in p.read_bytes()]


def test_the_end_is_told_by_command_and_post_and_the_address_is_kept_nowhere(host, local, heard, tmp_path):
    got, address = heard
    options = moai.JobOptions(
        request_id="told-once-0001", name="night", webhook=address, variables={"WHERE": str(tmp_path)},
        on_finish='echo "$MOAI_EVENT $MOAI_JOB_STATE $MOAI_JOB_ID" > "$WHERE/told"; exit 3',
    )  # fmt: skip
    assert "S3CRET" not in repr(options)
    job = host.run(["sh", "-c", "exit 5"], options)
    assert host.run(["sh", "-c", "exit 5"], options).id == job.id, "the address is part of the request, and no secret of it"
    info = job.wait(60, check=False)
    assert (info.state, info.exit_code) == ("FAILED", 5)
    assert (tmp_path / "told").read_text() == f"failure FAILED {job.id}\n"
    (body,) = got
    assert (body["job"], body["name"], body["event"], body["reason"]["code"]) == (job.id, "night", "failure", "COMMAND_FAILED")
    (warning,) = [m for m in messages(job) if m["code"] == "NOTIFY_FAILED"]
    assert warning["level"] == "warning" and "exit code 3" in warning["text"]
    assert list(job.events())[-1].is_last
    assert job.spec_and_plan()[0]["webhook"] is True
    assert files_with(local.moai_home, b"S3CRET") == []
    again = job.resume()
    again.wait(60, check=False)
    assert any("give it again with --webhook" in m["text"] for m in messages(again))
    assert len(got) == 1 and again.spec_and_plan()[0]["on_finish"] == options.on_finish
    job.again(options=moai.JobOptions(webhook=address)).wait(60, check=False)
    assert len(got) == 2 and files_with(local.moai_home, b"S3CRET") == []


def test_a_watcher_ends_a_script_when_asked_and_is_told_once(local):
    words = ["remote", "train", "--on", "local", "--stop-on", "nan", "--accelerator", "w", "--json", "--", "python3", "-c"]
    done = local.moai(*words, STEPS + "import time; time.sleep(600)")
    assert done.returncode == 3, done.stderr.decode()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    said = [e["data"] for e in events if e["type"] == "message" and e["data"]["code"] == "NAN_LOSS"]
    assert len(said) == 1 and said[0]["step"] == 3 and said[0]["advice"]
    assert events[-1]["data"]["reason"]["code"] == "WATCHER_STOPPED"


def test_a_retry_is_announced_and_a_cancel_ends_the_wait(host):
    job = host.run(["sh", "-c", "kill -9 $$"], moai.JobOptions(retries=3))
    wait_until(lambda: [kind for kind, _ in job.refresh().conditions] == ["RETRYING"], "the retry to be announced")
    assert job.info.state == "RUNNING" and "retry 1 of 3" in job.info.conditions[0][1]
    job.cancel()
    assert job.wait(60, check=False).state == "CANCELLED"
    (said,) = [m for m in messages(job) if m["code"] == "RETRYING"]
    assert (said["retry"], said["retries"], said["reason"], said["wait_seconds"]) == (1, 3, "COMMAND_KILLED", 10)


@pytest.mark.faults
def test_retries_need_no_agent(host, local, tmp_path):
    script = f"echo x >> {tmp_path}/starts; test $(wc -l < {tmp_path}/starts) -gt 1 || kill -9 $$"
    job = host.run(["sh", "-c", script], moai.JobOptions(retries=1))
    wait_until(lambda: job.refresh().conditions != (), "the retry to be announced")
    host.close()
    for pid, argv in boxes.processes_of(local.moai_home).items():
        if any("moai_agent" in word for word in argv):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: list(local.moai_home.glob(f"hosts/*/jobs/{job.id}/exit.json")), "its end", 40)
    with moai.connect("local") as again:
        assert again.job(job.id).wait(60).state == "SUCCEEDED"
    assert (tmp_path / "starts").read_text() == "x\nx\n"


def test_a_command_cannot_be_told_anything_and_says_why(host, local):
    job = host.run(["sleep", "600"])
    wait_until(lambda: job.refresh().pid > 0, "the command to run")
    for name in ("evaluate", "checkpoint", "stop"):
        with pytest.raises(moai.AgentError) as caught:
            job.signal(name)
        assert caught.value.reason == "UNSUPPORTED" and "command of its own" in caught.value.message
    done = local.moai("remote", "signal", job.id, "log-interval=5")
    assert done.returncode == 1 and b"UNSUPPORTED" in done.stderr
    job.cancel()
    job.wait(60, check=False)
    with pytest.raises(moai.Conflict) as caught:
        job.signal("log-interval", 5)
    assert caught.value.reason == "JOB_FINISHED"


_SAVER = """
import signal, sys
asked = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: asked.append(number))
print("ready", flush=True)
while signal.SIGTERM not in asked:
    signal.pause()
    print("got", [signal.Signals(one).name for one in asked], flush=True)
"""


def test_a_command_takes_the_signals_it_declared(host, local):
    words = ("--on", "local", "--on-checkpoint", "SIGUSR1", "--on-stop", "SIGTERM", "--setup", "true", "--detach")
    job = host.job(local.moai("remote", "run", *words, "--", "python3", "-c", _SAVER).stdout.decode().strip())
    wait_until(lambda: b"ready" in local.moai("remote", "logs", job.id).stdout, "the command to be ready")
    with pytest.raises(moai.AgentError) as caught:
        job.signal("evaluate")
    assert caught.value.reason == "UNSUPPORTED"
    for what, got in (("checkpoint", b"got ['SIGUSR1']"), ("checkpoint", b"got ['SIGUSR1', 'SIGUSR1']"), ("stop", b"'SIGTERM']")):
        assert local.moai("remote", what, job.id).returncode == 0
        wait_until(lambda line=got: line in local.moai("remote", "logs", job.id).stdout, what)
    assert job.wait(60).state == "SUCCEEDED"
    told = [m["signal"] for m in messages(job) if m["code"] == "SIGNAL_SENT"]
    assert told == ["SIGUSR1", "SIGUSR1", "SIGTERM"]
    assert b"got ['SIGUSR1', 'SIGUSR1', 'SIGTERM']" in local.moai("remote", "logs", job.id).stdout
    shown = local.moai("remote", "show", job.id, "--toml").stdout.decode()
    assert 'on_checkpoint = "SIGUSR1"' in shown and 'on_stop = "SIGTERM"' in shown
    again = job.again(options=moai.JobOptions())
    assert again.spec_and_plan()[0]["signals"] == {"checkpoint": "SIGUSR1", "stop": "SIGTERM"}
    again.cancel()


def test_one_declared_signal_is_not_another(host, local):
    job = host.run(["sleep", "600"], moai.JobOptions(on_stop="SIGINT"))
    wait_until(lambda: job.refresh().pid > 0, "the command to run")
    with pytest.raises(moai.AgentError) as caught:
        job.signal("checkpoint")
    assert caught.value.reason == "UNSUPPORTED" and "--on-checkpoint SIGNAL" in caught.value.next
    job.signal("stop")
    info = job.wait(60, check=False)
    assert info.state == "FAILED" and "SIGINT" in info.reason.message


def test_moai_toml_and_save_keep_declared_signals(local):
    done = local.moai("remote", "run", "--on", "local", "--on-stop", "SIGTERM", "--save", "--detach", "--", "true")
    assert done.returncode == 0, done.stderr
    assert 'on_stop = "SIGTERM"' in (local.folder / "work" / "moai.toml").read_text()
    job = moai.job(local.moai("remote", "run", "--on", "local", "--detach", "--", "true").stdout.decode().strip(), on="local")
    assert job.spec_and_plan()[0]["signals"] == {"stop": "SIGTERM"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--on", "local", "--on-stop", "SIGKILL", "--", "true"], b"SIGKILL cannot be caught"),
        (["run", "--on", "local", "--on-checkpoint", "USR1", "--", "true"], b"USR1 is no signal"),
        (["train", "--on", "local", "--on-stop", "SIGINT", "--model", "a/b", "--dataset", "c/d"], b"only a command takes them"),
        (["signal", "last", "dance"], b"no signal"),
        (["signal", "last", "log-interval"], b"no signal"),
        (["signal", "last", "stop=3"], b"no signal"),
        (["signal", "last", "log-interval=x"], b"no number of steps"),
        (["run", "--on", "local", "--stop-on", "nan,heat", "--", "true"], b"no watcher heat"),
        (["run", "--on", "local", "--webhook", "ftp://S3CRET", "--", "true"], b"no http:// or https:// address"),
        (["run", "--on", "local", "--webhook", "http://a:S3CRET/", "--", "true"], b"webhook cannot be used"),
    ],
)
def test_mistakes_are_named_before_anything_runs(local, words, said):
    done = local.moai("remote", *words)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert b"S3CRET" not in done.stderr + done.stdout


def test_moai_toml_gives_retries_watchers_and_the_command_at_the_end(local, host, tmp_path):
    (local.folder / "work" / "moai.toml").write_text('retries = 2\nstop_on = ["stall", "disk"]\non_finish = "true"\n')
    done = local.moai("remote", "run", "--on", "local", "--retries", "0", "--json", "--detach", "--", "true")
    assert done.returncode == 0, done.stderr
    job = moai.job(json.loads(done.stdout)["job"], on="local")
    job.wait(60)
    spec = job.spec_and_plan()[0]
    assert (spec["retries"], spec["stop_on"], spec["on_finish"], spec["webhook"]) == (0, ["disk", "stall"], "true", False)
