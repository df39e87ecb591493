"""What the worker asks a Hub before it downloads, against the stand-in Hub."""

import email.utils
import os
import shutil
import socket
import ssl
import subprocess
import time

import pytest
from fakes.hub import HubServer
from moai_worker import hub as hub_module
from moai_worker import web as web_module
from moai_worker.errors import StepError
from moai_worker.hub import plan_download, whoami
from moai_worker.hubfiles import bad_path, parse_entry, refuse_clashes
from moai_worker.patience import retry_after_s
from moai_worker.web import Web, origin, proxy_for, public_url, tls_context

TOKEN = "hf_canarytoken0123456789"
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 100, "sub/notes.txt": b"hello"}


@pytest.fixture()
def hub(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("moai_worker.hub.BACKOFF_BASE_S", 0.001)
    with HubServer() as server:
        yield server


def plan(hub, name="org/name", **options):
    return plan_download(name, endpoint=hub.endpoint, attempts=options.pop("attempts", 1), **options)


def failure(hub, *args, **options):
    with pytest.raises(StepError) as caught:
        plan(hub, *args, **options)
    assert TOKEN not in repr(caught.value.as_dict())
    return caught.value


def test_a_plan_names_the_commit_and_every_files_size_and_digest(hub):
    repo = hub.add_model("org/name", FILES)
    made = plan(hub)
    assert made.commit == repo.refs["main"]
    entries = repo.commits[made.commit]
    assert [(f.path, f.size_bytes, f.etag) for f in made.files] == [
        (path, entries[path].size, entries[path].etag) for path in sorted(FILES)
    ]
    assert [f.sha256 for f in made.files] == [None, entries["model.safetensors"].sha256, None]
    assert made.total_bytes == sum(map(len, FILES.values()))
    assert (made.gated, made.left_out) == (False, [])


def test_a_long_file_list_is_read_page_by_page(hub):
    hub.page_size = 2
    files = {"f%d.txt" % i: b"%d" % i for i in range(7)}
    hub.add_dataset("org/name", files)
    assert [f.path for f in plan(hub, repo_type="dataset").files] == sorted(files)


def test_a_page_link_to_another_host_does_not_get_the_token(hub):
    hub.page_size = 1
    hub.tokens[TOKEN] = []
    hub.add_model("org/name", {"a": b"1", "b": b"2"})
    asked = hub.endpoint
    hub.endpoint = asked.replace("127.0.0.1", hub.cdn_host)  # what links say, as behind a mirror
    made = plan_download("org/name", endpoint=asked, token=TOKEN, attempts=1)
    assert len(made.files) == 2
    assert hub.tokens_seen(hub.cdn_host) == []


def test_files_come_from_one_commit_even_if_the_branch_moves_meanwhile(hub):
    repo = hub.add_model("org/name", FILES)
    first = repo.refs["main"]
    made = plan(hub)
    repo.commit({"config.json": b"{'new': 1}"})
    assert made.commit == first
    assert all(first in r.path for r in hub.seen(text="/tree/"))


@pytest.mark.parametrize(
    "names, left_out",
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"], [1, 2, 3]),
        (["model.safetensors", "onnx/model.onnx", "original/consolidated.00.pth", "x.gguf"], [1, 2, 3]),
        (["model-00001-of-00002.safetensors", "consolidated.safetensors"], [1]),
        (["consolidated.safetensors", "params.json"], []),
        (["pytorch_model.bin", "tf_model.h5"], [1]),
        (["only.gguf", "README.md"], []),
        (["model.safetensors", "tokenizer.model", "vocab.bin.json"], []),
        (["model.safetensors", "2_Dense/pytorch_model.bin"], []),
    ],
)
def test_second_copies_of_the_weights_are_left_out_of_models_only(hub, names, left_out):
    files = {name: b"x" for name in names}
    hub.add_model("org/name", files)
    hub.add_dataset("org/name", files)
    assert sorted(path for path, _ in plan(hub).left_out) == sorted(names[i] for i in left_out)
    assert plan(hub, repo_type="dataset").left_out == []


def test_allow_and_ignore_choose_files_and_say_why_the_others_are_left_out(hub):
    hub.add_model("org/name", dict(FILES, **{"pytorch_model.bin": b"x"}))
    made = plan(hub, allow=["*.bin", "sub/"], ignore=["*.txt"])
    assert [f.path for f in made.files] == ["pytorch_model.bin"]
    assert dict(made.left_out)["sub/notes.txt"] == "in the ignore patterns"
    assert failure(hub, allow=["nothing"]).reason == "FILE_NOT_FOUND"


