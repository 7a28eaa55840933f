"""Selectors: what they match, and how they are refused."""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.device import Device, Facts
from control_plane.domain.selector import Selector
from maskfleet.errors import BadSelectorError, InvalidInputError

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
CAM = Device(
    "d-1", "cam", b"", {"site": "berlin", "env": "b"}, Facts(gpu="", arch="x86_64", targets=("rtx-turing", "ort-cpu")),
    NOW, NOW,
)  # fmt: skip

CASES = {
    "the empty selector matches all": ("", True),
    "white space alone is empty": ("  ", True),
    "a label that is so": ("site=berlin", True),
    "two equal signs are one": ("site==berlin", True),
    "a label that is not so": ("site=rome", False),
    "a label that is missing": ("room=1", False),
    "not equal": ("site!=rome", True),
    "not equal holds where the key is missing": ("room!=1", True),
    "in a set": ("env in (a,b)", True),
    "in a set with spaces": (" env in ( a , b ) , site = berlin ", True),
    "in no set": ("env in (a, c)", False),
    "not in a set": ("env notin (a,c)", True),
    "not in a set holds where the key is missing": ("room notin (1)", True),
    "has a key": ("site", True),
    "has no key": ("!site", False),
    "has no key, and that is meant": ("!room", True),
    "all terms must hold": ("site=berlin,env=a", False),
    "a fact": ("arch=x86_64", True),
    "no GPU is called none": ("gpu=none", True),
    "one of several targets": ("target=ort-cpu", True),
    "none of its targets": ("target!=ort-cpu", False),
    "by name": ("name=cam", True),
    "keys named like words": ("in=1", False),
}


@pytest.mark.parametrize(("text", "matches"), CASES.values(), ids=CASES.keys())
def test_a_selector_matches(text: str, matches: bool) -> None:
    assert Selector.parse(text).matches(CAM.attributes()) is matches


def test_a_label_stands_over_a_fact() -> None:
    device = dataclasses.replace(CAM, labels={"gpu": "borrowed"})
    assert Selector.parse("gpu=borrowed").matches(device.attributes())


@pytest.mark.parametrize(
    "text",
    [
        "site=", "=berlin", "site=berlin,", ",", "site berlin", "env in", "env in ()", "env in (a", "env in (a;b)",
        "env in (,)", "!site=berlin", "!env in (a)", "site=ber lin", "site=a=b", "a" * 5000, "site>3", "(site=a)",
        "sitein(a)=b",
    ],
)  # fmt: skip
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(BadSelectorError):
        Selector.parse(text)


@given(st.text(max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with contextlib.suppress(BadSelectorError):
        Selector.parse(text).matches({})


def test_labels_change_and_bad_ones_are_refused() -> None:
    assert dict(CAM.relabelled({"env": "c"}, ("site",)).labels) == {"env": "c"}
    for labels in ({"a b": "c"}, {"a": ""}, {f"k{n}": "v" for n in range(70)}):
        with pytest.raises(InvalidInputError):
            CAM.relabelled(labels, ())
