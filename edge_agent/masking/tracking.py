"""Faces from frame to frame: a tracker that masks a moment too long rather than a moment too short.

Rules, in the order in which they are applied to each frame:

1. Tracks move on by their own velocity (constant velocity, smoothed).
2. Sure detections continue the tracks that they overlap, best overlap first. A detection that no track claims begins a
   track and is masked at once: a face is never asked to prove itself.
3. Weak detections, too weak to begin a track, may continue one: the same face, blurred or half hidden, scores lower for
   a moment. (The second association of ByteTrack, Zhang et al., ECCV 2022, arXiv 2110.06864.) At the edges
   of the frame weak detections begin tracks too, since half a face scores about half.
4. A track that nothing continued coasts: it is masked where it should be by now, wider with every frame that passes. It
   ends after ``coast_frames``, or when almost nothing of it is left inside the frame.

The tracker holds values alone and does no I/O. It belongs to one stream and outlives the release that feeds it: boxes
are in source pixels, whatever the engine's input is.

Example::

    tracker = Tracker()
    regions = tracker.update(boxes, policy, width=1280, height=720)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_agent.engines.engine import FloatArray
from edge_agent.masking.detections import Region, iou_matrix
from maskfleet.policy import MaskPolicy

WEAK_SHARE = 0.5
"""A detection from this share of ``min_confidence`` may continue a track."""

_SMOOTHING = 0.5
"""How much of a new velocity is believed. Detectors' boxes tremble by some per cent."""

_WIDENING = 0.06
"""By how much of its size a coasting box grows on each side with each frame."""

_MAX_WIDENING = 0.4
_LEAST_VISIBLE = 0.15
"""A coasting track ends when less of its area than this lies inside the frame."""

_EDGE = 0.02
"""A box this close to an edge, as a share of the frame's longer side, may be a face that is cut off."""

_MOST_TRACKS = 512


def weakest(policy: MaskPolicy) -> float:
    """The lowest score that the tracker has a use for."""
    return policy.min_confidence * WEAK_SHARE


