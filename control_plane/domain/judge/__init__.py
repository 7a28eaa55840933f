"""The judge of a rollout; :mod:`control_plane.domain.judge.judgement` says how it goes about it."""

from control_plane.domain.judge.decision import NO_STATISTICS, Decision, DecisionRecord, Verdict
from control_plane.domain.judge.evidence import DeviceEvidence, Evidence, Interval
from control_plane.domain.judge.judgement import evaluate, replay

__all__ = [
    "NO_STATISTICS",
    "Decision",
    "DecisionRecord",
    "DeviceEvidence",
    "Evidence",
    "Interval",
    "Verdict",
    "evaluate",
    "replay",
]
