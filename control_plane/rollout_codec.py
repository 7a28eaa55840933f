"""Rollouts, strategies and decisions between the wire and the plane's values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from control_plane.codec import span, timestamp, wire_state
from control_plane.domain.judge import DecisionRecord
from control_plane.domain.judge.trend import CohortSeries
from control_plane.domain.rollout import Member, MemberState, Rollout, RolloutState, cohort_now
from control_plane.domain.strategy import LONGEST, JudgeKind, JudgePolicy, Share, Strategy, WaveSpec, check
from maskfleet.errors import InvalidInputError
from maskfleet.v1 import decisions_pb2, rollouts_service_pb2, strategy_pb2

_JUDGES = {strategy_pb2.JUDGE_KIND_NONE: JudgeKind.NONE, strategy_pb2.JUDGE_KIND_THRESHOLDS: JudgeKind.THRESHOLDS}
_NUMBERS = ("max_error_increase", "max_p95_ratio", "min_frames", "crash_loop_starts")
_SPANS = ("silence_after", "patience")


def strategy_from(message: strategy_pb2.RolloutStrategy) -> Strategy:
    """A strategy, complete and checked. A wave 0, as in one that the plane told, is left out: it is made anew.

    Raises:
        InvalidInputError: it makes no sense, and where.
    """
    waves = tuple(
        WaveSpec(_share(wave.share), _span(wave.soak, f"the soak of wave {number}"))
        for number, wave in enumerate((w for w in message.waves if not w.proves), start=1)
    )
    return check(
        Strategy(
            waves=waves,
            control_holdout=_share(message.control_holdout) if message.HasField("control_holdout") else None,
            strata=tuple(message.strata),
            seed=message.seed,
            judge=_judge(message.judge, several=len(waves) > 1),
            expire_after=_span(message.expire_after, "expire_after") if message.HasField("expire_after") else None,
        )
    )


def _judge(message: strategy_pb2.JudgePolicy, *, several: bool) -> JudgePolicy:
    kind = _JUDGES.get(message.kind)
    if kind is None and message.kind != strategy_pb2.JUDGE_KIND_UNSPECIFIED:
        known = ", ".join(known.value for known in JudgeKind)
        raise InvalidInputError(f"there is no kind of judge {message.kind}", remedy=f"use one of {known}")
    values: dict[str, Any] = {"kind": kind or (JudgeKind.THRESHOLDS if several else JudgeKind.NONE)}
    said = {field.name: value for field, value in message.ListFields()}
    values |= {name: said[name] for name in _NUMBERS if name in said}
    values |= {name: _span(said[name], f"the judge's {name}") for name in _SPANS if name in said}
    return JudgePolicy(**values)


def _share(message: strategy_pb2.Share) -> Share:
    kind = message.WhichOneof("kind")
    return Share() if kind is None else Share(**{kind: getattr(message, kind)})


def _span(message: Duration, what: str) -> timedelta:
    if abs(message.seconds) > LONGEST.total_seconds():
        raise InvalidInputError(f"{what} is {message.seconds} s", remedy=f"use at most {LONGEST.days} days")
    return span(message)


def strategy_message(strategy: Strategy) -> strategy_pb2.RolloutStrategy:
    """A strategy for operators."""
    judge = strategy.judge
    kind = next(number for number, kind in _JUDGES.items() if kind is judge.kind)
    return strategy_pb2.RolloutStrategy(
        waves=[
            strategy_pb2.WaveSpec(share=_share_message(w.share), soak=_duration(w.soak), proves=w.proves)
            for w in strategy.waves
        ],
        control_holdout=_share_message(strategy.control_holdout) if strategy.control_holdout is not None else None,
        strata=strategy.strata,
        seed=strategy.seed,
        judge=strategy_pb2.JudgePolicy(
            kind=kind,
            max_error_increase=judge.max_error_increase,
            max_p95_ratio=judge.max_p95_ratio,
            min_frames=judge.min_frames,
            silence_after=_duration(judge.silence_after),
            crash_loop_starts=judge.crash_loop_starts,
            patience=_duration(judge.patience),
        ),
        expire_after=_duration(strategy.expire_after) if strategy.expire_after is not None else None,
    )


def _share_message(share: Share) -> strategy_pb2.Share:
    if share.percent is not None:
        return strategy_pb2.Share(percent=share.percent)
    return strategy_pb2.Share(count=share.count or 0)


def _duration(value: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(value)
    return message


def rollout_message(
    rollout: Rollout,
    members: Sequence[Member],
    online: Sequence[bool],
    *,
    now: datetime,
    decision: DecisionRecord | None = None,
    series: Sequence[CohortSeries] = (),
    limit: int | None = None,
) -> rollouts_service_pb2.Rollout:
    """A rollout for operators.

    Args:
        rollout: as it stands.
        members: its devices, in the order in which they are shown.
        online: whether each is there.
        now: by the plane's clock.
        decision: the newest one.
        series: what the cohorts look like.
        limit: how many devices are told at most.
    """
    soaking = rollout.state is RolloutState.SOAKING
    return rollouts_service_pb2.Rollout(
        id=rollout.id,
        release_id=rollout.release_id,
        selector=rollout.selector,
        state=wire_state(rollout.state),
        devices=[_member_message(m, rollout, there=there) for m, there in list(zip(members, online))[:limit]],
        reason=rollout.reason,
        create_time=timestamp(rollout.created),
        end_time=timestamp(rollout.ended),
        strategy=strategy_message(rollout.strategy),
        wave=rollout.wave,
        waves=rollout.waves,
        soak_end_time=timestamp(now + max(rollout.soak - rollout.watched, timedelta(0))) if soaking else None,
        decision=decision_message(decision) if decision is not None else None,
        series=[_series_message(s) for s in series],
        device_count=len(members),
    )


def _member_message(member: Member, rollout: Rollout, *, there: bool) -> rollouts_service_pb2.RolloutDevice:
    waiting = member.state in (MemberState.UPDATING, MemberState.REVERTING)
    cohort = cohort_now(member, rollout.wave)
    return rollouts_service_pb2.RolloutDevice(
        device_id=member.device_id,
        device_name=member.device_name,
        baseline_release_id=member.baseline_release_id,
        state=wire_state(member.state),
        detail="offline; catches up when it returns" if waiting and not there else member.detail,
        wave=member.wave,
        online=there,
        cohort=wire_state(cohort) if cohort is not None else decisions_pb2.COHORT_UNSPECIFIED,
        stratum=member.stratum,
    )


def decision_message(record: DecisionRecord) -> decisions_pb2.DecisionRecord:
    """A decision for operators."""
    return decisions_pb2.DecisionRecord(
        id=record.id,
        rollout_id=record.rollout_id,
        time=timestamp(record.time),
        wave=record.wave,
        verdict=wire_state(record.verdict),
        action=record.action,
        reasons=record.reasons,
        statistical=record.statistical,
        inputs_json=json.dumps(record.inputs, sort_keys=True),
    )


def _series_message(series: CohortSeries) -> decisions_pb2.CohortSeries:
    return decisions_pb2.CohortSeries(
        cohort=wire_state(series.cohort),
        devices=series.devices,
        points=[
            decisions_pb2.CohortPoint(time=timestamp(p.time), frames=p.frames, failed=p.failed, p95_ms=p.p95_ms)
            for p in series.points
        ],
    )
