"""A page about a release: what it is, what was tried, speed against accuracy, where everything comes from. Pure.

Everything in a report was written by a builder: it is escaped, and what is missing is left out.

Example::

    page = render(plain(release))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleet.page import Html, document, section, table, text
from fleet.release_matrix import (
    MARGINS,
    Build,
    Candidate,
    Release,
    candidates,
    mapping,
    margins_of,
    milliseconds,
    number,
    outside,
    percent,
    precision_of,
    report_of,
    short_reason,
    target_of,
    verified,
)
from fleet.release_matrix import text as words_of
from fleet.release_plot import Point, speed_accuracy

_MARKS = {"won": "good", "passed": "good", "refused": "bad", "failed": "bad", "canceled": "bad"}
_LEAST, _MOST = "at least", "at most"
_KEY = (
    '<p class="note"><span class="dot won"></span> the engine of the release &ensp; '
    '<span class="dot passed"></span> passed the gate &ensp; <span class="dot refused"></span> refused</p>'
)
_FOOT = (
    "<footer>Two builds of the same are never the same bytes: an engine's digest names it, the cache key names "
    "what went in.</footer>"
)


def render(release: Release) -> str:
    """The page.

    Args:
        release: as :func:`fleet.cli.plain.plain` gives it.
    """
    builds = release["builds"]
    parts = [
        _head(release),
        _state(release),
        section("What was tried", "One row a number format; the first of each target is its engine. Sizes are files, "
                "times are of one picture where the builder could run it.", _matrix(release)),
        section("Speed against accuracy", "To the left is faster, up is nearer to the fp32 model.", _plots(release)),
        *(section(*_target(release, build)) for build in builds),
        _FOOT,
    ]  # fmt: skip
    return document(f"maskfleet release {release['id']}", parts)


def _head(release: Release) -> str:
    specs = [mapping(build.get("spec")) for build in release["builds"]]
    sizes = ", ".join(dict.fromkeys(f"{spec.get('input_width')}×{spec.get('input_height')}" for spec in specs if spec))
    targets = ", ".join(target_of(build) for build in release["builds"])
    model = f"{release['model_name']}/{release['model_version']}"
    return (
        f"<header><h1>Release {text(release['id'])}: {text(model)}</h1>"
        f"<p>For {text(targets)}; input {text(sizes)}; made {_time(release['create_time'])}.</p></header>"
    )


def _state(release: Release) -> str:
    state = str(release["state"])
    css, sign = {"READY": ("good", "✓ "), "FAILED": ("bad", "✗ "), "CANCELED": ("bad", "✗ ")}.get(state, ("", ""))
    missing = [
        f"{target_of(build)} waits for a builder: {build['missing_builder']}"
        for build in release["builds"]
        if build["missing_builder"]
    ]
    said = "; ".join(filter(None, (words_of(release["reason"]), *missing)))
    policy = ", ".join(f"{name}={value}" for name, value in sorted(mapping(release["policy"]).items()))
    margins = ", ".join(f"{MARGINS[field]}={value:g}" for field, value in margins_of(release).items())
    about = _facts(
        {
            "policy": policy,
            "gate": margins,
            "calibration": words_of(release.get("calibration")) or "the compiler's own pictures",
            "manifest": _digest(release["manifest_digest"]),
        }
    )
    verdict = f'<div class="verdict {css}"><strong>{sign}{text(state)}</strong>{text(said)}</div>'
    return f'{verdict}<div class="card">{about}</div>'


def _matrix(release: Release) -> str:
    rows: list[Sequence[object]] = []
    for build in release["builds"]:
        margins = margins_of(release, build)
        for place, candidate in enumerate(candidates(build)):
            rows.append(_row(candidate, margins, first=place == 0))
    columns = ("Target", "Precision", "Size", "ms", "Recall", "Mean IoU", "Verdict", "Why")
    return table(columns, rows, numbers=(2, 3, 4, 5))


def _row(candidate: Candidate, margins: Mapping[str, float], *, first: bool) -> Sequence[object]:
    nodes = len(candidate.kept_fp32)
    kept = f", {nodes} node{'s' if nodes > 1 else ''} fp32" if nodes else ""
    name = text(candidate.precision + kept)
    return (
        candidate.target if first else "",
        Html(f"<b>{name}</b>" if candidate.won else name),
        _size(candidate.size_bytes),
        milliseconds(candidate.ms) if candidate.ms is not None else "–",
        percent(candidate.recall) if candidate.recall is not None else "–",
        _or_dash(candidate.mean_iou, "{:.3f}"),
        _mark(candidate.verdict),
        short_reason(candidate, margins),
    )


def _plots(release: Release) -> str:
    """A plot a target, and in words what cannot be drawn."""
    plots, said = [], []
    for build in release["builds"]:
        target, tried = target_of(build), candidates(build)
        measure = _measure(tried)
        points = [
            Point(_label(c), c.ms, value, won=c.won, passed=c.verdict in ("won", "passed"))
            for c in tried
            if c.ms is not None and (value := _value(c, measure)) is not None
        ]
        if points:
            margins = margins_of(release, build)
            limit = margins.get("min_recall" if measure == "recall" else "min_mean_iou")
            drawn = speed_accuracy(points, measure=measure, limit=limit)
            plots.append(f"<figure><h3>{text(target)}</h3>{drawn}</figure>")
        elif build["state"] != "SUCCEEDED":
            said.append(f"{target} is {build['state']}: nothing to draw.")
        else:
            could_not = report_of(build).get("verified_on") == "prepared-onnx"
            said.append(f"{target}: {'its builder could not run its engines, so ' if could_not else ''}none was timed.")
        if points and (rest := [c for c in tried if c.ms is None or _value(c, measure) is None]):
            said.append(f"{target}: not drawn, as not timed or not judged: {', '.join(map(_label, rest))}.")
    notes = "".join(f'<p class="note">{text(sentence)}</p>' for sentence in said)
    return (_KEY + f'<div class="plots">{"".join(plots)}</div>' if plots else "") + notes


def _measure(tried: Sequence[Candidate]) -> str:
    """Recall, unless it is the same for all: then it shows nothing, and how well boxes sit may."""
    recalls = {c.recall for c in tried if c.recall is not None and c.ms is not None}
    overlaps = {c.mean_iou for c in tried if c.mean_iou is not None and c.ms is not None}
    return "mean IoU" if len(recalls) < 2 and len(overlaps) > 1 else "recall"


def _value(candidate: Candidate, measure: str) -> float | None:
    return candidate.recall if measure == "recall" else candidate.mean_iou


def _label(candidate: Candidate) -> str:
    return f"{candidate.precision}, mixed" if candidate.kept_fp32 else candidate.precision


def _target(release: Release, build: Build) -> tuple[str, str, str]:
    """Title, note and HTML of one target's section: the engine and where it comes from."""
    report, target = report_of(build), target_of(build)
    why = words_of(report.get("why"))
    note = f"{why}." if why and not why.endswith(".") else why
    if build["state"] != "SUCCEEDED":
        note = f"{build['state']}: {words_of(build['reason']) or build['missing_builder']}".rstrip(": ")
    blocks = [_facts(_origin(build, report))]
    gate = mapping(report.get("gate"))
    if figures := mapping(gate.get("figures")):
        blocks.append(f"<h3>The gate</h3>{_gate(figures, margins_of(release, build))}")
    tables = {
        "Seconds": {name: _or_dash(number(value), "{:.2f}") for name, value in _items(report.get("seconds"))},
        "Tools": {name: _words(value) for name, value in _items(report.get("versions"))},
        "The builder's machine": {name: _words(value) for name, value in _items(report.get("machine"))},
    }
    beside = "".join(f"<div><h3>{text(title)}</h3>{_facts(values)}</div>" for title, values in tables.items() if values)
    blocks.append(f'<div class="beside">{beside}</div>' if beside else "")
    if log := words_of(build.get("log_tail")):
        blocks.append(f"<details><summary>The end of its log</summary><pre>{text(log)}</pre></details>")
    return f"{target}, {precision_of(build)}", note, "".join(blocks)


