"""The frame loop of one stream: decode, detect, track, mask, encode, and fail closed.

Rules:

- :meth:`FrameMasker.mask` never raises and never gives the source back: whatever fails, the guard decides
  (:mod:`edge_agent.masking.guard`), and it looks at every masked picture once more before it is encoded.
- A frame is masked by the release that it began with; another takes its place between two frames. Tracks belong to the
  stream and outlive it.
- A deadline counts from arrival. It is looked at before each costly step and once more before the result is encoded,
  so that a late frame costs as little as possible.
- Every frame gives one :class:`FrameRecord`, which holds no pixel and no place.

Example::

    masker = FrameMasker(serving, Wanted(), observe=telemetry.frame)
    answer = masker.mask(SourceFrame(Encoding.JPEG, data), arrived=clock.monotonic())
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edge_agent.masking import guard
from edge_agent.masking.detections import Region
from edge_agent.masking.detector import Detector
from edge_agent.masking.frames import DEFAULT_JPEG_QUALITY, Encoding, SourceFrame, decode, encode, size_of
from edge_agent.masking.motion import CameraMotion
from edge_agent.masking.outcomes import Outcome, Reason, Stage
from edge_agent.masking.preprocess import Picture
from edge_agent.masking.styles import MaskedFrame, mask
from edge_agent.masking.tracking import Tracker, weakest
from edge_agent.serving import LoadedRelease, Serving
from maskfleet.clock import Clock, SystemClock
from maskfleet.errors import DeadlineError, NoEngineError, SourceFrameError
from maskfleet.logs import get_logger
from maskfleet.policy import MaskPolicy


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a client wants of its frames.

    Attributes:
        changes: to the release's policy, for :func:`edge_agent.masking.guard.in_force`.
        encoding: of the results; None for that of each source frame.
        jpeg_quality: 1 to 100.
        deadline_s: seconds from arrival within which a frame is to be masked; None for none.
    """

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoding: Encoding | None = None
    jpeg_quality: int = DEFAULT_JPEG_QUALITY
    deadline_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What comes back for a frame.

    Attributes:
        outcome: what was done.
        reason: why.
        detail: the reason in a sentence; empty for DETECTED.
        regions: the masked areas, before the margin.
        stages_s: seconds by stage; stages that were not reached are absent.
        release_digest: of the release that masked it; empty where none was loaded.
        encoding: of the data.
        data: the masked picture; None where it is DROPPED.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """

    outcome: Outcome
    reason: Reason
    detail: str = ""
    regions: tuple[Region, ...] = ()
    stages_s: Mapping[Stage, float] = dataclasses.field(default_factory=dict)
    release_digest: str = ""
    encoding: Encoding = Encoding.JPEG
    data: bytes | None = None
    width: int = 0
    height: int = 0


@dataclasses.dataclass(frozen=True)
class FrameRecord:
    """A frame as telemetry sees it.

    Attributes:
        outcome: what was done.
        reason: why.
        stages_s: seconds by stage.
        detections: faces that were detected in this frame.
        scores: theirs, 0 to 1.
        release_id: of the release that masked it; empty where none was loaded.
        target: of its engine.
    """

    outcome: Outcome
    reason: Reason
    stages_s: Mapping[Stage, float]
    detections: int = 0
    scores: tuple[float, ...] = ()
    release_id: str = ""
    target: str = ""


Observer = Callable[[FrameRecord], None]


def unobserved(_record: FrameRecord) -> None:
    """An observer that looks away."""


class _Attempt:
    """What is known of one frame so far, so that a failure anywhere finds it."""

    def __init__(self, clock: Clock, arrived: float, deadline_s: float | None) -> None:
        self.stages_s: dict[Stage, float] = {}
        self.size: tuple[int, int] | None = None
        self.release: LoadedRelease | None = None
        self.policy: MaskPolicy | None = None
        self.regions: tuple[Region, ...] = ()
        self.tracked = False
        self._clock = clock
        self._arrived = arrived
        self._deadline_s = deadline_s

    @contextlib.contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        begun = self._clock.monotonic()
        try:
            yield
        finally:
            self.stages_s[stage] = self._clock.monotonic() - begun

    def in_time(self) -> None:
        """Raises DeadlineError once the deadline has passed."""
        late = self._deadline_s is not None and self._clock.monotonic() - self._arrived > self._deadline_s
        if late and self._deadline_s is not None:
            raise DeadlineError(
                f"the frame was not masked within {self._deadline_s * 1000:.0f} ms",
                remedy="give it more time, send fewer or smaller frames, or use a faster device",
            )

    def done(self) -> Mapping[Stage, float]:
        self.stages_s[Stage.TOTAL] = self._clock.monotonic() - self._arrived
        return self.stages_s


class FrameMasker:
    """Masks the frames of one stream, in their order. For one thread.

    Args:
        serving: where the release comes from.
        wanted: by the client.
        tracking: carry faces from frame to frame; off for single pictures.
        clock: where time comes from.
        observe: is told of every frame.

    Raises:
        BadPolicyError: the client's changes to the policy are out of range.
    """

    def __init__(
        self,
        serving: Serving,
        wanted: Wanted,
        *,
        tracking: bool = True,
        clock: Clock | None = None,
        observe: Observer = unobserved,
    ) -> None:
        guard.in_force(MaskPolicy(), wanted.changes)  # what is out of range is refused now, not with a frame
        self._serving = serving
        self._wanted = wanted
        self._clock = clock or SystemClock()
        self._observe = observe
        self._tracker = Tracker() if tracking else None
        self._camera = CameraMotion()
        self._detector: Detector | None = None
        self._policy: tuple[MaskPolicy, MaskPolicy] | None = None

    def mask(self, source: SourceFrame, *, arrived: float, frames: int = 1) -> Answer:
        """Masks a frame, or fails closed. Never raises.

        Args:
            source: the frame.
            arrived: when it came, by the clock's monotonic time.
            frames: how many frames of the stream it is after the last one that was given.
        """
        attempt = _Attempt(self._clock, arrived, self._wanted.deadline_s)
        attempt.stages_s[Stage.QUEUE] = self._clock.monotonic() - arrived
        try:
            answer = self._masked(source, attempt, frames)
        except Exception as error:  # noqa: BLE001  # fail closed: whatever it is, the source stays here
            answer = self._closed(source, attempt, error, frames)
        self._tell(answer, attempt)
        return answer

    def mask_or_raise(self, source: SourceFrame, *, arrived: float) -> Answer:
        """Masks a frame.

        Raises:
            BadFrameError: the picture cannot be read.
            NoEngineError: no release is loaded.
            EngineError: the engine raised, or gave values that are no numbers.
            DeadlineError: it took too long.
        """
        attempt = _Attempt(self._clock, arrived, self._wanted.deadline_s)
        try:
            answer = self._masked(source, attempt, 1)
        except Exception as error:
            self._tell(self._closed(source, attempt, error, 1), attempt)
            raise
        self._tell(answer, attempt)
        return answer

    def dropped(self, reason: Reason, detail: str, *, arrived: float) -> Answer:
        """The answer for a frame that is not looked at: a newer one came, or the agent stops."""
        waited = self._clock.monotonic() - arrived
        answer = Answer(Outcome.DROPPED, reason, detail, stages_s={Stage.QUEUE: waited, Stage.TOTAL: waited})
        self._tell(answer, None)
        return answer

    def policy(self, release: LoadedRelease | None) -> MaskPolicy:
        """The policy in force under a release; the agent's own defaults where there is none."""
        base = release.policy if release is not None else MaskPolicy()
        if self._policy is None or self._policy[0] is not base:
            self._policy = (base, guard.in_force(base, self._wanted.changes))
        return self._policy[1]

    def _masked(self, source: SourceFrame, attempt: _Attempt, frames: int) -> Answer:
        with attempt.timed(Stage.DECODE):
            attempt.size = size_of(source)
            attempt.in_time()
            picture = decode(source)
            attempt.size = (picture.shape[1], picture.shape[0])
        with self._serving.held() as release:
            attempt.release = release
            attempt.policy = self.policy(release)
            if release is None:
                raise NoEngineError("no release is loaded", remedy="roll one out to this device, or wait for it")
            attempt.in_time()
            attempt.regions = self._regions(picture, release, attempt, frames)
            attempt.in_time()
            with attempt.timed(Stage.MASK):
                masked = mask(picture, attempt.regions, attempt.policy)
                guard.check_masked(masked, picture, attempt.regions)
            attempt.in_time()
            coasted = any(region.coasted for region in attempt.regions)
            return self._answer(
                source,
                attempt,
                masked,
                Answer(
                    Outcome.COASTED if coasted else Outcome.MASKED,
                    Reason.TRACK_CARRIED if coasted else Reason.DETECTED,
                    "a face that was not detected is masked where it should be" if coasted else "",
                    attempt.regions,
                ),
            )

    def _regions(self, picture: Picture, release: LoadedRelease, attempt: _Attempt, frames: int) -> tuple[Region, ...]:
        policy = self.policy(release)
        if self._detector is None or self._detector.engine is not release.engine:
            self._detector = Detector(release.engine, release.decoder)
        least = policy.min_confidence if self._tracker is None else weakest(policy)
        begun = self._clock.monotonic()
        try:
            found = self._detector(picture, min_confidence=least, nms_iou=policy.nms_iou)
        except Exception:
            attempt.stages_s[Stage.INFER] = self._clock.monotonic() - begun
            raise
        attempt.stages_s[Stage.PREPROCESS] = found.preprocess_s
        attempt.stages_s[Stage.INFER] = found.infer_s
        attempt.stages_s[Stage.POSTPROCESS] = found.postprocess_s
        with attempt.timed(Stage.TRACK):
            if self._tracker is None:
                return tuple(Region(*box) for box in found.boxes.tolist())
            regions = self._tracker.update(
                found.boxes,
                policy,
                width=picture.shape[1],
                height=picture.shape[0],
                frames=frames,
                camera=self._camera.shift(picture),
            )
            attempt.tracked = True
            return tuple(regions)

    def _closed(self, source: SourceFrame, attempt: _Attempt, error: Exception, frames: int) -> Answer:
        policy = attempt.policy or self.policy(self._serving.current())
        size = attempt.size
        if self._tracker is not None and not attempt.tracked:
            self._tracker.skip(frames, policy)
            if size is not None and self._tracker.size == size[::-1]:
                size = self._tracker.size  # its EXIF turns it, as it turned the pictures before
        verdict = guard.closed(error, policy, size)
        if verdict.reason in (Reason.MASKING_FAILED, Reason.SOURCE_FRAME):
            get_logger(__name__).error("masking failed", exc_info=error)
        bare = Answer(verdict.outcome, verdict.reason, verdict.detail)
        if verdict.frame is not None:
            try:
                guard.check_full(verdict.frame)
                return self._answer(source, attempt, verdict.frame, bare)
            except SourceFrameError as second:
                get_logger(__name__).error("a full mask is none", exc_info=second)
                bare = dataclasses.replace(bare, reason=Reason.SOURCE_FRAME, detail=str(second))
            except Exception as second:  # noqa: BLE001  # fail closed: a frame that cannot be encoded is dropped
                get_logger(__name__).error("a full mask could not be encoded", exc_info=second)
        return dataclasses.replace(
            bare, outcome=Outcome.DROPPED, stages_s=attempt.done(), release_digest=_digest(attempt.release)
        )

    def _answer(self, source: SourceFrame, attempt: _Attempt, frame: MaskedFrame, answer: Answer) -> Answer:
        encoding = self._wanted.encoding or source.encoding
        with attempt.timed(Stage.ENCODE):
            data = encode(frame, encoding, jpeg_quality=self._wanted.jpeg_quality)
        width, height = frame.size
        return dataclasses.replace(
            answer,
            stages_s=attempt.done(),
            release_digest=_digest(attempt.release),
            encoding=encoding,
            data=data,
            width=width,
            height=height,
        )

    def _tell(self, answer: Answer, attempt: _Attempt | None) -> None:
        scores = tuple(region.score for region in answer.regions if not region.coasted)
        release = attempt.release if attempt is not None else None
        record = FrameRecord(
            outcome=answer.outcome,
            reason=answer.reason,
            stages_s=dict(answer.stages_s),
            detections=len(scores),
            scores=scores,
            release_id=release.release_id if release is not None else "",
            target=release.engine.info.target if release is not None else "",
        )
        try:
            self._observe(record)
        except Exception as error:  # noqa: BLE001  # a counter that fails must not cost a frame
            get_logger(__name__).error("telemetry failed", exc_info=error)


def _digest(release: LoadedRelease | None) -> str:
    return release.release_digest if release is not None else ""
