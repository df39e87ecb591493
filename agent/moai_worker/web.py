"""A small HTTP/1.1 client: keep-alive connections, proxies, TLS roots, redirects that lose the token.

Owns sockets and nothing else; what an answer means is decided by the callers (``hub`` for JSON,
``download`` for file bytes). Built on ``http.client`` because ``urllib.request`` has no keep-alive
and hides the socket, which the stall watch needs.

Refuses: redirects from https to http, redirects to other schemes, sending a token to any host but
the one it was meant for, and quoting the query of a URL in a message (signed URLs are secrets).

Runs in a step's process on the container. One ``Web`` belongs to one thread; only ``abort`` may be
called from another.
"""

import base64
import http.client
import os
import socket
import ssl
import time
import urllib.parse
import urllib.request
from typing import Dict, Mapping, Optional, Tuple

from .errors import StepError

#: What a broken connection raises; everything in it is worth another try.
NETWORK_ERRORS = (OSError, http.client.HTTPException)
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
USER_AGENT = "moai-remote/1 (python-http.client)"
#: Where Linux distributions keep their CA bundle, for interpreters built with another default.
_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def origin(url: str) -> Tuple[str, str, int]:
    """``(scheme, host, port)`` of a URL, lower-cased, default ports filled in.

    Raises StepError HUB_UNREACHABLE for anything but http and https with a host.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in ("http", "https") or not host:
        raise StepError(
            "HUB_UNREACHABLE", "Not an http or https address: %s" % public_url(url), "check HF_ENDPOINT"
        )
    return scheme, host, port or (443 if scheme == "https" else 80)


def public_url(url: str) -> str:
    """The URL without user, password, query and fragment: what messages may show."""
    try:
        parts = urllib.parse.urlsplit(url.split("?", 1)[0].split("#", 1)[0])
    except ValueError:
        return "(an address that cannot be read)"
    return "%s://%s%s" % (parts.scheme, parts.netloc.rpartition("@")[2], parts.path)


def tls_context(environ: Optional[Mapping[str, str]] = None) -> ssl.SSLContext:
    """Verifying TLS context with the roots the user named.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are read by OpenSSL itself; ``REQUESTS_CA_BUNDLE`` and
    ``CURL_CA_BUNDLE`` count when those are not set; an interpreter without any roots gets the
    distribution's bundle.
    """
    environ = os.environ if environ is None else environ
    bundle = None
    if not environ.get("SSL_CERT_FILE") and not environ.get("SSL_CERT_DIR"):
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            if os.path.isfile(environ.get(name, "")):
                bundle = environ[name]
                break
        paths = ssl.get_default_verify_paths()
        if bundle is None and not paths.cafile and not paths.capath:
            bundle = next((path for path in _CA_FILES if os.path.isfile(path)), None)
    return ssl.create_default_context(cafile=bundle)


def proxy_for(url: str, given: str = "") -> Optional[str]:
    """The proxy for a URL: ``given``, else the environment's (``HTTP(S)_PROXY``, ``ALL_PROXY``); none
    for what ``NO_PROXY`` names.

    Raises StepError HUB_UNREACHABLE for a proxy that is not an http proxy (SOCKS for example).
    """
    scheme, host, port = origin(url)
    proxies = urllib.request.getproxies_environment()
    proxy = given or proxies.get(scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass_environment("%s:%d" % (host, port), proxies):
        return None
    if "://" not in proxy:
        proxy = "http://" + proxy
    if not proxy.startswith("http://"):
        raise StepError(
            "HUB_UNREACHABLE",
            "The proxy %s is not an http:// proxy" % public_url(proxy),
            "set HTTPS_PROXY to an http:// proxy, or NO_PROXY for this host",
        )
    return proxy


class Web:
    """Connections of one thread, kept alive, one per scheme, host and port.

    Args:
        timeout_s: limit for connecting and for each wait on the socket while headers and small
            bodies are read; ``set_read_timeout`` changes it for a long body.
        proxy: used instead of the environment's. connect_s: limit for connecting where it is shorter.
    """

    def __init__(self, timeout_s: float = 30.0, proxy: str = "", connect_s: Optional[float] = None) -> None:
        self.timeout_s = timeout_s
        self._proxy = proxy
        self._connect_s = min(timeout_s, connect_s or timeout_s)
        self._connections: Dict[Tuple[str, str, int], http.client.HTTPConnection] = {}
        # http.client forgets the socket of an answer that ends with its connection; we need it longer.
        self._sockets: Dict[Tuple[str, str, int], socket.socket] = {}
        self._tls: Optional[ssl.SSLContext] = None

    def request(
        self,
        method: str,
        url: str,
        headers: Optional[Mapping[str, str]] = None,
        token: Optional[str] = None,
        token_url: str = "",
        body: Optional[bytes] = None,
    ) -> Tuple[http.client.HTTPResponse, str]:
        """Send a request and follow redirects; returns the answer with its body unread and its URL.

        Args:
            token: sent as a bearer token, but only while the request stays on the origin of
                ``token_url`` (default: ``url``); once a redirect leaves it, never again.

        The caller must read the body to its end and call ``done``, or call ``drop``.
        Raises OSError or http.client.HTTPException when the connection breaks, StepError
        HUB_UNREACHABLE for what no retry can cure (bad redirect, untrusted certificate).
        """
        home = origin(token_url or url)
        trusted = True
        current = url
        for _ in range(MAX_REDIRECTS + 1):
            trusted = trusted and origin(current) == home
            sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
            sent.update(headers or {})
            if token and trusted:
                sent["Authorization"] = "Bearer " + token
            response = self._open(method, current, sent, body)
            location = response.getheader("Location")
            if response.status not in REDIRECTS or not location:
                return response, current
            self._skip_body(current, response)
            raw = location.encode("latin-1", "replace")  # how http.client decoded it
            target = urllib.parse.urljoin(current, urllib.parse.quote(raw, safe="%/:=&?~#+!$,;'@()*[]"))
            if origin(current)[0] == "https" and origin(target)[0] != "https":
                raise StepError(
                    "HUB_UNREACHABLE",
                    "%s redirects from https to %s; refused" % (public_url(current), public_url(target)),
                    "check HF_ENDPOINT and the proxy settings",
                )
            current = target
        raise StepError(
            "HUB_UNREACHABLE",
            "More than %d redirects from %s" % (MAX_REDIRECTS, public_url(url)),
            "check HF_ENDPOINT",
        )

    def read_all(
        self, url: str, response: http.client.HTTPResponse, limit_bytes: int, limit_s: float
    ) -> bytes:
        """The whole body of a small answer; then the connection is free again.

        Raises http.client.HTTPException when the body is longer than ``limit_bytes``, shorter than
        announced, or not complete after ``limit_s`` seconds.
        """
        announced = response.length  # None when unknown, 0 for the answer to HEAD
        end = time.monotonic() + limit_s
        pieces, size = [], 0
        while announced is None or size < announced:
            # read1 returns after one receive, so a trickle of single bytes cannot outlast the limit.
            piece = response.read1(64 * 1024)
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes or time.monotonic() > end:
                self.drop(url)
                raise http.client.HTTPException("answer of %s too long or too slow" % public_url(url))
        if announced is not None and size < announced:
            self.drop(url)
            raise http.client.IncompleteRead(b"", announced - size)
        self.done(url, response)
        return b"".join(pieces)

    def set_read_timeout(self, url: str, timeout_s: float) -> None:
        """Change the limit of each wait on the open connection to the host of ``url``."""
        sock = self._sockets.get(origin(url))
        if sock is not None and sock.fileno() >= 0:
            sock.settimeout(timeout_s)

    def done(self, url: str, response: http.client.HTTPResponse) -> None:
        """The body was read to its last byte: keep the connection for the next request."""
        # Until Python 3.12 read1 does not count, so the response has to be told that it ended.
        response.close()
        self.set_read_timeout(url, self.timeout_s)

    def drop(self, url: str) -> None:
        """Close the connection to the host of ``url`` (its body is not read to the end)."""
        self._sockets.pop(origin(url), None)
        connection = self._connections.pop(origin(url), None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._connections.values()):
            connection.close()
        self._connections.clear()
        self._sockets.clear()

    def abort(self) -> None:
        """From another thread: make every wait of this object's thread end at once."""
        for sock in list(self._sockets.values()):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed meanwhile, which is what was wanted

    def _open(
        self, method: str, url: str, headers: Dict[str, str], body: Optional[bytes]
    ) -> http.client.HTTPResponse:
        key = origin(url)
        proxy = proxy_for(url, self._proxy)
        parts = urllib.parse.urlsplit(url)
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        if proxy and key[0] == "http":
            target = "%s://%s%s" % (key[0], parts.netloc.rpartition("@")[2], target)
            headers = dict(headers, Host=parts.netloc.rpartition("@")[2], **_proxy_headers(proxy))
        for fresh in (False, True):
            connection = self._connections.get(key)
            if connection is None:
                connection, fresh = self._connect(key, proxy), True
            try:
                if connection.sock is None:
                    connection.connect()
                    connection.sock.settimeout(self.timeout_s)
                connection.request(method, target, body=body, headers=headers)
                self._sockets[key] = connection.sock
                return connection.getresponse()
            except ssl.SSLCertVerificationError as error:
                self.drop(url)
                raise StepError(
                    "HUB_UNREACHABLE",
                    "The certificate of %s is not trusted: %s" % (key[1], error.verify_message),
                    "set SSL_CERT_FILE to the CA bundle of your network",
                )
            except NETWORK_ERRORS:
                self.drop(url)
                # A kept-alive connection may have been closed by the server while it lay idle:
                # that says nothing about the server, so the first failure of an old one is free.
                if fresh:
                    raise
        raise http.client.HTTPException("no connection to %s" % key[1])

    def _connect(self, key: Tuple[str, str, int], proxy: Optional[str]) -> http.client.HTTPConnection:
        scheme, host, port = key
        via = urllib.parse.urlsplit(proxy) if proxy else None
        at = (via.hostname or "", via.port or 80) if via else (host, port)
        if scheme == "https":
            if self._tls is None:
                self._tls = tls_context()
            connection = http.client.HTTPSConnection(
                at[0], at[1], timeout=self._connect_s, context=self._tls
            )  # type: http.client.HTTPConnection
            if proxy:
                connection.set_tunnel(host, port, _proxy_headers(proxy))
        else:
            connection = http.client.HTTPConnection(at[0], at[1], timeout=self._connect_s)
        self._connections[key] = connection
        return connection

    def _skip_body(self, url: str, response: http.client.HTTPResponse) -> None:
        if response.length is not None:
            self.read_all(url, response, 256 * 1024, self.timeout_s)
        else:
            self.drop(url)


def _proxy_headers(proxy: str) -> Dict[str, str]:
    parts = urllib.parse.urlsplit(proxy)
    if not parts.username:
        return {}
    pair = "%s:%s" % (urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")}
