"""Channels, deadlines, and statuses into exceptions. The only user of grpc besides the holder.

A ``Session`` belongs to one host and is safe to use from several threads. It reconnects by making
everything anew (holder, channel); gRPC's own retries are off, because only we know which calls may be
repeated: all of them, since every changing call carries a client-made id.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
from moai_proto.v1 import errors_pb2

from moai import _skew
from moai._config import HostConfig
from moai._errors import LinkLost, MoaiError
from moai._ssh.prompts import NoPrompter, Prompter

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
TRAILER = "moai-error-bin"

#: The laptop pings every 10 s, also without calls, and gives a silent peer 5 s; the agent allows it.
#: ``ping_timeout_ms`` is needed beside ``keepalive_timeout_ms``, else a stopped peer is noticed after
#: a minute only.
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

#: Reasons under which a later try may succeed without anybody's help.
_TRANSIENT = ("LINK_LOST", "HOST_UNREACHABLE")

Say = Callable[[str], None]


def error_trailer(error: MoaiError) -> tuple[str, bytes]:
    """The trailer of a typed error, as the agent makes it."""
    info = errors_pb2.ErrorInfo(
        reason=errors_pb2.ErrorReason.Value("ERROR_REASON_" + error.reason),  # type: ignore[arg-type]
        message=error.message,
        next=error.next,
        details={k: str(v) for k, v in error.details.items()},
    )
    return (TRAILER, info.SerializeToString())


def status_of(error: MoaiError) -> grpc.StatusCode:
    """Canonical code of an error of the link itself."""
    if error.reason in _TRANSIENT:
        return grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.FAILED_PRECONDITION


def to_error(error: grpc.RpcError) -> MoaiError:
    """A gRPC failure as our exception: the trailer if there is one, else by code."""
    code, details = error.code(), error.details() or ""
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER:
            from moai._convert import error_reason

            told = error_reason(errors_pb2.ErrorInfo.FromString(value))
            return MoaiError(told.code, told.message, told.next, told.details)
    if code == grpc.StatusCode.UNAVAILABLE or (code == grpc.StatusCode.CANCELLED and "Locally" not in details):
        return MoaiError("LINK_LOST", f"the link broke: {details}", "try again")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return MoaiError("HOST_UNREACHABLE", "the agent did not answer in time", "try again")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return MoaiError("AGENT_TOO_OLD", "the running agent does not know this call", "moai remote up")
    return MoaiError("INTERNAL", f"{code.name}: {details}")


@contextlib.contextmanager
def _closed_meanwhile() -> Iterator[None]:
    """Another thread found the link broken and closed the channel between our getting it and our using it."""
    try:
        yield
    except ValueError as error:
        if "closed" not in str(error).lower() or "RPC" not in str(error):
            raise
        raise LinkLost("LINK_LOST", f"the link is being made anew: {error}", "try again") from error


class Backoff:
    """Full-jitter waits, 0.2 to 15 s, at most 4 a minute once they have grown."""

    def __init__(self) -> None:
        self.tries = 0

    def next_s(self) -> float:
        """Seconds to wait before the next try."""
        self.tries += 1
        return float(random.uniform(0.5, 1.0) * min(20.0, 0.2 * 2**self.tries))


class Session:
    """Calls to one host's agent.

    Args:
        host: which. prompts: who answers questions while connecting. say: progress for people.
        link: use (and start) a holder process; else the connection lives in this process.
    """

    def __init__(self, host: HostConfig, prompts: Prompter | None = None, say: Say | None = None, link: bool = True) -> None:
        self.host = host
        self._prompts: Prompter = prompts or NoPrompter(host.name)
        self._say: Say = say or (lambda text: None)
        self._link = link
        self._lock = threading.RLock()
        self._channel: grpc.Channel | None = None
        self._upstream: Any = None
        self._secret = ""
        self._generation = 0
        self._protocol = (-1, 0)

    # -- connecting ----------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether there is a channel; whether it still works is not known before the next call."""
        return self._channel is not None

    def _connected(self) -> tuple[grpc.Channel, int]:
        with self._lock:
            if self._upstream is not None and self._upstream.ended.is_set():
                self._drop()
            if self._channel is None:
                address = self._connect()
                self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
                self._generation += 1
            return self._channel, self._generation

    def _connect(self) -> str:
        from moai._link.client import ensure_holder

        if self.host.is_local:
            from moai._local import ensure_local

            address, self._secret = ensure_local(self._say)
            return address
        if self._link:
            path = ensure_holder(self.host, self._prompts, self._say)
            return _address(path)
        from moai import _paths
        from moai._link.upstream import open_upstream

        folder = _paths.own(_paths.cache_folder() / "links")
        self._upstream, _ = open_upstream(self.host, self._prompts, self._say, folder)
        self._secret = self._upstream.handshake.secret
        return str(self._upstream.address)

    def plain_connection(self) -> Any:
        """An SSH connection beside the link, for the degraded path; the caller closes it."""
        from moai._link.upstream import open_connection

        return open_connection(self.host, self._prompts)

    @property
    def prompts(self) -> Prompter:
        """Who answers questions while connecting."""
        return self._prompts

    def cut(self) -> None:
        """Break this session's own connection as a failing network would; its calls and streams are not told.

        Nothing happens to the link that commands share, and on the laptop itself there is nothing to cut.
        """
        upstream = self._upstream
        if upstream is not None:
            upstream.close()

    def say(self, text: str) -> None:
        """Progress for people."""
        self._say(text)

    def _drop(self, generation: int | None = None) -> None:
        with self._lock:
            if generation is not None and generation != self._generation:
                return  # Somebody else has made a new channel meanwhile.
            channel, upstream = self._channel, self._upstream
            self._channel = self._upstream = None
        if channel is not None:
            channel.close()
        if upstream is not None:
            upstream.close()

    def close(self) -> None:
        """Release the channel; the holder and all jobs stay."""
        self._drop()

    def _metadata(self) -> list[tuple[str, str]]:
        return [("moai-secret", self._secret)] if self._secret else []

    # -- calling -------------------------------------------------------------------------------

    def call(self, stub: Any, method: str, request: Any, timeout_s: float = 60.0, patience_s: float = 30.0) -> Any:
        """A unary call, repeated after a broken link for up to ``patience_s``.

        Args:
            stub: generated stub class. method: name of the RPC. timeout_s: deadline of one try.
        """
        end_s = time.monotonic() + patience_s
        backoff = Backoff()
        while True:
            generation = self._generation
            try:
                channel, generation = self._connected()
                with _closed_meanwhile():
                    _skew.check(request, functools.partial(self._spoken, channel, generation))
                    return getattr(stub(channel), method)(request, timeout=timeout_s, metadata=self._metadata())
            except grpc.RpcError as raw:
                error = self._seen(raw)
            except LinkLost as lost:
                error = lost
            if error.reason not in _TRANSIENT:
                raise error
            self._drop(generation)
            wait_s = backoff.next_s()
            if error.reason != "LINK_LOST" or time.monotonic() + wait_s > end_s:
                raise error
            time.sleep(wait_s)

    def _seen(self, raw: grpc.RpcError) -> MoaiError:
        """The error of a call. On the laptop itself gRPC dials the socket again by itself, also that of the next
        agent, which has another secret: then the way to this one is lost."""
        error = to_error(raw)
        if self.host.is_local and error.reason == "UNAUTHENTICATED":
            return LinkLost("LINK_LOST", "the agent was replaced by another one", "try again")
        return error

    def _spoken(self, channel: grpc.Channel, generation: int) -> int:
        """The newest protocol of the agent behind this channel; asked once a channel."""
        if self._protocol[0] != generation:
            from moai_proto.v1 import agent_pb2, agent_pb2_grpc

            make: Any = agent_pb2_grpc.AgentServiceStub
            answer = make(channel).GetAgent(agent_pb2.GetAgentRequest(), timeout=60.0, metadata=self._metadata())
            self._protocol = (generation, answer.protocol_max)
        return self._protocol[1]

    def upload(self, stub: Any, method: str, requests: Callable[[], Iterable[Any]], timeout_s: float) -> Any:
        """A client stream; ``requests`` is called again for every try, six at most, with pauses between."""
        backoff = Backoff()
        while True:
            generation = self._generation
            try:
                channel, generation = self._connected()
                with _closed_meanwhile():
                    return getattr(stub(channel), method)(iter(requests()), timeout=timeout_s, metadata=self._metadata())
            except grpc.RpcError as raw:
                error = self._seen(raw)
            except MoaiError as lost:
                error = lost
            # The first try must connect; after a cut the host may be away for a moment.
            may_return = error.reason == "LINK_LOST" or (backoff.tries and error.reason in _TRANSIENT)
            if not may_return or backoff.tries >= 5:
                raise error
            self._drop(generation)
            time.sleep(backoff.next_s())

    def stream(self, stub: Any, method: str, request: Any, opened: Callable[[Any], None] | None = None) -> Iterator[Any]:
        """A server stream, once. Raises LinkLost when it breaks; the caller knows where to go on.

        Args:
            opened: gets the call, whose ``cancel()`` ends the stream from another thread.
        """
        channel, generation = self._connected()
        with _closed_meanwhile():
            call = getattr(stub(channel), method)(request, metadata=self._metadata())
        if opened is not None:
            opened(call)
        try:
            yield from call
        except grpc.RpcError as raw:
            error = self._seen(raw)
            if error.reason in _TRANSIENT:
                self._drop(generation)
            raise error from raw
        finally:
            call.cancel()

    def link_call(self, method: str, timeout_s: float = 900.0, **values: Any) -> dict[str, Any]:
        """A call to the holder itself, which is started where there is none: ``Info`` or ``Up`` (with ``force``)."""
        for last in (False, True):
            channel, generation = self._connected()
            try:
                with _closed_meanwhile():
                    raw = channel.unary_unary(f"/moai.Link/{method}")(json.dumps(values).encode(), timeout=timeout_s)
                return dict(json.loads(raw))
            except grpc.RpcError as raw_error:
                error = to_error(raw_error)
                # A holder that is just leaving hangs up; the next one answers.
                self._drop(generation)
                if last or error.reason != "LINK_LOST":
                    raise error from raw_error
        raise AssertionError("unreachable")


def close_link(path: Path) -> None:
    """Ask the holder at ``path`` to leave. Never starts one: that would connect, and bring an agent up, to end it."""
    with grpc.insecure_channel(_address(path), options=CHANNEL_OPTIONS) as channel:
        try:
            channel.unary_unary("/moai.Link/Close")(b"{}", timeout=10.0)
        except grpc.RpcError as raw:
            error = to_error(raw)
            if error.reason != "LINK_LOST":  # It hangs up while it leaves, or had just left.
                raise error from raw


def _address(path: Path) -> str:
    import os

    if len(os.fsencode(path)) < 100:
        return f"unix:{path}"
    # Kept open for the life of the process: gRPC dials the path whenever it likes.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    return f"unix:/proc/self/fd/{folder}/{path.name}"
