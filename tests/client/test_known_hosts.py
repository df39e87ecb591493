"""Host keys are judged as OpenSSH judges them, over a corpus that OpenSSH itself judges too."""

import base64
import hashlib
import hmac
import os
import stat
import subprocess
import threading

import pytest
from fakes.sshd import Sshd, make_key
from moai._ssh.known_hosts import (
    HostKey,
    Verdict,
    forget,
    judge,
    known_types,
    lookup_name,
    parse_key,
    read_entries,
    remember,
)

# {me}: the server's key, {other}: another ed25519 key, {rsa} {ecdsa} {dss}: keys of other types,
# {name}: [127.0.0.1]:PORT, {port}, {hash:NAME}: NAME hashed, {alias}: the HostKeyAlias of the case.
CORPUS = {
    "empty": "",
    "only comments": "# nothing\n\n   # indented\n",
    "plain": "{name} {me}\n",
    "plain without newline at the end": "{name} {me}",
    "plain with comment": "{name} {me} user@laptop\n",
    "plain with crlf": "{name} {me}\r\n",
    "plain with tabs": "{name}\t{me_tab}\tcomment\n",
    "indented": "   {name} {me}\n",
    "several names": "example.com,{name},10.0.0.1 {me}\n",
    "upper case type is no type": "{name} {me_upper}\n",
    "short type name": "{name} {me_short}\n",
    "another host": "[127.0.0.1]:1 {me}\n",
    "bare name off port 22": "127.0.0.1 {me}\n",
    "bare name with another key": "127.0.0.1 {other}\n",
    "bare name with another key beside the right one": "127.0.0.1 {other}\n127.0.0.1 {me}\n",
    "changed": "{name} {other}\n",
    "changed, right one for the bare name": "{name} {other}\n127.0.0.1 {me}\n",
    "changed to another type": "{name} {rsa}\n",
    "changed to another curve": "{name} {ecdsa}\n",
    "both": "{name} {other}\n{name} {me}\n",
    "both, other order": "{name} {me}\n{name} {other}\n",
    "several types": "{name} {rsa}\n{name} {ecdsa}\n{name} {me}\n",
    "hashed": "{hash:name} {me}\n",
    "hashed changed": "{hash:name} {other}\n",
    "hashed other host": "{hash:else} {me}\n",
    "hashed bare name": "{hash:bare} {me}\n",
    "hash of a wrong kind": "|2|{hash_tail} {me}\n",
    "torn hash": "|1|AAAA {me}\n",
    "wildcard everything": "* {me}\n",
    "wildcard everything changed": "* {other}\n",
    "wildcard port": "[127.0.0.1]:* {me}\n",
    "wildcard address": "[127.0.*]:{port} {me}\n",
    "question marks": "[127.0.0.?]:{port} {me}\n",
    "question mark stands for one character": "[127.0.0.??]:{port} {me}\n",
    "brackets are no character class": "[127]:{port} {me}\n",
    "negated": "*,!{name} {me}\n",
    "negated first": "!{name},* {me}\n",
    "negated other": "*,!example.com {me}\n",
    "only negated": "!example.com {me}\n",
    "revoked": "@revoked {name} {me}\n",
    "revoked for all": "@revoked * {me}\n",
    "revoked and known": "{name} {me}\n@revoked * {me}\n",
    "another key revoked": "@revoked * {other}\n{name} {me}\n",
    "another key revoked, ours unknown": "@revoked * {other}\n",
    "revoked for the bare name only": "@revoked 127.0.0.1 {me}\n{name} {me}\n",
    "authority of another key": "@cert-authority * {other}\n",
    "authority with our own key": "@cert-authority * {me}\n",
    "authority and plain": "@cert-authority * {other}\n{name} {me}\n",
    "authority and changed": "@cert-authority * {me}\n{name} {other}\n",
    "unknown marker": "@trusted {name} {me}\n",
    "bad line before": "{name} ssh-ed25519 AAAA%%%%\n{name} {me}\n",
    "bad line after": "{name} {me}\n{name} ssh-ed25519\n",
    "bad line alone": "{name} ssh-ed25519 AAAA%%%%\n",
    "name alone": "{name}\n{name} {me}\n",
    "unknown type before": "{name} ssh-future AAAAB3NzaC1yc2E=\n{name} {me}\n",
    "unknown type alone": "{name} ssh-future AAAAB3NzaC1yc2E=\n",
    "type and key differ": "{name} ssh-rsa {me_blob}\n",
    "torn key": "{name} ssh-ed25519 {me_torn}\n",
    "key with something behind it": "{name} ssh-ed25519 {me_long}\n",
    "old protocol 1 line": "{name} 1024 35 1234567890\n{name} {me}\n",
    "binary rubbish": "\x00\x01\x02 \x7f\n{name} {me}\n",
    "not utf-8": "{latin} {me}\n{name} {me}\n",
    "byte order mark": "\ufeff{name} {me}\n",
    "alias": ("{alias} {me}\n", "MyAlias"),
    "alias in other case": ("MYALIAS {me}\n", "MyAlias"),
    "alias hashed": ("{hash:alias} {me}\n", "myalias"),
    "alias changed": ("{alias} {other}\n", "MyAlias"),
    "alias, name of the address does not count": ("{name} {me}\n", "MyAlias"),
    "alias by wildcard": ("my* {me}\n", "MyAlias"),
    "alias revoked": ("@revoked {alias} {me}\n", "MyAlias"),
}

