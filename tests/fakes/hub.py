"""A stand-in Hub: the HTTP API and file serving of huggingface.co, on loopback, with faults.

Written from the public API reference (huggingface.co/docs/hub/api) and the headers
``huggingface_hub`` documents, not from our own client: ``snapshot_download``,
``AutoModel.from_pretrained`` and ``datasets.load_dataset`` work against it with ``HF_ENDPOINT``.
LFS files are redirected to signed addresses on a second loopback name, like the Hub's file stores,
so a token that follows the redirect is caught (``tokens_seen``).

In a test::

    with HubServer() as hub:
        repo = hub.add_model("org/name", {"config.json": b"{}"})
        fault = hub.fault("reset", "*.safetensors", after_bytes=1000)

As a program: ``python tests/fakes/hub.py --root DIR --port-file F`` serves ``DIR/models/ORG/NAME``
and ``DIR/datasets/ORG/NAME`` until it is ended, and writes its address to ``F``.

Uploads are in ``hub_uploads``. Not served: search, Xet.
"""

import argparse
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Optional, Tuple

if __package__:
    from .hub_faults import Fault, Faults, send_body, send_from_disk
    from .hub_repos import Content, Repo, RepoFile, load_repos
    from .hub_uploads import Uploads
else:  # run as a program: this folder is where Python looks
    from hub_faults import Fault, Faults, send_body, send_from_disk
    from hub_repos import Content, Repo, RepoFile, load_repos
    from hub_uploads import Uploads

_SECRET = b"stand-in"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Request:
    """One request as the server saw it."""

    def __init__(self, host: str, method: str, path: str, token: str, range_: str) -> None:
        self.host, self.method, self.path, self.token, self.range = host, method, path, token, range_
        self.status = 0
        self.at_s = time.monotonic()


