"""How a rollout goes about it: waves, holdout, strata, judge. Values only; :func:`check` says what does not fit.

Rules
- A wave names how many devices run the release once it is through, those of earlier waves included; waves never shrink.
  Shares are of the devices that the holdout leaves.
- The last wave is everybody: 100 %, or a number that :func:`control_plane.domain.cohort.draw` finds to be all of them.
  The devices held out as control move with it.
- In front of them may be a wave 0, which nobody asks for: :func:`control_plane.domain.cohort.prove_first` puts it there
  where an engine has not run on any device of its target yet. It is named by :meth:`Strategy.numbered`.
- What is not said is filled in by the values here, so that a stored strategy is complete.

>>> Share(percent=10).of(25)
3
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from collections.abc import Mapping
from datetime import timedelta

from maskfleet.errors import InvalidInputError
from maskfleet.ids import check_name

MAX_WAVES = 32
"""As in the schema of rollout files."""

MAX_STRATA = 8
MAX_SEED = 2**63 - 1
"""What every database and JSON reader takes."""

LONGEST = timedelta(days=365)
"""Of any time in a strategy."""

WHOLE = 100.0  # percent


@dataclasses.dataclass(frozen=True)
class Share:
    """How many devices: a number or a percentage, one of the two.

    Attributes:
        count: so many.
        percent: so many of a hundred, above 0, at most 100.
    """

    count: int | None = None
    percent: float | None = None

    def of(self, total: int) -> int:
        """So many of ``total`` devices, rounded up, never more than there are."""
        if self.percent is not None:
            # 7 % of 100 is 7, whatever binary fractions make of it.
            return min(total, math.ceil(round(self.percent * total / WHOLE, 9)))
        return min(total, self.count or 0)

    def __str__(self) -> str:
        if self.percent is not None:
            return f"{self.percent:g} %"
        return f"{self.count} device{'' if self.count == 1 else 's'}"


ALL = Share(percent=WHOLE)


@dataclasses.dataclass(frozen=True)
class WaveSpec:
    """A step of a rollout.

    Attributes:
        share: how many devices run the release once the wave is through.
        soak: how long it is watched after its last device has settled.
        proves: of a wave 0: names of the devices that prove an engine each, by its target; empty for any other wave.
    """

    share: Share
    soak: timedelta = timedelta(0)
    proves: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def told(self) -> str:
        """What a wave 0 is for, in words."""
        return ", ".join(f"{target} is proved on {name}" for target, name in self.proves.items())


class JudgeKind(enum.Enum):
    """How a rollout is judged."""

    NONE = "none"
    THRESHOLDS = "thresholds"


@dataclasses.dataclass(frozen=True)
class JudgePolicy:
    """What the judge tolerates.

    Attributes:
        kind: how it judges; hard limits and silence hold with any kind.
        max_error_increase: by how much the canaries' share of failed frames may be above the control's, 0 to 1.
        max_p95_ratio: how many times the control's p95 latency the canaries' may be, at least 1.
        min_frames: fewer in a cohort cannot be judged.
        silence_after: a device that should report and was not heard of for this long has failed.
        crash_loop_starts: this many starts of an agent within the rollout are a crash loop.
        patience: how long the judge may be unable to tell before the rollout is held.
    """

    kind: JudgeKind = JudgeKind.NONE
    max_error_increase: float = 0.02
    max_p95_ratio: float = 1.25
    min_frames: int = 100
    silence_after: timedelta = timedelta(seconds=60)
    crash_loop_starts: int = 3
    patience: timedelta = timedelta(minutes=10)


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How a rollout goes about it, complete.

    Attributes:
        waves: at least one; the last one is everybody.
        control_holdout: devices that keep their release up to the last wave; None for none.
        strata: labels or facts within whose values devices are drawn.
        seed: makes the draw repeatable; 0 for one that is drawn when the rollout is made, and written down then.
        judge: what it tolerates.
        expire_after: a device that is offline for this long is left behind; None for waiting for ever.
    """

    waves: tuple[WaveSpec, ...] = (WaveSpec(ALL),)
    control_holdout: Share | None = None
    strata: tuple[str, ...] = ()
    seed: int = 0
    judge: JudgePolicy = JudgePolicy()
    expire_after: timedelta | None = None

    @property
    def proves(self) -> bool:
        """Its first wave is a wave 0."""
        return bool(self.waves and self.waves[0].proves)

    @property
    def asked_for(self) -> tuple[WaveSpec, ...]:
        """Its waves without the wave 0."""
        return self.waves[1:] if self.proves else self.waves

    @property
    def judged(self) -> bool:
        """It has more to it than one wave that is neither watched nor judged: it rolls back by itself."""
        waves = self.asked_for
        return len(waves) > 1 or self.judge.kind is not JudgeKind.NONE or waves[0].soak > timedelta(0)

    def numbered(self, wave: int) -> str:
        """A wave for people, as ``wave 2``: from 1, and 0 for the one that proves.

        Args:
            wave: counts from 0.
        """
        return f"wave {wave if self.proves else wave + 1}"


