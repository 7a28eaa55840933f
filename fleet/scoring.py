"""How well a clip was masked: exposed faces, masked background, order of frames. Pure: pictures in, figures out.

What is measured is the picture, never the agent's report of it. A pixel counts as **altered** by these rules:

1. Source and result are compared by luma in windows of 5×5 pixels: ``change`` is the mean squared difference,
   ``structure`` the variance of the source there.
2. *Redrawn* is a window whose change is over :data:`NOISE` squared **and** over a quarter of its structure: blur,
   mosaic and solid paint take out almost all structure, another round of JPEG a few percent.
3. *Kept* is a window that has structure to lose (over :data:`NOISE` squared) and lost less than that.
4. A window that is flat in both cannot tell: blurred skin looks like skin. Such pixels go with the nearest pixel that
   can tell, if that is within :data:`REACH`: a flat cheek inside a blurred head is altered, a flat wall beside it is
   not.
5. All others are not altered.

So no report can lie, a flat patch fools nobody in either direction, and the same picture encoded again (JPEG, quality
85 or better) is altered nowhere. From there:

- The **ellipse** inscribed in a face's true box, clipped to the frame, is what must be altered. A face **counts** once
  half of its ellipse is visible. It is **exposed** where less than 90 % of the ellipse is altered.
- **Background** is every pixel outside all true boxes, also of faces that do not count.
- A frame without a picture exposes nothing and is masked background as a whole, like a frame masked whole.

Example::

    frames = [score_frame(i, source, result, faces, settled=outcome in {"MASKED", "COASTED"}) for …]
    score = score_clip(frames)
    print(score.exposed, "of", score.face_frames, "longest run", score.longest_exposure)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""uint8, H×W×3, blue, green, red."""

Bits = npt.NDArray[np.bool_]
"""bool, H×W."""

WINDOW = 5
"""Side of the windows in pixels."""

NOISE = 8.0
"""Levels of 255, root of the mean square: another round of JPEG (quality 85 or better) moves a window by less."""

LOST = 0.25
"""Share of its structure that a window must lose to be redrawn."""

REACH = 8.0
"""Pixels within which flat pixels go with one that can tell."""

COVERED = 0.9
"""Share of a face's ellipse that must be altered."""

COUNTS = 0.5
"""Share of a face's ellipse that must be visible for it to count."""


@dataclasses.dataclass(frozen=True)
class TrueFace:
    """A face that is in the source frame, known and not detected.

    Attributes:
        name: the same in every frame.
        box: x1, y1, x2, y2 in pixels of the frame; it may reach beyond the frame.
        visible: share of its ellipse that is in the frame and behind nothing, 0 to 1.
    """

    name: str
    box: tuple[float, float, float, float]
    visible: float = 1.0

    @property
    def counts(self) -> bool:
        """Whether enough of it is visible."""
        return self.visible >= COUNTS


@dataclasses.dataclass(frozen=True)
class FaceScore:
    """One true face in one result.

    Attributes:
        face: the face.
        altered: share of its ellipse, clipped to the frame, that is altered, 0 to 1.
    """

    face: TrueFace
    altered: float

    @property
    def exposed(self) -> bool:
        """Whether it can be seen."""
        return self.altered < COVERED


@dataclasses.dataclass(frozen=True)
class FrameScore:
    """One result.

    Attributes:
        sequence: which frame.
        faces: the faces that count.
        background: pixels outside every true box.
        background_masked: how many of them are altered.
        settled: MASKED or COASTED.
    """

    sequence: int
    faces: tuple[FaceScore, ...]
    background: int
    background_masked: int
    settled: bool

    @property
    def exposed(self) -> tuple[FaceScore, ...]:
        """The faces that can be seen."""
        return tuple(face for face in self.faces if face.exposed)


@dataclasses.dataclass(frozen=True)
class ClipScore:
    """All results of a stream, or of several.

    Attributes:
        frames: how many results.
        settled: how many of them MASKED or COASTED.
        face_frames: how many faces that count, summed over frames.
        exposed: how many of them are exposed.
        longest_exposure: the longest run of frames in which one and the same face is exposed, each following the other.
        background: pixels outside every true box, summed over frames.
        background_masked: how many of them are altered.
    """

    frames: int = 0
    settled: int = 0
    face_frames: int = 0
    exposed: int = 0
    longest_exposure: int = 0
    background: int = 0
    background_masked: int = 0

    @property
    def exposed_per_thousand(self) -> float:
        """Exposed of 1,000 face-frames; 0 where there are no faces."""
        return 1000 * self.exposed / self.face_frames if self.face_frames else 0.0

    @property
    def settled_share(self) -> float:
        """Share of frames MASKED or COASTED, 0 to 1; 0 where there are no frames."""
        return self.settled / self.frames if self.frames else 0.0

    @property
    def background_share(self) -> float:
        """Share of the background that is masked, 0 to 1; 0 where there is none."""
        return self.background_masked / self.background if self.background else 0.0

    def __add__(self, other: ClipScore) -> ClipScore:
        """Two streams taken together; runs do not go from one to the other."""
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(self)
        }
        return ClipScore(**{**sums, "longest_exposure": max(self.longest_exposure, other.longest_exposure)})


