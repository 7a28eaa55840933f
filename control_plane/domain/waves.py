"""What is to be done next with a rollout: from where it stands, its devices and the judge's last word.

Rules
- A wave opens once the one before it has settled and, in a rollout that is judged, was watched to the end of its soak
  and passed. A rollout of one wave without soak and judge ends as soon as its devices have settled.
- A device that refuses the release, and any other hard limit, takes a judged rollout back at once, from every state in
  which devices may have the release. Other harm is acted on at the end of the soak.
- A wave 0 proves engines that no device of their target has run yet: once every device of it has committed, wave 1
  opens, without a soak. A device there that refuses takes any rollout back; one that is left behind proves nothing, and
  the rollout is held. Promoting does not skip it.
- Where the judge cannot tell, the wave is watched for longer; after the judge's patience, and where the judge itself
  failed, the rollout is held for an operator.
- An operator who stops a rollout takes every device of it back to its baseline, those that have committed too.
- Promoting opens every wave that is left, at once and without a soak. Hard limits still hold.
- :func:`decide` sees numbers of devices by wave and state, never the devices: a report costs the same in a fleet of
  three and of ten thousand.

>>> decide(rollout, {(0, MemberState.COMMITTED): 3}, None)
[Move(event=<RolloutEvent.ALL_COMMITTED: ...>, reason='all 3 devices committed r-2')]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from control_plane.domain.judge.decision import Decision, Verdict
from control_plane.domain.rollout import (
    REVERSIBLE,
    SETTLED,
    MemberEvent,
    MemberState,
    Rollout,
    RolloutEvent,
    RolloutState,
)

Tally = Mapping[tuple[int, MemberState], int]
"""Numbers of devices by wave and state."""


@dataclasses.dataclass(frozen=True)
class Move:
    """The rollout moves."""

    event: RolloutEvent
    reason: str


@dataclasses.dataclass(frozen=True)
class OpenWave:
    """Every device up to a wave that has not got the release gets it."""

    wave: int


@dataclasses.dataclass(frozen=True)
class Recall:
    """Devices go back: every one that an event moves.

    Attributes:
        event: RECALL where an operator stopped the rollout, ROLL_BACK where the release does harm.
    """

    event: MemberEvent


Action = Move | OpenWave | Recall
STAYS = {RolloutState.HELD: "stay held", RolloutState.PAUSED: "stay paused"}
"""What follows from a decision where nothing is watched on."""


def decide(rollout: Rollout, tally: Tally, decision: Decision | None) -> list[Action]:
    """What is to be done next. Applied and asked again, it comes to rest at an empty list.

    Args:
        rollout: as it stands.
        tally: its devices.
        decision: what the judge says of the rollout as it stands; None where it was not asked.
    """
    if rollout.looked_at and (harm := _harm(rollout, tally, decision)):
        return [Move(RolloutEvent.HARM, harm)]
    match rollout.state:
        case RolloutState.PENDING:
            told = f": {rollout.strategy.waves[0].told()}" if rollout.strategy.proves else " is under way"
            return [Move(RolloutEvent.START, f"{rollout.named(0)}{told}"), OpenWave(0)]
        case RolloutState.PROGRESSING:
            return _progress(rollout, tally, decision)
        case RolloutState.SOAKING:
            return _watch(rollout, tally, decision)
        case RolloutState.ROLLING_BACK | RolloutState.ABORTING:
            return _back(rollout, tally)
        case _:
            return []


def _harm(rollout: Rollout, tally: Tally, decision: Decision | None) -> str:
    if decision is not None and decision.verdict is Verdict.FAIL and (decision.hard or rollout.soaked):
        return decision.reasons[0] if decision.reasons else "the judge says FAIL"
    if refused := _in_state(tally, MemberState.FAILED):
        told = f"; {rollout.reason}" if rollout.reason else ""
        return f"{refused} of {sum(tally.values())} devices refused {rollout.release_id} or took it back{told}"
    return ""


def _progress(rollout: Rollout, tally: Tally, decision: Decision | None) -> list[Action]:
    judged = rollout.strategy.judged and not rollout.promoted
    if rollout.proving:
        return _prove(rollout, tally, decision)
    if judged and decision is not None and decision.verdict is Verdict.ERROR:
        return [Move(RolloutEvent.HOLD, _first(decision))]
    if rollout.promoted and rollout.wave + 1 < rollout.waves:
        return [OpenWave(rollout.waves - 1)]
    waiting = sum(n for (wave, state), n in tally.items() if wave <= rollout.wave and state not in SETTLED)
    if waiting:
        return []
    if judged:
        return [Move(RolloutEvent.SETTLE, f"{rollout.named(rollout.wave)} has settled and is watched")]
    if rollout.wave + 1 < rollout.waves:
        return [OpenWave(rollout.wave + 1)]
    return [_end(rollout, tally)]


def _prove(rollout: Rollout, tally: Tally, decision: Decision | None) -> list[Action]:
    if decision is not None and decision.verdict is Verdict.ERROR:
        return [Move(RolloutEvent.HOLD, _first(decision))]
    mine = {state for (wave, state), n in tally.items() if wave == 0 and n}
    if mine <= {MemberState.COMMITTED}:
        told = rollout.strategy.waves[0].told().replace(" is proved on ", " has been proved on ")
        return [Move(RolloutEvent.PROVE, f"{told}; {rollout.named(1)} is under way"), OpenWave(1)]
    if mine <= SETTLED:
        reason = f"{rollout.named(0)} proved nothing: a device of it was offline for too long"
        return [
            Move(RolloutEvent.HOLD, f"{reason}; abort the rollout, and start another for another device to prove it")
        ]
    return []


def _watch(rollout: Rollout, tally: Tally, decision: Decision | None) -> list[Action]:
    if decision is None:
        return []
    if decision.verdict is Verdict.ERROR:
        return [Move(RolloutEvent.HOLD, _first(decision))]
    if decision.verdict is Verdict.PASS and rollout.soaked:
        if rollout.wave + 1 < rollout.waves:
            passed, following = rollout.strategy.numbered(rollout.wave), rollout.named(rollout.wave + 1)
            reason = f"{passed} passed; {following} is under way"
            return [Move(RolloutEvent.PASS, reason), OpenWave(rollout.wave + 1)]
        end = _end(rollout, tally)
        return [end if end.event is RolloutEvent.ALL_COMMITTED else Move(RolloutEvent.HOLD, end.reason)]
    if rollout.watched >= rollout.soak + rollout.strategy.judge.patience:
        return [Move(RolloutEvent.HOLD, f"the judge could not tell in time: {_first(decision)}")]
    return []


def _end(rollout: Rollout, tally: Tally) -> Move:
    total, failed = sum(tally.values()), _in_state(tally, MemberState.FAILED)
    committed, expired = _in_state(tally, MemberState.COMMITTED), _in_state(tally, MemberState.EXPIRED)
    if failed:
        first = f"; {rollout.reason}" if rollout.reason else ""
        reason = f"{failed} of {total} devices refused {rollout.release_id} or took it back{first}"
        return Move(RolloutEvent.SOME_FAILED, reason)
    if not committed:
        return Move(
            RolloutEvent.SOME_FAILED, f"no device committed {rollout.release_id}: {expired} offline for too long"
        )
    devices = (
        "the device" if total == 1 else f"all {total} devices" if not expired else f"{committed} of {total} devices"
    )
    left = f"; {expired} offline for too long {'was' if expired == 1 else 'were'} left behind" if expired else ""
    return Move(RolloutEvent.ALL_COMMITTED, f"{devices} committed {rollout.release_id}{left}")


def _back(rollout: Rollout, tally: Tally) -> list[Action]:
    stopped = rollout.state is RolloutState.ABORTING
    if any(_in_state(tally, state) for state in REVERSIBLE):
        return [Recall(MemberEvent.RECALL if stopped else MemberEvent.ROLL_BACK)]
    if _in_state(tally, MemberState.REVERTING):
        return []
    told = "every device is back, or its way back written down"
    return [Move(RolloutEvent.ALL_BACK, f"{rollout.reason}; {told}")]


def _first(decision: Decision) -> str:
    return decision.reasons[0] if decision.reasons else f"the judge says {decision.verdict.value}"


def action_of(actions: Sequence[Action], state: RolloutState) -> str:
    """What follows from a decision, in the words of its record.

    Args:
        actions: what is done.
        state: of the rollout that was judged.
    """
    for action in actions:
        match action:
            case Move(event=RolloutEvent.HARM):
                return "roll back"
            case Move(event=RolloutEvent.HOLD):
                return "hold"
            case Move(event=RolloutEvent.PASS):
                return "advance"
            case Move(event=RolloutEvent.ALL_COMMITTED):
                return "succeed"
    return STAYS.get(state, "wait")


def _in_state(tally: Tally, state: MemberState) -> int:
    return sum(n for (_, found), n in tally.items() if found is state)
