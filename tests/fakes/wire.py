"""A wire between two network namespaces that does what real networks do to packets: below TCP, so that TCP reacts.

Each namespace has a tun device (Linux, tun.rst) whose packets this process carries to the other one, or does not.
The user-space proxy (``fakes.proxy``) works on bytes, where TCP has mended lost packets already. Needs root.

    with Wire() as wire:
        argv = [*wire.laptop.inside, "ssh", wire.box.address]
        wire.loss = 0.3
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time

import pytest

from .rooted import attempt
from .sshd import wait_until

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_TCP, _SYN, _ACK = 6, 0x02, 0x10
_numbers = itertools.count(1)


class Side:
    """One end: a network namespace with loopback and one tun device.

    Attributes:
        inside: argv in front of a program that is to run there. address: its IPv4 address.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.device = f"moai{os.getpid() % 100000}.{next(_numbers)}"
        attempt(["unshare", "--net", "true"], "network namespace")
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", self.device.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            pytest.skip(f"SKIPPED LOUDLY: no tun device can be made here: {error}")
        # Holds the namespace open; it ends with its standard input.
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        own = os.readlink("/proc/self/ns/net")
        path = f"/proc/{self._holder.pid}/ns/net"
        wait_until(lambda: os.readlink(path) != own, "the network namespace")
        self.inside = ["nsenter", f"--net={path}"]
        attempt(["ip", "link", "set", self.device, "netns", str(self._holder.pid)], "moving of a device")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", self.device, "up", "mtu", "1500")
        self.ip("addr", "add", f"{address}/24", "dev", self.device)

    def ip(self, *words: str) -> None:
        """``ip WORDS`` in there."""
        subprocess.run([*self.inside, "ip", *words], check=True, timeout=30)

    def move_to(self, address: str) -> None:
        """Another address, as after joining another network; the old one is gone at once."""
        self.ip("addr", "del", f"{self.address}/24", "dev", self.device)
        self.ip("addr", "add", f"{address}/24", "dev", self.device)
        self.address = address

    def end(self) -> None:
        """The device goes with its descriptor, the namespace with its last process."""
        os.close(self.fd)
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(10)


class Wire:
    """Two ends and what happens between them; change the attributes at any time.

    Attributes:
        loss: share of packets that are lost, each way, 0.0 to 1.0; by ``seed``, so that a run can be repeated.
        most_bytes: larger packets vanish without a word (a wrong MTU on the way); 0 for none.
        memory_s: a flow that was silent for so many seconds is forgotten and nothing of it passes any more, as in a
            router that translates addresses; 0 for never.
        passed, lost, too_large, forgotten: counts of packets. connections: times the laptop asked for one.
    """

    def __init__(self, seed: int = 0) -> None:
        number = next(_numbers) % 200
        self.laptop, self.box = Side(f"10.77.{number}.1"), Side(f"10.77.{number}.2")
        self.loss, self.most_bytes, self.memory_s = 0.0, 0, 0.0
        self.passed = self.lost = self.too_large = self.forgotten = self.connections = 0
        self._dice = random.Random(seed)
        self._seen: dict[frozenset[bytes], float] = {}
        self._stop_r, self._stop_w = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="wire", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Cut it and take both ends away; what runs in there must have ended."""
        os.write(self._stop_w, b"x")
        self._thread.join(10)
        for side in (self.laptop, self.box):
            side.end()
        os.close(self._stop_r)
        os.close(self._stop_w)

    def _carry(self) -> None:
        ends = {self.laptop.fd: self.box.fd, self.box.fd: self.laptop.fd}
        while True:
            ready, _, _ = select.select([*ends, self._stop_r], [], [])
            if self._stop_r in ready:
                return
            for fd in ready:
                try:
                    packet = os.read(fd, 65536)
                    if self._passes(packet, from_laptop=fd == self.laptop.fd):
                        os.write(ends[fd], packet)
                except OSError:
                    continue  # That end is full or down for a moment: the packet is lost, which is a network's right.

    def _passes(self, packet: bytes, from_laptop: bool) -> bool:
        if packet[0] >> 4 != 4:
            return False  # Neighbours of IPv6 look for each other; nobody is asked.
        head = (packet[0] & 15) * 4
        flags = packet[head + 13] if packet[9] == _TCP else 0
        is_first = flags & (_SYN | _ACK) == _SYN
        self.connections += from_laptop and is_first
        if self.memory_s and packet[9] == _TCP and not self._is_known(packet, head, is_first):
            self.forgotten += 1
            return False
        if self.most_bytes and len(packet) > self.most_bytes:
            self.too_large += 1
            return False
        if self._dice.random() < self.loss:
            self.lost += 1
            return False
        self.passed += 1
        return True

    def _is_known(self, packet: bytes, head: int, is_first: bool) -> bool:
        now = time.monotonic()
        flow = frozenset((packet[12:16] + packet[head : head + 2], packet[16:20] + packet[head + 2 : head + 4]))
        known = is_first or now - self._seen.get(flow, -1e9) < self.memory_s
        if known:
            self._seen[flow] = now
        return known