# Where we say no although OpenSSH goes on or only asks: (our verdict, words of the note).
STRICTER = {"revoked for the bare name only": (Verdict.REVOKED, "usual port")}


def hashed(name, salt=b"0123456789abcdefghij"):
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Sshd(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for name, key_type in (("other", "ed25519"), ("rsa", "rsa"), ("ecdsa", "ecdsa")):
        path = make_key(folder / name, key_type)
        made[name] = " ".join(path.with_suffix(".pub").read_text().split()[:2])
    return made


def file_text(template, server, keys, alias):
    me = server.host_public_key
    blob = base64.b64decode(me.split()[1])
    fields = {
        **keys,
        "me": me,
        "me_tab": me.replace(" ", "\t"),
        "me_upper": "SSH-ED25519 " + me.split()[1],
        "me_short": "ed25519 " + me.split()[1],
        "me_blob": me.split()[1],
        "me_torn": base64.b64encode(blob[:-3]).decode(),
        "me_long": base64.b64encode(blob + b"more").decode(),
        "name": server.known_hosts_name,
        "port": str(server.port),
        "hash:name": hashed(server.known_hosts_name),
        "hash:bare": hashed("127.0.0.1"),
        "hash:else": hashed("[127.0.0.1]:1"),
        "hash:alias": hashed(alias),
        "hash_tail": hashed(server.known_hosts_name)[3:],
        "alias": alias,
    }
    for name, value in fields.items():
        template = template.replace(f"{{{name}}}", value)
    return template.replace("{latin}", "\xe9").encode("latin-1" if "{latin}" in template else "utf-8")


def verdict_of_openssh(server, config, known_hosts, alias):
    command = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known_hosts}"]
    if alias:
        command += ["-o", f"HostKeyAlias={alias}"]
    result = subprocess.run(
        [*command, "box", "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    said = result.stderr.decode(errors="replace")
    if result.returncode == 0:
        return Verdict.OK
    if "REVOKED HOST KEY" in said or "revoked" in said:
        return Verdict.REVOKED
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return Verdict.CHANGED
    assert "Host key verification failed" in said, said
    return Verdict.UNKNOWN


@pytest.mark.parametrize("case", CORPUS)
def test_verdict_equals_openssh_or_is_stricter_with_a_reason(case, server, keys, tmp_path):
    entry = CORPUS[case]
    template, alias = entry if isinstance(entry, tuple) else (entry, "")
    # ssh lowers HostKeyAlias while it reads its configuration, and so does `ssh -G`.
    alias = alias.lower()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_bytes(file_text(template, server, keys, alias))
    before = known_hosts.read_bytes()
    config = server.ssh_config(tmp_path / "config")
    theirs = verdict_of_openssh(server, config, known_hosts, alias)

    ours = judge("127.0.0.1", server.port, alias, parse_key(server.host_public_key.encode()), [known_hosts])

    if case in STRICTER:
        verdict, words = STRICTER[case]
        assert (ours.verdict, theirs) != (theirs, theirs)
        assert ours.verdict is verdict
        assert words in ours.note
    else:
        assert ours.verdict is theirs
    assert known_hosts.read_bytes() == before


def test_corpus_has_at_least_forty_files():
    assert len(CORPUS) >= 40


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("host.example.com", "host.example.com"),
        ("HOST.example.com", "host.example.com"),
        ("*.example.com", "host.example.com"),
        ("*.example.com", "example.com"),
        ("*.example.com,!host.example.com", "host.example.com"),
        ("h?st", "host"),
        ("h?st", "hst"),
        ("[host]:2222", "[host]:2222"),
        ("[host]:2222", "host"),
        ("[*]:2222", "[host]:2222"),
        ("h*s*t*", "hosttt"),
        ("***", "host"),
        ("fe80::1", "fe80::1"),
        (hashed("host"), "host"),
        (hashed("host"), "hostt"),
        (hashed("[host]:2222"), "[host]:2222"),
    ],
)
def test_names_are_covered_as_ssh_keygen_says(field, name, keys, tmp_path):
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("{} {}\n".format(field, keys["other"]))
    found = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", str(known_hosts)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert bool(list(read_entries(name, [known_hosts]))) == (found.returncode == 0)


