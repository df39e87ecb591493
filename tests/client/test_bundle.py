"""The agent's bundle: determinism, contents, the cache, carrying by hand.

The wheels are the locked ones. They are fetched with pip on the first run and kept in
``.cache/test-wheels`` of the checkout; later runs ask no index.
"""

import hashlib
import importlib.machinery
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from moai._bootstrap import archive, bundle, lockfile, payload, wheels
from moai._bootstrap.targets import Target
from moai._errors import MoaiError

ROOT = Path(__file__).resolve().parents[2]
WHEEL_CACHE = ROOT / ".cache" / "test-wheels"
OLDEST = Target.parse("cp38-x86_64-glibc2.31")

# What the agent does first: serve and call over a Unix socket with the contract's messages.
IMPORTS = """
import asyncio, sys
lib, agent, socket = sys.argv[1:4]
sys.path[:0] = [agent, lib]
import google.protobuf, grpc, grpc.aio, pynvml
from moai_proto.v1 import errors_pb2
assert all(module.__file__.startswith(lib) for module in (grpc, google.protobuf, pynvml))
assert not any("site-packages" in part for part in sys.path), sys.path

async def main():
    async def answer(request, context):
        return request
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Echo": handler}),))
    server.add_insecure_port("unix:" + socket)
    await server.start()
    async with grpc.aio.insecure_channel("unix:" + socket) as channel:
        sent = errors_pb2.ErrorInfo(message="hello").SerializeToString()
        reply = await channel.unary_unary("/t.T/Echo")(sent, timeout=30)
    await server.stop(None)
    print(errors_pb2.ErrorInfo.FromString(reply).message, grpc.__version__, google.protobuf.__version__)

asyncio.run(main())
"""