def _origin(build: Build, report: Mapping[str, Any]) -> dict[str, object]:
    """Where an engine comes from."""
    prepared, calibration = mapping(report.get("prepared")), mapping(report.get("calibration"))
    memory = number(report.get("peak_rss_bytes"))
    learnt = words_of(calibration.get("name")) or "the compiler's own"
    frames = number(calibration.get("frames"))
    return {
        "engine": _digest(build["engine_digest"], _size(number(build["engine_size_bytes"]) or None)),
        "verified": verified(build),
        "runtime": f"{_words(report.get('backend'))} {_words(report.get('runtime_version'))}".strip(),
        "source model": _digest(words_of(report.get("model_digest"))),
        "prepared ONNX": _digest(words_of(prepared.get("digest")), _size(number(prepared.get("size_bytes")))),
        "what was changed": "; ".join(map(str, _list(prepared.get("notes")))),
        "calibration": f"{learnt}{f', {frames:.0f} pictures' if frames is not None else ''}" if calibration else "",
        "calibration set": _digest(words_of(calibration.get("digest"))),
        "pictures of the gate": _digest(words_of(mapping(report.get("gate")).get("evaluation"))),
        "cache key": _digest(words_of(report.get("cache_key"))),
        "recipe": _digest(words_of(report.get("recipe"))),
        "builder": f"{build['builder_id']}{', from the cache' if build['cached'] else ''}",
        "platform": words_of(report.get("platform")),
        "peak memory": f"{memory / 1e6:.0f} MB" if memory is not None else "",
        "attempts": build["attempts"] if build["attempts"] > 1 else "",
        "ended": _time(build["end_time"]) if build["end_time"] else "",
    }


