"""What is fuzzed: every reader of bytes that come from another machine or from a file a person edits.

A target is made once (it may write files into its folder) and called with a generator of random numbers; it makes an
input, gives it to the code, and raises when that did anything but answer or refuse by its documented error.
"""

import hashlib
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.container import build_home
from fuzz.mutations import spoil, spoil_json, spoil_value
from moai import _config, _convert, _dial, _project
from moai._bootstrap import archive
from moai._errors import MoaiError
from moai._link.upstream import _check_protocol
from moai._ssh import known_hosts
from moai_agent import convert
from moai_agent.devices import menus, smi
from moai_agent.errors import AgentError
from moai_agent.jobs.journal import Journal, JournalReader
from moai_agent.jobs.logparse import LogParser
from moai_agent.jobs.store import Entry
from moai_agent.snapshots import Snapshots
from moai_proto.v1 import file_pb2, job_pb2
from moai_worker import jobdir, records

Try = Callable[[random.Random], None]
_REPO = Path(__file__).resolve().parents[2]


def smi_tables(folder: Path) -> Try:
    """What moreh-smi and moreh-switch-model print, in every style the look-alike knows."""
    home = build_home(str(folder / "home"), devices=[{"id": 0, "flavor": "4xLarge.2048GB"}, {"id": 1, "flavor": "Large.256GB"}])
    samples = []
    for letter in "ABCDEFGHI":
        home.set_variant(letter)
        home.set_running(4242, "python train.py --x y", 12345)
        samples.append(home.run("ap-smi" if letter == "I" else "moreh-smi").stdout.encode())
        home.set_idle()
    home.set_variant("D")
    samples.append(home.run("moreh-switch-model", input="q\n").stdout.encode())

    def attempt(rng: random.Random) -> None:
        text = spoil(rng, rng.choice(samples), samples).decode("utf-8", "replace")
        report = smi.parse(text)
        for device in report.devices:
            assert device.id >= 0
        menu = menus.parse_menu(text)
        menus.find(menu, "4xLarge")
        for judge in (menus.switched_to, menus.is_in_use, menus.is_at_limit, menus.is_done, menus.release_outcome):
            judge(text)

    return attempt


LOG = (
    "2024-06-11 10:06:02.551 | INFO     | __main__:main:161 - [Step 3/560] | Loss: 2.03 | Duration: 2.71 | Throughput: 48365.87 tokens/sec\n"
    "{'loss': 2.5, 'grad_norm': 0.5, 'learning_rate': 5e-05, 'epoch': 0.03}\n"
    "\r 12%|█▏        | 120/1000 [01:02<07:10,  1.50it/s]\r100%|██████████| 1000/1000 [09:00<00:00]\n"
    "[2024-06-11 10:02:44.902] [info] Got DBs from backend for auto config.\n"
    "[2024-06-11 10:02:44.902] [info] Requesting resources for MoAI Accelerator from the server...\n"
    "***** Running training *****\n  Num examples = 50,000\n  Total optimization steps = 560\n"
    "[moai] retry 1 of 3\nTraceback (most recent call last):\n  File \"x.py\", line 3, in <module>\nRuntimeError: CUDA out of memory\n"
    "[rank1]: OSError: [Errno 28] No space left on device\nSegmentation fault\n| epoch 1 | loss 2.1 | tps 400 |\n"
).encode()


def log_parser(folder: Path) -> Try:
    """Any bytes a job prints; cut into any pieces, the same reports come, and a successor goes on from the state."""

    def attempt(rng: random.Random) -> None:
        data = spoil(rng, LOG, [LOG])
        pattern = rng.choice([None, None, r"loss (?P<loss>[0-9.]+)"])
        whole = LogParser(None, pattern)
        expected = [*whole.feed(data, 0), *whole.finish()]
        parser, found, at = LogParser(None, pattern), [], 0
        while at < len(data):
            size = rng.randint(1, 700)
            found += parser.feed(data[at : at + size], at)
            at += size
            if rng.random() < 0.1:
                # Another process takes over: from the parser's own offset, with its state as JSON.
                state, at = json.loads(json.dumps(parser.state())), parser.offset
                parser = LogParser(state, pattern)
        found += parser.finish()
        assert repr(found) == repr(expected)

    return attempt


