"""The judge: clean → score → test → verdict.

- Evidence is cleaned and scored into figures (:mod:`figures`); from there on nothing else is looked at, and the record
  of a decision holds all of them, so that :func:`replay` needs nothing but the record.
- In this order: hard limits (:mod:`limits`), silence (:mod:`silence`), thresholds where the policy asks for them
  (:mod:`thresholds`).
- **PASS** is said at the end of the soak only, and only of canaries that were heard of: an empty judgement is no pass.
- An exception in here is **ERROR**, and holds the rollout.

>>> decision = evaluate(policy, evidence, now, soaked=True)
>>> decision.verdict, decision.reasons[0]
(<Verdict.FAIL: 'FAIL'>, "p95 latency: the canaries' 62 ms, the control cohort's 48 ms: 1.30 times; 1.25 times is …")
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge import limits, silence, thresholds
from control_plane.domain.judge.decision import NO_STATISTICS, Decision, Verdict
from control_plane.domain.judge.evidence import Evidence
from control_plane.domain.judge.figures import Figures, score
from control_plane.domain.judge.inputs import Inputs, from_inputs, to_inputs
from control_plane.domain.judge.wording import counted
from control_plane.domain.strategy import JudgeKind, JudgePolicy


def evaluate(policy: JudgePolicy, evidence: Evidence, now: datetime, *, soaked: bool) -> Decision:
    """What the judge says; it never raises.

    Args:
        policy: what is tolerated.
        evidence: as it was gathered.
        now: by the plane's clock.
        soaked: the wave was watched for as long as it should be.
    """
    inputs: Mapping[str, Any] = {}
    try:
        figures = score(evidence, silence_after=policy.silence_after, now=now)
        inputs = to_inputs(Inputs(policy, figures, soaked, now, evidence.seed))
        return _decide(policy, figures, soaked=soaked, inputs=inputs)
    except Exception as error:  # noqa: BLE001  # fails closed: whatever it is, the rollout is held and not promoted
        return _failed(error, inputs)


def replay(inputs: Mapping[str, Any]) -> Decision:
    """The decision again, from the inputs of its record alone; it never raises.

    A change of the rules since then shows here: the verdict may be another one.
    """
    try:
        read = from_inputs(inputs)
        return _decide(read.policy, read.figures, soaked=read.soaked, inputs=inputs)
    except Exception as error:  # noqa: BLE001  # as above
        return _failed(error, inputs)


def _failed(error: Exception, inputs: Mapping[str, Any]) -> Decision:
    return Decision(Verdict.ERROR, (f"the judge itself failed: {type(error).__name__}: {error}",), inputs=inputs)


def _decide(policy: JudgePolicy, figures: Figures, *, soaked: bool, inputs: Mapping[str, Any]) -> Decision:
    if harm := limits.broken(policy, figures):
        return Decision(Verdict.FAIL, tuple(harm), inputs=inputs, hard=True)
    heard = silence.listen(policy, figures)
    if heard.harm:
        return Decision(Verdict.FAIL, (heard.harm, *heard.notes), inputs=inputs, hard=True)
    verdict, reasons = _compared(policy, figures)
    if heard.doubt and verdict is not Verdict.FAIL:
        verdict, reasons = Verdict.INCONCLUSIVE, [heard.doubt, *reasons]
    elif heard.doubt:
        reasons.append(heard.doubt)
    if verdict is Verdict.PASS and not soaked:
        verdict = Verdict.INCONCLUSIVE
        reasons.insert(0, "nothing speaks against it so far; the wave is watched to the end of its soak")
    if policy.kind is JudgeKind.THRESHOLDS:
        reasons.append(NO_STATISTICS)
    return Decision(verdict, (*reasons, *heard.notes), inputs=inputs)


def _compared(policy: JudgePolicy, figures: Figures) -> tuple[Verdict, list[str]]:
    canaries = figures.of(Cohort.CANARY)
    if not any(d.heard for d in canaries):
        return Verdict.INCONCLUSIVE, [f"no canary has reported on {figures.release_id} yet: there is nothing to judge"]
    if policy.kind is JudgeKind.THRESHOLDS:
        return thresholds.compare(policy, figures)
    told = counted(sum(d.heard for d in canaries), "canary").replace("canarys", "canaries")
    return Verdict.PASS, [f"{told} heard of, no hard limit broken; nothing else is judged"]
