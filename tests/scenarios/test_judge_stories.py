"""Stories of whole waves, told to the judge look by look, on synthetic fleets: when it speaks, and what it says."""

from __future__ import annotations

import dataclasses
import random
from datetime import datetime, timedelta, timezone

import pytest

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge import DeviceEvidence, Evidence, Interval, Verdict, evaluate
from control_plane.domain.strategy import JudgeKind, JudgePolicy

T0 = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
BOUNDS = (5.0, 10.0, 15.0, 20.0, 25.0, 33.0, 40.0, 50.0, 66.0, 100.0, 150.0)
POLICY = JudgePolicy(kind=JudgeKind.THRESHOLDS)
EVERY_S, SOAK_S, FRAMES = 10, 120, 60


@dataclasses.dataclass(frozen=True)
class Story:
    """A wave: what the release does to its canaries, from when on, and how the watching ends.

    Attributes:
        slower: times the latency of the release before.
        failing: share of frames that fail.
        from_s: seconds into the wave from which on the release does so.
        mute: the canaries say nothing from then on.
        frames: of each device and interval.
        ends: the verdict that ended the wave.
        at_s: when it came.
    """

    ends: Verdict
    at_s: int
    slower: float = 1.0
    failing: float = 0.001
    from_s: int = 0
    mute: bool = False
    frames: int = FRAMES


STORIES = {
    "a release that does no harm passes at the end of its soak": Story(Verdict.PASS, SOAK_S),
    "a release that is 60 % slower fails at the end of its soak": Story(Verdict.FAIL, SOAK_S, slower=1.6),
    "a release that fails one frame in ten fails": Story(Verdict.FAIL, SOAK_S, failing=0.1),
    "a release whose devices fall silent after 30 s fails a minute later, without waiting": Story(
        Verdict.FAIL, 90, from_s=30, mute=True
    ),
    "a release on cameras that hardly see a frame is never passed": Story(Verdict.INCONCLUSIVE, SOAK_S, frames=1),
    "a release that turns slow in the middle of its soak fails": Story(Verdict.FAIL, SOAK_S, slower=2.0, from_s=60),
}


def told(rng: random.Random, at_s: int, release: str, frames: int, slower: float, failing: float) -> Interval:
    counts = [0] * (len(BOUNDS) + 1)
    for _ in range(frames):
        latency = rng.lognormvariate(3.0, 0.2) * slower
        counts[sum(bound < latency for bound in BOUNDS)] += 1
    failed = sum(rng.random() < failing for _ in range(frames))
    return Interval(release, T0 + timedelta(seconds=at_s), "b", frames=frames, failed=failed, bounds=BOUNDS,
                    counts=tuple(counts))  # fmt: skip


def looks(story: Story, seed: int) -> list[tuple[int, Verdict, bool]]:
    """The judge's word at each look of a wave of three canaries against five control devices."""
    rng = random.Random(seed)  # noqa: S311  # a story, and no secret
    after: dict[str, list[Interval]] = {f"cam-{n}": [] for n in range(8)}
    heard = dict.fromkeys(after, T0)
    said = []
    for now_s in range(EVERY_S, SOAK_S + EVERY_S, EVERY_S):
        now = T0 + timedelta(seconds=now_s)
        for n, name in enumerate(after):
            canary, begun = n < 3, now_s > story.from_s
            if canary and begun and story.mute:
                continue
            heard[name] = now
            harm = canary and begun
            after[name].append(
                told(
                    rng,
                    now_s,
                    "r-2" if canary else "r-1",
                    story.frames,
                    story.slower if harm else 1.0,
                    story.failing if harm else 0.001,
                )
            )
        devices = tuple(
            DeviceEvidence(name, name, Cohort.CANARY if n < 3 else Cohort.CONTROL, after=series, last_heard=heard[name])
            for n, (name, series) in enumerate(after.items())
        )
        evidence = Evidence("ro-1", "r-2", 0, devices, T0, T0 - timedelta(hours=1))
        decision = evaluate(POLICY, evidence, now, soaked=now_s >= SOAK_S)
        said.append((now_s, decision.verdict, decision.hard))
    return said


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_a_wave(story: Story, seed: int) -> None:
    said = looks(story, seed)
    end = next(look for look in said if look[2] or look[0] == SOAK_S)
    assert (end[1], end[0]) == (story.ends, story.at_s), said
    assert not any(verdict is Verdict.PASS for now_s, verdict, _ in said if now_s < SOAK_S)
