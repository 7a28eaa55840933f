"""A release as the plane sends it: three formats on the CPU, three for a GPU that nobody had, one that waits."""

from __future__ import annotations

import json
from typing import Any

from fleet.cli.plain import plain
from maskfleet.codec import policy_message
from maskfleet.policy import MaskPolicy
from maskfleet.v1 import builds_pb2, releases_service_pb2

MARGINS = {
    "min_cosine": 0.995, "max_error": 0.25, "min_recall": 0.98, "max_extra": 0.05, "match_iou": 0.5,
    "min_mean_iou": 0.9,
}  # fmt: skip
REFUSED = (
    "the engine is too far from its fp32 model: offset has cosine 0.9412 (least 0.995); it finds 93.1% of the faces "
    "(least 98.0%): build it with --precision fp32"
)


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def figures(recall: float, mean_iou: float, cosine: float = 0.9999) -> dict[str, Any]:
    return {
        "outputs": {
            "heatmap": {"cosine": 0.99998, "max_error": 0.004, "relative_error": 0.005},
            "offset": {"cosine": cosine, "max_error": 0.2, "relative_error": 0.11},
        },
        "frames": 25, "reference_detections": 130, "engine_detections": 129,
        "recall": recall, "extra": 0.0077, "mean_iou": mean_iou, "min_iou": mean_iou - 0.1,
    }  # fmt: skip


def candidate(precision: str, verdict: str, ms: float | None, **changes: Any) -> dict[str, Any]:
    base = {
        "precision": precision, "verdict": verdict, "reason": "", "ms": ms, "seconds": 3.2, "details": {},
        "size_bytes": {"fp32": 7_300_000, "fp16": 3_700_000, "int8": 2_100_000}.get(precision, 1),
        "figures": figures(1.0, 0.998),
    }  # fmt: skip
    return {**base, **changes}


CPU = [
    candidate("fp32", "passed", 21.04, figures=figures(1.0, 1.0, 1.0)),
    candidate("fp16", "refused", 20.3, reason=REFUSED, figures=figures(0.931, 0.961, 0.9412)),
    candidate("int8", "won", 12.11, figures=figures(0.9923, 0.9871, 0.9967), details={"kept_fp32": ["one", "two"]}),
]  # fmt: skip
RTX = [
    candidate("fp16", "won", None, figures=figures(0.9923, 0.9962)),
    candidate("fp32", "passed", None, figures=figures(1.0, 1.0, 1.0), size_bytes=8_100_000),
    candidate("int8", "failed", None, figures=None, size_bytes=None, reason="the parser does not know node conv_7"),
]


def report(precision: str, why: str, candidates: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    winner = next((c for c in candidates if c["verdict"] == "won"), candidates[0])
    base = {
        "spec": {"target": "ort-cpu"}, "cache_key": digest("c"), "recipe": digest("9"), "model_digest": digest("a"),
        "prepared": {"digest": digest("b"), "size_bytes": 7_200_000, "width": 640, "height": 352, "fixed_size": False,
                     "notes": ["opset 9 became 17", "12 initializers were inputs"]},
        "precision": precision, "why": why, "candidates": candidates,
        "engine": {"digest": digest("e"), "size_bytes": 2_100_000},
        "backend": "onnxruntime", "runtime_version": "1.32.0", "verified_on": "engine",
        "gate": {"passed": True, "evaluation": digest("f"), "margins": MARGINS, "figures": winner["figures"]},
        "calibration": {"name": "street/2", "digest": digest("d"), "frames": 25} if precision == "int8" else None,
        "versions": {"onnx": "1.23.2", "onnxruntime": "1.32.0", "python": "3.11.7"},
        "platform": "Linux-6.1-x86_64", "machine": {"os": "debian 12", "arch": "x86_64", "gpu": ""},
        "seconds": {"prepare": 1.2, "precision": 30.25, "build": 0.4, "verify": 8.81, "total": 40.66},
        "peak_rss_bytes": 700_000_000, "builder_id": "builder-1", "cached": False,
    }  # fmt: skip
    return {**base, **changes}


def message(release_id: str = "r-3", *, extra_builds: bool = True) -> releases_service_pb2.Release:
    release = releases_service_pb2.Release(
        id=release_id,
        state=releases_service_pb2.RELEASE_STATE_BUILDING if extra_builds else releases_service_pb2.RELEASE_STATE_READY,
        model_name="centerface",
        model_version=2,
        policy=policy_message(MaskPolicy()),
        manifest_digest=digest("7"),
        margins=builds_pb2.GateMargins(**MARGINS),
        calibration="street/2",
    )
    release.create_time.FromJsonString("2026-01-02T03:04:05Z")
    add_build(release, "ort-cpu", "int8", report(
        "int8", "int8 is the fastest of 2 that passed the gate: 12.1 ms, fp32 21.0 ms", CPU),
        verification=builds_pb2.VERIFICATION_ON_BUILDER)  # fmt: skip
    if extra_builds:
        add_build(release, "rtx-ampere-plus", "fp16", report(
            "fp16", "fp16 is the smallest of 2 that passed the gate; none was timed, as no GPU was at hand", RTX,
            backend="tensorrt-rtx", runtime_version="1.7.1.116", verified_on="prepared-onnx"),
            engine_digest=digest("5"), cached=True,
            verification=builds_pb2.VERIFICATION_UNVERIFIED_ON_HARDWARE)  # fmt: skip
        add_build(release, "jp6-orin", "unspecified", None, state=builds_pb2.BUILD_STATE_QUEUED, engine_digest="",
                  engine_size_bytes=0, builder_id="", attempts=0, progress=0.0,
                  missing_builder="a Jetson Orin with JetPack 6 and TensorRT 10.3")  # fmt: skip
    return release


def add_build(
    release: releases_service_pb2.Release, target: str, precision: str, said: dict[str, Any] | None, **fields: Any
) -> None:
    values: dict[str, Any] = {
        "id": f"b-{target}",
        "release_id": release.id,
        "state": builds_pb2.BUILD_STATE_SUCCEEDED,
        "progress": 1.0,
        "attempts": 1,
        "precision": builds_pb2.Precision.Value(f"PRECISION_{precision.upper()}"),
        "engine_digest": digest("e"),
        "engine_size_bytes": 2_100_000,
        "builder_id": "builder-1",
        "report_json": json.dumps(said) if said is not None else "",
        "log_tail": f"prepare: opset 9 became 17\nverify: {target}\n",
    }
    build = release.builds.add(**{**values, **fields})
    build.spec.CopyFrom(
        builds_pb2.BuildSpec(
            model_name="centerface", model_version=2, model_digest=digest("a"), decoder="centerface", target=target,
            precision=builds_pb2.PRECISION_AUTO, input_width=640, input_height=352, min_confidence=0.35, nms_iou=0.3,
            margins=release.margins, calibration="street/2",
        )
    )  # fmt: skip


def sample(release_id: str = "r-3", *, extra_builds: bool = True) -> dict[str, Any]:
    """The release as commands see it."""
    return plain(message(release_id, extra_builds=extra_builds))