def check(strategy: Strategy) -> Strategy:
    """The strategy, if it makes sense for any number of devices.

    Raises:
        InvalidInputError: it does not; the message names the wave or the field.
    """
    waves = strategy.waves
    if not waves:
        raise InvalidInputError("the strategy has no waves", remedy="give at least one wave, of 100 %")
    if len(waves) > MAX_WAVES:
        raise InvalidInputError(f"{len(waves)} waves are too many", remedy=f"use at most {MAX_WAVES}")
    for number, wave in enumerate(waves, start=1):
        _check_share(wave.share, f"wave {number}")
        _check_span(wave.soak, f"the soak of wave {number}")
    for number, (before, after) in enumerate(itertools.pairwise(waves), start=2):
        _check_rising(before.share, after.share, number)
    last = waves[-1].share
    if last.percent is not None and last.percent != WHOLE:
        raise InvalidInputError(
            f"wave {len(waves)} is the last one and stops at {last}",
            remedy="add a wave of 100 %",
        )
    if strategy.control_holdout is not None:
        _check_share(strategy.control_holdout, "the control holdout")
        if len(waves) == 1:
            raise InvalidInputError(
                "a rollout of one wave has no time for a control holdout",
                remedy="leave it out, or add a wave before the last one",
            )
        if strategy.control_holdout.percent == WHOLE:
            raise InvalidInputError(
                "a control holdout of 100 % leaves no device to try the release on", remedy="hold fewer devices out"
            )
    _check_rest(strategy)
    _check_judge(strategy.judge)
    return strategy


def _check_rising(before: Share, after: Share, number: int) -> None:
    pairs = ((before.percent, after.percent), (before.count, after.count))
    for low, high in pairs:
        if low is not None and high is not None and high <= low:
            raise InvalidInputError(
                f"wave {number} has {after}, and wave {number - 1} has {before} already",
                remedy="a wave holds the devices of those before it and more: let the shares rise",
            )
    if before.percent == WHOLE:
        raise InvalidInputError(
            f"wave {number} comes after wave {number - 1}, which has all devices", remedy="leave it out"
        )


def _check_share(share: Share, what: str) -> None:
    if (share.count is None) == (share.percent is None):
        raise InvalidInputError(f"{what} has no share", remedy="give either a count or a percentage")
    if share.percent is not None and not 0 < share.percent <= WHOLE:  # holds for no NaN
        raise InvalidInputError(f"{what} has {share.percent:g} %", remedy="use a percentage above 0 and at most 100")
    if share.count is not None and share.count < 1:
        raise InvalidInputError(f"{what} has {share}", remedy="use at least 1 device")


def _check_span(span: timedelta, what: str, *, zero: bool = True) -> None:
    if span < timedelta(0) or span > LONGEST or not (zero or span):
        least = "0 s" if zero else "more than 0 s"
        raise InvalidInputError(
            f"{what} is {span.total_seconds():g} s", remedy=f"use {least} and at most {LONGEST.days} days"
        )


def _check_rest(strategy: Strategy) -> None:
    if len(strategy.strata) > MAX_STRATA:
        raise InvalidInputError(f"{len(strategy.strata)} strata are too many", remedy=f"use at most {MAX_STRATA}")
    for key in strategy.strata:
        check_name("stratum", key)
    if len(set(strategy.strata)) != len(strategy.strata):
        raise InvalidInputError("a stratum is named twice", remedy="name each label or fact once")
    if not 0 <= strategy.seed <= MAX_SEED:
        raise InvalidInputError(f"the seed is {strategy.seed}", remedy=f"use a number from 0 to {MAX_SEED}")
    if strategy.expire_after is not None:
        _check_span(strategy.expire_after, "expire_after", zero=False)


def _check_judge(judge: JudgePolicy) -> None:
    if not 0 <= judge.max_error_increase <= 1:
        raise InvalidInputError(
            f"the judge's max_error_increase is {judge.max_error_increase:g}", remedy="use a share from 0 to 1"
        )
    if not (1 <= judge.max_p95_ratio < math.inf):
        raise InvalidInputError(f"the judge's max_p95_ratio is {judge.max_p95_ratio:g}", remedy="use at least 1")
    for name in ("min_frames", "crash_loop_starts"):
        if getattr(judge, name) < 1:
            raise InvalidInputError(f"the judge's {name} is {getattr(judge, name)}", remedy="use at least 1")
    _check_span(judge.silence_after, "the judge's silence_after", zero=False)
    _check_span(judge.patience, "the judge's patience")
