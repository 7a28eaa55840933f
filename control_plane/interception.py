"""Something that happens around every call to one of the plane's services, in the task that serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc

PREFIXES = ("/maskfleet.", "/opentelemetry.")
"""Methods of other services (health, reflection) are left as they are, and open to anyone."""


def around(handler: Any, entered: Callable[[], AbstractContextManager[None]]) -> Any:
    """The handler with a context around its behaviour.

    Args:
        handler: of any kind; its behaviour is a coroutine function, or an asynchronous generator where it streams.
        entered: makes the context, once a call.
    """
    asked = "stream" if handler.request_streaming else "unary"
    answered = "stream" if handler.response_streaming else "unary"
    behaviour = getattr(handler, f"{asked}_{answered}")

    async def unary(request: Any, context: Any) -> Any:
        with entered():
            return await behaviour(request, context)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        with entered():
            async for response in behaviour(request, context):
                yield response

    return getattr(grpc, f"{asked}_{answered}_rpc_method_handler")(
        stream if handler.response_streaming else unary, handler.request_deserializer, handler.response_serializer
    )