REPORTS: list[dict[str, Any]] = [
    {"t": 1.5, "step": "train", "type": "metric", "data": {"step": 3, "total": 9, "values": {"loss": 0.5, "lr": 1e-4}}},
    {"t": 1.5, "step": "train", "type": "progress", "data": {"done": 1, "total": 5, "unit": "rows", "rate": 2.0, "eta_seconds": 9}},
    {"t": 1.5, "step": "train", "type": "phase", "data": {"phase": "loading", "text": "3/8", "usual_seconds": [1, 9], "usual_source": "guide"}},
    {"t": 1.5, "step": "", "type": "state", "data": {"state": "RUNNING", "output": "/x", "conditions": [{"type": "STALLED", "message": "m"}]}},
    {"t": 1.5, "step": "", "type": "state", "data": {"state": "STOPPING", "reason": {"code": "X", "message": "m", "next": "n", "details": {"a": 1}}}},
    {"t": 1.5, "step": "a", "type": "step", "data": {"name": "a", "state": "RUNNING", "pid": 7, "pid_start_ticks": 8, "result": {"x": 1}}},
    {"t": 1.5, "step": "a", "type": "step", "data": {"name": "a", "state": "FAILED", "exit_code": 3, "reason": {"code": "X", "message": "m"}}},
    {"t": 1.5, "step": "", "type": "message", "data": {"text": "hello", "level": "warning", "code": "X", "more": [1]}},
    {"t": 1.5, "step": "", "type": "artifact", "data": {"kind": "model", "path": "/x", "bytes": 9}},
]


def reports(folder: Path) -> Try:
    """Lines any program of a job may write: journal, view, messages of the contract and the laptop's values."""
    job = jobdir.JobDir(str(folder / "job"))

    def attempt(rng: random.Random) -> None:
        view = records.new_view({"create_time": 1.0}, {"steps": [{"name": "a"}, {"name": "train"}]})
        journal, count = b"", 0
        for sample in rng.sample(REPORTS, 4):
            report = records.parse_report(spoil_json(rng, sample))
            if report is None:
                continue
            count += 1
            event = dict(report, q=count, t=report["t"] if report["t"] is not None else 2.0)
            records.fold(view, event)
            journal += records.encode(event)
        read = [record for _, record in records.scan(journal)]
        assert [one["q"] for one in read] == list(range(1, count + 1))
        for one in read:
            message = job_pb2.Event.FromString(convert.event(one).SerializeToString())
            json.dumps(_convert.event("h", "j", message).as_dict(), allow_nan=True).encode()
        kept = json.loads(json.dumps(view))
        shown = convert.job(Entry(job, {"create_time": 1.0}, {}, kept), losses=True)
        _convert.job("h", job_pb2.Job.FromString(shown.SerializeToString())).as_dict()

    return attempt


def _journal_sample() -> bytes:
    out = b""
    for number in range(1, 40):
        out += records.encode({"q": number, "t": 1.0 + number, "step": "s", **REPORTS[number % len(REPORTS)], "src": "log", "end": number * 10})
        if number % 13 == 0:
            out += records.encode({"cursor": {"q": number, "log": number * 10, "reports": 0, "view": {"state": "RUNNING"}, "log_state": None}})
    return out


def journal(folder: Path) -> Try:
    """A journal cut or altered anywhere: the longest valid prefix, and nothing after it."""
    sample = _journal_sample()
    valid = {line for line in sample.split(b"\n") if line}
    path = str(folder / "events.jsonl")

    def attempt(rng: random.Random) -> None:
        data = spoil(rng, sample, [sample])
        with open(path, "wb") as out:
            out.write(data)
        one = Journal(path)
        past = one.recover(records.new_view({}, {"steps": [{"name": "s"}]}))
        one.close()
        with open(path, "rb") as source:
            left = source.read()
        assert data.startswith(left)
        lines = left.split(b"\n")
        assert lines.pop() == b"" and all(line in valid or records.decode(line) is not None for line in lines)
        rest = data[len(left) :].partition(b"\n")
        assert not rest[1] or records.decode(rest[0]) is None, "a valid line was dropped"
        list(JournalReader(path, 0).read())
        list(JournalReader(path, past.last).read())

    return attempt


