"""A sentence about what a command waits for, while it waits."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from fleet.cli.output import console, say

LATER_S = 3.0


@contextlib.contextmanager
def waiting(text: str, later: str, *, after: float = LATER_S) -> Iterator[None]:
    """Says what the block waits for: a spinner on a terminal; elsewhere a line, if it takes long.

    Args:
        text: what happens, from the beginning.
        later: why it takes so long, once it does.
        after: seconds until it takes long.
    """
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console(error=True).status(text)) if sys.stderr.isatty() else None

        def tell() -> None:
            if over.wait(after):
                return
            if status is not None:
                status.update(f"{text} ({later})")
            else:
                say(f"{text} ({later})")

        teller = threading.Thread(target=tell, name="waiting", daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()
