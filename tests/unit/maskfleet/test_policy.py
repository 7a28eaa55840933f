"""Mask policies, their JSON and their messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskfleet.codec import changes_message, policy_changes, policy_message
from maskfleet.errors import BadPolicyError
from maskfleet.policy import FailClosed, MaskPolicy, Shape, Style
from maskfleet.v1 import policy_pb2

unit = st.integers(0, 1000).map(lambda n: n / 1000)
policies = st.builds(
    MaskPolicy,
    style=st.sampled_from(Style),
    shape=st.sampled_from(Shape),
    strength=unit,
    margin=unit,
    min_confidence=unit,
    nms_iou=unit,
    coast_frames=st.integers(0, 600),
    track_iou=unit,
    fail_closed=st.sampled_from(FailClosed),
)


@given(policies)
def test_a_policy_survives_json_and_the_wire(policy: MaskPolicy) -> None:
    assert MaskPolicy.from_json(policy.to_json()) == policy
    assert MaskPolicy(strength=0.123).changed(**policy_changes(policy_message(policy))) == policy


def test_an_absent_field_changes_nothing_and_a_zero_does() -> None:
    base = MaskPolicy(margin=0.4, style=Style.SOLID)
    assert base.changed(**policy_changes(policy_pb2.MaskPolicy())) == base
    assert base.changed(**policy_changes(policy_pb2.MaskPolicy(margin=0.0))).margin == 0.0
    assert policy_changes(changes_message({"shape": Shape.RECTANGLE})) == {"shape": Shape.RECTANGLE}


@pytest.mark.parametrize(
    "fields",
    [
        {"strength": -0.1},
        {"strength": float("nan")},
        {"strength": True},
        {"margin": 2.5},
        {"margin": float("inf")},
        {"min_confidence": 1.1},
        {"coast_frames": 601},
        {"coast_frames": -1},
    ],
)
def test_a_value_out_of_range_is_refused_with_its_range(fields: dict[str, float]) -> None:
    with pytest.raises(BadPolicyError, match=f"{next(iter(fields))}.*give 0"):
        MaskPolicy(**fields)  # type: ignore[arg-type]


def test_unknown_words_and_fields_are_refused() -> None:
    with pytest.raises(BadPolicyError, match="use one of blur, pixelate, solid"):
        MaskPolicy.from_json({"style": "emoji"})
    with pytest.raises(BadPolicyError, match="unknown fields stlye"):
        MaskPolicy.from_json({"stlye": "blur"})
