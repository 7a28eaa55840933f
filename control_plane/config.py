"""Configuration of the control plane."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from maskfleet.config import flag, setting


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
    log_level: str = setting("least level to log: DEBUG, INFO, WARNING, ERROR", default="INFO")
