"""Evidence for the judge, from the store and from what devices say live.

Example::

    async with store.reading() as look:
        evidence = await gather(look, fleet, rollout, members, now)
    decision = evaluate(policy, evidence, now, soaked=False)

Which device stands for what follows from where it is in the rollout: one whose wave has opened and that has the
release, is getting it or has refused it is a canary; one that was drawn as control is control, until its wave opens.
Devices whose turn has not come, that were left behind or are on their way back are neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from control_plane.domain.cohort import Cohort
from control_plane.domain.device import Device
from control_plane.domain.judge.evidence import DeviceEvidence, Evidence, Interval, placed
from control_plane.domain.judge.trend import CohortSeries, trend
from control_plane.domain.rollout import Member, MemberState, Rollout, cohort_now
from control_plane.fleet import Fleet
from control_plane.store.port import Reading

_HAVE_IT = frozenset({MemberState.UPDATING, MemberState.COMMITTED, MemberState.FAILED})


def stands_for(member: Member, wave: int) -> Cohort | None:
    """What a device is to the judge while a wave is open; None for nothing."""
    match cohort_now(member, wave):
        case Cohort.CANARY if member.state in _HAVE_IT:
            return Cohort.CANARY
        case Cohort.CONTROL if member.state is MemberState.PENDING:
            return Cohort.CONTROL
        case _:
            return None


async def gather(
    look: Reading,
    fleet: Fleet,
    rollout: Rollout,
    members: Iterable[Member],
    now: datetime,
    *,
    since: datetime | None = None,
) -> Evidence:
    """Everything that goes into an evaluation.

    Args:
        look: at the store.
        fleet: what devices said to this process.
        rollout: that is judged.
        members: its devices.
        now: by the plane's clock.
        since: when what is looked at began; None for the opening of the wave.
    """
    since = since or rollout.opened or rollout.created
    judged = [(member, cohort) for member in members if (cohort := stands_for(member, rollout.wave)) is not None]
    history = await fleet.history.of(look, [member.device_id for member, _ in judged])
    return Evidence(
        rollout_id=rollout.id,
        release_id=rollout.release_id,
        wave=max(0, rollout.wave),
        devices=tuple(
            [
                _device(
                    member,
                    cohort,
                    rollout,
                    history[member.device_id],
                    since=since,
                    last_heard=await _last_heard(look, fleet, member.device_id, history[member.device_id]),
                )
                for member, cohort in judged
            ]
        ),
        since=since,
        listening_since=min(now, fleet.listening_since),
        seed=rollout.strategy.seed,
    )


def _device(
    member: Member,
    cohort: Cohort,
    rollout: Rollout,
    intervals: Sequence[Interval],
    *,
    since: datetime,
    last_heard: datetime | None,
) -> DeviceEvidence:
    times = placed(intervals)
    runs = rollout.release_id if cohort is Cohort.CANARY else member.baseline_release_id
    baseline = member.baseline_release_id
    during = [interval for time, interval in times if time > rollout.created]
    return DeviceEvidence(
        device_id=member.device_id,
        device_name=member.device_name,
        cohort=cohort,
        stratum=member.stratum,
        after=[i for time, i in times if time > since and runs and i.release_id == runs],
        before=[
            i
            for time, i in times
            if baseline and i.release_id == baseline and (time <= since or baseline != rollout.release_id)
        ],
        last_heard=last_heard,
        starts=_starts([i for time, i in times if time <= rollout.created], during),
        self_test_failures=sum(i.self_tests_failed for i in during),
        source_frames_let_through=sum(i.source_frames for i in during),
        refused=(member.detail or "it gave no reason") if member.state is MemberState.FAILED else "",
    )


def _starts(before: Sequence[Interval], during: Sequence[Interval]) -> int:
    """How often the agent started within the rollout; the first run does not count where none is known."""
    if not during:
        return 0
    return max(i.starts for i in during) - (before[-1].starts if before else during[0].starts)


async def _last_heard(look: Reading, fleet: Fleet, device_id: str, intervals: Sequence[Interval]) -> datetime | None:
    """Windows may have come to another plane process, and words before this one's start."""
    times = [i.received for i in intervals[-1:]]
    if (word := fleet.last_word(device_id)) is not None:
        times.append(word)
    elif (device := await look.get(Device, device_id)) is not None:
        times.append(device.last_seen)
    return max(times, default=None)


async def series(
    look: Reading, fleet: Fleet, rollout: Rollout, members: Iterable[Member], now: datetime
) -> tuple[CohortSeries, ...]:
    """What the cohorts look like since shortly before the rollout began, in at most 60 points each.

    Args:
        look: at the store.
        fleet: what devices said to this process.
        rollout: that is shown.
        members: its devices.
        now: by the plane's clock; the end of the rollout counts where it has ended.
    """
    of: dict[Cohort, list[str]] = {cohort: [] for cohort in Cohort}
    for member in members:
        if (cohort := cohort_now(member, rollout.wave)) is not None:
            of[cohort].append(member.device_id)
    history: Mapping[str, Sequence[Interval]] = await fleet.history.of(look, [d for ids in of.values() for d in ids])
    end = min(now, rollout.ended) if rollout.ended is not None else now
    return tuple(
        trend(cohort, [history[device_id] for device_id in ids], begin=rollout.created, end=end)
        for cohort, ids in of.items()
        if ids
    )
