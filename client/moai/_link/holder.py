"""The holder process: keeps one upstream per host and forwards gRPC calls to it, unread.

Its start (``start``) talks to the command that wanted it; once ready it detaches from that. Ends after
10 idle minutes, on ``/moai.Link/Close`` or SIGTERM. Never retries by
itself: a broken upstream is replaced by the next call, whose caller decides how often to ask.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
from grpc._cython import cygrpc

from moai._config import HostConfig
from moai._errors import LinkLost, MoaiError
from moai._link.start import FirstUpstream, Starter
from moai._link.upstream import Upstream, open_upstream
from moai._rpc import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES, error_trailer, status_of
from moai._ssh.seam import Connection

_IDLE_S = 600.0
_PASS_ON = ("moai-owner", "moai-client")
#: Somebody must answer before there is a connection again, and nobody can be asked through us.
_NEEDS_PERSON = ("SIGN_IN_NEEDED", "HOST_KEY_UNKNOWN")


class Holder(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Forwards every call; answers ``/moai.Link/*`` itself.

    Args:
        first: the connection that is being made while this module is imported.
    """

    def __init__(self, host: HostConfig, starter: Starter, folder: Path, first: FirstUpstream) -> None:
        self.host, self.starter, self.folder = host, starter, folder
        self.first: FirstUpstream | None = first
        self.upstream: Upstream | None = None
        self.channel: grpc.aio.Channel | None = None
        self.host_key: Any = None
        self.lock = asyncio.Lock()
        self.needs_person = False
        #: Attempts to connect that have ended, and how the last one failed.
        self.attempts, self.failure = 0, MoaiError("LINK_LOST", "not connected yet")
        self.running = 0
        self.last_s = time.monotonic()
        self.closing = asyncio.Event()

    async def ensure(self, mode: str = "") -> tuple[Upstream, grpc.aio.Channel]:
        """The live upstream, made if needed; MoaiError when it cannot be had.

        Whoever asks while an attempt is under way shares its failure: the streams of one follower make one attempt."""
        attempts = self.attempts
        async with self.lock:
            if self.upstream is not None and self.channel is not None and not mode:
                if not self.upstream.ended.is_set():
                    return self.upstream, self.channel
            if not mode and self.upstream is None and self.attempts != attempts:
                raise self.failure
            # A new connection might need a person, so "up" goes over the one that stands.
            kept = None
            if self.upstream is not None and not self.upstream.ended.is_set():
                kept = self.upstream.release()
            await self.drop()
            loop = asyncio.get_running_loop()
            try:
                upstream, key = await loop.run_in_executor(None, self._open, mode, kept)
            except MoaiError as error:
                self.attempts, self.failure = self.attempts + 1, error
                raise
            self.host_key = self.host_key or key
            self.channel = grpc.aio.insecure_channel(upstream.address, options=CHANNEL_OPTIONS)
            self.upstream = upstream
            return upstream, self.channel

    def _open(self, mode: str, kept: Connection | None) -> tuple[Upstream, Any]:
        arguments = (self.host, self.starter, self.starter.say, self.folder, mode, self.host_key)
        first, self.first = self.first, None
        try:
            if first is not None:
                return first.result()
            if kept is not None:
                try:
                    return open_upstream(*arguments, connection=kept)
                except LinkLost:
                    pass  # It had just broken: connect anew.
            return open_upstream(*arguments)
        except MoaiError as error:
            # The next command starts another holder, which can ask; with us it would fail for ever.
            self.needs_person = error.reason in _NEEDS_PERSON
            raise

    async def drop(self) -> None:
        """Close what is held."""
        upstream, channel = self.upstream, self.channel
        self.upstream = self.channel = None
        if upstream is not None:
            upstream.close()
        if channel is not None:
            await channel.close()

    def service(self, details: Any) -> Any:
        """See grpc.GenericRpcHandler."""
        if details.method.startswith("/moai.Link/"):
            own = {"Info": self._info, "Up": self._up, "Close": self._close}.get(details.method.rsplit("/", 1)[1])
            return grpc.unary_unary_rpc_method_handler(own) if own else None
        metadata = [(k, v) for k, v in details.invocation_metadata if k in _PASS_ON]

        async def forward(requests: Any, context: Any) -> Any:
            async for answer in self._forward(details.method, metadata, requests, context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(forward)

    async def _forward(self, method: str, metadata: list[Any], requests: Any, context: Any) -> Any:
        self.running += 1
        try:
            try:
                upstream, channel = await self.ensure()
            except MoaiError as error:
                await context.abort(status_of(error), error.message, (error_trailer(error),))
                return
            secret = ("moai-secret", upstream.handshake.secret)
            call = channel.stream_stream(method)(
                metadata=[*metadata, secret], timeout=context.time_remaining(), wait_for_ready=True
            )
            pump = asyncio.ensure_future(_pass_on(requests, call))
            watcher = asyncio.ensure_future(_cancel_when_ended(upstream, call))
            try:
                async for answer in call:
                    yield answer
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
            except asyncio.CancelledError:
                if upstream.ended.is_set():
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the link broke")
                raise
            finally:
                pump.cancel()
                watcher.cancel()
                call.cancel()
        finally:
            self.running -= 1
            self.last_s = time.monotonic()
            if self.needs_person:
                self.closing.set()

    async def _info(self, request: bytes, context: Any) -> bytes:
        upstream = self.upstream
        facts = {"pid": os.getpid(), "host": self.host.name, "address": self.host.address}
        if upstream is not None and not upstream.ended.is_set():
            facts.update(agent=upstream.handshake.facts)
        return json.dumps(facts).encode()

    async def _up(self, request: bytes, context: Any) -> bytes:
        mode = "up-force" if json.loads(request).get("force") else "up"
        try:
            # On a fresh host the link's own start has just installed the agent: a second probe and dial change nothing.
            upstream = self.upstream
            if upstream is None or mode == "up-force" or not upstream.was_just_installed():
                upstream, _ = await self.ensure(mode)
        except MoaiError as error:
            if self.needs_person:
                self.closing.set()
            await context.abort(status_of(error), error.message, (error_trailer(error),))
            return b""
        return json.dumps(upstream.handshake.facts).encode()

    async def _close(self, request: bytes, context: Any) -> bytes:
        self.closing.set()
        return b"{}"


async def _pass_on(requests: Any, call: Any) -> None:
    """Requests to the agent, without gRPC's own writer: when a write fails because the call has just ended,
    that one puts INTERNAL over the status the agent or the lost link gave it (grpc/grpc#36066)."""
    try:
        await call.wait_for_connection()
        async for request in requests:
            await call._cython_call.send_serialized_message(request)
        await call._cython_call.send_receive_close()
    except (cygrpc.InternalError, grpc.aio.AioRpcError):
        return  # The call's own status tells what happened.


async def _cancel_when_ended(upstream: Upstream, call: Any) -> None:
    """gRPC notices a closed socket at once, but a call waiting for readiness would wait for ever."""
    while not upstream.ended.is_set():
        await asyncio.sleep(0.2)
    await asyncio.sleep(0.5)
    call.cancel()


async def hold(host: HostConfig, starter: Starter, path: Path, first: FirstUpstream) -> int:
    """Connect, serve on ``path``, return when idle."""
    holder = Holder(host, starter, path.parent, first)
    try:
        await holder.ensure()
    except MoaiError as error:
        starter.tell(
            error={"reason": error.reason, "message": error.message, "next": error.next, "details": error.details}
        )
        return 1
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            # Commands ping every 10 s; without these an idle one is sent away as too busy after a minute.
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    )
    server.add_generic_rpc_handlers((holder,))
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    if path.exists():
        path.unlink()
    long = len(os.fsencode(path)) >= 100
    server.add_insecure_port(f"unix:/proc/self/fd/{folder}/{path.name}" if long else f"unix:{path}")
    await server.start()
    os.chmod(path, 0o600)
    inode = path.stat().st_ino
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, holder.closing.set)
    starter.tell(ready=True)
    starter.leave()
    while not holder.closing.is_set():
        try:
            await asyncio.wait_for(holder.closing.wait(), 5.0)
        except asyncio.TimeoutError:
            if not holder.running and time.monotonic() - holder.last_s > _IDLE_S:
                break
            if not path.exists() or path.stat().st_ino != inode:
                break
    if path.exists() and path.stat().st_ino == inode:
        path.unlink()
    await server.stop(1.0)
    await holder.drop()
    return 0

