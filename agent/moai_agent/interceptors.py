"""What happens around every call: the caller's secret, the agent's activity, errors to statuses.

The only place in the agent that catches everything: a defect becomes INTERNAL with its traceback in
the agent's log, never a silent hang-up.
"""

import asyncio
import hmac
import sys
import time
import traceback
from typing import Any, Callable

import grpc

from moai_agent.errors import STATUS, TRAILER, AgentError


class Activity:
    """How many calls run and when the last one ended; decides when an idle agent leaves."""

    def __init__(self) -> None:
        self.running = 0
        self.last_s = time.monotonic()

    def idle_s(self) -> float:
        """Seconds since a call ran; 0 while one does."""
        return 0.0 if self.running else time.monotonic() - self.last_s


class Edge(grpc.aio.ServerInterceptor):
    """Checks ``moai-secret`` and turns exceptions into typed statuses.

    Args:
        secret: what callers must send; compared in constant time. (File modes guard the socket;
            gRPC's local credentials do not check the peer, so this is the second lock.)
    """

    def __init__(self, secret: str, activity: Activity) -> None:
        self._secret = secret.encode()
        self._activity = activity

    async def intercept_service(self, continuation: Callable[..., Any], details: Any) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(details)
        if handler is None:
            return None
        given = next((v for k, v in details.invocation_metadata if k == "moai-secret"), "")
        raw = given if isinstance(given, bytes) else given.encode()
        admitted = hmac.compare_digest(raw, self._secret)
        if handler.response_streaming:
            wrapped = self._stream(handler.unary_stream or handler.stream_stream, admitted)
        else:
            wrapped = self._unary(handler.unary_unary or handler.stream_unary, admitted)
        kind = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[(handler.request_streaming, handler.response_streaming)]
        return kind(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: Callable[..., Any], admitted: bool) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> Any:
            self._activity.running += 1
            try:
                _require(admitted)
                return await method(request, context)
            except Exception as error:
                await _abort(context, error)
            finally:
                self._activity.running -= 1
                self._activity.last_s = time.monotonic()

        return call

    def _stream(self, method: Callable[..., Any], admitted: bool) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> Any:
            self._activity.running += 1
            try:
                _require(admitted)
                async for message in method(request, context):
                    yield message
            except Exception as error:
                await _abort(context, error)
            finally:
                self._activity.running -= 1
                self._activity.last_s = time.monotonic()

        return call


def _require(admitted: bool) -> None:
    if not admitted:
        raise AgentError("UNAUTHENTICATED", "the caller did not show the agent's secret", "reconnect")


async def _abort(context: Any, error: Exception) -> None:
    if isinstance(error, (grpc.aio.AbortError, asyncio.CancelledError)):
        raise error
    if not isinstance(error, AgentError):
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        sys.stderr.write(text)
        sys.stderr.flush()
        error = AgentError("INTERNAL", "%s: %s" % (type(error).__name__, error), "see agent.log on the container")
    trailer = ((TRAILER, error.info().SerializeToString()),)
    await context.abort(STATUS[error.reason], error.message, trailer)
