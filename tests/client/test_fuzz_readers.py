"""Files that strangers may have written: known_hosts, ssh configuration, settings, project.

Every reader ends in an answer or in one typed error, whatever the bytes; of known_hosts, no bytes make a
key known that does not stand there. ``make fuzz`` runs the same with many more examples.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from moai import _config, _project
from moai._errors import MoaiError
from moai._ssh import resolve as resolve_module
from moai._ssh.known_hosts import HostKey, Verdict, forget, judge, known_types, read_entries, remember

EXAMPLES = int(os.environ.get("MOAI_FUZZ_EXAMPLES", "150"))
fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
fewer = settings(fuzzed, max_examples=max(30, EXAMPLES // 5))


def key_line(letter: bytes) -> tuple[HostKey, bytes]:
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", letter * 32))
    return HostKey("ssh-ed25519", blob), b"ssh-ed25519 " + base64.b64encode(blob)


MINE, MY_LINE = key_line(b"m")
_, OTHER_LINE = key_line(b"o")
PIECES = [
    b"box", b"[box]:22", b"[box]:2201", b"*", b"b?x", b"!box", b"!*", b",", b" ", b"\t", b"\n", b"\r\n", b"#", b"@revoked", b"@cert-authority",
    b"@", b"|1|", b"|", b"=", b"ssh-ed25519", b"ssh-rsa", b"AAAA", b"1024 35 123", b"\0", b"\xff", b"\xef\xbb\xbf", b"[", b"]", b":", b"\\",
    MY_LINE, OTHER_LINE, MY_LINE[:-1], MY_LINE[:20], MY_LINE.split()[1], OTHER_LINE.split()[1], b"-", b"x" * 300, b"*" * 40,
]  # fmt: skip
known_hosts_files = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4)), max_size=40).map(b"".join)


@fuzzed
@given(known_hosts_files, st.sampled_from([22, 2201]))
@example(b"*," * 200 + b"box " + MY_LINE, 22)
@example(b"*a" * 2000 + b" " + MY_LINE, 22)
def test_no_file_of_host_keys_makes_a_key_known_that_is_not_there(tmp_path, data, port):
    path = tmp_path / "known_hosts"
    path.write_bytes(data)
    verdict = judge("box", port, "", MINE, [path]).verdict
    assert path.read_bytes() == data
    lines = [line.split(None, 1) for line in data.split(b"\n")]
    with_mine = [line for line in lines if len(line) == 2 and MY_LINE.split()[1] in line[1]]
    if verdict is Verdict.OK:
        assert any(not line[0].startswith((b"@", b"#")) for line in with_mine), data
    if verdict is Verdict.REVOKED:
        assert any(line[0] == b"@revoked" for line in with_mine), data
    assert set(known_types("box", port, "", [path])) <= {"ssh-ed25519"}
    # A line that revokes it everywhere wins over whatever else stands there.
    path.write_bytes(data + b"\n@revoked * " + MY_LINE + b"\n")
    assert judge("box", port, "", MINE, [path]).verdict is Verdict.REVOKED


@fuzzed
@given(known_hosts_files)
def test_what_is_learnt_is_found_and_forgotten_and_the_rest_stays(tmp_path, data):
    path = tmp_path / "own"
    path.write_bytes(data)
    was = judge("new-host", 22, "", MINE, [path]).verdict
    remember(path, "new-host", 22, MINE)
    expected = Verdict.REVOKED if was is Verdict.REVOKED else Verdict.OK
    assert judge("new-host", 22, "", MINE, [path]).verdict is expected
    for line in filter(bytes.strip, data.split(b"\n")):
        assert line.strip() in path.read_bytes(), "no other line is lost"
    forget(path, "new-host", 22)
    assert judge("new-host", 22, "", MINE, [path]).verdict is was


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="SKIPPED LOUDLY: ssh-keygen is not installed")
@fewer
@given(st.lists(st.sampled_from(["box", "*", "?", "!", ",", "b", "x", ".", "[", "]", ":22", ":2201", "BOX", "10.0.0.1"]), min_size=1, max_size=8).map("".join))
def test_random_patterns_cover_what_ssh_keygen_says(tmp_path, field):
    path = tmp_path / "known_hosts"
    path.write_bytes(field.encode() + b" " + MY_LINE + b"\n")
    for name in ("box", "[box]:2201"):
        found = subprocess.run(["ssh-keygen", "-F", name, "-f", str(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert bool(list(read_entries(name, [path]))) == (found.returncode == 0), (field, name)


SSH = ["Host", "Match", "Include", "HostName", "User", "Port", "ProxyJump", "ProxyCommand", "IdentityFile", "UserKnownHostsFile", "all", "host"]
SSH += ["exec", "originalhost", "box", "*", "!box", "~", "%h", "%%", "%", "${HOME}", "$(id)", "`id`", '"', "'", "=", " ", "\n", "\t", "#", "22", "-1", "yes"]
SSH += ["none", "a@b:1,c", "../x", "é", "\x00", "\udcff", "x" * 70]
ssh_files = st.lists(st.one_of(st.sampled_from(SSH), st.text(max_size=3)), max_size=30).map(" ".join)


@fuzzed
@given(ssh_files)
def test_any_ssh_configuration_is_read_or_named_without_openssh(tmp_path, text):
    path = tmp_path / "config"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        started = []
        patch.setattr(shutil, "which", lambda *_, **__: None)
        patch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
        try:
            found = resolve_module.resolve("box", str(path))
            assert 1 <= found.port <= 65535 and found.hostname
        except MoaiError as error:
            assert error.reason in ("CONFIG_INVALID", "USAGE", "UNSUPPORTED") and len(error.message) < 2000
        assert started == []


@pytest.mark.skipif(shutil.which("ssh") is None, reason="SKIPPED LOUDLY: ssh is not installed")
@fewer
@given(ssh_files.filter(lambda text: "exec" not in text and "Include" not in text))
def test_any_ssh_configuration_is_read_or_named_with_openssh(tmp_path, text):
    path = tmp_path / "config"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    path.chmod(0o600)
    try:
        assert 1 <= resolve_module.resolve("box", str(path)).port <= 65535
    except MoaiError as error:
        assert error.reason in ("CONFIG_INVALID", "USAGE", "UNSUPPORTED", "CONNECT_FAILED"), error


TOML = ["[hosts.a]", "[hosts]", "[train]", "[train.settings]", "[variables]", "[log]", "[[hosts]]", "address", "default", "groups", "model", "work"]
TOML += ["secrets", "retries", "stop_on", "batch_size", "=", '"x"', '"user@h:1"', "[]", '["a"]', "1", "-1", "1e400", "nan", "true", "{}", '{a=1}', "\n"]
TOML += ["#", '"""', "'", "\\u0000", "\x00", "\x7f", "é", "1979-05-27", "0x1F", "9" * 400, "[" * 60, "transport", '"openssh"', '"local"']
toml_files = st.one_of(
    st.lists(st.one_of(st.sampled_from(TOML), st.text(max_size=3)), max_size=30).map(lambda parts: " ".join(parts).encode("utf-8", "replace")),
    st.lists(st.tuples(st.sampled_from(TOML), st.sampled_from(TOML)), max_size=6).map(lambda rows: "\n".join(f"{a} = {b}" for a, b in rows).encode()),
    st.binary(max_size=60),
)


@fuzzed
@given(toml_files)
@example(b"a = " + b"[" * 5000)
@example(b"a" + b".a" * 3000 + b" = 1")
@example(b"[hosts.a]\naddress = " + b"9" * 5000)
def test_any_settings_or_project_file_is_read_or_named(tmp_path, data):
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "config.toml").write_bytes(data)
    (tmp_path / "moai.toml").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOAI_CONFIG", str(tmp_path / "config"))
        for read in (_config.load, lambda: _project.load_project(Path(tmp_path))):
            try:
                read()
            except MoaiError as error:
                assert error.reason == "CONFIG_INVALID" and error.next
