"""A TCP proxy between laptop and container that breaks what it carries: the network's faults without root.

One proxy stands for the way to one container. What it does to the bytes is set while connections are open:
``stall`` (nothing passes, the sockets stay open: a black hole), ``resume``, ``reset`` (RST), ``close`` (FIN),
``refuse`` (no listener), ``cut_after`` (n more bytes, then RST), ``flip_at`` (one bit of the n-th byte),
``slow`` (bytes a second), ``delay`` (seconds, with jitter from a seed), ``silent`` (accepts and says nothing).
Directions are ``up`` (towards the container) and ``down``. Counts connections and bytes. Threads, standard
library only; everything random comes from the seed given, so a failing run can be repeated.
"""

import random
import socket
import struct
import threading
import time
from typing import Any, Dict, List, Optional

_CHUNK = 32 * 1024
DIRECTIONS = ("up", "down")


class _Way:
    """One direction of one connection."""

    def __init__(self, proxy: "Proxy", pair: "_Pair", name: str, source: socket.socket, target: socket.socket) -> None:
        self.proxy, self.pair, self.name, self.source, self.target = proxy, pair, name, source, target
        self.passed = 0
        self.thread = threading.Thread(target=self._pump, name="proxy-" + name, daemon=True)

    def _pump(self) -> None:
        try:
            while True:
                data = self.source.recv(_CHUNK)
                if not data:
                    break
                if not self._send(data):
                    return
        except OSError:
            self.pair.drop()
            return
        # A half-closed direction is passed on as such, after whatever holds it up.
        if self.proxy._wait_open(self.name, self.pair):
            try:
                self.target.shutdown(socket.SHUT_WR)
            except OSError:
                self.pair.drop()

    def _send(self, data: bytes) -> bool:
        proxy = self.proxy
        if not proxy._wait_open(self.name, self.pair):
            return False
        pause_s, allowed, flip = proxy._verdict(self.name, len(data), self.passed)
        if pause_s and not proxy._sleep(pause_s, self.pair):
            return False
        if flip is not None:
            data = data[:flip] + bytes([data[flip] ^ 1]) + data[flip + 1 :]
        # Held up meanwhile: what was read before a stall must not slip through it.
        if not proxy._wait_open(self.name, self.pair):
            return False
        self.target.sendall(data[:allowed])
        self.passed += min(allowed, len(data))
        proxy._count(self.name, min(allowed, len(data)))
        if allowed < len(data):
            self.pair.reset()
            return False
        return True


