"""``python -m fleet.demo --out demo-out``: the main job, shown. Exits 0 only if everything held."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleet.cli.exits import FAILED, INTERRUPTED, exit_code
from fleet.demo.output_folder import output_folder
from fleet.demo.screen import Screen
from fleet.demo.story import tell
from maskfleet.errors import FleetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m fleet.demo", description="The main job, shown, within 4 minutes.")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for what it writes (demo-out)")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    try:
        with output_folder(chosen.out) as out:
            with screen:
                screen.heading("maskfleet demo", f"everything is written to {chosen.out}/")
                held = tell(out, screen)
            return screen.farewell(chosen.out, held=held)
    except FleetError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # this is the command line
        return exit_code(error) or FAILED
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)  # this is the command line
        return INTERRUPTED


def _interrupt(_number: int, _frame: Any) -> None:
    """SIGTERM ends the demo as Ctrl-C does: what it started is stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
