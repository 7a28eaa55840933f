"""The control plane as a process: ``python -m control_plane --data-dir DIR``."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys

from control_plane.config import Config
from control_plane.plane import Plane
from control_plane.telemetry import Metrics
from maskfleet import config, logs
from maskfleet.clock import SystemClock
from maskfleet.datadir import DataDir
from maskfleet.errors import FleetError, InvalidInputError
from maskfleet.rpc.server import check_listen


async def serve(settings: Config) -> None:
    """Serves until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    metrics = Metrics()
    check_listen(settings.metrics_listen, allow_remote=settings.allow_remote)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(DataDir.opened(settings.data_dir, owner="control_plane"))
        where = stack.enter_context(metrics.serving(settings.metrics_listen))
        async with Plane.running(settings, data.path.resolve(), clock=SystemClock(), metrics=metrics) as plane:
            ready = {
                "event": "ready",
                "listen": plane.address,
                "metrics": where,
                "operator_token_file": str(plane.operator_token_file),
                "builder_token_file": str(plane.builder_token_file),
                "plane_fingerprint": plane.signer.fingerprint,
            }
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            logs.get_logger(__name__).info("ready", listen=plane.address, metrics=where)
            await stopping.wait()


def main() -> int:
    """Runs the plane; the exit status."""
    try:
        settings = config.load(
            Config, prog="control_plane", prefix="MASKFLEET_PLANE", argv=sys.argv[1:], environ=os.environ
        )
        # MLflow's own variable is what its users know.
        tracking = settings.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        settings = dataclasses.replace(settings, mlflow_tracking_uri=tracking)
        os.umask(0o077)  # databases and what MLflow keeps are for the owner alone
        logs.configure("control_plane", level=settings.log_level)
        asyncio.run(serve(settings))
    except FleetError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, InvalidInputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
