"""What the SSH configuration says is read as ssh reads it, and hostile names start no process."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from fakes.sshd import Sshd, wait_until
from moai._errors import MoaiError
from moai._ssh import resolve as resolve_module
from moai._ssh.connect import connect
from moai._ssh.names import parse_jump, parse_target
from moai._ssh.prompts import NoPrompter
from moai._ssh.resolve import home_folder, resolve

HOSTILE = [
    "", " ", "-oProxyCommand=touch /tmp/x", "-h", "--", "bob@-oProxyCommand=x", "-bob@host", "@host", "bob@",
    "host;id", "host|id", "host&id", "host&&id", "host`id`", "host$(id)", "host$HOME", "host\nProxyCommand id",
    "host\rid", "host\x00id", "host id", " host", "host ", "host\tid", "ho'st", 'ho"st', "ho\\st", "host>file",
    "host<file", "host*", "host?", "host#x", "host!", "host~", "(host)", "{host}", "host/../../etc", "bob;id@host",
    "bob$(id)@host", "bob id@host", "bob\n@host", "bob`id`@host", "bob%h@host", "bob|id@host", "bob\x00@host",
    "host:", "host:0", "host:65536", "host:-1", "host:22;id", "host:22 ", "host: 22", "host:ssh", "host:0x16",
    "host:2\n2", "host:٢٢", "a:b:c", "[host]:22", "[::1", "[::1]:", "[::1]x", "[::1]:22:22", "fe80::1%eth0;id",
    "fe80::1%-x", "host\u202etxt", "host\u200b", "h" * 256, "u" * 256 + "@h", "host%00", "%h", "host=x", "host,other",
]  # fmt: skip


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.delenv("MOAI_SSH_CONFIG", raising=False)

    def write(text, name="config"):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    return write


@pytest.fixture
def no_openssh(monkeypatch):
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, *rest, **kw: None if name == "ssh" else which(name, *rest, **kw)
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_is_refused_before_any_process(name, config, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(args))
    with pytest.raises(MoaiError) as caught:
        resolve(name, config("Host *\n"))
    assert caught.value.reason == "USAGE"
    assert caught.value.next
    assert started == []


# In a ProxyJump a blank means no hop, and a comma stands between two.
@pytest.mark.parametrize("name", [name for name in HOSTILE if name.strip() and "," not in name])
def test_hostile_jump_is_refused(name):
    with pytest.raises(MoaiError) as caught:
        parse_jump(name)
    assert caught.value.reason == "USAGE"


def test_list_of_hostile_names_is_long_enough():
    assert len(set(HOSTILE)) >= 30


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("box", "box", None, None),
        ("bob@box", "box", "bob", None),
        ("bob@box:2201", "box", "bob", 2201),
        ("box:65535", "box", None, 65535),
        ("10.0.0.1", "10.0.0.1", None, None),
        ("::1", "::1", None, None),
        ("[::1]:2201", "::1", None, 2201),
        ("bob@[fe80::1%eth0]", "fe80::1%eth0", "bob", None),
        ("first.last@corp@gate.example.com", "gate.example.com", "first.last@corp", None),
        ("svc+tag:grp@box_1.local", "box_1.local", "svc+tag:grp", None),
        ("연구실", "연구실", None, None),
    ],
)
def test_plain_names_are_taken_apart(text, host, user, port):
    target = parse_target(text)
    assert (target.host, target.user, target.port) == (host, user, port)


def test_all_values_are_read_as_ssh_reads_them(config):
    home = home_folder()
    found = resolve(
        "box",
        config(
            """Host box
                HostName 127.0.0.1
                User bob
                Port 2201
                IdentityFile ~/.ssh/key_%h_%r
                IdentityFile /keys/%%/%n
                IdentitiesOnly yes
                IdentityAgent /run/agent.sock
                UserKnownHostsFile ~/one /two
                GlobalKnownHostsFile /three
                RevokedHostKeys /revoked
                StrictHostKeyChecking accept-new
                HostKeyAlias Alias
                ConnectTimeout 7
                PreferredAuthentications password,publickey
                ServerAliveInterval 5
                ServerAliveCountMax 9
                NumberOfPasswordPrompts 2
                HashKnownHosts yes
                HostKeyAlgorithms ssh-ed25519
                ProxyJump one,bob@two:2202,%r@three
                BatchMode yes
            """
        ),
    )
    assert (found.alias, found.hostname, found.user, found.port) == ("box", "127.0.0.1", "bob", 2201)
    assert found.identity_files == (home + "/.ssh/key_127.0.0.1_bob", "/keys/%/box")
    assert found.identities_only and found.hash_known_hosts and found.batch_mode
    assert found.identity_agent == "/run/agent.sock"
    assert found.user_known_hosts_files == (home + "/one", "/two")
    assert found.global_known_hosts_files == ("/three",)
    assert found.revoked_host_keys == "/revoked"
    assert found.strict_host_key_checking == "accept-new"
    assert found.host_key_alias == "alias"
    assert found.connect_timeout_s == 7.0
    assert found.preferred_authentications == ("password", "publickey")
    assert (found.server_alive_interval_s, found.server_alive_count_max) == (5.0, 9)
    assert found.password_prompts == 2
    assert found.host_key_algorithms == ("ssh-ed25519",)
    assert found.proxy_jump == ("one", "bob@two:2202", "bob@three")
    assert (found.source, found.not_honoured) == ("ssh -G", ())


def test_what_was_typed_wins_over_the_file(config):
    found = resolve("eve@box:99", config("Host box\n User bob\n Port 22\n HostName 127.0.0.1\n"))
    assert (found.user, found.port, found.hostname, found.alias) == ("eve", 99, "127.0.0.1", "box")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("no", "ask"), ("off", "ask"), ("ask", "ask"), ("yes", "yes"), ("accept-new", "accept-new")],
)
def test_no_is_read_as_ask(written, meant, config):
    assert resolve("box", config(f"StrictHostKeyChecking {written}\n")).strict_host_key_checking == meant


def test_include_and_match_are_honoured(config, tmp_path):
    config("Host inner\n HostName 127.0.0.7\n", "more")
    path = config(
        'Include %s\nMatch host outer user bob exec "true"\n HostName 127.0.0.8\n'
        'Match host outer exec "false"\n Port 1\n' % (tmp_path / "more")
    )
    assert resolve("inner", path).hostname == "127.0.0.7"
    assert resolve("bob@outer", path).hostname == "127.0.0.8"
    assert resolve("eve@outer", path).hostname == "outer"
    assert resolve("bob@outer", path).port == 22


def test_config_file_comes_from_the_environment_unless_named(config, monkeypatch):
    first, second = config("Port 1\n", "first"), config("Port 2\n", "second")
    monkeypatch.setenv("MOAI_SSH_CONFIG", first)
    assert resolve("box").port == 1
    assert resolve("box", second).port == 2


def test_a_wrong_config_file_is_named(config, tmp_path):
    with pytest.raises(MoaiError) as caught:
        resolve("box", config("Port many\n"))
    assert caught.value.reason == "CONFIG_INVALID"
    assert str(tmp_path) in caught.value.message
    with pytest.raises(MoaiError) as caught:
        resolve("box", str(tmp_path / "absent"))
    assert caught.value.reason == "CONFIG_INVALID"


def test_proxy_command_gets_plain_values_only(config):
    assert (
        resolve("bob@box:9", config("ProxyCommand nc -x %% %h %p %r %n\n")).proxy_command
        == "nc -x % box 9 bob box"
    )
    assert resolve("box", config("ProxyCommand none\n")).proxy_command == ""
    for line in ("HostName -oX", "HostName a;b", "HostName $(id)", "User a`id`", "User $(id)", "User -x"):
        with pytest.raises(MoaiError) as caught:
            resolve("box", config(f"Host box\n {line}\n ProxyCommand nc %h %r\n"))
        assert caught.value.reason == "CONFIG_INVALID"


def test_hostile_jump_in_the_file_is_refused(config):
    for value in ("a;b", "-oX", "bob@-oX", "a,$(id)"):
        with pytest.raises(MoaiError) as caught:
            resolve("box", config(f"ProxyJump {value}\n"))
        assert caught.value.reason == "CONFIG_INVALID"


def test_what_paramiko_cannot_do_is_named(config):
    found = resolve(
        "box", config("CertificateFile /c\nGSSAPIAuthentication yes\nKnownHostsCommand /bin/true\n")
    )
    assert set(found.not_honoured) == {
        "certificatefile /c", "gssapiauthentication yes", "knownhostscommand /bin/true",
    }  # fmt: skip


def test_methods_switched_off_are_not_used(config):
    found = resolve("box", config("PasswordAuthentication no\nKbdInteractiveAuthentication no\n"))
    assert found.preferred_authentications == ("publickey",)


def test_known_hosts_files_with_spaces_are_found(config, tmp_path):
    spaced = tmp_path / "a b" / "known hosts"
    spaced.parent.mkdir()
    spaced.write_text("")
    found = resolve("box", config(f'UserKnownHostsFile /first "{spaced}" /last\n'))
    assert found.user_known_hosts_files == ("/first", str(spaced), "/last")
    assert resolve("box", config("UserKnownHostsFile none\n")).user_known_hosts_files == ()


def test_environment_in_agent_and_key_paths(config, monkeypatch):
    monkeypatch.setenv("MOAI_TEST_DIR", "/somewhere")
    found = resolve(
        "box", config("IdentityAgent ${MOAI_TEST_DIR}/agent\nIdentityFile ${MOAI_TEST_DIR}/key\n")
    )
    assert found.identity_agent == "/somewhere/agent"
    assert found.identity_files == ("/somewhere/key",)
    assert resolve("box", config("IdentityAgent $MOAI_TEST_DIR\n")).identity_agent == "/somewhere"
    assert resolve("box", config("IdentityAgent none\n")).identity_agent == "none"
    assert resolve("box", config("IdentityAgent SSH_AUTH_SOCK\n")).identity_agent == "SSH_AUTH_SOCK"


def test_without_openssh_the_same_values_come_from_the_file(config, no_openssh):
    path = config(
        "Host box\n HostName 127.0.0.1\n User bob\n Port 2201\n IdentityFile ~/k\n UserKnownHostsFile /u\n"
        " IdentitiesOnly yes\n StrictHostKeyChecking no\n ProxyCommand nc %h %p\n"
    )
    found = resolve("eve@box:9", path)
    assert found.source == "paramiko"
    assert (found.hostname, found.user, found.port) == ("127.0.0.1", "eve", 9)
    assert found.identity_files == (os.path.join(home_folder(), "k"),)
    assert found.user_known_hosts_files == ("/u",)
    assert found.identities_only and found.strict_host_key_checking == "ask"
    assert found.proxy_command == "nc 127.0.0.1 9"
    plain = resolve("other", path)
    assert (plain.hostname, plain.port) == ("other", 22)
    assert plain.user_known_hosts_files[0].endswith("/.ssh/known_hosts")


def test_without_openssh_what_paramiko_misreads_is_dropped_and_named(config, no_openssh):
    path = config(
        "Include more\nMatch tagged gpu\n Port 2\nMatch localnetwork 10.0.0.0/8\n Port 3\n"
        "Match host box user bob\n Port 4\nHost *\n User bob\n"
    )
    found = resolve("bob@box", path)
    assert found.port == 4
    assert resolve("other", path).port == 22
    assert [line.split(": ", 1)[1] for line in found.not_honoured] == [
        "Include more", "Match tagged gpu", "Match localnetwork 10.0.0.0/8",
    ]  # fmt: skip


def test_slow_config_is_given_up_with_what_it_started(config, monkeypatch, tmp_path):
    monkeypatch.setattr(resolve_module, "SSH_G_TIMEOUT_S", 1.0)
    pid_file = tmp_path / "pid"
    with pytest.raises(MoaiError) as caught:
        resolve(
            "box", config(f'Match exec "echo $$ > {pid_file}; exec cat /dev/zero > /dev/null"\n Port 1\n')
        )
    assert caught.value.reason == "CONFIG_INVALID"
    assert "Match exec" in caught.value.next
    wait_until(lambda: not _running(int(pid_file.read_text())), "the Match exec child to end")


def _running(pid):
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()[:1] not in ("", "Z")


def test_include_and_match_lead_to_the_real_server(config, tmp_path):
    with Sshd(tmp_path / "server") as server:
        server.ssh_config(tmp_path / "inner", alias="box")
        path = config("Include %s\nMatch originalhost short\n HostName box\n" % (tmp_path / "inner"))
        with connect(resolve("box", path), NoPrompter(), str(tmp_path / "own")) as link:
            stream = link.open_exec("echo $SSH_CONNECTION")
            assert stream.recv(100).split()[-1] == str(server.port).encode()
    assert not Path(tmp_path / "own").exists()