def _gate(figures: Mapping[str, Any], margins: Mapping[str, float]) -> str:
    rows: list[Sequence[object]] = []

    def row(name: str, value: float | None, field: str, form: str) -> None:
        limit = margins.get(field)
        held = None if value is None or limit is None else not outside(field, value, limit)
        bound = _MOST if field.startswith("max") else _LEAST
        short = percent if form.endswith("%}") else "{:g}".format
        mark = (
            ""
            if held is None
            else Html('<span class="mark good">✓</span>' if held else '<span class="mark bad">✗</span>')
        )
        rows.append((mark, name, _or_dash(value, form), f"{bound} {short(limit)}" if limit is not None else "–"))

    for role, output in _items(figures.get("outputs")):
        row(f"{role}: cosine", number(mapping(output).get("cosine")), "min_cosine", "{:.5f}")
        row(
            f"{role}: largest error, of its range", number(mapping(output).get("relative_error")), "max_error", "{:.2%}"
        )
    row("recall", number(figures.get("recall")), "min_recall", "{:.2%}")
    row("extra boxes", number(figures.get("extra")), "max_extra", "{:.2%}")
    row("mean IoU", number(figures.get("mean_iou")), "min_mean_iou", "{:.4f}")
    counts = (number(figures.get(key)) for key in ("frames", "reference_detections", "engine_detections"))
    frames, truth, found = (f"{count:.0f}" if count is not None else "–" for count in counts)
    said = f"{frames} pictures; the fp32 model finds {truth} faces in them, the engine {found}."
    return table(("", "What", "Measured", "Margin"), rows, numbers=(2,)) + f'<p class="note">{said}</p>'


def _facts(values: Mapping[str, object]) -> str:
    """Names and values; what is empty is left out."""
    rows = "".join(
        f"<dt>{text(name)}</dt><dd>{value if isinstance(value, Html) else text(value)}</dd>"
        for name, value in values.items()
        if value not in ("", None)
    )
    return f'<dl class="facts">{rows}</dl>'


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(str(name), entry) for name, entry in mapping(value).items()]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _words(value: Any) -> str:
    """A value of a report in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _digest(digest: str, more: str = "") -> Html | str:
    said = f" ({text(more)})" if more and more != "–" else ""
    return Html(f'<code class="digest">{text(digest)}</code>{said}') if digest else ""


def _mark(verdict: str) -> Html:
    sign = {"won": "✓ ", "passed": "✓ ", "refused": "✗ ", "failed": "✗ "}.get(verdict, "")
    return Html(f'<span class="mark {_MARKS.get(verdict, "")}">{sign}{text(verdict)}</span>')


def _size(count: float | None) -> str:
    if count is None:
        return "–"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _or_dash(value: float | None, form: str) -> str:
    return form.format(value) if value is not None else "–"


def _time(value: str | None) -> str:
    return f"{value[:19].replace('T', ' ')} UTC" if value else "–"