class HubServer:
    """The server; a context manager that runs from construction to ``close``.

    Args:
        root: folder to serve (``load_repos``), or None to add repositories with ``add_model``.
        port: 0 lets the kernel choose.
        page_size: entries of a tree page, small to exercise paging.
        tls: server context; everything is then served over https.

    ``tokens`` maps a valid token to the gated repositories it may read.
    """

    def __init__(
        self,
        root: Optional[str] = None,
        port: int = 0,
        page_size: int = 1000,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        self.repos: Dict[Tuple[str, str], Repo] = {}
        self.tokens: Dict[str, List[str]] = {}
        self.moved: Dict[str, str] = {}
        self.page_size = page_size
        #: Limit of each connection for files that lie on disk; 0 = none.
        self.bytes_per_s = 0.0
        self.faults = Faults()
        self.uploads = Uploads()
        self.requests: List[Request] = []
        self.served: Dict[str, int] = {}
        self.closing = threading.Event()
        self.resets: set = set()
        self._serial, self._oldest_serial = 0, 0
        self._lock = threading.Lock()
        for repo in load_repos(root) if root else []:
            self.repos[repo.kind, repo.name] = repo
        self._servers = [_Server(("127.0.0.1", port), self)]
        self.port = self._servers[0].server_address[1]
        self.cdn_host = "127.0.0.2"
        try:
            self._servers.append(_Server((self.cdn_host, self.port), self))
        except OSError:
            self.cdn_host = "localhost"  # no second loopback address here: another name will do
        self._scheme = "https" if tls else "http"
        self.endpoint = "%s://127.0.0.1:%d" % (self._scheme, self.port)
        for server in self._servers if tls else []:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving and cut every connection."""
        self.closing.set()
        self.faults.clear()
        for server in self._servers:
            server.shutdown()
            server.cut()
            server.server_close()
        for thread in self._threads:
            thread.join(5.0)

    def add_model(
        self, name: str, files: Dict[str, Content], gated: bool = False, private: bool = False
    ) -> Repo:
        """Serve a model repository with one commit on ``main``."""
        return self._add(Repo("model", name, gated, private), files)

    def add_dataset(
        self, name: str, files: Dict[str, Content], gated: bool = False, private: bool = False
    ) -> Repo:
        """Serve a dataset repository with one commit on ``main``."""
        return self._add(Repo("dataset", name, gated, private), files)

    def fault(self, kind: str, path: str = "*", **options: Any) -> Fault:
        """Arm a fault (see ``hub_faults``); ``path`` is a pattern on paths inside repositories."""
        return self.faults.add(Fault(kind, path, **options))

    def expire(self) -> None:
        """Make every signed address given out so far answer 403."""
        with self._lock:
            self._oldest_serial = self._serial + 1

    def bytes_served(self, path: Optional[str] = None) -> int:
        """Body bytes of files sent so far (of one path)."""
        with self._lock:
            return self.served.get(path, 0) if path else sum(self.served.values())

    def seen(self, method: str = "", text: str = "") -> List[Request]:
        """Requests so far whose path holds ``text``."""
        with self._lock:
            return [r for r in self.requests if (not method or r.method == method) and text in r.path]

    def tokens_seen(self, host: str) -> List[str]:
        """Tokens that requests to a host carried."""
        with self._lock:
            return [r.token for r in self.requests if r.token and r.host.split(":")[0] == host]

    def note(self, request: Request) -> None:
        """Record a request."""
        with self._lock:
            self.requests.append(request)

    def count(self, path: str, size: int) -> None:
        """Record body bytes of a file."""
        with self._lock:
            self.served[path] = self.served.get(path, 0) + size

    def sign(self, repo: Repo, commit: str, path: str) -> str:
        """A signed address of a file on the file store's host."""
        with self._lock:
            self._serial += 1
            serial = str(self._serial)
        key = "%s/%s/%s/%s" % (repo.kind, repo.name, commit, path)
        quoted = urllib.parse.quote(key)
        return "%s://%s:%d/cdn/%s?serial=%s&Signature=%s" % (
            self._scheme,
            self.cdn_host,
            self.port,
            quoted,
            serial,
            _signature(key, serial),
        )

    def signed_file(self, key: str, query: Dict[str, str]) -> Optional[RepoFile]:
        """The file of a signed address; None when the signature is wrong or expired."""
        serial = query.get("serial", "")
        if not hmac.compare_digest(_signature(key, serial), query.get("Signature", "")):
            return None
        if int(serial) < self._oldest_serial:
            return None
        kind, org, name, commit, path = key.split("/", 4)
        return self.repos[kind, "%s/%s" % (org, name)].commits[commit][path]

    def _add(self, repo: Repo, files: Dict[str, Content]) -> Repo:
        repo.commit(files)
        self.repos[repo.kind, repo.name] = repo
        return repo


def _signature(key: str, serial: str) -> str:
    return hmac.new(_SECRET, ("%s|%s" % (key, serial)).encode("utf-8"), hashlib.sha256).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: Tuple[str, int], hub: HubServer) -> None:
        self.hub = hub
        self._open: Dict[int, socket.socket] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the name service for this host's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "hub", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open[id(request)] = request
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(id(request), None)
        if id(request) in self.hub.resets:
            self.hub.resets.discard(id(request))
            self.close_request(request)  # without the FIN that would come before the RST
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no news
            super().handle_error(request, client_address)

    def cut(self) -> None:
        for request in list(self._open.values()):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: tests read ``requests``."""

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        hub = self.server.hub
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bearer = self.headers.get("Authorization") or ""
        self._token = bearer[7:] if bearer.startswith("Bearer ") else ""
        self._seen = Request(
            self.headers.get("Host") or "", self.command, path, self._token, self.headers.get("Range") or ""
        )
        hub.note(self._seen)
        if path.startswith("/cdn/"):
            return self._cdn(path[5:], query)
        if path.startswith("/upload/") and self.command == "PUT":
            return hub.uploads.store(self, path)
        if path.startswith("/api/"):
            fault = hub.faults.hit("api", path)
            if fault:
                return self._error(fault.status, "", "busy", fault.headers)
        if self._token and self._token not in hub.tokens:
            return self._error(401, "", "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return self._whoami()
        for old, new in hub.moved.items():
            if "/%s/" % old in path + "/":
                return self._redirect(307, self.path.replace("/%s" % old, "/%s" % new, 1), {})
        # Split before unquoting: a revision may hold quoted slashes.
        pieces = [urllib.parse.unquote(piece) for piece in parts.path.strip("/").split("/")]
        if hub.uploads.handle(self, pieces):
            return None
        if pieces[0] == "api" and len(pieces) > 1 and pieces[1] in ("models", "datasets"):
            return self._api(pieces[1][:-1], pieces[2:], query)
        kind = "model"
        if pieces[0] == "datasets":
            kind, pieces = "dataset", pieces[1:]
        if len(pieces) > 4 and pieces[2] == "resolve":
            return self._resolve(kind, "/".join(pieces[:2]), pieces[3], "/".join(pieces[4:]))
        return self._error(404, "", "Sorry, we can't find the page you are looking for.")

    def _whoami(self) -> None:
        if not self._token:
            return self._error(401, "", "Invalid username or password.")
        told = self.server.hub.uploads.whoami(self._token)
        if told is not None:
            return self._json(told)
        role = {"accessToken": {"displayName": "test", "role": "read"}, "type": "access_token"}
        return self._json({"type": "user", "id": "0" * 24, "name": "someone", "orgs": [], "auth": role})

    def _repo(self, kind: str, name: str) -> Optional[Repo]:
        """The repository, if this request may know of it; otherwise the refusal is sent."""
        repo = self.server.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self._token):
            self._error(404 if self._token else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.disabled:
            self._error(403, "", "Access to this resource is disabled.")
            return None
        return repo

    def _may_read(self, repo: Repo) -> bool:
        if not repo.gated or repo.name in self.server.hub.tokens.get(self._token, ()):
            return True
        told = "Access to model %s is restricted and you are not in the authorized list." % repo.name
        self._error(403 if self._token else 401, "GatedRepo", told)
        return False

    def _api(self, kind: str, pieces: List[str], query: Dict[str, str]) -> None:
        repo = self._repo(kind, "/".join(pieces[:2]))
        if repo is None:
            return None
        verb, rest = (pieces[2] if len(pieces) > 2 else "revision"), pieces[3:]
        if verb == "refs":
            branches = [
                {"name": name, "ref": "refs/heads/" + name, "targetCommit": commit}
                for name, commit in sorted(repo.refs.items())
            ]
            return self._json({"branches": branches, "tags": [], "converts": [], "pullRequests": []})
        if verb == "auth-check":
            return self._json({}) if self._may_read(repo) else None
        if verb not in ("revision", "tree", "paths-info"):
            return self._error(404, "", "no such call")
        commit = repo.find(rest[0] if rest else "main")
        if commit is None:
            return self._error(404, "RevisionNotFound", "Invalid rev id: %s" % rest[0])
        if verb == "revision":
            return self._json(repo.info(commit))
        expand = query.get("expand", "").lower() == "true"
        if verb == "paths-info":
            wanted, expand = self._wanted(expand)
            entries = repo.tree(commit, "", True, expand)
            return self._json([e for e in entries if e["path"] in wanted])
        folder = "/".join(rest[1:])
        recursive = query.get("recursive", "").lower() in ("true", "1")
        entries = repo.tree(commit, folder, recursive, expand)
        if folder and not entries:
            return self._error(404, "EntryNotFound", "%s does not exist" % folder)
        start, size = int(query.get("cursor") or 0), self.server.hub.page_size
        headers = {}
        if start + size < len(entries):
            more = urllib.parse.urlencode(dict(query, cursor=start + size))
            address = "%s%s?%s" % (self.server.hub.endpoint, urllib.parse.urlsplit(self.path).path, more)
            headers["Link"] = '<%s>; rel="next"' % address
        return self._json(entries[start : start + size], headers)

    def _wanted(self, expand: bool) -> Tuple[List[str], bool]:
        """``paths`` and ``expand`` of a paths-info request, sent as JSON or as a form."""
        if "json" in (self.headers.get("Content-Type") or ""):
            asked = json.loads(self._body.decode("utf-8"))
            return asked.get("paths") or [], bool(asked.get("expand"))
        form = urllib.parse.parse_qs(self._body.decode("utf-8"))
        return form.get("paths", []), form.get("expand", [""])[0].lower() == "true" or expand

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        hub = self.server.hub
        repo = self._repo(kind, name)
        if repo is None:
            return None
        fault = hub.faults.hit("resolve", path)
        if fault:
            return self._error(fault.status, "", "busy", fault.headers)
        commit = repo.find(revision)
        if commit is None:
            return self._error(404, "RevisionNotFound", "Invalid rev id: %s" % revision)
        if not self._may_read(repo):
            return None
        file = repo.commits[commit].get(path)
        if file is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": '"%s"' % file.etag}
        if file.lfs:
            headers["X-Linked-Etag"] = '"%s"' % file.etag
            headers["X-Linked-Size"] = str(file.size)
            return self._redirect(302, hub.sign(repo, commit, path), headers)
        return self._file(file, headers)

    def _cdn(self, key: str, query: Dict[str, str]) -> None:
        hub = self.server.hub
        file = hub.signed_file(key, query)
        expired = file and hub.faults.hit("cdn", file.path)
        if file is None or expired:
            xml = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            return self._send(403, {"Content-Type": "application/xml"}, xml)
        # File stores have ETags of their own (checksums of parts), unlike the Hub's.
        return self._file(file, {"ETag": '"%s-2"' % file.oid[:32]})

    def _file(self, file: RepoFile, headers: Dict[str, str]) -> None:
        hub = self.server.hub
        found = _RANGE.fullmatch(self.headers.get("Range") or "")
        start = int(found.group(1)) if found else 0
        end = min(file.size, int(found.group(2)) + 1) if found and found.group(2) else file.size
        fault = hub.faults.hit("file", file.path, start) if self.command == "GET" else None
        kind = fault.kind if fault else ""
        if fault and kind == "status":
            return self._error(fault.status, "", "busy", fault.headers)
        if kind == "length":
            return self._send(200, {"Content-Type": "text/html"}, b"<html>please sign in</html>")
        if kind == "etag":
            headers = dict(headers, ETag='"another-version"')
        changed = self.headers.get("If-Range") not in (None, headers["ETag"])
        if found and kind != "ignore_range" and not changed:
            if start >= file.size:
                return self._send(416, {"Content-Range": "bytes */%d" % file.size}, b"")
            status = 206
            at, size = start + (kind == "wrong_range"), file.size + (kind == "total")
            headers = dict(headers, **{"Content-Range": "bytes %d-%d/%d" % (at, end - 1, size)})
        else:
            status, start, end = 200, 0, file.size
        self._head(status, dict(headers, **{"Accept-Ranges": "bytes", "Content-Length": str(end - start)}))
        if self.command == "HEAD":
            return
        self.wfile.flush()
        sock = self.connection

        def count(size: int) -> None:
            hub.count(file.path, size)

        if file.on_disk and not fault:
            whole = send_from_disk(sock, file.on_disk, start, end, hub.bytes_per_s, hub.closing, count)
        else:
            whole = send_body(sock, file.read, start, end, fault, hub.closing, count)
        if not whole:
            self.close_connection = True
            if kind == "reset":
                hub.resets.add(id(self.request))

    def _json(self, value: Any, headers: Optional[Dict[str, str]] = None) -> None:
        shown = dict({"Content-Type": "application/json; charset=utf-8"}, **(headers or {}))
        self._send(200, shown, json.dumps(value).encode("utf-8"))

    def _error(self, status: int, code: str, message: str, headers: Optional[Dict[str, str]] = None) -> None:
        shown = {"Content-Type": "application/json", "X-Error-Message": message}
        if code:
            shown["X-Error-Code"] = code
        shown.update(headers or {})
        self._send(status, shown, json.dumps({"error": message}).encode("utf-8"))

    def _redirect(self, status: int, location: str, headers: Dict[str, str]) -> None:
        self._send(status, dict(headers, Location=location), b"redirecting")

    def _send(self, status: int, headers: Dict[str, str], body: bytes) -> None:
        self._head(status, dict(headers, **{"Content-Length": str(len(body))}))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: Dict[str, str]) -> None:
        self._seen.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def main(argv: List[str]) -> int:
    """Serve a folder until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A stand-in Hub on loopback.")
    parser.add_argument("--root", required=True, help="folder with models/ORG/NAME and datasets/ORG/NAME")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", required=True, help="where to write the address once it serves")
    parser.add_argument("--token", action="append", default=[], help="a valid token (may be repeated)")
    parser.add_argument("--gated", action="append", default=[], help="ORG/NAME that needs a granted token")
    parser.add_argument("--grant", action="append", default=[], help="TOKEN=ORG/NAME: access to a gated one")
    parser.add_argument("--rate", type=float, default=0.0, help="bytes a second of each connection")
    args = parser.parse_args(argv)
    hub = HubServer(args.root, args.port)
    hub.bytes_per_s = args.rate
    hub.tokens.update({token: [] for token in args.token})
    for pair in args.grant:
        token, _, name = pair.partition("=")
        hub.tokens.setdefault(token, []).append(name)
    for repo in hub.repos.values():
        repo.gated = repo.name in args.gated
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    temporary = args.port_file + ".tmp"
    with open(temporary, "w", encoding="ascii") as stream:
        stream.write(hub.endpoint + "\n")
    os.replace(temporary, args.port_file)
    ended.wait()
    hub.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