@dataclasses.dataclass(frozen=True)
class Track:
    """A face that is followed.

    Attributes:
        track_id: unique within a stream, from 1.
        x: centre, in source pixels.
        y: centre.
        width: in source pixels.
        height: in source pixels.
        vx: pixels a frame.
        vy: pixels a frame.
        score: of the last detection.
        missed: frames since the last detection.
        age: detections so far.
    """

    track_id: int
    x: float
    y: float
    width: float
    height: float
    vx: float
    vy: float
    score: float
    missed: int
    age: int

    def moved(self, frames: int) -> Track:
        """Where it should be some frames later, as yet without a detection."""
        return dataclasses.replace(
            self, x=self.x + self.vx * frames, y=self.y + self.vy * frames, missed=self.missed + frames
        )

    def continued(self, box: Sequence[float], frames: int, *, cut: bool) -> Track:
        """With a detection.

        Args:
            box: x1, y1, x2, y2, score.
            frames: how many passed since the track's last detection.
            cut: the box touches an edge, so that its centre and size are not the face's.
        """
        x1, y1, x2, y2, score = box
        x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        vx, vy = self.vx, self.vy
        if not cut:
            # self.x is where it was expected: what is left is the error of its velocity over those frames.
            gain = 1.0 if self.age == 1 else _SMOOTHING
            vx += gain * (x - self.x) / frames
            vy += gain * (y - self.y) / frames
        return Track(self.track_id, x, y, width, height, vx, vy, score, 0, self.age + 1)

    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in source pixels, widened as it coasts."""
        grow = 0.5 + min(_MAX_WIDENING, _WIDENING * self.missed)
        across, down = self.width * grow, self.height * grow
        return (self.x - across, self.y - down, self.x + across, self.y + down)

    def visible(self, width: int, height: int) -> float:
        """Share of its own area that lies inside the frame."""
        across = min(self.x + self.width / 2, width) - max(self.x - self.width / 2, 0)
        down = min(self.y + self.height / 2, height) - max(self.y - self.height / 2, 0)
        return max(across, 0.0) * max(down, 0.0) / max(self.width * self.height, 1e-6)


class Tracker:
    """The tracks of one stream. For one thread."""

    def __init__(self) -> None:
        self.tracks: tuple[Track, ...] = ()
        self._last_id = 0
        self._size = (0, 0)

    def update(
        self, boxes: FloatArray, policy: MaskPolicy, *, width: int, height: int, frames: int = 1
    ) -> list[Region]:
        """One frame's regions.

        Args:
            boxes: float32, n×5, source pixels: detections from :func:`weakest` upwards, after suppression.
            policy: in force.
            width: of the frame, in pixels.
            height: of the frame, in pixels.
            frames: how many frames of the stream this one is after the last that was given.
        """
        self.skip(frames, policy, width=width, height=height)
        tracks = list(self.tracks)
        cut = _at_edge(boxes, width, height)
        sure = boxes[:, 4] >= policy.min_confidence
        free = list(range(len(tracks)))
        starting: list[int] = []
        for group in (np.flatnonzero(sure), np.flatnonzero(~sure)):
            pairs = _matched(np.array([tracks[i].box() for i in free]).reshape(-1, 4), boxes[group], policy.track_iou)
            for of_track, of_box in pairs:
                index, row = free[of_track], group[of_box]
                before = tracks[index]
                tracks[index] = before.continued(boxes[row].tolist(), max(1, before.missed), cut=bool(cut[row]))
            claimed = {of_track for of_track, _ in pairs}
            free = [index for place, index in enumerate(free) if place not in claimed]
            taken = {of_box for _, of_box in pairs}
            starting += [int(row) for place, row in enumerate(group) if place not in taken and (sure[row] or cut[row])]
        for row in starting:
            x1, y1, x2, y2, score = boxes[row].tolist()
            self._last_id += 1
            tracks.append(Track(self._last_id, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.0, 0.0, score, 0, 1))
        self.tracks = tuple(track for track in tracks if track.missed <= policy.coast_frames)
        return [
            Region(*track.box(), score=track.score, track_id=track.track_id, coasted=track.missed > 0)
            for track in self.tracks
        ]

    def skip(self, frames: int, policy: MaskPolicy, *, width: int, height: int) -> None:
        """Frames passed in which nothing could be detected: tracks move on, and old ones end."""
        if self._size != (width, height):
            # Another picture altogether: what was at a place is no longer there.
            self.tracks, self._size = (), (width, height)
        moved = (track.moved(frames) for track in self.tracks)
        living = [
            track
            for track in moved
            # One more than it may coast: this frame may still hold its detection.
            if track.missed <= policy.coast_frames + frames and track.visible(width, height) >= _LEAST_VISIBLE
        ]
        self.tracks = tuple(living[-_MOST_TRACKS:])


def _at_edge(boxes: FloatArray, width: int, height: int) -> npt.NDArray[np.bool_]:
    near = _EDGE * max(width, height)
    touched: npt.NDArray[np.bool_] = (
        (boxes[:, 0] <= near) | (boxes[:, 1] <= near) | (boxes[:, 2] >= width - near) | (boxes[:, 3] >= height - near)
    )
    return touched


def _matched(tracks: npt.NDArray[np.float64], boxes: FloatArray, least: float) -> list[tuple[int, int]]:
    """Pairs of track and box, best overlap first, each used once."""
    if not len(tracks) or not len(boxes):
        return []
    shares = iou_matrix(tracks, boxes)
    rows, columns = np.nonzero(shares >= max(least, 1e-3))
    pairs: list[tuple[int, int]] = []
    used_tracks: set[int] = set()
    used_boxes: set[int] = set()
    for place in np.argsort(-shares[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row not in used_tracks and column not in used_boxes:
            used_tracks.add(row)
            used_boxes.add(column)
            pairs.append((row, column))
    return pairs
