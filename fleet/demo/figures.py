"""What the demo measured, as plain values: everything that its screen shows and its report holds. Pure but for threads.

Example::

    scores = score_streams(streams, clip, truth)
    figures = {"score": score_figures(scores), "latency_ms": latency_figures(streams), …}
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import numpy as np

from fleet.demo.canary_gates import canary_gates
from fleet.demo.scene import HEIGHT, WIDTH
from fleet.demo.streams import Stream, source_index
from fleet.demo.verdict import judge
from fleet.results import MaskedFrame, Outcome, decode
from fleet.scoring import ClipScore, FrameScore, Order, TrueFace, check_order, score_clip, score_frame

STAGES = ("queue", "decode", "preprocess", "infer", "postprocess", "track", "mask", "encode", "total")
SETTLED = (Outcome.MASKED, Outcome.COASTED)
_WORKERS = 2


def score_streams(
    streams: Mapping[str, Stream],
    clip: Sequence[bytes],
    truth: Sequence[Sequence[TrueFace]],
    *,
    seen: Callable[[], None] = lambda: None,
) -> dict[str, list[FrameScore]]:
    """Scores every result of every stream against the frame that it was made of.

    Args:
        streams: by agent.
        clip: the frames as JPEG files, as they were sent.
        truth: the faces of each of them.
        seen: is called after each result, from several threads.

    Raises:
        BadFrameError: a result is no picture.
    """

    # By frame of the clip: each source is decoded once for all streams and all rounds.
    places: dict[int, list[tuple[str, int]]] = {}
    for name, stream in streams.items():
        for place, result in enumerate(stream.results):
            places.setdefault(source_index(result.sequence, len(clip)), []).append((name, place))

    def scored(item: tuple[int, list[tuple[str, int]]]) -> list[tuple[str, int, FrameScore]]:
        index, mine = item
        source, found = decode(clip[index]), []
        for name, place in mine:
            result = streams[name].results[place]
            settled = result.outcome in SETTLED
            frame = score_frame(result.sequence, source, _picture(result), truth[index], settled=settled)
            found.append((name, place, frame))
            seen()
        return found

    scores: dict[str, dict[int, FrameScore]] = {name: {} for name in streams}
    with ThreadPoolExecutor(_WORKERS) as pool:  # OpenCV works outside of Python's lock
        for found in pool.map(scored, places.items()):
            for name, place, frame in found:
                scores[name][place] = frame
    return {name: [mine[place] for place in sorted(mine)] for name, mine in scores.items()}


def _picture(result: MaskedFrame) -> Any:
    # Not result.image: it would keep every decoded picture of every stream.
    return decode(result.encoded) if result.encoded is not None else None


def total_score(scores: Mapping[str, Sequence[FrameScore]]) -> ClipScore:
    """All streams together."""
    return sum((score_clip(frames) for frames in scores.values()), ClipScore())


def score_figures(score: ClipScore) -> dict[str, Any]:
    """A score with its shares."""
    return {
        **dataclasses.asdict(score),
        "exposed_per_thousand": round(score.exposed_per_thousand, 3),
        "settled_share": round(score.settled_share, 5),
        "background_share": round(score.background_share, 5),
    }


def exposures(scores: Mapping[str, Sequence[FrameScore]], frames: int) -> list[dict[str, Any]]:
    """Every face that was exposed, with where it was."""
    return [
        {
            "agent": name,
            "sequence": frame.sequence,
            "clip_frame": source_index(frame.sequence, frames),
            "face": face.face.name,
            "box": [round(value, 1) for value in face.face.box],
            "visible": round(face.face.visible, 3),
            "altered": round(face.altered, 3),
        }
        for name, scored in scores.items()
        for frame in scored
        for face in frame.exposed
    ]


def orders(streams: Mapping[str, Stream]) -> dict[str, Order]:
    """What became of each stream's frames."""
    return {
        name: check_order(range(stream.sent), [result.sequence for result in stream.results])
        for name, stream in streams.items()
    }


def order_figures(order: Order) -> dict[str, Any]:
    """Counts, and which."""
    return {"sent": order.sent, "lost": list(order.lost), "out_of_order": list(order.reordered)}


def swap_figures(stream: Stream, releases: Mapping[str, str], *, pace: float) -> dict[str, Any]:
    """When a stream went from one release to another.

    Args:
        stream: of one agent.
        releases: their ids by digest.
        pace: of the stream, in frames/s.
    """
    ids = [releases.get(result.release_digest, result.release_digest[7:15]) for result in stream.results]
    times = [result.sequence / pace + late for result, late in zip(stream.results, stream.lateness_s)]
    changes = [
        {
            "frame": stream.results[i].sequence,
            "release": ids[i],
            "pause_ms": round(1000 * (times[i] - times[i - 1]), 1),
        }
        for i in range(1, len(ids))
        if ids[i] != ids[i - 1]
    ]
    return {
        "frames_by_release": dict(Counter(ids)),
        "path": [name for name, _run in itertools.groupby(ids)],
        "changes": changes,
    }


