"""The report's plots, as SVG that takes its text colour from the page around it.

Matplotlib writes fixed colours; two that nothing else uses stand for the page's text and grid and are put right in the
text of the SVG.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TEXT, _GRID = "#010203", "#030201"
_WIDTH = 9.6
OUTCOME_COLOURS = {"MASKED": "#2f9e77", "COASTED": "#e0a526", "FULL_MASK": "#c4513f", "DROPPED": "#7a4f9e"}
STATE_COLOURS = {
    "PENDING": "#b9c0c8",
    "UPDATING": "#8fa8bf",
    "DOWNLOADING": "#5b8fc9",
    "VERIFYING": "#7a6fc0",
    "LOADING": "#a86fc0",
    "TESTING": "#d0679d",
    "SOAKING": "#e0a526",
    "COMMITTED": "#2f9e77",
    "REVERTING": "#d98248",
    "REVERTED": "#a08a72",
    "FAILED": "#c4513f",
    "EXPIRED": "#9aa3ac",
}
COHORT_COLOURS = {"CANARY": "#e0a526", "CONTROL": "#5b8fc9"}
VERDICT_COLOURS = {"PASS": "#2f9e77", "FAIL": "#c4513f", "INCONCLUSIVE": "#9aa3ac", "ERROR": "#7a4f9e"}
_CUTS = {"p50": "#3f78b5", "p95": "#86b0d8", "p99": "#b9d0e6"}
_OTHER = "#9aa3ac"
_SERIES = ("#5b8fc9", "#e0a526", "#2f9e77", "#d0679d")


def latency(stages: Mapping[str, Mapping[str, float]]) -> str:
    """Median and tails of each stage.

    Args:
        stages: milliseconds by stage, each with ``p50``, ``p95`` and ``p99``.
    """
    figure, axes = _figure(0.36 * len(stages) + 1.0)
    names = list(stages)
    for height, (name, colour) in enumerate(reversed(_CUTS.items())):
        axes.barh(names, [stages[s][name] for s in names], color=colour, height=0.42 + 0.12 * height)
    for row, stage in enumerate(names):
        spread = stages[stage]
        text = f"{spread['p50']:.1f} / {spread['p95']:.1f} / {spread['p99']:.1f}"
        axes.annotate(
            text, (spread["p99"], row), (6, 0), textcoords="offset points", va="center", fontsize=9, color=_TEXT
        )
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.margins(x=0.16)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    _legend(figure, _CUTS)
    return _svg(figure)


def outcomes(
    streams: Mapping[str, Sequence[str]],
    faces: Sequence[int],
    swaps: Mapping[str, Sequence[int]],
    exposed: Mapping[str, Sequence[int]],
) -> str:
    """The outcome of every frame, with the number of true faces above.

    Args:
        streams: outcome of each frame, by agent.
        faces: how many faces count in each frame.
        swaps: frames that another release masked than the frame before, by agent.
        exposed: frames with an exposed face, by agent.
    """
    names, words = list(streams), list(OUTCOME_COLOURS)
    figure, (top, axes) = _figures(0.42 * len(names) + 2.0, [1.0, 0.42 * len(names) + 0.2])
    top.fill_between(range(len(faces)), faces, step="mid", color="#8fa8bf", alpha=0.65, linewidth=0)
    top.set_ylabel("true faces", fontsize=9)
    top.set_ylim(bottom=0)
    top.tick_params(labelbottom=False)
    for row, name in enumerate(names):
        # Runs of one outcome, not a cell a frame: no seams, and a page of a sensible size.
        first = 0
        for outcome, run in itertools.groupby(streams[name]):
            length = sum(1 for _ in run)
            axes.barh(row + 0.5, length, left=first, height=0.94, color=OUTCOME_COLOURS[outcome], linewidth=0)
            first += length
    axes.margins(x=0)
    for row, name in enumerate(names):
        for swap in swaps.get(name, ()):
            axes.plot([swap, swap], [row + 0.02, row + 0.98], color=_TEXT, linewidth=1.6)
        for frame in exposed.get(name, ()):
            axes.plot(frame + 0.5, row + 0.5, marker="v", color="#c4513f", markersize=6)
    axes.set_yticks([row + 0.5 for row in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("frame of the stream; a vertical line marks the change of release")
    axes.tick_params(axis="y", length=0)
    used = [word for word in words if any(word in outcomes for outcomes in streams.values())]
    _legend(figure, {word: OUTCOME_COLOURS[word] for word in used})
    return _svg(figure)


def rollout(devices: Mapping[str, Sequence[tuple[float, float, str]]]) -> str:
    """What each device did while a rollout ran.

    Args:
        devices: by name, spans of (from, to, state) in seconds since the rollout began.
    """
    figure, axes = _figure(0.42 * len(devices) + 1.3)
    over = max((spans[-1][1] for spans in devices.values() if spans), default=0.0)
    for row, spans in enumerate(devices.values()):
        # The last state goes on: a little of it is drawn, or the end could not be seen.
        drawn = [*spans[:-1], (spans[-1][0], over * 1.06, spans[-1][2])] if spans else []
        for start, end, state in drawn:
            axes.barh(row, end - start, left=start, height=0.62, color=STATE_COLOURS.get(state, _OTHER), linewidth=0)
    axes.set_yticks(range(len(devices)), list(devices))
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the rollout was created")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    seen = {state for spans in devices.values() for _, _, state in spans}
    states = [*(state for state in STATE_COLOURS if state in seen), *sorted(seen - STATE_COLOURS.keys())]
    _legend(figure, {state: STATE_COLOURS.get(state, _OTHER) for state in states})
    return _svg(figure)


def cohorts(
    series: Mapping[str, Sequence[tuple[float, float]]],
    verdicts: Sequence[tuple[float, str]],
    states: Sequence[tuple[float, str]],
    *,
    limit: float | None,
) -> str:
    """The 95th percentile of the latency in each cohort while a rollout ran, with what the judge said.

    Args:
        series: by cohort, (seconds since the rollout began, milliseconds).
        verdicts: (seconds, verdict).
        states: (seconds, state that the rollout came to).
        limit: how many times the control's p95 the canaries' may be; None where nothing is compared.
    """
    figure, axes = _figure(2.9)
    for cohort, points in series.items():
        colour = COHORT_COLOURS.get(cohort, _OTHER)
        axes.plot([at for at, _ in points], [value for _, value in points], marker="o", markersize=3.5, linewidth=1.6,
                  color=colour, label=cohort.lower())  # fmt: skip
        if cohort == "CONTROL" and limit is not None:
            axes.plot([at for at, _ in points], [value * limit for _, value in points], linewidth=1, linestyle="--",
                      color=colour, label=f"limit: {limit:g} × control")  # fmt: skip
    axes.set_ylim(bottom=0)
    top = axes.get_ylim()[1] * 1.16
    axes.set_ylim(top=top)
    for at, state in states:
        axes.axvline(at, color=_GRID, linewidth=1)
        word = state.lower().replace("_", " ")
        axes.annotate(word, (at, 0.01 * top), (2, 2), textcoords="offset points", fontsize=7.5, color=_TEXT,
                      rotation=90, va="bottom", alpha=0.75)  # fmt: skip
    for at, verdict in verdicts:
        axes.plot(at, top * 0.95, marker="D", markersize=6, color=VERDICT_COLOURS.get(verdict, _OTHER), clip_on=False)
    axes.set_xlabel("seconds since the rollout was created; diamonds are decisions")
    axes.set_ylabel("p95, milliseconds", fontsize=9)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    if series:
        axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=_TEXT)
    said = {verdict for _, verdict in verdicts}
    _legend(figure, {word: colour for word, colour in VERDICT_COLOURS.items() if word in said})
    return _svg(figure)


def lateness(streams: Mapping[str, Sequence[float]], swaps: Mapping[str, Sequence[int]]) -> str:
    """How long after its capture each frame's result came.

    Args:
        streams: milliseconds of each frame, by agent.
        swaps: frames that another release masked than the frame before, by agent.
    """
    figure, axes = _figure(2.5)
    for number, (name, values) in enumerate(streams.items()):
        colour = _SERIES[number % len(_SERIES)]
        axes.plot(values, linewidth=1, color=colour, label=name)
        for swap in swaps.get(name, ()):
            axes.axvline(swap, color=colour, linewidth=1, linestyle=":")
    axes.set_xlabel("frame of the stream; dotted lines mark the change of release")
    axes.set_ylabel("milliseconds", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=_TEXT, ncols=len(streams))
    return _svg(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = _figures(height, [1.0])
    return figure, axes


def _figures(height: float, ratios: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure with axes one above the other that share their x axis. No pyplot: it keeps state for the process."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    grid = figure.add_gridspec(len(ratios), 1, height_ratios=list(ratios))
    made: list[Axes] = []
    for row in range(len(ratios)):
        axes = figure.add_subplot(grid[row, 0], sharex=made[0] if made else None)
        axes.set_facecolor("none")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_TEXT, labelsize=9)
        axes.xaxis.label.set_color(_TEXT)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_color(_TEXT)
        made.append(axes)
    return figure, made


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colour, label=word) for word, colour in colours.items()]
    figure.legend(
        handles=patches,
        loc="outside upper left",
        ncols=max(1, len(patches)),
        frameon=False,
        fontsize=9,
        labelcolor=_TEXT,
        handlelength=1.0,
        handleheight=1.0,
    )


def _svg(figure: Figure) -> str:
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "maskfleet"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # The page's own font: the SVG names matplotlib's list of candidates.
    text = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text)
    return text.replace(_TEXT, "currentColor").replace(_GRID, "var(--grid)")
