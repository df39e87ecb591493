"""A TCP relay of limited rate, to stand for a slow link: ``with Throttle(port, bytes_per_s) as t: t.port``."""

from __future__ import annotations

import socket
import threading
import time

_PIECE = 16 * 1024


class Throttle:
    """Relays 127.0.0.1:``port`` at ``bytes_per_s`` in each direction, all connections together."""

    def __init__(self, port: int, bytes_per_s: float) -> None:
        self._to, self._rate = port, bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._next = {"up": 0.0, "down": 0.0}
        self._lock = threading.Lock()

    def __enter__(self) -> Throttle:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            for one, other, way in ((client, server, "up"), (server, client, "down")):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(one, other, way), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, way: str) -> None:
        try:
            while data := source.recv(_PIECE):
                with self._lock:
                    now_s = time.monotonic()
                    at_s = max(now_s, self._next[way])
                    self._next[way] = at_s + len(data) / self._rate
                if at_s > now_s:
                    time.sleep(at_s - now_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            target.close()
