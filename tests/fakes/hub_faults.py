"""What can go wrong at the stand-in Hub, on demand and counted.

Owns the switches and the sending of bodies under them. A fault hits requests whose file path fits
its pattern, ``times`` of them (None: all), in the order the faults were added.

Kinds that hit a body of a file: ``reset`` (TCP RST after ``after_bytes``), ``short`` (FIN after
``after_bytes`` although more was announced), ``stall`` (nothing more after ``after_bytes``, the
connection stays open), ``slow`` (``chunk_bytes`` each ``every_s``), ``hold`` (all requests together
get ``after_bytes``, then wait for ``release``), ``wrong`` (right length, other bytes), ``etag``
(another ETag and other bytes), ``length`` (another length, with an HTML page), ``ignore_range``
(200 and the whole file), ``wrong_range`` (206 with a neighbour's range in ``Content-Range``), ``total``
(206 with another length of the whole). Kinds that hit an answer: ``status`` (``status``, ``headers``; ``where`` is
``file``, ``resolve`` or ``api``), ``expired`` (403 for a signed address).

Runs inside the stand-in's process.
"""

import fnmatch
import os
import socket
import struct
import threading
import time
from typing import Callable, Dict, List, Optional


class Fault:
    """One switch; see the module docstring. ``hits`` counts the requests it changed."""

    def __init__(
        self,
        kind: str,
        path: str = "*",
        times: Optional[int] = 1,
        after_bytes: int = 0,
        status: int = 503,
        headers: Optional[Dict[str, str]] = None,
        where: str = "file",
        chunk_bytes: int = 1,
        every_s: float = 1.0,
        min_start: int = 0,
    ) -> None:
        self.kind, self.path, self.times, self.after_bytes = kind, path, times, after_bytes
        self.status, self.headers, self.where = status, dict(headers or {}), where
        self.chunk_bytes, self.every_s, self.min_start = chunk_bytes, every_s, min_start
        self.hits = 0
        self.reached = threading.Event()
        self._released = threading.Event()
        self._budget = after_bytes
        self._lock = threading.Lock()

    def release(self) -> None:
        """End a ``hold`` or ``stall``."""
        self._released.set()

    def wait(self, closing: threading.Event) -> None:
        """Until ``release``, or until the server closes."""
        self.reached.set()
        while not self._released.is_set() and not closing.is_set():
            self._released.wait(0.1)

    def take(self, wanted: int, closing: threading.Event) -> int:
        """How many bytes of a ``hold`` may be sent now; waits when none are left."""
        with self._lock:
            granted = min(wanted, self._budget)
            self._budget -= granted
        if granted:
            return granted
        self.wait(closing)
        return wanted


class Faults:
    """The switches of one server."""

    def __init__(self) -> None:
        self._faults: List[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Arm a fault and return it."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Disarm everything; held bodies go on."""
        with self._lock:
            faults, self._faults = self._faults, []
        for fault in faults:
            fault.release()

    def hit(self, where: str, path: str, start: int = 0) -> Optional[Fault]:
        """The armed fault for this request, its counter advanced; None for an undisturbed answer."""
        with self._lock:
            for fault in self._faults:
                if fault.where != where or not fnmatch.fnmatch(path, fault.path) or start < fault.min_start:
                    continue
                if fault.times is None or fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None


def send_body(
    sock: socket.socket,
    read: Callable[[int, int], bytes],
    start: int,
    end: int,
    fault: Optional[Fault],
    closing: threading.Event,
    count: Callable[[int], None],
) -> bool:
    """Send ``[start, end)`` of a file under a fault; False when the connection must be closed."""
    kind = fault.kind if fault else ""
    at = start
    while at < end and not closing.is_set():
        size = min(64 * 1024, end - at)
        if fault and kind in ("reset", "short", "stall"):
            size = min(size, start + fault.after_bytes - at)
            if size <= 0:
                return _break(sock, fault, closing)
        elif fault and kind == "slow":
            size = min(size, fault.chunk_bytes)
            closing.wait(fault.every_s)
        elif fault and kind == "hold":
            size = fault.take(size, closing)
        data = read(at, size)
        if kind in ("wrong", "etag"):
            data = bytes(byte ^ 0xFF for byte in data)
        sock.sendall(data)
        count(len(data))
        at += len(data)
    return at >= end


def send_from_disk(
    sock: socket.socket,
    path: str,
    start: int,
    end: int,
    bytes_per_s: float,
    closing: threading.Event,
    count: Callable[[int], None],
) -> bool:
    """Send ``[start, end)`` of a file by sendfile, so that the server costs little; False when the
    connection must be closed.

    Args:
        bytes_per_s: limit of this connection, kept by deadlines; 0 = none.
    """
    piece = 1024 * 1024 if not bytes_per_s else 64 * 1024
    at, began_s = start, time.monotonic()
    with open(path, "rb") as stream:
        while at < end and not closing.is_set():
            sent = os.sendfile(sock.fileno(), stream.fileno(), at, min(piece, end - at))
            if not sent:
                return False
            count(sent)
            at += sent
            ahead_s = (at - start) / bytes_per_s - (time.monotonic() - began_s) if bytes_per_s else 0.0
            if ahead_s > 0:
                closing.wait(ahead_s)
    return at >= end


def _break(sock: socket.socket, fault: Fault, closing: threading.Event) -> bool:
    if fault.kind == "reset":
        # Closing with a zero linger time makes the kernel send RST instead of FIN (socket(7)).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif fault.kind == "stall":
        fault.wait(closing)
    return False