def test_fingerprint_is_the_one_of_ssh_keygen(tmp_path):
    for key_type in ("ed25519", "ecdsa", "rsa"):
        path = make_key(tmp_path / key_type, key_type)
        listed = subprocess.run(["ssh-keygen", "-lf", str(path)], capture_output=True, text=True, check=True)
        assert parse_key(path.with_suffix(".pub").read_bytes()).fingerprint == listed.stdout.split()[1]


def test_all_files_count_together(keys, tmp_path):
    me = parse_key(keys["other"].encode())
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("host {}\n".format(keys["rsa"]))
    second.write_text("host {}\n".format(keys["other"]))
    assert judge("host", 22, "", me, [first]).verdict is Verdict.CHANGED
    assert judge("host", 22, "", me, [first, second, tmp_path / "absent"]).verdict is Verdict.OK
    second.write_text("host {}\n@revoked * {}\n".format(keys["other"], keys["other"]))
    assert judge("host", 22, "", me, [first, second]).verdict is Verdict.REVOKED


def test_an_authority_alone_is_unknown_and_says_why(keys, tmp_path):
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("@cert-authority * {}\n".format(keys["rsa"]))
    judgement = judge("host", 22, "", parse_key(keys["other"].encode()), [known_hosts])
    assert judgement.verdict is Verdict.UNKNOWN
    assert "@cert-authority" in judgement.note and "openssh" in judgement.note


def test_known_types_come_from_the_host_s_own_entries(keys, tmp_path):
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("[h]:9 {}\n[h]:9 {}\nh {}\n".format(keys["rsa"], keys["ecdsa"], keys["other"]))
    assert known_types("h", 9, "", [known_hosts]) == ("ssh-rsa", "ecdsa-sha2-nistp256")
    assert known_types("h", 10, "", [known_hosts]) == ("ssh-ed25519",)
    assert known_types("other", 22, "", [known_hosts]) == ()


def test_weak_rsa_key_is_no_entry():
    modulus = b"\x00" + b"\xff" * 64
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-rsa", b"\x01\x00\x01", modulus))
    assert parse_key(b"ssh-rsa " + base64.b64encode(blob)) is None


@pytest.mark.parametrize("hash_names", [False, True])
def test_remember_writes_what_openssh_understands_and_forget_removes_it(hash_names, server, tmp_path):
    key = parse_key(server.host_public_key.encode())
    own = tmp_path / "state" / "known_hosts"
    remember(own, "127.0.0.1", server.port, key, hash_names=hash_names)
    config = server.ssh_config(tmp_path / "config")
    assert verdict_of_openssh(server, config, own, "") is Verdict.OK
    assert ("127.0.0.1" in own.read_text()) is not hash_names
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    assert stat.S_IMODE(own.parent.stat().st_mode) == 0o700

    remember(own, "127.0.0.1", server.port, key, hash_names=hash_names)
    assert len(own.read_text().splitlines()) == 1

    assert forget(own, "127.0.0.1", server.port) == 1
    assert judge("127.0.0.1", server.port, "", key, [own]).verdict is Verdict.UNKNOWN


def test_forget_leaves_other_hosts_markers_and_wildcards(keys, tmp_path):
    own = tmp_path / "known_hosts"
    kept = "@revoked host {}\nother {}\n* {}\n# note\n".format(keys["rsa"], keys["rsa"], keys["rsa"])
    own.write_text("host {}\n{}host {}\n".format(keys["other"], kept, keys["ecdsa"]))
    assert forget(own, "HOST", 22) == 2
    assert own.read_text() == kept
    assert forget(tmp_path / "absent", "host", 22) == 0
    assert not (tmp_path / "absent").exists()


def test_file_is_open_to_nobody_else_even_under_a_lax_umask(keys, tmp_path):
    own = tmp_path / "known_hosts"
    own.write_text("")
    own.chmod(0o666)
    before = os.umask(0)
    try:
        remember(own, "host", 22, parse_key(keys["other"].encode()))
    finally:
        os.umask(before)
    assert stat.S_IMODE(own.stat().st_mode) == 0o600


def test_keys_learned_at_the_same_time_are_all_kept(tmp_path):
    own = tmp_path / "known_hosts"
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", b"k" * 32))
    start = threading.Barrier(8)

    def learn(number):
        start.wait()
        remember(own, f"host{number}", 22, HostKey("ssh-ed25519", blob))

    threads = [threading.Thread(target=learn, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line.split()[0] for line in own.read_text().splitlines()) == [f"host{n}" for n in range(8)]


def test_lookup_name_is_the_alias_or_the_address_with_an_unusual_port():
    assert lookup_name("Host", 22) == "host"
    assert lookup_name("Host", 2222) == "[host]:2222"
    assert lookup_name("Host", 2222, "Alias") == "Alias"