CONFIG = b"""# mine
default = "kt"
[hosts.kt]
address = "ubuntu@host:2201"
environment = "pytorch"
work = "/data"
transport = "openssh"
groups = ["a", "b"]
[hosts.other]
address = "other"
proxy = "http://proxy:3128"
"""
PROJECT = b"""host = "kt"
environment = "pytorch"
secrets = ["WANDB_API_KEY"]
[train]
model = "meta-llama/Meta-Llama-3-8B"
dataset = "abisee/cnn_dailymail:3.0.0"
max_steps = 100
learning_rate = 1e-4
[train.settings]
warmup_steps = 20
"lora.r" = 16
[variables]
A = "1"
[log]
pattern = "step (?P<step>[0-9]+)"
"""


def settings(folder: Path) -> Try:
    """config.toml and moai.toml as people edit them: read, or refused with every mistake."""
    os.environ["MOAI_CONFIG"] = str(folder)

    def attempt(rng: random.Random) -> None:
        for name, sample, read in (("config.toml", CONFIG, _config.load), ("moai.toml", PROJECT, lambda: _project.load_project(folder))):
            (folder / name).write_bytes(spoil(rng, sample, [CONFIG, PROJECT]))
            _refused_as("CONFIG_INVALID", read)

    return attempt


def _refused_as(reason: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except MoaiError as error:
        assert error.reason == reason and error.message and len(error.message) < 100_000, error.reason


KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIJ1y7rZcVnJc0nqJ1WnYxq6xkpZkq0o2bqOqkPzBvT2s"
KNOWN = (
    f"# comment\nhost ssh-ed25519 {KEY} me@x\n[host]:2201,other ssh-ed25519 {KEY}\n*.example.org,!bad.example.org ssh-ed25519 {KEY}\n"
    f"@revoked host ssh-ed25519 {KEY}\n@cert-authority *.org ssh-ed25519 {KEY}\n"
    f"|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-ed25519 {KEY}\n"
).encode()


def known_host_files(folder: Path) -> Try:
    """known_hosts with any bytes: a verdict, always; never OK for a key the file does not hold."""
    path = folder / "known_hosts"
    key = known_hosts.parse_key(f"ssh-ed25519 {KEY}".encode())
    assert key is not None
    other = known_hosts.HostKey(key.key_type, key.blob[:-1] + bytes([key.blob[-1] ^ 1]))

    def attempt(rng: random.Random) -> None:
        data = spoil(rng, KNOWN, [KNOWN])
        path.write_bytes(data)
        for host, port in (("host", 22), ("host", 2201), ("a.example.org", 22)):
            known_hosts.judge(host, port, "", key, [path])
            verdict = known_hosts.judge(host, port, "", other, [path]).verdict
            assert verdict is not known_hosts.Verdict.OK or known_hosts_encoded(other) in data
            known_hosts.known_types(host, port, "", [path])

    return attempt


def known_hosts_encoded(key: Any) -> bytes:
    """How a key stands in a file."""
    import base64

    return base64.b64encode(key.blob)


class _Said:
    """A stream that says the given bytes in pieces and ends."""

    def __init__(self, data: bytes, rng: random.Random) -> None:
        self._data, self._rng = data, rng

    def sendall(self, data: bytes) -> None:
        """The line that was asked with holds the nonce."""
        nonce = re.search(rb"MOAI1 ([0-9a-f]{16})", data)
        assert nonce
        self._data = self._data.replace(b"NONCE", nonce.group(1))

    def recv(self, size: int) -> bytes:
        count = self._rng.randint(1, 4000)
        piece, self._data = self._data[:count], self._data[count:]
        return piece

    def close(self) -> None:
        self._data = b""

    def exit_status(self, timeout_s: float) -> int:
        return 1

    def recv_stderr_tail(self) -> bytes:
        return b""


class _Connection:
    def __init__(self, data: bytes, rng: random.Random) -> None:
        self._said = _Said(data, rng)

    def open_exec(self, line: str) -> _Said:
        return self._said


def handshake(folder: Path) -> Try:
    """The first line of a dial, behind whatever a login prints."""
    facts = {"ok": True, "secret": "s", "pid": 7, "protocol_min": 1, "protocol_max": 1, "digest": "d", "host_id": "h"}
    refusal = {"ok": False, "reason": "DISK_FULL", "message": "no space left"}

    def attempt(rng: random.Random) -> None:
        body = spoil_json(rng, rng.choice([facts, refusal]))
        line = b"Welcome\nMOAI1 NONCE " + body + b"\nPRI * HTTP/2.0"
        try:
            _, shook = _dial.dial(_Connection(line if rng.random() < 0.7 else spoil(rng, line, [line]), rng))  # type: ignore[arg-type]
            _check_protocol(shook)
            assert isinstance(shook.secret, str) and shook.secret.isascii()
        except (MoaiError, _dial.NotInstalled):
            return

    return attempt


def bundles(folder: Path) -> Try:
    """A carried bundle: as it was made, or BUNDLE_CORRUPT."""
    import gzip

    files = {"agent/moai_agent/__init__.py": b"x = 1\n" * 50, "worker/main.py": b"y\n", "manifest.json": b"{}\n"}
    whole = archive.encode(files)
    plain = gzip.decompress(whole)
    path = folder / "bundle.tar.gz"

    def attempt(rng: random.Random) -> None:
        if rng.random() < 0.5:
            data = spoil(rng, whole)
        else:
            data = gzip.compress(spoil(rng, plain, [plain]), 1, mtime=0)
        path.write_bytes(data)
        try:
            got = archive.decode(path)
        except MoaiError as error:
            assert error.reason == "BUNDLE_CORRUPT", error.reason
            return
        assert all(".." not in name.split("/") and not name.startswith("/") for name in got)

    return attempt


def snapshots(folder: Path) -> Try:
    """Lists of files a laptop sends for a snapshot, and a manifest altered on disk."""
    store = Snapshots(str(folder / "work"))
    content = b"hello"
    digest = hashlib.sha256(content).hexdigest()
    store.put(digest, [content])
    sample = [{"path": "a/b.py", "sha256": digest, "size_bytes": 5, "executable": False}, {"path": "é", "sha256": "0" * 64, "size_bytes": 2**40, "executable": True}]
    fields = {"path": str, "sha256": str, "size_bytes": int, "executable": bool}

    def attempt(rng: random.Random) -> None:
        entries = [e for e in _listed(spoil_value(rng, sample)) if isinstance(e, dict)] if rng.random() < 0.9 else sample
        messages = []
        for entry in entries:
            known = {k: v for k, v in entry.items() if isinstance(v, fields.get(k, ())) and not (fields.get(k) is int and isinstance(v, bool))}
            try:
                messages.append(file_pb2.SnapshotFile(**known))
            except (ValueError, UnicodeEncodeError):
                continue  # cannot be sent
        try:
            name, _ = store.plan(messages)
        except AgentError as error:
            assert error.reason == "USAGE", error.reason
            return
        manifest = Path(store.named(name).manifest)
        manifest.write_bytes(spoil_json(rng, json.loads(manifest.read_bytes())))
        try:
            assert store.missing_of(name) >= 0
        except AgentError as error:
            assert error.reason == "FILE_NOT_FOUND", error.reason
        finally:
            manifest.unlink()

    return attempt


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


TARGETS: dict[str, Callable[[Path], Try]] = {
    one.__name__: one
    for one in (smi_tables, log_parser, reports, journal, settings, known_host_files, handshake, bundles, snapshots)
}
