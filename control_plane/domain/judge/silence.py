"""Silence is an outcome: a device that should report and does not, tells something.

Rules
- Expected is every device of the evidence, but not one that was offline when its wave opened and has not returned.
- The time of silence runs from the last word, but not from before the wave opened, and only while the plane was up.
- Canaries that are silent more often than the control devices are: FAIL, at once; without a control cohort, any.
- Else a silent device in either cohort means that they cannot be compared: INCONCLUSIVE. What took both of them (a
  network that is down) says nothing about the release, and what took control devices alone leaves a comparison with
  those that are left, who may be the better ones. Of a large control cohort :data:`TOLERATED` may be silent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge.figures import DeviceFigures, Figures
from control_plane.domain.judge.wording import counted, named, seconds
from control_plane.domain.strategy import JudgePolicy

TOLERATED = 0.1
"""Share of the control devices that may be silent."""


@dataclasses.dataclass(frozen=True)
class Silence:
    """What silence comes to.

    Attributes:
        harm: the canaries are silent and should not be, in a sentence; empty otherwise.
        doubt: the cohorts cannot be compared, in a sentence; empty otherwise.
        notes: worth knowing, and no reason for anything.
    """

    harm: str = ""
    doubt: str = ""
    notes: tuple[str, ...] = ()


def listen(policy: JudgePolicy, figures: Figures) -> Silence:
    """What the silence of devices comes to."""
    deadline = policy.silence_after.total_seconds()
    canaries, controls = (_expected(figures, cohort) for cohort in (Cohort.CANARY, Cohort.CONTROL))
    mute, quiet = (_silent(devices, deadline) for devices in (canaries, controls))
    away = [d.device_name for d in figures.devices if d.silent_s is None]
    notes = [f"{named(away)} offline since before the wave: not counted"] if away else []
    if mute:
        told = f"{_told(mute)} and should report at least every {seconds(deadline)}"
        ours, theirs = len(mute) / len(canaries), len(quiet) / len(controls) if controls else 0.0
        if ours > theirs:
            beside = f"; of the control cohort {len(quiet)} of {len(controls)} are silent" if controls else ""
            return Silence(harm=told + beside, notes=tuple(notes))
        beside = f"{told}, but so are {len(quiet)} of {counted(len(controls), 'control device')}"
        return Silence(doubt=f"{beside}: this may not be the release's doing", notes=tuple(notes))
    if quiet:
        told = f"{_told(quiet)} (control)"
        if len(quiet) > TOLERATED * len(controls):
            return Silence(
                doubt=f"{told}, while every canary reports: the cohorts cannot be compared", notes=tuple(notes)
            )
        notes.append(f"{told}: {len(quiet)} of {len(controls)}, which is tolerated")
    return Silence(notes=tuple(notes))


def _expected(figures: Figures, cohort: Cohort) -> list[DeviceFigures]:
    return [d for d in figures.of(cohort) if d.silent_s is not None]


def _silent(devices: Sequence[DeviceFigures], deadline: float) -> list[DeviceFigures]:
    return [d for d in devices if d.silent_s is not None and d.silent_s >= deadline]


def _told(devices: Sequence[DeviceFigures]) -> str:
    longest = max(d.silent_s or 0.0 for d in devices)
    names = named([d.device_name for d in devices])
    if len(devices) == 1:
        return f"{names} has been silent for {seconds(longest)}"
    return f"{names} have been silent, for up to {seconds(longest)}"
