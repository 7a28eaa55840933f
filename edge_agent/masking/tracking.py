"""Faces from frame to frame: a tracker that masks a moment too long rather than a moment too short.

Rules, in the order in which they are applied to each frame:

1. Tracks move on with the camera (:mod:`edge_agent.masking.motion`) and by their own velocity, constant and smoothed.
2. Sure detections continue the tracks that they overlap, best overlap first. A sure detection that no track claims
   begins one and is masked at once: a face is never asked to prove itself.
3. Weak detections, too weak to begin a track, may continue one: the same face, blurred or half hidden, scores lower for
   a moment. (The second association of ByteTrack, Zhang et al., ECCV 2022, arXiv 2110.06864.) At the edges of the frame
   the better of them begin tracks too, since part of a face scores lower; such a track does not coast until a sure
   detection has confirmed it.
4. A track that nothing continued coasts: it is masked where it should be by now, wider with every frame that passes. It
   ends after ``coast_frames``, or when almost nothing of it is left inside the frame.

The tracker holds values alone and does no I/O. It belongs to one stream and outlives the release that feeds it: boxes
are in source pixels, whatever the engine's input is.

Example::

    tracker = Tracker()
    regions = tracker.update(boxes, policy, width=1280, height=720, camera=camera.shift(frame))
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

_EDGE_SHARE = 0.7
"""A detection from this share of ``min_confidence`` may begin a track at the edge of the frame."""

_SMOOTHING = 0.5
"""How much of a velocity's error is put right at once. Detectors' boxes tremble by some per cent."""

_WIDENING = 0.05
"""By how much of its size a coasting box grows on each side with each frame."""

_MAX_WIDENING = 0.4
_LEAST_VISIBLE = 0.15
"""A coasting track ends when less of its area than this lies inside the frame."""

_EDGE = 0.01
"""A box this close to an edge, as a share of the frame's longer side, may be a face that is cut off."""

_MOST_TRACKS = 512
_STILL = (0.0, 0.0)


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
        score: of the last detection.
        confirmed: one of its detections was sure.
        vx: its own velocity, apart from the camera's, in pixels a frame.
        vy: the same, downwards.
        missed: frames since the last detection.
    """

    track_id: int
    x: float
    y: float
    width: float
    height: float
    score: float
    confirmed: bool
    vx: float = 0.0
    vy: float = 0.0
    missed: int = 0

    @classmethod
    def begun(cls, track_id: int, box: Sequence[float], *, sure: bool) -> Track:
        """With its first detection: x1, y1, x2, y2, score."""
        x1, y1, x2, y2, score = box
        return cls(track_id, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, score, sure)

    def moved(self, frames: int, camera: tuple[float, float]) -> Track:
        """Where it should be some frames later, as yet without a detection."""
        return dataclasses.replace(
            self,
            x=self.x + self.vx * frames + camera[0],
            y=self.y + self.vy * frames + camera[1],
            missed=self.missed + frames,
        )

    def continued(self, box: Sequence[float], *, sure: bool, cut: bool) -> Track:
        """With another detection, once it was moved to where it should be.

        Args:
            box: x1, y1, x2, y2, score.
            sure: the score is no weak one.
            cut: the box touches an edge, so that its centre is not the face's.
        """
        found = Track.begun(self.track_id, box, sure=sure or self.confirmed)
        # What is left between expected and found is the error of the velocity over the frames since.
        gain = 0.0 if cut else _SMOOTHING / max(1, self.missed)
        return dataclasses.replace(
            found, vx=self.vx + gain * (found.x - self.x), vy=self.vy + gain * (found.y - self.y)
        )

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
        self.size = (0, 0)
        """Width and height of the last picture in pixels; 0 before the first."""

    def update(
        self,
        boxes: FloatArray,
        policy: MaskPolicy,
        *,
        width: int,
        height: int,
        frames: int = 1,
        camera: tuple[float, float] = _STILL,
    ) -> list[Region]:
        """One frame's regions.

        Args:
            boxes: float32, n×5, source pixels: detections from :func:`weakest` upwards, after suppression.
            policy: in force.
            width: of the frame, in pixels.
            height: of the frame, in pixels.
            frames: how many frames of the stream this one is after the last that was given.
            camera: by how many pixels the picture as a whole moved right and down since then.
        """
        if self.size != (width, height):
            # Another picture altogether: what was at a place is no longer there.
            self.tracks, self.size = (), (width, height)
        self.skip(frames, policy, camera=camera)
        tracks = list(self.tracks)
        cut = _at_edge(boxes, width, height)
        sure = boxes[:, 4] >= policy.min_confidence
        begins = sure | (cut & (boxes[:, 4] >= policy.min_confidence * _EDGE_SHARE))
        free = list(range(len(tracks)))
        starting: list[int] = []
        for rows in (np.flatnonzero(sure), np.flatnonzero(~sure)):
            expected = np.array([tracks[index].box() for index in free]).reshape(-1, 4)
            pairs = _matched(expected, boxes[rows], policy.track_iou)
            for place, column in pairs:
                index, row = free[place], int(rows[column])
                tracks[index] = tracks[index].continued(boxes[row].tolist(), sure=bool(sure[row]), cut=bool(cut[row]))
            claimed, taken = {place for place, _ in pairs}, {column for _, column in pairs}
            free = [index for place, index in enumerate(free) if place not in claimed]
            starting += [int(row) for column, row in enumerate(rows) if column not in taken and begins[row]]
        for row in starting:
            self._last_id += 1
            tracks.append(Track.begun(self._last_id, boxes[row].tolist(), sure=bool(sure[row])))
        self.tracks = tuple(t for t in tracks if t.missed <= (policy.coast_frames if t.confirmed else 0))
        return [
            Region(*track.box(), score=track.score, track_id=track.track_id, coasted=track.missed > 0)
            for track in self.tracks
        ]

    def skip(self, frames: int, policy: MaskPolicy, *, camera: tuple[float, float] = _STILL) -> None:
        """Frames passed, of which nothing else is known: tracks move on, and old ones end.

        What a frame that was not decoded says of its size counts for nothing: it may be turned, or wrong, and tracks
        that end with it would leave the faces of the next frame bare.
        """
        width, height = self.size
        moved = (track.moved(frames, camera) for track in self.tracks)
        living = [
            track
            for track in moved
            # One step more than it may coast: this frame may hold its next detection.
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
    pairs: dict[int, int] = {}
    for place in np.argsort(-shares[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return list(pairs.items())
