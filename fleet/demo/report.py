"""``report.html``: one file with everything in it, made of the figures that ``report.json`` holds. Pure.

Example::

    page = render(figures, contact_sheet=jpeg, crops=[…])
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.demo import plots
from fleet.demo.report_rollouts import rollout_section
from fleet.page import Html, document, section, table, text

Figures = Mapping[str, Any]


def render(figures: Figures, *, contact_sheet: bytes, exposed: Sequence[tuple[bytes, str]] = ()) -> str:
    """The page.

    Args:
        figures: what ``report.json`` holds.
        contact_sheet: a JPEG file.
        exposed: faces that were exposed, source beside masked: JPEG files with their captions.
    """
    parts = [
        _head(figures),
        _verdict(figures),
        _tiles(figures),
        section("What must hold", "Limits as the project set them; lateness is reported below and not judged.",
                 _gates(figures["verdict"]["gates"])),
        section("Before and after", "Frames as the agents got them, and as they gave them back.",
                 _picture(contact_sheet, "Source left, masked right. All of it is in masked.mp4 beside this page.")),
        *([section("Exposed faces", "Every one, source beside masked, up to twelve.",
                    "".join(_picture(data, words) for data, words in exposed))] if exposed else []),
        section("Outcome per frame", _outcome_note(figures),
                 plots.outcomes(figures["outcome_per_frame"], figures["faces_per_frame"],
                                _swaps(figures), _exposed_frames(figures))),
        section("Latency per stage", "Median, 95th and 99th percentile over all frames of all agents, in the agent.",
                 plots.latency(figures["latency_ms"])),
        section("Lateness", "From a frame's capture to its result in the client: three agents and everything else on "
                             f"{figures['machine']['cpus']} CPU cores.",
                 plots.lateness(figures["lateness_per_frame_ms"], _swaps(figures))
                 + _lateness(figures["lateness_ms"])),
        *(section(*rollout_section(rollout, figures)) for rollout in figures["rollouts"]),
        section("Releases", "One engine a target; each manifest is signed by the control plane.",
                 _releases(figures["releases"])),
        section("Agents", "The same clip through each of them.", _agents(figures)),
        section("Commands", "What was run, as a person would type it.", _steps(figures["steps"])),
        _foot(figures),
    ]  # fmt: skip
    return document("maskfleet demo", parts)


def _head(figures: Figures) -> str:
    clip = figures["clip"]
    least, most = clip["face_height_px"]
    return (
        "<header><h1>A model becomes an engine, reaches three agents and masks a live stream</h1>"
        f"<p>{clip['frames']} frames of {clip['width']}×{clip['height']} at {clip['frames_per_second']:g} frames/s "
        f"with {clip['faces']} faces of {least:.0f} to {most:.0f} px, whose places are "
        "known from the clip's geometry, through every agent at once, again and again; a second release takes over"
        f"{_chapters(figures)}.</p></header>"
    )


def _chapters(figures: Figures) -> str:
    chapters = figures.get("chapters") or {}
    if not chapters:
        return ""
    third = "in eight bits" if chapters["third"]["precision"] == "int8" else "in fp32, as the gate refused eight bits"
    return (
        f", a third one ({third}) proves itself on one device before it goes to all, a damaged model is refused and "
        "one that is too slow is rolled back by itself"
    )


def _swaps(figures: Figures) -> dict[str, list[int]]:
    return {name: [change["frame"] for change in swap["changes"]] for name, swap in figures["swap"].items()}


def _verdict(figures: Figures) -> str:
    gates = figures["verdict"]["gates"]
    failed = [gate for gate in gates if not gate["held"]]
    if not failed:
        words = {6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
        count = words.get(len(gates), str(len(gates)))
        return f'<div class="verdict good"><strong>✓ Everything held</strong>All {count} limits were kept.</div>'
    names = "; ".join(f"{gate['name']}: {gate['figure']}, {gate['limit']}" for gate in failed)
    return f'<div class="verdict bad"><strong>✗ {len(failed)} of {len(gates)} did not hold</strong>{text(names)}</div>'


def _tiles(figures: Figures) -> str:
    score = figures["score"]["all"]
    total = figures["latency_ms"].get("total", {})
    tiles = [
        (f"{score['frames']:,}", "frames masked"),
        (f"{score['exposed']} / {score['face_frames']:,}", "faces exposed"),
        (f"{score['background_share']:.2%}", "of the background masked"),
        (f"{total.get('p50', 0):.0f} ms", "in the agent, median"),
        (f"{total.get('p99', 0):.0f} ms", "in the agent, 99th percentile"),
        (f"{figures['seconds']:.0f} s", "for everything"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{a}</b><span>{b}</span></div>' for a, b in tiles)
        + "</div>"
    )


def _mark(held: bool) -> Html:
    return Html('<span class="mark good">✓ held</span>' if held else '<span class="mark bad">✗ failed</span>')


def _gates(gates: Sequence[Figures]) -> str:
    return table(
        ("", "What", "Measured", "Limit"),
        [(_mark(gate["held"]), gate["name"], gate["figure"], gate["limit"]) for gate in gates],
    )


def _picture(data: bytes, caption: str) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return f'<figure><img src="{source}" alt="{text(caption)}"><figcaption>{text(caption)}</figcaption></figure>'


def _outcome_note(figures: Figures) -> str:
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in figures["outcomes"].items())
    return f"{counts}. Triangles mark exposed faces."


def _exposed_frames(figures: Figures) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for exposure in figures["exposures"]:
        found.setdefault(exposure["agent"], []).append(exposure["sequence"])
    return found


def _lateness(lateness: Mapping[str, Mapping[str, float]]) -> str:
    cuts = ("p50", "p95", "p99", "max")
    rows = [(name, *(f"{spread[cut]:.0f} ms" for cut in cuts)) for name, spread in lateness.items()]
    return table(("Agent", "Median", "95 %", "99 %", "Largest"), rows, numbers=(1, 2, 3, 4))


def _releases(releases: Sequence[Figures]) -> str:
    rows = [
        (
            release["id"],
            f"{release['model']}, {release['policy'].get('style', '')}",
            build["target"],
            build.get("precision", ""),
            f"{build['engine_size_bytes'] / 1e6:.1f} MB",
            "cached" if build["cached"] else "built",
            Html(f'<code class="digest">{text(build["engine_digest"][:23])}…</code>'),
        )
        for release in releases
        for build in release["builds"]
    ]
    return table(("Release", "Model and style", "Target", "Format", "Engine", "", "Digest"), rows, numbers=(4,))


def _agents(figures: Figures) -> str:
    rows = []
    for name, score in figures["score"]["agents"].items():
        order, swap = figures["order"][name], figures["swap"][name]
        rows.append(
            (
                name,
                f"{order['sent']:,}",
                len(order["lost"]),
                len(order["out_of_order"]),
                f"{score['exposed']} of {score['face_frames']}",
                f"{score['settled_share']:.1%}",
                f"{score['background_share']:.2%}",
                " → ".join(swap["path"]),
                ", ".join(str(change["frame"]) for change in swap["changes"]) or "never",
                f"{max(c['pause_ms'] for c in swap['changes']):.0f} ms" if swap["changes"] else "",
            )
        )
    columns = ("Agent", "Frames", "Lost", "Out of order", "Exposed", "Masked or coasted", "Background",
               "Releases", "Changes at frame", "Longest step")  # fmt: skip
    return table(columns, rows, numbers=range(1, len(columns)))


def _steps(steps: Sequence[Figures]) -> str:
    rows = []
    for number, step in enumerate(steps, 1):
        command = f'<div class="command">$ {text(step["command"])}</div>' if step["command"] else ""
        rows.append(
            f'<div class="step"><i>{number}</i><span>{text(step["title"])}</span>'
            f"<time>{step['seconds']:.1f} s</time>{command}</div>"
        )
    return "".join(rows)


def _foot(figures: Figures) -> str:
    machine = figures["machine"]
    return (
        f"<footer>maskfleet {text(machine['maskfleet'])}, Python {text(machine['python'])}, "
        f"{text(machine['system'])}, {machine['cpus']} CPU cores. All figures of this page are in report.json. "
        "Photographs: scikit-image (NASA, SpaceX, R. Michetti, S. van der Walt), public domain and CC0.</footer>"
    )