@dataclasses.dataclass(frozen=True)
class Order:
    """What became of the frames that were sent.

    Attributes:
        sent: how many.
        lost: sequences that never came back.
        reordered: sequences that came back after a later one, or twice, or without having been sent.
    """

    sent: int
    lost: tuple[int, ...]
    reordered: tuple[int, ...]


def altered(source: Image, result: Image) -> Bits:
    """Which pixels of a picture were redrawn, by the rules above.

    Args:
        source: the picture as it went in.
        result: the picture as it came out, of the same size.

    Returns:
        bool, H×W.

    Raises:
        ValueError: the sizes differ.
    """
    if source.shape != result.shape:
        raise ValueError(f"source is {source.shape}, result is {result.shape}")
    before = cv2.cvtColor(source, cv2.COLOR_BGR2GRAY).astype(np.float32)
    after = cv2.cvtColor(result, cv2.COLOR_BGR2GRAY).astype(np.float32)
    window = (WINDOW, WINDOW)
    change = cv2.blur((before - after) ** 2, window)
    structure = cv2.blur(before**2, window) - cv2.blur(before, window) ** 2
    lost = change > LOST * structure
    redrawn = lost & (change > NOISE**2)
    kept = ~lost & (structure > NOISE**2)
    if not redrawn.any():
        return redrawn
    # What is redrawn reaches no farther than REACH, and is held back by what is kept no farther than twice that.
    x, y, width, height = cv2.boundingRect(redrawn.astype(np.uint8))
    room = 2 * int(REACH) + 2
    around = (slice(max(0, y - room), y + height + room), slice(max(0, x - room), x + width + room))
    found = np.zeros_like(redrawn)
    found[around] = _nearest(redrawn[around], (redrawn | kept)[around])
    return found


def _nearest(values: Bits, known: Bits) -> Bits:
    """Values where they are known; elsewhere the value at the nearest pixel where they are, False beyond reach."""
    distance, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros(int(labels.max()) + 1, np.bool_)
    by_label[labels[known]] = values[known]
    return np.asarray(by_label[labels] & (distance <= REACH), np.bool_)


def ellipse(box: tuple[float, float, float, float], *, width: int, height: int) -> tuple[slice, slice, Bits]:
    """The ellipse inscribed in a box, clipped to the frame.

    Args:
        box: x1, y1, x2, y2 in pixels; it may reach beyond the frame.
        width: of the frame, in pixels.
        height: of the frame, in pixels.

    Returns:
        Rows and columns of the frame, and which pixels there have their centre in the ellipse.
    """
    x1, y1, x2, y2 = box
    rows = slice(*np.clip([int(np.floor(y1)), int(np.ceil(y2))], 0, height).tolist())
    columns = slice(*np.clip([int(np.floor(x1)), int(np.ceil(x2))], 0, width).tolist())
    y = (np.arange(rows.start, rows.stop)[:, None] + 0.5 - (y1 + y2) / 2) / max((y2 - y1) / 2, 1e-9)
    x = (np.arange(columns.start, columns.stop)[None, :] + 0.5 - (x1 + x2) / 2) / max((x2 - x1) / 2, 1e-9)
    return rows, columns, x**2 + y**2 <= 1.0


def score_frame(
    sequence: int, source: Image, result: Image | None, faces: Iterable[TrueFace], *, settled: bool
) -> FrameScore:
    """Scores one result.

    Args:
        sequence: which frame.
        source: the picture as it went in.
        result: the picture as it came out; None where there is none.
        faces: every face that is in the source, also those that do not count.
        settled: whether the outcome is MASKED or COASTED.
    """
    height, width = source.shape[:2]
    changed = altered(source, result) if result is not None else np.ones((height, width), np.bool_)
    background = np.ones((height, width), np.bool_)
    scores = []
    for face in faces:
        rows, columns, inside = ellipse(face.box, width=width, height=height)
        background[rows, columns] = False
        if face.counts:
            area = int(inside.sum())
            share = float((changed[rows, columns] & inside).sum()) / area if area else 1.0
            scores.append(FaceScore(face, share))
    return FrameScore(sequence, tuple(scores), int(background.sum()), int((changed & background).sum()), settled)


def score_clip(frames: Sequence[FrameScore]) -> ClipScore:
    """Sums up the results of one stream, in the order of the stream."""
    longest = 0
    runs: dict[str, int] = {}
    for frame in frames:
        # A face that is out of sight for a frame ends its run: only exposures that follow each other make one.
        runs = {face.face.name: runs.get(face.face.name, 0) + 1 for face in frame.exposed}
        longest = max([longest, *runs.values()])
    return ClipScore(
        frames=len(frames),
        settled=sum(frame.settled for frame in frames),
        face_frames=sum(len(frame.faces) for frame in frames),
        exposed=sum(len(frame.exposed) for frame in frames),
        longest_exposure=longest,
        background=sum(frame.background for frame in frames),
        background_masked=sum(frame.background_masked for frame in frames),
    )


def check_order(sent: Sequence[int], received: Sequence[int]) -> Order:
    """What became of the frames that were sent.

    Args:
        sent: sequences in the order of the source.
        received: sequences in the order in which their results came.
    """
    known = set(sent)
    seen: set[int] = set()
    highest = -1
    reordered = []
    for sequence in received:
        if sequence not in known or sequence in seen or sequence < highest:
            reordered.append(sequence)
        seen.add(sequence)
        highest = max(highest, sequence)
    return Order(len(sent), tuple(s for s in sent if s not in seen), tuple(reordered))