def test_a_hub_that_does_not_answer_is_unreachable(hub):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        dead = "http://127.0.0.1:%d" % listener.getsockname()[1]
        with pytest.raises(StepError) as caught:
            plan_download("org/name", endpoint=dead, attempts=2)
    assert caught.value.reason == "HUB_UNREACHABLE"
    assert dead in caught.value.message


def test_bursts_of_429_and_5xx_are_waited_out(hub):
    hub.add_model("org/name", FILES)
    hub.fault("status", where="api", status=503, times=2)
    hub.fault("status", where="api", status=429, times=1, headers={"Retry-After": "0"})
    assert plan(hub, attempts=6).files
    assert len([r for r in hub.requests if r.status in (429, 503)]) == 3


def test_endless_errors_of_the_server_are_told_as_unreachable(hub):
    hub.fault("status", where="api", status=500, times=None)
    error = failure(hub, attempts=2)
    assert (error.reason, "500" in error.message) == ("HUB_UNREACHABLE", True)


def test_a_refused_token_is_told_apart_from_a_missing_repository(hub):
    hub.add_model("org/name", FILES)
    assert failure(hub, token=TOKEN).reason == "TOKEN_INVALID"
    hub.tokens[TOKEN] = []
    assert failure(hub, "org/none", token=TOKEN).reason == "REPO_NOT_FOUND"
    error = failure(hub, "org/none")
    assert error.reason == "REPO_NOT_FOUND"
    assert "HF_TOKEN" in error.next


def test_a_private_repository_looks_missing_without_a_token_and_opens_with_one(hub):
    hub.add_model("org/name", FILES, private=True)
    hub.tokens[TOKEN] = []
    error = failure(hub)
    assert (error.reason, "private" in error.message) == ("REPO_NOT_FOUND", True)
    assert plan(hub, token=TOKEN).files


def test_a_licence_not_accepted_names_the_page_to_open_before_any_byte(hub):
    hub.add_model("org/name", FILES, gated=True)
    hub.add_dataset("org/data", FILES, gated=True)
    hub.tokens[TOKEN] = []
    for token in (None, TOKEN):
        error = failure(hub, token=token)
        assert error.reason == "ACCESS_GATED"
        assert hub.endpoint + "/org/name" in error.next
        assert ("HF_TOKEN" in error.next) == (token is None)
    error = failure(hub, "org/data", repo_type="dataset", token=TOKEN)
    assert hub.endpoint + "/datasets/org/data" in error.next
    assert hub.bytes_served() == 0
    hub.tokens[TOKEN] = ["org/name"]
    assert plan(hub, token=TOKEN).gated is True
    assert hub.tokens_seen(hub.cdn_host) == []


def test_a_disabled_repository_is_not_taken_for_a_licence(hub):
    hub.add_model("org/name", FILES).disabled = True
    error = failure(hub)
    assert (error.reason, "disabled" in error.message) == ("REPO_NOT_FOUND", True)


def test_a_missing_revision_is_named_also_by_hubs_that_do_not_mark_it(hub, monkeypatch):
    hub.add_model("org/name", FILES)
    error = failure(hub, revision="refs/pr/9")
    assert error.reason == "REVISION_NOT_FOUND"
    assert "refs/pr/9" in error.message
    hub.fault("status", "*/revision/*", where="api", status=404)
    assert failure(hub, revision="v1").reason == "REVISION_NOT_FOUND"


def test_tags_and_other_branches_can_be_asked_for(hub):
    repo = hub.add_model("org/name", FILES)
    commit = repo.commit({"a": b"1"}, branch="refs/pr/1")
    assert plan(hub, revision="refs/pr/1").commit == commit
    assert plan(hub, revision=repo.refs["main"]).commit == repo.refs["main"]


def test_a_renamed_repository_is_followed(hub):
    hub.add_model("org/name", FILES)
    hub.moved["old/one"] = "org/name"
    assert [f.path for f in plan(hub, "old/one").files] == sorted(FILES)


def test_a_login_page_instead_of_json_is_recognised(hub, monkeypatch):
    monkeypatch.setattr("fakes.hub.json.dumps", lambda value: "<html>sign in</html>")
    hub.add_model("org/name", FILES)
    error = failure(hub)
    assert (error.reason, "not JSON" in error.message) == ("HUB_UNREACHABLE", True)


