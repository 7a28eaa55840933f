"""The registry of targets: what it holds, who builds for what, and which device runs what."""

from __future__ import annotations

import dataclasses

import pytest

from maskfleet.errors import UnknownTargetError, UnsupportedError
from maskfleet.targets import FALLBACK, TARGETS, Machine, buildable, check_buildable, matching, table, target

ORT = {"onnxruntime": "1.32.0"}
RTX = {**ORT, "tensorrt-rtx-cu13": "1.7.1.116", "pycuda": "2026.1"}
JP6 = {**ORT, "tensorrt": "10.3.0", "pycuda": "2025.1"}
TRT11 = {**ORT, "tensorrt": "11.4.0.106", "pycuda": "2026.1"}
PC = Machine("linux", "x86_64", runtimes=ORT)
DESKTOP = Machine("linux", "x86_64", "SM89", driver="580.65.06", runtimes=RTX)
ORIN = Machine("linux", "aarch64", "SM87", jetpack="6.2", runtimes=JP6)


def test_an_unknown_target_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownTargetError) as raised:
        target("gtx-1080")
    assert all(name in raised.value.remedy for name in TARGETS)


def test_the_table_has_a_line_for_each_target() -> None:
    assert [line.split()[0] for line in table().splitlines()] == ["TARGET", *TARGETS]


def test_the_registry_is_whole() -> None:
    for name, entry in TARGETS.items():
        assert entry.name == name
        assert entry.backend
        assert entry.version
        assert entry.precisions
        assert entry.builders
        assert all(sm.startswith("SM") for sm in entry.sms)
    assert FALLBACK in TARGETS


RUNS = {
    "a machine without GPU": (PC, ("ort-cpu",)),
    "with OpenVINO it is tried first": (
        dataclasses.replace(PC, runtimes=ORT | {"openvino": "2026.4.1"}),
        ("openvino-cpu", "ort-cpu"),
    ),
    "a Mac": (Machine("darwin", "aarch64", runtimes=ORT), ("ort-cpu",)),
    "an Ada desktop": (DESKTOP, ("rtx-ampere-plus", "ort-cpu")),
    "an Ada desktop under Windows": (
        dataclasses.replace(DESKTOP, system="windows"),
        ("rtx-ampere-plus", "ort-cpu"),
    ),
    "a Turing desktop whose driver does not say its version": (
        dataclasses.replace(DESKTOP, compute_capability="SM75", driver=""),
        ("rtx-turing", "ort-cpu"),
    ),
    "an Orin with JetPack 6": (ORIN, ("jp6-orin", "ort-cpu")),
    "an Orin with JetPack 7": (
        dataclasses.replace(ORIN, jetpack="7.2.2-b12", runtimes=TRT11),
        ("jp7-orin", "ort-cpu"),
    ),
    "a Thor": (
        Machine("linux", "aarch64", "SM110", jetpack="7.3", runtimes=TRT11),
        ("jp7-thor", "ort-cpu"),
    ),
    "an A100 with both": (
        Machine("linux", "x86_64", "SM80", driver="590.1", runtimes=RTX | TRT11),
        ("rtx-ampere-plus", "dc-ampere", "ort-cpu"),
    ),
    "an H200": (Machine("linux", "x86_64", "SM90", driver="580.1", runtimes=TRT11), ("dc-hopper", "ort-cpu")),
}


@pytest.mark.parametrize(("machine", "expected"), RUNS.values(), ids=RUNS.keys())
def test_what_a_device_runs(machine: Machine, expected: tuple[str, ...]) -> None:
    match = matching(machine)
    assert match.targets == expected
    assert match.note == ""


