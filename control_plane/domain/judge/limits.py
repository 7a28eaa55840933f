"""Limits that no test and no soak waits for: a canary over one of them is a FAIL at once.

They hold with every kind of judge and while a wave is still under way: a canary refused the release, failed its golden
self-test, let a source frame through, or starts again and again.
"""

from __future__ import annotations

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge.figures import Figures
from control_plane.domain.judge.wording import counted
from control_plane.domain.strategy import JudgePolicy


def broken(policy: JudgePolicy, figures: Figures) -> list[str]:
    """Which hard limits are broken, in sentences."""
    found = []
    for device in figures.of(Cohort.CANARY):
        name = device.device_name
        if device.source_frames_let_through:
            frames = counted(device.source_frames_let_through, "frame")
            found.append(f"{name} let {frames} through unmasked; none is allowed")
        if device.refused:
            found.append(f"{name} refused {figures.release_id} or took it back: {device.refused}")
        if device.self_test_failures:
            tests = counted(device.self_test_failures, "golden self-test")
            found.append(f"{name} failed {tests} since the rollout began; none is allowed")
        if device.starts >= policy.crash_loop_starts:
            found.append(
                f"the agent of {name} started {counted(device.starts, 'time')} within the rollout; "
                f"{policy.crash_loop_starts} are a crash loop"
            )
    return found