NO_NAMES = ["", "a/b/c", "../x", "a b/c", "org/na--me", "org/.hidden", "-x/y", "org/x\n"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_repository_name_is_refused_without_a_request(hub, name):
    assert failure(hub, name).reason == "USAGE"
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["../main", "/x", "a\nb", ""])
def test_what_is_no_revision_is_refused_without_a_request(hub, revision):
    assert failure(hub, revision=revision).reason == "USAGE"
    assert hub.requests == []


def test_a_token_that_could_inject_a_header_is_refused_and_not_repeated(hub):
    error = failure(hub, token=TOKEN + "\r\nX: y")
    assert error.reason == "TOKEN_INVALID"
    assert hub.requests == []


def test_whoami_names_the_account_or_blames_the_token(hub):
    hub.tokens[TOKEN] = []
    assert whoami(hub.endpoint, TOKEN)["name"] == "someone"
    for token in ("hf_wrong", None):
        with pytest.raises(StepError) as caught:
            whoami(hub.endpoint, token)
        assert caught.value.reason == "TOKEN_INVALID"


HOSTILE = ["../x", "a/../../x", "/etc/x", "a\\b", "a\0b", "a\nb", "\x1b[2J", "a//b", "./a", "C:/x", "x" * 256]


@pytest.mark.parametrize("path", HOSTILE)
def test_file_names_that_leave_the_folder_are_refused(hub, path):
    assert bad_path(path)
    hub.add_model("org/name", {"ok": b"1", path: b"2"})
    error = failure(hub)
    assert error.reason == "MODEL_INVALID"
    assert "\x1b" not in error.message


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "a", "size": 1, "oid": "../../x"},
        {"path": "a", "size": 1, "oid": "A" * 40},
        {"path": "a", "size": 1},
        {"path": "a", "size": -1, "oid": "a" * 40},
        {"path": "a", "size": "1", "oid": "a" * 40},
        {"path": "a", "size": True, "oid": "a" * 40},
        {"path": "a", "size": 1, "oid": "a" * 40, "lfs": {"oid": "a" * 40, "size": 1}},
        {"path": 5, "size": 1, "oid": "a" * 40},
    ],
)
def test_entries_without_usable_digest_or_size_are_refused(entry):
    with pytest.raises(StepError) as caught:
        parse_entry(entry, "dataset", "org/name")
    assert caught.value.reason == "DATASET_INVALID"


def test_a_path_that_is_both_file_and_folder_is_refused():
    entries = [{"path": path, "size": 1, "oid": "a" * 40} for path in ("a", "a/b")]
    files = [parse_entry(entry, "model", "org/name") for entry in entries]
    for clash in (files, files[:1] * 2):
        with pytest.raises(StepError):
            refuse_clashes(clash, "model", "org/name")
    refuse_clashes(files[:1], "model", "org/name")


def test_ordinary_unicode_names_of_255_bytes_pass():
    assert bad_path("데이터/" + "x" * 255) == ""


def test_the_environments_proxy_is_used_and_no_proxy_honoured(hub, monkeypatch):
    hub.add_model("org/name", FILES)
    monkeypatch.setenv("http_proxy", hub.endpoint)
    # .invalid never resolves (RFC 2606): only a proxy can answer for it.
    assert plan_download("org/name", endpoint="http://hub.invalid", attempts=1).files
    assert {r.host for r in hub.requests} == {"hub.invalid"}
    monkeypatch.setenv("no_proxy", "hub.invalid")
    assert proxy_for("http://hub.invalid/x") is None
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(StepError) as caught:
        proxy_for("https://hub.invalid/x")
    assert caught.value.reason == "HUB_UNREACHABLE"


def test_a_redirect_from_https_to_http_is_refused(monkeypatch):
    class Answer:
        status, length = 302, 0

        def getheader(self, name):
            return "http://elsewhere/x?Signature=secret"

        def close(self):
            """Nothing is open."""

    asked = []
    monkeypatch.setattr(Web, "_open", lambda self, method, url, headers, body: asked.append(url) or Answer())
    with pytest.raises(StepError) as caught:
        Web().request("GET", "https://hub.invalid/x", token=TOKEN)
    assert asked == ["https://hub.invalid/x"]
    assert "secret" not in caught.value.message


def test_addresses_in_messages_lose_password_and_query():
    assert public_url("https://user:pw@host:1/p?Signature=x#f") == "https://host:1/p"
    assert origin("HTTPS://Host/x") == ("https", "host", 443)
    for bad in ("ftp://x", "http://", "//x", "http://[", "http://x:port"):
        with pytest.raises(StepError):
            origin(bad)


