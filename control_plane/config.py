"""Configuration of the control plane."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from maskfleet.config import flag, setting


def _lease(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 3600:  # holds for no NaN
        raise ValueError("give seconds, 1 to 3600")
    return value


@dataclasses.dataclass(frozen=True)
class Config:
    """See :mod:`maskfleet.config` for where values come from."""

    data_dir: Path = setting("where everything is kept", parse=Path)
    listen: str = setting("address of the API", default="127.0.0.1:7700")
    metrics_listen: str = setting("address of /metrics", default="127.0.0.1:7701")
    store_url: str = setting(
        "database, as postgresql://user@host/name; a SQLite file in the data directory if empty", default=""
    )
    mlflow_tracking_uri: str = setting(
        "MLflow server; one of the plane's own in the data directory if empty", default=""
    )
    artifacts_dir: Path | None = setting(
        "where models and engines are kept, shared by the planes of one database; in the data directory if empty",
        default=None,
        parse=Path,
    )
    allow_remote: bool = setting("listen on addresses that other machines reach", default=False, parse=flag)
    build_lease_s: float = setting(
        "seconds without a word from a builder after which another one gets its build", default=30.0, parse=_lease
    )
    log_level: str = setting("least level to log: DEBUG, INFO, WARNING, ERROR", default="INFO")