class _Pair:
    """A connection and the one made for it."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.is_over = threading.Event()

    def reset(self) -> None:
        """RST both ways."""
        for one in (self.near, self.far):
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                continue  # closed already
        self.drop()

    def drop(self) -> None:
        """Close both."""
        self.is_over.set()
        for one in (self.near, self.far):
            try:
                one.shutdown(socket.SHUT_RD)
            except OSError:
                one.close()  # never connected, or gone
                continue
            one.close()


class Proxy:
    """The way to ``(host, port)``; listens on a loopback port the kernel chooses, ``port``.

    Args:
        seed: of jitter.
    """

    def __init__(self, host: str, port: int, seed: int = 0) -> None:
        self._target = (host, port)
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stalled: Dict[str, bool] = {name: False for name in DIRECTIONS}
        self._cut: Dict[str, Optional[int]] = {name: None for name in DIRECTIONS}
        self._flip: Dict[str, Optional[int]] = {name: None for name in DIRECTIONS}
        self._rate: Optional[float] = None
        self._delay_s, self._jitter_s = 0.0, 0.0
        self._is_silent = False
        self._pairs: List[_Pair] = []
        self.connections = 0
        self.bytes: Dict[str, int] = {name: 0 for name in DIRECTIONS}
        self._listener: Optional[socket.socket] = None
        self.port = 0
        self._listen()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()

    # -- faults --------------------------------------------------------------------------------

    def stall(self, *directions: str) -> None:
        """Nothing passes any more that way (both by default); connections stay open."""
        with self._changed:
            for name in directions or DIRECTIONS:
                self._stalled[name] = True

    def resume(self) -> None:
        """Everything passes again, also what was held."""
        with self._changed:
            for name in DIRECTIONS:
                self._stalled[name], self._cut[name], self._flip[name] = False, None, None
            self._rate, self._delay_s, self._jitter_s, self._is_silent = None, 0.0, 0.0, False
            self._changed.notify_all()
        if self._listener is None:
            self._listen()

    def reset(self) -> None:
        """RST on every open connection."""
        for pair in self._open():
            pair.reset()

    def close(self) -> None:
        """FIN on every open connection."""
        for pair in self._open():
            pair.drop()

    def refuse(self) -> None:
        """No listener (connections are refused) and every open connection is reset."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.reset()

    def cut_after(self, direction: str, count: int) -> None:
        """``count`` more bytes over all connections that way, then RST of the one that carries the next."""
        with self._lock:
            self._cut[direction] = count

    def flip_at(self, direction: str, position: int) -> None:
        """Flip a bit of the byte at ``position`` (from 0) of the next connection that reaches it."""
        with self._lock:
            self._flip[direction] = position

    def slow(self, bytes_per_second: float) -> None:
        """At most so many bytes a second, each direction of each connection."""
        with self._lock:
            self._rate = bytes_per_second

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Hold every piece back for so long, each direction."""
        with self._lock:
            self._delay_s, self._jitter_s = seconds, jitter

    def silent(self) -> None:
        """Accept new connections and never answer."""
        with self._lock:
            self._is_silent = True

    def end(self) -> None:
        """Stop for good."""
        self.resume()
        self.refuse()

    # -- carrying ------------------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="proxy-accept", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                is_silent = self._is_silent
            try:
                far = socket.socket() if is_silent else socket.create_connection(self._target, timeout=10.0)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            pair = _Pair(near, far)
            with self._lock:
                self._pairs = [one for one in self._pairs if not one.is_over.is_set()] + [pair]
            if not is_silent:
                _Way(self, pair, "up", near, far).thread.start()
                _Way(self, pair, "down", far, near).thread.start()

    def _open(self) -> List[_Pair]:
        with self._lock:
            return [pair for pair in self._pairs if not pair.is_over.is_set()]

    def _wait_open(self, direction: str, pair: _Pair) -> bool:
        """Returns when that direction passes; False when the connection is over."""
        with self._changed:
            while self._stalled[direction] and not pair.is_over.is_set():
                self._changed.wait(0.1)
        return not pair.is_over.is_set()

    def _sleep(self, seconds: float, pair: _Pair) -> bool:
        return not pair.is_over.wait(seconds)

    def _verdict(self, direction: str, size: int, passed: int) -> Any:
        """(seconds to hold the piece, bytes that may pass, index of the byte to spoil or None)."""
        with self._lock:
            pause_s = self._delay_s + (self._dice.uniform(0, self._jitter_s) if self._jitter_s else 0.0)
            if self._rate:
                pause_s += size / self._rate
            cut, allowed = self._cut[direction], size
            if cut is not None:
                allowed = min(size, cut)
                self._cut[direction] = None if allowed < size else cut - allowed
            flip, position = None, self._flip[direction]
            if position is not None and passed <= position < passed + size:
                flip, self._flip[direction] = position - passed, None
            return pause_s, allowed, flip

    def _count(self, direction: str, size: int) -> None:
        with self._lock:
            self.bytes[direction] += size


def attempts_a_minute(counts: List[Any]) -> float:
    """Of ``(seconds, connections)`` marks: new connections a minute between the first and the last."""
    (first_s, first), (last_s, last) = counts[0], counts[-1]
    return 60.0 * (last - first) / max(1e-9, last_s - first_s)


def mark(proxy: Proxy) -> Any:
    """A mark for ``attempts_a_minute``."""
    return time.monotonic(), proxy.connections
