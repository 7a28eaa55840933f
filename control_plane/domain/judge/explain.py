"""Why a rollout went on, held or rolled back: plain sentences, oldest first, from what is kept with it.

- Its decision records, and what operators did (:class:`~control_plane.domain.rollout.Word`), in the order of time.
- Of decisions that follow each other and come to the same, the first is told in full, and how often it was said again.
- Where it stands: devices that refused, that are waited for, that went back; and who is not waited for.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from datetime import datetime

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge.decision import NO_STATISTICS, DecisionRecord, Verdict
from control_plane.domain.judge.wording import counted, named, seconds
from control_plane.domain.rollout import GIVEN_UP, Member, MemberState, Rollout, RolloutEvent, RolloutState, Word
from control_plane.domain.strategy import JudgeKind

ACTIONS = {
    "wait": "the wave is watched on",
    "advance": "the next wave opens",
    "succeed": "the rollout is through",
    "hold": "the rollout is held for an operator",
    "stay held": "the rollout stays held for an operator",
    "stay paused": "the rollout stays paused",
    "roll back": "every device that has the release goes back to what it ran before",
}
_TO_THE_END = "the wave is watched to the end of its soak, and the rollout goes back then if it is still so"
_WORDS = {
    Verdict.PASS: "the judge passes it",
    Verdict.FAIL: "the judge fails it",
    Verdict.INCONCLUSIVE: "the judge cannot tell yet",
    Verdict.ERROR: "there is no verdict",
}
_SAID = {
    RolloutEvent.PAUSE: "paused it: no device is moved until it is resumed",
    RolloutEvent.RESUME: "went on with it",
    RolloutEvent.PROMOTE: "promoted it: every wave that is left opens, without waiting for the judge",
    RolloutEvent.ABORT: "stopped it: every device of it goes back to what it ran before",
}


def explain(
    rollout: Rollout,
    decisions: Sequence[DecisionRecord],
    members: Sequence[Member],
    *,
    offline: Collection[str] = frozenset(),
    strayed: Collection[str] = frozenset(),
) -> list[str]:
    """The story of a rollout.

    Args:
        rollout: as it stands.
        decisions: its records, in any order.
        members: its devices.
        offline: ids of devices that are not there.
        strayed: ids of devices that the rollout's selector would no longer match.
    """
    told = [_began(rollout, members), _judge(rollout)]
    story: list[DecisionRecord | Word] = sorted([*decisions, *rollout.words], key=_place)
    for _, group in itertools.groupby(story, key=_alike):
        told += _happened(rollout, list(group))
    if rollout.active and (gone := [m.device_name for m in members if m.device_id in strayed]):
        verb = "matches" if len(gone) == 1 else "match"
        told.append(
            f"{named(gone)} no longer {verb} {rollout.selector} and {'stays' if len(gone) == 1 else 'stay'}: "
            "which devices a rollout has was settled when it was made"
        )
    told += _devices(rollout, members, offline if rollout.active else frozenset())
    told.append(_stands(rollout))
    return told


def _began(rollout: Rollout, members: Sequence[Member]) -> str:
    whom = f" ({rollout.selector})" if rollout.selector else ""
    control = sum(m.cohort is Cohort.CONTROL for m in members)
    proves = rollout.strategy.proves
    first = f"; before them comes wave 0: {rollout.strategy.waves[0].told()}" if proves else ""
    apart = f", {control} of them held out as control" if control else ""
    return (
        f"{_clock(rollout.created)} the rollout of {rollout.release_id} to {counted(len(members), 'device')}{whom} "
        f"began{apart}, in {counted(len(rollout.strategy.asked_for), 'wave')}{first}"
    )


def _judge(rollout: Rollout) -> str:
    if rollout.strategy.judge.kind is JudgeKind.THRESHOLDS:
        return f"it is judged by thresholds: {NO_STATISTICS}"
    return "it is judged by hard limits and silence alone"


def _place(told: DecisionRecord | Word) -> tuple[datetime, int]:
    return told.time, told.number if isinstance(told, DecisionRecord) else 0


def _alike(told: DecisionRecord | Word) -> object:
    """What a sentence is about; figures, which change each time, are left out."""
    if isinstance(told, Word):
        return told
    first = told.reasons[0] if told.reasons else ""
    return told.wave, told.verdict, told.action, "".join(letter for letter in first if not letter.isdigit())


def _happened(rollout: Rollout, group: Sequence[DecisionRecord | Word]) -> list[str]:
    if isinstance(word := group[0], Word):
        wave = f", {rollout.strategy.numbered(word.wave)}" if word.wave >= 0 else ""
        return [f"{_clock(word.time)} {word.state.value}{wave}: an operator {_SAID[word.event]}"]
    return _decided(rollout, [record for record in group if isinstance(record, DecisionRecord)])


def _decided(rollout: Rollout, records: Sequence[DecisionRecord]) -> list[str]:
    first, last, wave = records[0], records[-1], rollout.strategy.numbered(records[0].wave)
    sentence = f"{_clock(first.time)} {wave}: {_WORDS[first.verdict]}: {_reasons(first)}"
    waits = first.verdict is Verdict.FAIL and first.action == "wait"
    follows = f"so {_TO_THE_END if waits else ACTIONS.get(first.action, first.action)}"
    if len(records) == 1:
        return [f"{sentence}; {follows} ({first.id})"]
    looks = 1 + sum(record.inputs.get("looks", 1) for record in records[1:])
    again = f"{_clock(last.time)} {wave}: still so, after {looks} looks: {_reasons(last)} ({last.id})"
    return [f"{sentence}; {follows} ({first.id})", again]


def _reasons(record: DecisionRecord) -> str:
    return "; ".join(reason for reason in record.reasons if reason != NO_STATISTICS) or "no reason was given"


def _devices(rollout: Rollout, members: Sequence[Member], offline: Collection[str]) -> list[str]:
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        if words := _device(rollout, member, gone=member.device_id in offline):
            groups.setdefault(words, []).append(member)
    told = []
    for (one, many), found in groups.items():
        why = {m.detail for m in found if m.detail} if found[0].state is MemberState.FAILED else set()
        told.append(
            f"{named([m.device_name for m in found])} {one if len(found) == 1 else many}"
            f"{': ' if why else ''}{'; '.join(sorted(why))}"
        )
    return told


def _device(rollout: Rollout, member: Member, *, gone: bool) -> tuple[str, str] | None:
    """What is to be said of a device, and of several; None where nothing is."""
    release = rollout.release_id
    match member.state:
        case MemberState.FAILED:
            return (f"refused {release} or took it back",) * 2
        case MemberState.EXPIRED:
            return "was offline for too long and is left behind", "were offline for too long and are left behind"
        case MemberState.UPDATING if gone:
            limit = rollout.strategy.expire_after
            long = f", for at most {seconds(limit.total_seconds())}" if limit is not None else ""
            waits = f"offline and not on {release} yet: the wave waits for"
            return f"is {waits} it{long}", f"are {waits} them{long}"
        case MemberState.UPDATING:
            return f"is on its way to {release}", f"are on their way to {release}"
        case MemberState.REVERTING:
            away = "offline and " if gone else ""
            return f"is {away}on its way back", f"are {away}on their way back"
        case MemberState.REVERTED if not member.generation:
            return (f"never had {release}",) * 2
        case MemberState.REVERTED if member.detail == GIVEN_UP:
            return (
                "was offline: its way back is written down, for its return",
                "were offline: their way back is written down, for their return",
            )
        case MemberState.REVERTED if not member.baseline_release_id:
            return "ran nothing before and keeps what it has", "ran nothing before and keep what they have"
        case MemberState.REVERTED:
            return "is back on what it ran before", "are back on what they ran before"
        case MemberState.COMMITTED if not rollout.active and rollout.state is not RolloutState.SUCCEEDED:
            return f"committed {release} and keeps it", f"committed {release} and keep it"
        case _:
            return None


def _stands(rollout: Rollout) -> str:
    when = f"{_clock(rollout.ended)} " if rollout.ended is not None else ""
    why = f": {rollout.reason}" if rollout.reason else ""
    return f"{when}the rollout {'ended' if rollout.ended is not None else 'is'} {rollout.state.value}{why}"


def _clock(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S")