def test_ca_bundles_the_user_named_are_loaded_and_a_missing_one_is_ignored(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(web_module.ssl, "create_default_context", lambda cafile=None: used.append(cafile))
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"")
    tls_context({"REQUESTS_CA_BUNDLE": str(bundle)})
    tls_context({"REQUESTS_CA_BUNDLE": str(bundle), "SSL_CERT_FILE": "x"})
    assert used == [str(bundle), None]


def test_an_untrusted_certificate_is_named_and_a_trusted_one_accepted(hub, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("SKIPPED LOUDLY: no openssl program to make a certificate with")
    key, cert = str(tmp_path / "key"), str(tmp_path / "cert")
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hub"
    argv = made.split() + ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with HubServer(tls=context) as server:
        server.add_model("org/name", {"a": b"1"})
        assert server.endpoint.startswith("https://")
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        error = failure(server)
        assert (error.reason, "SSL_CERT_FILE" in error.next) == ("HUB_UNREACHABLE", True)
        monkeypatch.setenv("SSL_CERT_FILE", cert)
        assert plan(server).files
        # Through a proxy that cannot tunnel nothing gets out, least of all past the proxy.
        monkeypatch.setenv("https_proxy", hub.endpoint)
        seen = len(server.requests)
        assert "Tunnel" in failure(server).message
        assert len(server.requests) == seen


def test_retry_after_is_read_as_seconds_as_date_and_from_the_rate_limit_header():
    assert retry_after_s({"Retry-After": "7"}, 1.0) == 7.0
    assert retry_after_s({"Retry-After": "99999"}, 1.0) == 900.0
    date = email.utils.formatdate(time.time() + 500, usegmt=True)
    assert 300 < retry_after_s({"Retry-After": date}, 1.0) <= 500
    assert retry_after_s({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1.0) == 0.0
    assert retry_after_s({"Retry-After": "soon"}, 1.5) == 1.5
    assert retry_after_s({"RateLimit": '"resolvers";r=0;t=42'}, 1.0) == 42.0
    assert retry_after_s({}, 1.5) == 1.5


def test_a_proxy_that_is_given_wins_over_the_environments_and_no_proxy_over_both(hub, monkeypatch):
    hub.add_model("org/name", FILES)
    hub.tokens[TOKEN] = []
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    # .invalid never resolves (RFC 2606): only the proxy can answer for it.
    assert plan_download("org/name", endpoint="http://hub.invalid", attempts=1, proxy=hub.endpoint).files
    assert whoami("http://hub.invalid", TOKEN, attempts=1, proxy=hub.endpoint)["name"] == "someone"
    assert {r.host for r in hub.requests} == {"hub.invalid"}
    monkeypatch.setenv("no_proxy", "hub.invalid")
    assert proxy_for("http://hub.invalid/x", hub.endpoint) is None


def test_a_person_who_waits_is_told_soon_that_nothing_answers(hub, monkeypatch):
    monkeypatch.setattr("moai_worker.hub.BACKOFF_BASE_S", 0.5)
    waited = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        dead = "http://127.0.0.1:%d" % listener.getsockname()[1]
        made = hub_module.Hub(dead, attempts=50, silence_s=0.2)
        monkeypatch.setattr(made._pause, "wait", waited.append)
        with pytest.raises(StepError) as caught:
            made.get_json("/api/models/org/name", hub_module.Subject("org/name"))
    assert caught.value.reason == "HUB_UNREACHABLE"
    assert len(waited) < 20 and sum(waited) < 4.0


def test_a_hub_that_answers_and_is_busy_is_given_all_its_tries(hub):
    hub.add_model("org/name", FILES)
    hub.fault("status", where="api", status=503, times=4)
    assert plan(hub, attempts=6, silence_s=0.0).files


@pytest.mark.parametrize("case", ["token", "gated", "repo", "private", "revision", "disabled"])
def test_a_refusal_is_told_after_one_answer_and_never_asked_again(hub, case):
    repo = hub.add_model("org/name", FILES, gated=case == "gated", private=case == "private")
    repo.disabled = case == "disabled"
    if case in ("gated", "revision"):
        hub.tokens[TOKEN] = []
    token = TOKEN if case in ("token", "gated", "revision") else None
    error = failure(hub, "org/none" if case == "repo" else "org/name", token=token, attempts=5,
                    revision="v9" if case == "revision" else "main")  # fmt: skip
    told = {"token": "TOKEN_INVALID", "gated": "ACCESS_GATED", "revision": "REVISION_NOT_FOUND"}
    assert error.reason == told.get(case, "REPO_NOT_FOUND")
    # Each address once: what is refused is not asked for again.
    assert len(hub.requests) == len({r.path for r in hub.requests})
