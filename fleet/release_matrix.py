"""The matrix of a release: target × precision × size × ms × recall × verdict, read from its builds' reports. Pure.

Values are those of :func:`fleet.cli.plain.plain`. A report comes from a builder, perhaps an older one or one that means
no good: what is missing, or is of another kind than it should be, is left out, and nothing raises.

Example::

    for build in release["builds"]:
        for candidate in candidates(build):
            print(candidate.target, candidate.precision, candidate.ms, candidate.verdict)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Release = Mapping[str, Any]
Build = Mapping[str, Any]

MARGINS: dict[str, str] = {
    "min_cosine": "cosine",
    "max_error": "error",
    "min_recall": "recall",
    "max_extra": "extra",
    "match_iou": "match-iou",
    "min_mean_iou": "mean-iou",
}
"""The gate's margins: fields of the wire with the names that people type."""

_ORDER = ("won", "passed", "refused", "failed")
_REASON_CHARS = 60
_LARGEST = 2**63


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A number format that was tried for a target.

    Attributes:
        target: as ``ort-cpu``.
        precision: as ``int8``.
        verdict: ``won``, ``passed``, ``refused`` or ``failed``; the build's state where nothing was tried yet.
        reason: why it was refused or failed, whole.
        size_bytes: of what was measured; None where nobody knows.
        ms: a run on one picture; None where it was not timed.
        figures: of the gate; empty where it was not judged.
        kept_fp32: nodes of an engine of 8 bits that stay at 32.
        seconds: that it took to make and to judge.
    """

    target: str
    precision: str
    verdict: str
    reason: str = ""
    size_bytes: int | None = None
    ms: float | None = None
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kept_fp32: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def won(self) -> bool:
        """Whether it is the engine of the release."""
        return self.verdict == "won"

    @property
    def recall(self) -> float | None:
        """Share of the fp32 model's detections that it finds."""
        return number(self.figures.get("recall"))

    @property
    def mean_iou(self) -> float | None:
        """Mean intersection over union of the boxes that are the same."""
        return number(self.figures.get("mean_iou"))


def candidates(build: Build) -> list[Candidate]:
    """What was tried for a target: the winner first, then by verdict, the fastest first. Never empty."""
    found = [_candidate(target_of(build), tried) for tried in objects(report_of(build).get("candidates"))]
    return sorted(found, key=_rank) if found else [_only(build)]


def target_of(build: Build) -> str:
    """The target of a build."""
    return text(mapping(build.get("spec")).get("target"))


def report_of(build: Build) -> Mapping[str, Any]:
    """A build's report; empty where there is none that can be read."""
    return mapping(build.get("report"))


def precision_of(build: Build) -> str:
    """Number format of the engine; the one that was asked for where there is no engine yet."""
    built = text(build.get("precision")).lower()
    return built if built and built != "unspecified" else text(mapping(build.get("spec")).get("precision")).lower()


def verified(build: Build) -> str:
    """What is known of an engine, in words; empty where there is none."""
    words = {"ON_BUILDER": "on its builder", "UNVERIFIED_ON_HARDWARE": "UNVERIFIED ON HARDWARE"}
    state = text(build.get("verification"))
    if state == "ON_DEVICE":
        return f"on device {text(build.get('verified_by'))}".rstrip()
    return words.get(state, "")


def margins_of(release: Release, build: Build | None = None) -> dict[str, float]:
    """The gate's margins by field: as the build was judged, else as the release has them."""
    judged = mapping(mapping(report_of(build).get("gate")).get("margins")) if build is not None else {}
    asked = mapping(release.get("margins"))
    found = {field: number(judged.get(field, asked.get(field))) for field in MARGINS}
    return {field: value for field, value in found.items() if value is not None}


def short_reason(candidate: Candidate, margins: Mapping[str, float]) -> str:
    """Why a candidate was refused or failed: a figure outside its margin, else the first words of its sentence."""
    if candidate.verdict not in ("refused", "failed"):
        return ""
    for words in misses(candidate.figures, margins):
        return words
    words = candidate.reason.split(";")[0].strip()
    return words if len(words) <= _REASON_CHARS else words[: _REASON_CHARS - 1].rstrip() + "…"


def misses(figures: Mapping[str, Any], margins: Mapping[str, float]) -> Iterator[str]:
    """Figures outside their margins, in a few words each: ``recall 93.1% < 98%``."""
    for name, key, field in (("recall", "recall", "min_recall"), ("extra", "extra", "max_extra")):
        value, limit = number(figures.get(key)), margins.get(field)
        if value is not None and limit is not None and outside(field, value, limit):
            yield f"{name} {percent(value)} {'<' if field.startswith('min') else '>'} {percent(limit)}"
    value, limit = number(figures.get("mean_iou")), margins.get("min_mean_iou")
    if value is not None and limit is not None and outside("min_mean_iou", value, limit):
        yield f"mean IoU {value:.3f} < {limit:g}"
    for role, output in mapping(figures.get("outputs")).items():
        value, limit = number(mapping(output).get("cosine")), margins.get("min_cosine")
        if value is not None and limit is not None and outside("min_cosine", value, limit):
            yield f"{role}: cosine {value:.4f} < {limit:g}"
        value, limit = number(mapping(output).get("relative_error")), margins.get("max_error")
        if value is not None and limit is not None and outside("max_error", value, limit):
            yield f"{role}: error {percent(value)} > {percent(limit)}"


def outside(field: str, value: float, limit: float) -> bool:
    """Whether a figure is outside a margin: below a least, above a most."""
    return value > limit if field.startswith("max") else value < limit


def percent(share: float) -> str:
    """``99.3%``; whole where it is."""
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def milliseconds(value: float) -> str:
    """A time with three digits that count: ``12.1``, ``0.231``."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def objects(value: Any) -> Sequence[Mapping[str, Any]]:
    """The objects of a list."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """The value if it is a number that can be written."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST and math.isfinite(value) else None


def text(value: Any) -> str:
    """The value if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def _candidate(target: str, tried: Mapping[str, Any]) -> Candidate:
    size = number(tried.get("size_bytes"))
    return Candidate(
        target=target,
        precision=text(tried.get("precision")) or "?",
        verdict=text(tried.get("verdict")) or "?",
        reason=text(tried.get("reason")),
        size_bytes=int(size) if size is not None else None,
        ms=number(tried.get("ms")),
        figures=mapping(tried.get("figures")),
        kept_fp32=_kept(tried.get("details")),
        seconds=number(tried.get("seconds")),
    )


def _only(build: Build) -> Candidate:
    """The one row of a build whose report knows no candidates."""
    done = build.get("state") == "SUCCEEDED"
    size = number(build.get("engine_size_bytes"))
    return Candidate(
        target=target_of(build),
        precision=precision_of(build),
        verdict="won" if done else text(build.get("state")).lower(),
        size_bytes=int(size) if size else None,
        figures=mapping(mapping(report_of(build).get("gate")).get("figures")),
        kept_fp32=_kept(report_of(build).get("precision")),
    )


def _kept(details: Any) -> tuple[str, ...]:
    kept = mapping(details).get("kept_fp32")
    return tuple(str(name) for name in kept) if isinstance(kept, list) else ()


def _rank(candidate: Candidate) -> tuple[int, bool, float, int]:
    place = _ORDER.index(candidate.verdict) if candidate.verdict in _ORDER else len(_ORDER)
    return place, candidate.ms is None, candidate.ms or 0.0, candidate.size_bytes or 0
