"""Channels to maskfleet servers, with the options, credentials and correlation id that every caller wants."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from maskfleet.logs import CORRELATION_KEY, correlation_id

MAX_FRAME_BYTES = 64 << 20
"""Largest message between a client and an agent: a raw 4K frame (24.9 MB) with room."""

MAX_CONTROL_BYTES = 4 << 20
"""Largest message of the control plane."""


def options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Options of channels and servers alike."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # A peer that vanished without a word (power, cable) is noticed within half a minute.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Two servers on one port would share the callers between them in silence.
        ("grpc.so_reuseport", 0),
        # No proxy between processes that name each other's addresses.
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


def connect(address: str, *, max_message_bytes: int = MAX_CONTROL_BYTES) -> grpc.Channel:
    """A channel for threads. ``address`` is ``host:port`` or ``unix:/path``."""
    return grpc.insecure_channel(address, options=options(max_message_bytes))


def connect_aio(address: str, *, max_message_bytes: int = MAX_CONTROL_BYTES) -> grpc.aio.Channel:
    """A channel for asyncio."""
    return grpc.aio.insecure_channel(address, options=options(max_message_bytes))


def metadata(credential: str = "") -> tuple[tuple[str, str | bytes], ...]:
    """What each call carries: the bearer credential, and the correlation id that is in force."""
    pairs: list[tuple[str, str | bytes]] = []
    if credential:
        pairs.append(("authorization", f"Bearer {credential}"))
    if value := correlation_id():
        pairs.append((CORRELATION_KEY, value))
    return tuple(pairs)
