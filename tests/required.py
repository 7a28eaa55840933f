"""What a test needs of the machine: skipped where it is missing, failed where the gate says that it must be there.

``MASKFLEET_REQUIRE=postgres,prometheus,gcc,trt-bindings`` (set by ``.ci/run``) turns the skips into failures.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, why: str) -> NoReturn:
    """Ends the test: something that it needs is not there."""
    if what in os.environ.get("MASKFLEET_REQUIRE", "").split(","):
        pytest.fail(f"{why}, and MASKFLEET_REQUIRE says that {what} must be there", pytrace=False)
    pytest.skip(why)
