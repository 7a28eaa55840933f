"""The plane's own settings."""

from __future__ import annotations

import pytest

from control_plane.config import Config
from maskfleet.config import load
from maskfleet.errors import InvalidInputError


def loaded(*argv: str) -> Config:
    return load(Config, prog="control_plane", prefix="PLANE", argv=["--data-dir", "/x", *argv], environ={})


def test_a_builder_may_be_silent_for_half_a_minute_unless_it_is_said_otherwise() -> None:
    assert loaded().build_lease_s == 30
    assert loaded("--build-lease-s", "2.5").build_lease_s == 2.5


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "3601", "soon"])
def test_a_silence_that_makes_no_sense_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInputError, match="--build-lease-s"):
        loaded("--build-lease-s", text)
