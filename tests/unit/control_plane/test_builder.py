"""What builders claim, and which one is missing; who is there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from control_plane.builders import MAX_BUILDERS, Builders
from control_plane.domain.builder import Builder, check_claims, machine_of, missing
from control_plane.domain.device import Facts
from maskfleet.clock import FakeClock
from maskfleet.errors import InvalidInputError
from maskfleet.targets import TARGETS, buildable

PC = Facts(os="debian 12", arch="x86_64", runtimes={"onnxruntime": "1.32.0"})
TOOLS = {"tensorrt-rtx-cu13": "1.7.1.116", "openvino": "2026.2.0"}
MAC = Facts(os="darwin", arch="arm64", runtimes={"onnxruntime": "1.32.0", "tensorrt-rtx-cu13": "1.7.1"})


@pytest.mark.parametrize("facts", [PC, MAC])
def test_a_builder_may_claim_what_its_machine_and_tools_can_build_and_nothing_else(facts: Facts) -> None:
    able = {entry.name for entry in buildable(machine_of(facts, TOOLS))}
    assert "ort-cpu" in able
    check_claims(Builder("a/1", frozenset(able), TOOLS, facts))
    for name in TARGETS.keys() - able:
        with pytest.raises(InvalidInputError, match=f"builder a/1 says that it builds for {name}, and cannot"):
            check_claims(Builder("a/1", frozenset({name}), TOOLS, facts))


def test_a_mac_and_a_windows_machine_are_no_linux() -> None:
    assert [machine_of(Facts(os=os), {}).system for os in ("darwin", "windows", "ubuntu 22.04", "")] == [
        "darwin", "windows", "linux", "linux",
    ]  # fmt: skip


def test_nobody_is_missing_where_one_can_do_it() -> None:
    one = Builder("a/1", frozenset({"ort-cpu"}), calibration_sets={"street/2": "sha256:1"})
    assert missing("ort-cpu", "", [one]) == missing("ort-cpu", "street/2", [one]) == ""
    assert "has the calibration set street/3" in missing("ort-cpu", "street/3", [one])
    assert missing("dc-hopper", "street/2", [one]).endswith("on a machine with an H100 or H200 and TensorRT 11.4")


def test_a_builder_is_there_for_a_minute_after_its_last_word() -> None:
    clock = FakeClock()
    builders = Builders(clock)
    assert builders.missing("ort-cpu", "") == ""  # builders come back within 20 s of a start
    clock.advance(timedelta(seconds=20))
    assert "no builder for ort-cpu" in builders.missing("ort-cpu", "")
    builders.heard(Builder("a/1", frozenset({"ort-cpu"})))
    clock.advance(timedelta(seconds=50))
    builders.heard_again("a/1")
    builders.heard_again("nobody/1")
    clock.advance(timedelta(seconds=60))
    assert [b.id for b in builders.there()] == ["a/1"]
    clock.advance(timedelta(seconds=1))
    assert builders.there() == []


def test_builders_that_are_ever_new_do_not_fill_the_memory() -> None:
    builders = Builders(FakeClock())
    for number in range(MAX_BUILDERS + 5):
        builders.heard(Builder(f"a/{number}", frozenset()))
    assert len(builders.there()) == MAX_BUILDERS
    assert builders.there()[0].id == "a/5"
