"""The agent's process: ``python -m edge_agent``.

One line of JSON on stdout once streams are answered; logs on stderr. SIGTERM and SIGINT end it in order: health says
NOT_SERVING, streams are drained for a few seconds, what was counted is kept. It never ends for want of a plane.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

from edge_agent.agent import run
from edge_agent.config import PREFIX, PROG, Config
from maskfleet import logs
from maskfleet.config import load
from maskfleet.errors import FleetError, InvalidInputError, NotFoundError, PreconditionError

_BAD_START = (InvalidInputError, NotFoundError, PreconditionError)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs an agent until it is told to stop; the exit status: 2 for a wrong start, 1 for other errors."""
    try:
        config = load(Config, prog=PROG, prefix=PREFIX, argv=argv, environ=environ).checked()
        logs.configure(PROG, level=config.log_level)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        run(config, environ, stop, ready=_ready)
    except FleetError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"error: {logs.redacted(str(error))}\n")
        return 2 if isinstance(error, _BAD_START) else 1
    return 0


def _ready(values: Mapping[str, str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever started this does not care
        sys.stdout.write(json.dumps({"event": "ready", **values}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