def latency_figures(streams: Iterable[Stream]) -> dict[str, dict[str, float]]:
    """Milliseconds by stage, over all frames."""
    results = [result for stream in streams for result in stream.results]
    return {
        stage: spread([1000 * result.timings[stage] for result in results if stage in result.timings])
        for stage in STAGES
        if any(stage in result.timings for result in results)
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, tails and the largest; empty for no values."""
    if not len(values):
        return {}
    array = np.asarray(values, np.float64)
    cuts = dict(zip(("p50", "p95", "p99"), np.percentile(array, [50, 95, 99]).tolist()))
    return {name: round(value, 3) for name, value in {**cuts, "max": float(array.max())}.items()}


def outcome_figures(streams: Iterable[Stream]) -> dict[str, int]:
    """Frames by outcome and reason, as ``MASKED DETECTED``."""
    counts = Counter(f"{r.outcome.value} {r.reason.value}" for stream in streams for r in stream.results)
    return dict(counts.most_common())


def clip_figures(truth: Sequence[Sequence[TrueFace]], width: int, height: int, pace: float) -> dict[str, Any]:
    """What the clip holds."""
    counted = [[face for face in faces if face.counts] for faces in truth]
    sizes = [face.box[3] - face.box[1] for faces in counted for face in faces]
    return {
        "frames": len(truth),
        "frames_per_second": pace,
        "width": width,
        "height": height,
        "faces": len({face.name for faces in counted for face in faces}),
        "face_frames": len(sizes),
        "frames_without_a_face": sum(not faces for faces in counted),
        "most_faces_in_a_frame": max((len(faces) for faces in counted), default=0),
        "face_height_px": [round(min(sizes), 1), round(max(sizes), 1)] if sizes else [],
    }


def everything(
    streams: Mapping[str, Stream],
    scores: Mapping[str, Sequence[FrameScore]],
    truth: Sequence[Sequence[TrueFace]],
    pace: int,
    releases: Sequence[Mapping[str, Any]],
    rollouts: Sequence[Mapping[str, Any]],
    chapters: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything that was measured: what ``report.json`` holds, but for the steps and the time they took.

    Args:
        streams: by agent.
        scores: of their results.
        truth: the faces of each frame of the clip.
        pace: of the clip, in frames/s.
        releases: each with its ``digest``; the first two take turns on every device.
        rollouts: over time.
        chapters: which release and rollout played which part among those that were judged.
    """
    found = orders(streams)
    chapters = chapters or {}
    ids = {str(release["digest"]): str(release["id"]) for release in releases}
    swaps = {name: swap_figures(stream, ids, pace=pace) for name, stream in streams.items()}
    paths = {name: swap["path"] for name, swap in swaps.items()}
    total = total_score(scores)
    turns = [str(release["id"]) for release in releases[:2]]
    # What was left for a newer release is not to come back.
    swapped = {name: path[:2] == turns and not set(path[2:]) & set(turns) for name, path in paths.items()}
    gates = judge(total, found, swapped)
    gates += canary_gates(chapters, rollouts, paths)
    longest = max(len(stream.results) for stream in streams.values())
    return {
        "schema": 2,
        "verdict": {"held": all(gate.held for gate in gates), "gates": [gate.to_json() for gate in gates]},
        "clip": clip_figures(truth, WIDTH, HEIGHT, pace),
        "score": {
            "all": score_figures(total),
            "agents": {name: score_figures(score_clip(frames)) for name, frames in scores.items()},
        },
        "order": {name: order_figures(order) for name, order in found.items()},
        "swap": swaps,
        "outcomes": outcome_figures(streams.values()),
        "latency_ms": latency_figures(streams.values()),
        "lateness_ms": {n: spread([1000 * late for late in s.lateness_s]) for n, s in streams.items()},
        "exposures": exposures(scores, len(truth)),
        "releases": list(releases),
        "rollouts": list(rollouts),
        "chapters": {part: dict(played) for part, played in chapters.items()},
        "machine": {
            "maskfleet": version("maskfleet"),
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
            "cpus": os.cpu_count() or 1,
        },
        "outcome_per_frame": {n: [r.outcome.value for r in s.results] for n, s in streams.items()},
        "faces_per_frame": [sum(face.counts for face in truth[source_index(i, len(truth))]) for i in range(longest)],
        "lateness_per_frame_ms": {n: [round(1000 * late, 1) for late in s.lateness_s] for n, s in streams.items()},
    }
