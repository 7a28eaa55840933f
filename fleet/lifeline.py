"""Runs a command in its own place, so that it ends when its parent does, even by SIGKILL.

``python -I -S lifeline.py PARENT_PID COMMAND …``, a file of its own that loads nothing else. The kernel is asked for
SIGTERM at the parent's death, which outlives exec; the command keeps the process id, the pipes and the environment. On
systems without that (Linux alone has it) the command simply runs.

The parent is a *thread*: the one that started the process has to live as long as the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went before the line above
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # no shell is meant


if __name__ == "__main__":
    main()