class CountingIndex:
    """A loopback port that counts who comes to ask."""

    def __enter__(self):
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/simple"
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()
        return self

    def _count(self):
        while True:
            try:
                self._listener.accept()[0].close()
            except OSError:
                return
            self.connections += 1

    def __exit__(self, *_exc):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    """A cache with no bundles, and the checkout's wheels; edits of the payload meanwhile are not seen."""
    own = payload.files()
    monkeypatch.setattr(payload, "files", lambda: list(own))
    (WHEEL_CACHE / "wheels").mkdir(parents=True, exist_ok=True)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "wheels").symlink_to(WHEEL_CACHE / "wheels")
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Bundles of a made-up payload and library, for tests of everything around their contents."""
    library = {"demo/__init__.py": b"answer = 42\n", "demo/core.abi3.so": b"\x7fELF"}
    own = [("agent/moai_agent/__init__.py", b""), ("worker/main.py", b"print()\n")]
    monkeypatch.setattr(payload, "files", lambda: list(own))
    monkeypatch.setattr(wheels, "fetch", lambda target, cache_dir, report=None: cache_dir)
    monkeypatch.setattr(wheels, "unpack", lambda folder, wheel_set: dict(library))
    return tmp_path / "cache"


def interpreter(version):
    """A real interpreter of that version, or a skip that says which one is missing."""
    name = f"python{version}"
    for root in (Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions",):
        for path in sorted(root.glob(f"{version}.*/bin/{name}")):
            return str(path)
    for folder in os.get_exec_path():
        if os.access(Path(folder) / name, os.X_OK):
            return str(Path(folder) / name)
    pytest.skip(f"MISSING INTERPRETER: no {name} on this machine")


def extract(made, folder):
    with tarfile.open(made.path) as opened:
        for member in opened:
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(opened.extractfile(member).read())
    return folder


def test_the_same_inputs_make_the_same_bytes(cache_dir, tmp_path):
    first = bundle.build(OLDEST, cache_dir)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "wheels").symlink_to(WHEEL_CACHE / "wheels")
    second = bundle.build(OLDEST, tmp_path / "other")
    assert first.path != second.path
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.digest == second.digest == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert first.size_bytes == first.path.stat().st_size
    assert first.folder_name == first.digest[:16]


def test_the_bundle_holds_agent_library_worker_and_a_manifest_of_every_file(cache_dir):
    made = bundle.build(OLDEST, cache_dir)
    with tarfile.open(made.path) as opened:
        members = opened.getmembers()
        contents = {member.name: opened.extractfile(member).read() for member in members}
    names = [member.name for member in members]
    assert names == sorted(names)
    assert {member.mtime for member in members} == {member.uid for member in members} == {0}
    assert {member.mode for member in members} == {0o644, 0o755}
    assert all(member.isreg() for member in members)
    for needed in (
        "agent/moai_agent/__init__.py",
        "agent/moai_proto/v1/errors_pb2.py",
        "lib/grpc/aio/__init__.py",
        "lib/google/protobuf/message.py",
        "lib/pynvml.py",
        "worker/main.py",
        "worker/relay.py",
        "worker/moai_worker/errors.py",
    ):
        assert needed in contents
    manifest = json.loads(contents.pop("manifest.json"))
    assert manifest["payload"] == {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    assert manifest["inputs"]["payload"] == payload.digest()
    assert manifest["inputs"]["wheels"] == {
        wheel.filename: wheel.sha256 for wheel in lockfile.select(OLDEST).wheels
    }
    assert not [name for name in names if name.endswith((".pyc", ".pyi")) or "__pycache__" in name]
    # Nothing of the agent's lies where jobs look.
    assert {name.split("/")[1] for name in names if name.startswith("worker/")} == {
        "main.py",
        "relay.py",
        "moai_worker",
    }


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.13"])
@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="runs the x86_64 Linux library"
)
def test_a_bare_interpreter_serves_grpc_from_the_bundle_alone(cache_dir, tmp_path, version):
    python = interpreter(version)
    made = bundle.build(Target.parse(f"cp{version.replace('.', '')}-x86_64-glibc2.31"), cache_dir)
    folder = extract(made, tmp_path / "unpacked")
    done = subprocess.run(
        [
            python,
            "-I",
            "-S",
            "-W",
            "error",
            "-c",
            IMPORTS,
            folder / "lib",
            folder / "agent",
            tmp_path / "socket",
        ],
        capture_output=True,
        # A channel that sees the server's goodbye before its own close says so at INFO: no fault.
        env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("hello ")


def test_no_index_is_asked_when_the_cache_has_the_wheels_or_the_bundle(cache_dir, monkeypatch):
    wheels.fetch(OLDEST, cache_dir)
    with CountingIndex() as asked:
        monkeypatch.setenv("PIP_INDEX_URL", asked.url)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        said = []
        first = bundle.build(OLDEST, cache_dir, said.append)
        assert bundle.build(OLDEST, cache_dir, said.append) == first
        assert said == []
        assert asked.connections == 0


def test_a_newer_glibc_uses_the_bundle_an_older_one_made(small):
    older = bundle.build(OLDEST, small)
    newer = bundle.build(Target.parse("cp38-x86_64-glibc2.39"), small)
    assert (newer.path, newer.digest) == (older.path, older.digest)
    assert newer.target_key == "cp38-x86_64-glibc2.39"


def test_a_changed_payload_makes_another_bundle(small, monkeypatch):
    before = bundle.build(OLDEST, small)
    monkeypatch.setattr(payload, "files", lambda: [("worker/main.py", b"print(1)\n")])
    after = bundle.build(OLDEST, small)
    assert after.path != before.path
    assert after.digest != before.digest
    assert before.path.exists()


@pytest.mark.parametrize("damage", ["cut short", "one byte", "note gone", "note is another"])
def test_a_damaged_cached_bundle_is_made_again(small, damage):
    made = bundle.build(OLDEST, small)
    whole = made.path.read_bytes()
    note = made.path.with_name(made.path.name + ".sha256")
    if damage == "cut short":
        made.path.write_bytes(whole[:-5])
    elif damage == "one byte":
        made.path.write_bytes(whole[:-5] + b"12345")
    elif damage == "note gone":
        note.unlink()
    else:
        note.write_bytes(b"\xff" * 64)
    again = bundle.build(OLDEST, small)
    assert again == made
    assert made.path.read_bytes() == whole


def test_many_builders_at_once_build_once(small, monkeypatch):
    encoded = []
    encode = archive.encode

    def counted(files):
        encoded.append(len(files))
        return encode(files)

    monkeypatch.setattr(archive, "encode", counted)
    found = []
    threads = [threading.Thread(target=lambda: found.append(bundle.build(OLDEST, small))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(encoded) == 1
    assert len(found) == 8 and len(set(found)) == 1


def test_the_laptops_own_bundle_has_no_library(tmp_path):
    made = bundle.local_bundle(tmp_path)
    files = archive.decode(made.path)
    assert [name for name in files if name.startswith("lib/")] == []
    assert {name for name in files if name != "manifest.json"} == {name for name, _ in payload.files()}
    assert bundle.local_bundle(tmp_path) == made


def test_a_bundle_carried_by_hand_is_used_without_an_index(cache_dir, tmp_path, monkeypatch):
    made = bundle.build(OLDEST, cache_dir)
    carried = bundle.export(made, tmp_path)
    assert carried.parent == tmp_path and OLDEST.key in carried.name
    elsewhere = tmp_path / "elsewhere"
    added = bundle.add(carried, elsewhere)
    assert added.digest == made.digest

    def refuse(*_args, **_kwargs):
        pytest.fail("pip was started")

    monkeypatch.setattr(wheels.subprocess, "Popen", refuse)
    assert bundle.build(Target.parse("cp38-x86_64-glibc2.36"), elsewhere).digest == made.digest


@pytest.mark.parametrize("changed", ["lib/pynvml.py", "worker/main.py", "manifest.json"])
def test_a_carried_bundle_with_one_changed_file_is_refused(cache_dir, tmp_path, changed):
    files = archive.decode(bundle.build(OLDEST, cache_dir).path)
    files[changed] = files[changed].replace(b"\n", b"\n ", 1)
    if changed != "manifest.json":
        manifest = json.loads(files["manifest.json"])
        manifest["payload"][changed] = hashlib.sha256(files[changed]).hexdigest()
        files["manifest.json"] = json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"
    (tmp_path / "carried").write_bytes(archive.encode(files))
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path / "carried", tmp_path / "elsewhere")
    assert failure.value.reason == ("BUNDLE_UNAVAILABLE" if changed == "worker/main.py" else "BUNDLE_CORRUPT")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("manifest", [b"", b"[]", b"{}", b'{"inputs": {"python": "cp38"}}', b"[" * 100_000])
def test_a_carried_bundle_with_a_senseless_manifest_is_refused(small, tmp_path, manifest):
    (tmp_path / "carried").write_bytes(archive.encode({"worker/main.py": b"", "manifest.json": manifest}))
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path / "carried", small)
    assert failure.value.reason == "BUNDLE_CORRUPT"


@pytest.mark.parametrize("python", ["cp38", "cp99", "../cp38", ""])
def test_a_carried_bundle_of_unknown_wheels_is_refused(small, tmp_path, python):
    inputs = {
        "python": python,
        "arch": "x86_64",
        "libc": "glibc",
        "wheels": {"evil-1.0-py3-none-any.whl": "00"},
    }
    manifest = json.dumps({"inputs": inputs}).encode()
    (tmp_path / "carried").write_bytes(archive.encode({"manifest.json": manifest}))
    with pytest.raises(MoaiError) as failure:
        bundle.add(tmp_path / "carried", small)
    assert failure.value.reason in ("BUNDLE_UNAVAILABLE", "PLATFORM_UNSUPPORTED")


def test_an_installed_wheels_payload_is_found(tmp_path, monkeypatch):
    expected = payload.files()
    site = tmp_path / "site-packages"
    for name, data in expected:
        area, _, rest = name.partition("/")
        folder = site if rest.startswith("moai_proto/") else site / "moai" / "_payload" / area
        (folder / rest).parent.mkdir(parents=True, exist_ok=True)
        (folder / rest).write_bytes(data)
    here = site / "moai" / "_bootstrap" / "payload.py"
    here.parent.mkdir()
    (site / "moai" / "_payload" / "agent" / "moai_agent" / "__pycache__").mkdir()
    (site / "moai" / "_payload" / "agent" / "moai_agent" / "__pycache__" / "x.py").write_text("")
    monkeypatch.setattr(payload, "__file__", str(here))
    spec = importlib.machinery.ModuleSpec("moai_proto", None, is_package=True)
    spec.submodule_search_locations = [str(site / "moai_proto")]
    monkeypatch.setattr(payload.importlib.util, "find_spec", lambda _name: spec)
    assert payload.files() == expected
    (site / "moai" / "_payload" / "worker" / "relay.py").unlink()
    with pytest.raises(MoaiError) as failure:
        payload.files()
    assert failure.value.reason == "INTERNAL"
    assert "relay.py" in failure.value.message