NOT_USED = {
    "a GPU of which nobody knows": (dataclasses.replace(DESKTOP, compute_capability="SM61"), "no target is for SM61"),
    "a GPU of another processor": (
        dataclasses.replace(DESKTOP, arch="aarch64"),
        "rtx-ampere-plus is for x86_64, not aarch64",
    ),
    "the runtime is missing": (
        dataclasses.replace(DESKTOP, runtimes=ORT),
        "rtx-ampere-plus needs tensorrt-rtx-cu13 1.7.1, and it is not installed",
    ),
    "the runtime is of another version": (
        dataclasses.replace(DESKTOP, runtimes=RTX | {"tensorrt-rtx-cu13": "1.6.1"}),
        "rtx-ampere-plus needs tensorrt-rtx-cu13 1.7.1, and version 1.6.1 is installed",
    ),
    "pycuda is missing": (
        dataclasses.replace(DESKTOP, runtimes={k: v for k, v in RTX.items() if k != "pycuda"}),
        "rtx-ampere-plus needs pycuda, which is not installed",
    ),
    "the driver is too old": (
        dataclasses.replace(DESKTOP, driver="550.90"),
        "rtx-ampere-plus needs driver 580 or later, this machine has 550.90",
    ),
    "a JetPack between two lines": (
        dataclasses.replace(ORIN, jetpack="7.1", runtimes=TRT11),
        "jp6-orin needs JetPack 6, this machine has 7.1",
    ),
    "a Jetson whose TensorRT was replaced": (
        dataclasses.replace(ORIN, runtimes=TRT11),
        "jp6-orin needs tensorrt 10.3, and version 11.4.0.106 is installed",
    ),
}


@pytest.mark.parametrize(("machine", "why"), NOT_USED.values(), ids=NOT_USED.keys())
def test_a_gpu_that_is_not_used_is_said_so_with_the_reason(machine: Machine, why: str) -> None:
    match = matching(machine)
    assert match.targets == ("ort-cpu",)
    assert match.note.startswith("its GPU is not used, engines run on ort-cpu: ")
    assert why in match.note


def test_a_device_that_matches_nothing_gets_the_fallback_with_what_it_lacks() -> None:
    match = matching(Machine("linux", "x86_64"))
    assert match.targets == ("ort-cpu",)
    assert match.note == "ort-cpu cannot run: ort-cpu needs onnxruntime 1, and it is not installed"


BUILDERS = {
    "a machine with everything but a GPU": (
        Machine("linux", "x86_64", runtimes=RTX | TRT11 | {"openvino": "2026.4.1"}),
        {"ort-cpu", "openvino-cpu", "rtx-ampere-plus", "rtx-turing"},
    ),
    "a machine without TensorRT for RTX": (Machine("linux", "x86_64", runtimes={"onnxruntime": "1.20.1"}), {"ort-cpu"}),
    "a machine with a later TensorRT for RTX, whose engines no device of the target runs": (
        Machine("linux", "x86_64", runtimes=ORT | {"tensorrt-rtx-cu13": "1.8.0.3"}),
        {"ort-cpu"},
    ),
    "TensorRT for RTX on another processor": (Machine("linux", "aarch64", runtimes=RTX), {"ort-cpu"}),
    "a Jetson": (ORIN, {"ort-cpu", "jp6-orin"}),
    "a bare machine": (Machine("linux", "x86_64"), set()),
}


@pytest.mark.parametrize(("machine", "expected"), BUILDERS.values(), ids=BUILDERS.keys())
def test_what_a_machine_can_build(machine: Machine, expected: set[str]) -> None:
    assert {entry.name for entry in buildable(machine)} == expected


def test_a_target_that_cannot_be_built_here_says_who_can() -> None:
    here = Machine("linux", "x86_64", runtimes={"tensorrt-rtx-cu13": "1.8.0"})
    with pytest.raises(UnsupportedError, match=r"version 1\.8\.0 is installed") as raised:
        check_buildable(target("rtx-turing"), here)
    assert "rtx extra" in raised.value.remedy
    with pytest.raises(UnsupportedError, match=r"for SM87") as raised:
        check_buildable(target("jp6-orin"), dataclasses.replace(PC, arch="aarch64"))
    assert "Jetson Orin" in raised.value.remedy
