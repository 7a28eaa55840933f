"""What an agent can be told: flags, ``MASKFLEET_AGENT_…`` variables, or a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from maskfleet.config import flag, setting
from maskfleet.errors import InvalidInputError
from maskfleet.rpc.server import check_listen

PROG = "edge_agent"
PREFIX = "MASKFLEET_AGENT"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def _count(text: str) -> int:
    value = int(text) if text.strip().isdigit() else -1
    if not 0 <= value <= 1024:
        raise ValueError("give a whole number from 0 to 1024")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise ValueError("give seconds, 0 to 86400")
    return value


def _level(text: str) -> str:
    word = text.strip().upper()
    if word not in _LEVELS:
        raise ValueError(f"give {', '.join(_LEVELS)}")
    return word


def _otlp(text: str) -> str:
    word = text.strip().lower()
    if word not in ("env", "plane", "off"):
        raise ValueError("give env, plane or off")
    return word


@dataclasses.dataclass(frozen=True)
class Config:
    """An agent's configuration."""

    data_dir: Path = setting("where key, credential, engines and health windows are kept", parse=Path)
    plane: str = setting("address of the control plane, host:port", default="")
    join_token_file: Path | None = setting("file with the join token, for the first start", default=None, parse=Path)
    name: str = setting("name of this device, for people", default="")
    package: Path | None = setting("mask with this package, without a control plane", default=None, parse=Path)
    listen: str = setting("address that streams come to", default="127.0.0.1:7710")
    metrics_listen: str = setting("address of /metrics; empty for none", default="127.0.0.1:0")
    allow_remote: bool = setting("whether other machines may reach it", default=False, parse=flag)
    threads: int = setting("CPU threads per picture; 0 for all cores", default=0, parse=_count)
    max_streams: int = setting("streams at a time", default=8, parse=_count)
    soak_s: float = setting("seconds that a new release is watched before it is committed", default=3.0, parse=_seconds)
    health_interval_s: float = setting("seconds of a health window", default=10.0, parse=_seconds)
    otlp: str = setting(
        "where OpenTelemetry metrics go: env (as the standard variables say), plane (to its plane) or off",
        default="env",
        parse=_otlp,
    )
    log_level: str = setting("least level to log", default="INFO", parse=_level)

    def checked(self) -> Config:
        """Itself, if its parts go together.

        Raises:
            InvalidInputError: they do not.
        """
        check_listen(self.listen, allow_remote=self.allow_remote)
        if self.metrics_listen:
            check_listen(self.metrics_listen, allow_remote=self.allow_remote)
        if self.package is not None and self.plane:
            raise InvalidInputError(
                "--package and --plane exclude each other", remedy="give the one that says what to mask with"
            )
        if self.join_token_file is not None and not self.plane:
            raise InvalidInputError("--join-token-file needs --plane", remedy="add the control plane's address")
        if self.otlp == "plane" and not self.plane:
            raise InvalidInputError("--otlp plane needs --plane", remedy="add the control plane's address")
        if not self.max_streams:
            raise InvalidInputError("--max-streams is 0", remedy="give at least 1")
        if not self.health_interval_s:
            raise InvalidInputError("--health-interval-s is 0", remedy="give more than 0 seconds")
        return self
