"""Whether containers that shall train as one can reach each other: one offers a port, the others try it.

Owns the only TCP listener the agent ever opens: on request, on a port the kernel chooses, for a minute at
most, answering whoever connects with a one-time proof and nothing else. The training's own rendezvous takes
the port afterwards. Runs in the agent's event loop.

Format facts: SIOCGIFADDR (netdevice(7)) fills a ``struct ifreq`` of 40 bytes, the IPv4 address at offset 20.
"""

import asyncio
import fcntl
import hmac
import os
import socket
import struct
from typing import Dict, List, NamedTuple, Optional, Tuple

from moai_agent.errors import AgentError

_SIOCGIFADDR = 0x8915
LONGEST_S = 60.0
_REACH_S = 4.0
_NONCE_BYTES = (16, 64)


class Address(NamedTuple):
    """An IPv4 address and the interface that has it."""

    interface: str
    address: str


class Attempt(NamedTuple):
    """One try: ``text`` says why it failed, ``local`` what it went through."""

    address: str
    is_reached: bool
    text: str
    local: Optional[Address]


def addresses() -> List[Address]:
    """The IPv4 addresses of this container, loopback last (it serves containers of one machine only)."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                raw = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name[:15].encode()))
            except OSError:
                continue  # an interface without an IPv4 address
            found.append(Address(name, socket.inet_ntoa(raw[20:24])))
    return sorted(found, key=lambda one: one.address.startswith("127."))


class Offer:
    """An open port that proves who answers."""

    def __init__(self, nonce: bytes) -> None:
        check_nonce(nonce)
        self._nonce = nonce
        self._server: Optional[asyncio.AbstractServer] = None
        self.port = 0

    async def open(self, seconds: float) -> None:
        """Listen; closes by itself. Raises AgentError START_FAILED when no port can be had."""
        try:
            self._server = await asyncio.start_server(self._answer, "0.0.0.0", 0, family=socket.AF_INET)
        except OSError as error:
            raise AgentError("START_FAILED", "no TCP port can be opened here: %s" % error, "see what limits the container's network")
        assert self._server.sockets
        self.port = self._server.sockets[0].getsockname()[1]
        asyncio.get_running_loop().call_later(max(0.0, min(seconds, LONGEST_S)), self.close)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server, self.port = None, 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await asyncio.wait_for(reader.read(_NONCE_BYTES[1]), _REACH_S)
            writer.write(proof(self._nonce, asked))
            await writer.drain()
        except (OSError, asyncio.TimeoutError):
            return  # whoever it was has gone
        finally:
            writer.close()


class Offers:
    """The agent's open offers by port."""

    def __init__(self) -> None:
        self._open: Dict[int, Offer] = {}

    async def open(self, nonce: bytes, seconds: float) -> int:
        """The port of a new offer. Raises AgentError: USAGE, START_FAILED."""
        offer = Offer(nonce)
        await offer.open(seconds or LONGEST_S)
        self._open = {port: one for port, one in self._open.items() if one.port}
        self._open[offer.port] = offer
        return offer.port

    def take(self, port: int) -> None:
        """The leader's training takes the port over; nothing happens where this agent did not offer it."""
        offer = self._open.pop(port, None)
        if offer is not None:
            offer.close()


def proof(nonce: bytes, asked: bytes) -> bytes:
    """What only somebody who was given the nonce can answer."""
    return hmac.new(nonce, b"moai peer " + asked, "sha256").digest()


def check_nonce(nonce: bytes) -> None:
    """Raises AgentError USAGE."""
    if not _NONCE_BYTES[0] <= len(nonce) <= _NONCE_BYTES[1]:
        raise AgentError("USAGE", "the nonce has %d bytes, not %d to %d" % ((len(nonce),) + _NONCE_BYTES))


async def reach(offered: List[Address], port: int, nonce: bytes) -> List[Attempt]:
    """Try every address of another container at once; each try ends within 4 s."""
    check_nonce(nonce)
    return list(await asyncio.gather(*(_try(one.address, port, nonce) for one in offered[:32])))


async def _try(address: str, port: int, nonce: bytes) -> Attempt:
    try:
        answer, local = await asyncio.wait_for(_ask(address, port, nonce), _REACH_S)
    except asyncio.TimeoutError:
        return Attempt(address, False, "no answer in %g s (a firewall drops it, or there is no route)" % _REACH_S, None)
    except OSError as error:
        return Attempt(address, False, os.strerror(error.errno).lower() if error.errno else str(error), None)
    mine = next((one for one in addresses() if one.address == local), Address("", local))
    if not hmac.compare_digest(answer, proof(nonce, b"hello")):
        return Attempt(address, False, "somebody else answers there", mine)
    return Attempt(address, True, "", mine)


async def _ask(address: str, port: int, nonce: bytes) -> Tuple[bytes, str]:
    reader, writer = await asyncio.open_connection(address, port, family=socket.AF_INET)
    try:
        local = writer.get_extra_info("sockname")[0]
        writer.write(b"hello")
        await writer.drain()
        return await reader.readexactly(32), local
    except asyncio.IncompleteReadError as error:
        return error.partial, local
    finally:
        writer.close()
