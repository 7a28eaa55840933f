"""Why a rollout went on, held or rolled back: plain sentences, oldest first, from its records and nothing else.

Of decisions that follow each other and come to the same, the first is told in full, and how often it was said again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge.decision import NO_STATISTICS, DecisionRecord, Verdict
from control_plane.domain.judge.wording import counted, named
from control_plane.domain.rollout import Member, MemberState, Rollout
from control_plane.domain.strategy import JudgeKind

ACTIONS = {
    "wait": "the wave is watched on",
    "advance": "the next wave opens",
    "succeed": "the rollout is through",
    "hold": "the rollout is held for an operator",
    "roll back": "every device that has the release goes back to what it ran before",
}
_WORDS = {
    Verdict.PASS: "the judge passes it",
    Verdict.FAIL: "the judge fails it",
    Verdict.INCONCLUSIVE: "the judge cannot tell yet",
    Verdict.ERROR: "there is no verdict",
}
_TOLD = {
    MemberState.FAILED: "refused {release} or took it back",
    MemberState.EXPIRED: "was offline for too long and is left behind",
    MemberState.REVERTING: "is on its way back",
    MemberState.REVERTED: "is back on what it ran before",
}


def explain(rollout: Rollout, decisions: Sequence[DecisionRecord], members: Sequence[Member]) -> list[str]:
    """The story of a rollout.

    Args:
        rollout: as it stands.
        decisions: its records, in any order.
        members: its devices.
    """
    told = [_began(rollout, members), _judge(rollout)]
    ordered = sorted(decisions, key=lambda record: record.number)
    for _, group in itertools.groupby(ordered, key=lambda r: (r.wave, r.verdict, r.action, _kind(r))):
        told += _decided(rollout, list(group))
    told += _devices(rollout, members)
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


def _kind(record: DecisionRecord) -> str:
    """What the first reason is about, without its figures, which change each time."""
    first = record.reasons[0] if record.reasons else ""
    return "".join(letter for letter in first if not letter.isdigit())


def _decided(rollout: Rollout, records: Sequence[DecisionRecord]) -> list[str]:
    first, last, wave = records[0], records[-1], rollout.strategy.numbered(records[0].wave)
    sentence = f"{_clock(first.time)} {wave}: {_WORDS[first.verdict]}: {_reasons(first)}"
    follows = f"so {ACTIONS.get(first.action, first.action)}"
    if len(records) == 1:
        return [f"{sentence}; {follows} ({first.id})"]
    again = f"{_clock(last.time)} {wave}: still so, after {len(records)} looks: {_reasons(last)} ({last.id})"
    return [f"{sentence}; {follows} ({first.id})", again]


def _reasons(record: DecisionRecord) -> str:
    return "; ".join(reason for reason in record.reasons if reason != NO_STATISTICS) or "no reason was given"


def _devices(rollout: Rollout, members: Sequence[Member]) -> list[str]:
    told = []
    for state, words in _TOLD.items():
        found = [m for m in members if m.state is state]
        if not found:
            continue
        sentence = words.format(release=rollout.release_id)
        if len(found) > 1:
            sentence = sentence.replace("was ", "were ").replace("is ", "are ").replace("what it", "what they")
        why = {m.detail for m in found if m.detail} if state is MemberState.FAILED else set()
        told.append(f"{named([m.device_name for m in found])} {sentence}{': ' if why else ''}{'; '.join(sorted(why))}")
    return told


def _stands(rollout: Rollout) -> str:
    when = f"{_clock(rollout.ended)} " if rollout.ended is not None else ""
    why = f": {rollout.reason}" if rollout.reason else ""
    return f"{when}the rollout {'ended' if rollout.ended is not None else 'is'} {rollout.state.value}{why}"


def _clock(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S")
