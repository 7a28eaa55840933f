"""Moments for people, by this machine's clock against the plane's."""

from __future__ import annotations

from datetime import datetime, timezone

from fleet.durations import short_duration


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(timezone.utc)


def moment(value: str | None) -> datetime | None:
    """An ISO time as :func:`fleet.cli.plain.plain` gives it."""
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if value else None


def ago(value: str | None, at: datetime) -> str:
    """``3 s ago`` of an ISO time; ``never`` of none. Clocks may differ: what lies ahead is ``just now``."""
    then = moment(value)
    if then is None:
        return "never"
    seconds = (at - then).total_seconds()
    return f"{short_duration(seconds)} ago" if seconds >= 1 else "just now"


def left(value: str | None, at: datetime) -> str:
    """``42 s left`` until an ISO time; empty of none."""
    then = moment(value)
    return f"{short_duration((then - at).total_seconds())} left" if then is not None else ""


def clock(value: str | None) -> str:
    """``12:30:05`` of an ISO time in UTC."""
    return value[11:19] if value else ""
