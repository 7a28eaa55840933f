"""Fixed limits: the canaries' error ratio and p95 latency against the control cohort's. This is no statistical verdict.

Rules
- Both sides need ``min_frames`` frames, and a device with enough of them for a figure of its own; else INCONCLUSIVE.
- The device is the unit: medians over devices are compared. Errors are compared pooled as well, for a median does not
  see the one device of three that fails every frame.
- Without a control cohort, the canaries' own windows of before the update stand in for it, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge.decision import Verdict
from control_plane.domain.judge.figures import (
    LEAST_FRAMES,
    DeviceFigures,
    Figures,
    Measured,
    median_error,
    median_p95,
)
from control_plane.domain.judge.wording import counted, milliseconds, named, percent
from control_plane.domain.strategy import JudgePolicy


def compare(policy: JudgePolicy, figures: Figures) -> tuple[Verdict, list[str]]:
    """The verdict and its sentences."""
    canaries, controls = figures.of(Cohort.CANARY), figures.of(Cohort.CONTROL)
    ours = [d.after for d in canaries]
    theirs = [d.after for d in controls] if controls else [d.before for d in canaries]
    other = figures.control if controls else figures.baseline
    against = "the control cohort's" if controls else "their own before the update"
    missing = [
        *_missing(policy, canaries, ours, figures.canary, f"the canaries on {figures.release_id}"),
        *(
            _missing(policy, controls, theirs, other, "the control cohort")
            if controls
            else _missing(policy, canaries, theirs, other, "the canaries before the update")
        ),
    ]
    if missing:
        return Verdict.INCONCLUSIVE, [*missing, *_unlike(controls)]
    harm: list[str] = []
    fine: list[str] = []
    for over, sentence in (
        _errors(policy, median_error(ours), median_error(theirs), "median of devices", against),
        _errors(policy, figures.canary.error_ratio, other.error_ratio, "all frames", against),
        _slower(policy, median_p95(ours), median_p95(theirs), against),
    ):
        if over is None:
            return Verdict.INCONCLUSIVE, [sentence, *_unlike(controls)]
        (harm if over else fine).append(sentence)
    totals = f"{counted(figures.canary.frames, 'frame')} of canaries against {other.frames:,}"
    verdict = Verdict.FAIL if harm else Verdict.PASS
    return verdict, [*harm, *fine, totals, *_unlike(controls)]


def _unlike(controls: Sequence[DeviceFigures]) -> list[str]:
    return [] if controls else ["there is no control cohort: compared with the canaries' own baseline"]


def _missing(
    policy: JudgePolicy, devices: Sequence[DeviceFigures], measured: Sequence[Measured], pooled: Measured, who: str
) -> list[str]:
    if pooled.frames < policy.min_frames:
        each = named([f"{d.device_name} {m.frames:,}" for d, m in zip(devices, measured)]) if devices else "no device"
        return [f"too few frames of {who}: {pooled.frames:,} of {counted(policy.min_frames, 'frame')} ({each})"]
    if not any(m.frames >= LEAST_FRAMES for m in measured) and policy.min_frames >= LEAST_FRAMES:
        return [f"too few frames: no device of {who} has the {LEAST_FRAMES} that a figure of its own needs"]
    return []


def _errors(
    policy: JudgePolicy, ours: float | None, theirs: float | None, how: str, against: str
) -> tuple[bool | None, str]:
    if ours is None or theirs is None:
        return None, f"too few frames on each device to tell the share of failed frames ({how})"
    over = ours - theirs > policy.max_error_increase
    limit = f"{100 * policy.max_error_increase:.3g} points more are allowed"
    return over, f"failed frames ({how}): the canaries' {percent(ours)}, {against} {percent(theirs)}; {limit}"


def _slower(policy: JudgePolicy, ours: float | None, theirs: float | None, against: str) -> tuple[bool | None, str]:
    if not ours or not theirs:
        return None, "the latency of frames is not known on both sides"
    ratio = ours / theirs
    told = f"p95 latency: the canaries' {milliseconds(ours)}, {against} {milliseconds(theirs)}"
    return ratio > policy.max_p95_ratio, f"{told}: {ratio:.2f} times; {policy.max_p95_ratio:g} times is allowed"
