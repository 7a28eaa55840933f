"""The process of one build: ``python -m model_compiler.worker JOB.json``.

The job is a file; progress and the end are JSON lines on standard output; the log is standard error. Memory is limited
before anything heavy is imported. It dies with its parent. SIGTERM cancels the build at its next step.

A job::

    {"spec": {…}, "source": "/…/model.onnx", "engine": "/…/engine", "calibration": {"name": "street/2", "folder": "/…"},
     "memory_bytes": 4294967296, "parent": 4711}

Lines::

    {"phase": "build", "progress": 0.4}
    {"known": "sha256:…"}      a question: is there an engine of this key? The answer comes on standard input: true
    {"done": {"key": "sha256:…", "cached": false, "report": {…}}}     or
    {"error": {"kind": "BuildError", "message": "…", "remedy": "…", "report": {…}}}
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from maskfleet.errors import BuildCrashError, FleetError, GateRefusedError, InternalError

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    """Runs the job; 0 where it worked."""
    job = json.loads(Path(argv[0]).read_bytes())
    # The protocol gets a descriptor of its own: libraries that print would break it.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _die_with_parent(job["parent"])
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"], job["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stop.append(number))

    def say(message: dict[str, Any]) -> None:
        lines.write(json.dumps(message) + "\n")

    try:
        say({"done": _run(job, say, stop)})
    except FleetError as error:
        say({"error": _described(error)})
        return 1
    except MemoryError:
        traceback.print_exc()
        say({"error": _described(BuildCrashError("the build ran out of memory"))})
        return 1
    except BaseException as error:  # noqa: BLE001  # the edge of the process; the log has it whole
        traceback.print_exc()
        say({"error": _described(InternalError(f"the build failed with {type(error).__name__}: {error}"))})
        return 1
    return 0


def _run(job: dict[str, Any], say: Any, stop: list[int]) -> dict[str, Any]:
    from model_compiler import pipeline  # only now: the limits hold for what it imports
    from model_compiler.calibration import CalibrationSet
    from model_compiler.spec import BuildSpec

    def known(key: str) -> bool:
        say({"known": key})
        return sys.stdin.readline().strip() == "true"

    chosen = job["calibration"]
    result = pipeline.run(
        BuildSpec.from_json(job["spec"]),
        Path(job["source"]).read_bytes(),
        calibration=CalibrationSet(chosen["name"], Path(chosen["folder"]) if chosen["folder"] else None),
        progress=lambda phase, fraction: say({"phase": phase, "progress": round(fraction, 4)}),
        canceled=lambda: bool(stop),
        log=lambda line: print(line, file=sys.stderr, flush=True),  # standard error is the log
        known=known,
    )
    if result.engine is not None:
        Path(job["engine"]).write_bytes(result.engine)
    return {"key": result.key, "cached": result.engine is None, "report": result.report}


def _described(error: FleetError) -> dict[str, Any]:
    report = error.report if isinstance(error, GateRefusedError) else {}
    return {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy, "report": report}


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before the line above
            os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # the engine is written; what native libraries do while they are unloaded must not undo it
