"""What differs between two releases, section by section; what is equal is left out. Pure.

Engines are never the same bytes twice, and a time is measured anew with each build: both are shown where they differ,
and say nothing by themselves.

Example::

    for section in difference(before, after).sections:
        for change in section.changes:
            print(section.title, change.name, change.before, change.after)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fleet.release_matrix import (
    MARGINS,
    Release,
    candidates,
    mapping,
    margins_of,
    number,
    precision_of,
    report_of,
    target_of,
    text,
    verified,
)

_WITHOUT_ENGINE = ("state", "reason", "precision")
_SPEC = ("min_confidence", "nms_iou", "workspace_mb")


@dataclasses.dataclass(frozen=True)
class Change:
    """One value that differs; None where a release does not have it."""

    name: str
    before: Any
    after: Any


@dataclasses.dataclass(frozen=True)
class Section:
    """Changes that belong together."""

    title: str
    changes: tuple[Change, ...]


@dataclasses.dataclass(frozen=True)
class Difference:
    """What differs between two releases.

    Attributes:
        before: id of the one.
        after: id of the other.
        sections: those in which something differs.
    """

    before: str
    after: str
    sections: tuple[Section, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def difference(before: Release, after: Release) -> Difference:
    """What differs between two releases, as :func:`fleet.cli.plain.plain` gives them."""
    ours, theirs = _sections(before), _sections(after)
    found = []
    for title, a in ours.items():
        if (b := theirs.get(title)) is None:
            continue  # a target that one of them alone has: "targets" says so
        names = dict.fromkeys([*a, *b])
        if "state" in names and not ("engine" in a and "engine" in b):
            names = dict.fromkeys(_WITHOUT_ENGINE)  # what the other one's engine is made of is no difference
        changes = [Change(name, a.get(name), b.get(name)) for name in names]
        if differing := tuple(change for change in changes if change.before != change.after):
            found.append(Section(title, differing))
    return Difference(str(before["id"]), str(after["id"]), tuple(found))


def _sections(release: Release) -> dict[str, dict[str, Any]]:
    """A release as names and values, by section; values that it does not have are left out."""
    specs = [mapping(build.get("spec")) for build in release["builds"]]
    first = specs[0] if specs else {}
    sections: dict[str, dict[str, Any]] = {
        "model": {
            "version": f"{release['model_name']}/{release['model_version']}",
            "digest": text(first.get("model_digest")),
            "decoder": text(first.get("decoder")),
        },
        "policy": dict(mapping(release["policy"])),
        "build": {
            "input": f"{first['input_width']}×{first['input_height']}" if first else "",
            "precision": text(first.get("precision")).lower(),
            "calibration": text(release.get("calibration")) or "the compiler's own",
            "targets": " ".join(sorted(target_of(build) for build in release["builds"])),
            **{name: number(first.get(name)) for name in _SPEC},
        },
        "gate": {MARGINS[field]: value for field, value in margins_of(release).items()},
    }
    for build in sorted(release["builds"], key=target_of):
        sections[target_of(build)] = _engine(build)
    return {
        title: {name: value for name, value in values.items() if value not in (None, "")}
        for title, values in sections.items()
    }


def _engine(build: Mapping[str, Any]) -> dict[str, Any]:
    report = report_of(build)
    winner = candidates(build)[0]
    tools = {f"version of {name}": text(version) for name, version in sorted(mapping(report.get("versions")).items())}
    return {
        "state": build["state"],
        "reason": build["reason"],
        "precision": precision_of(build),
        "size": number(build["engine_size_bytes"]) or None,
        "ms": winner.ms,
        "recall": winner.recall,
        "mean IoU": winner.mean_iou,
        "verified": verified(build),
        "runtime": " ".join(filter(None, (text(report.get("backend")), text(report.get("runtime_version"))))),
        "pictures of the gate": text(mapping(report.get("gate")).get("evaluation")),
        "calibration": text(mapping(report.get("calibration")).get("digest")),
        "prepared": text(mapping(report.get("prepared")).get("digest")),
        "engine": build["engine_digest"],
        **tools,
    }
