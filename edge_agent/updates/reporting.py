"""What a device says of itself, from where it stands. Pure."""

from __future__ import annotations

import dataclasses

from edge_agent.updates.messages import Report
from edge_agent.updates.reconcile import SETTLED, State, Update
from edge_agent.updates.slots import Record


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An assignment that was not accepted at all: the generation that it claimed, and why."""

    generation: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Served:
    """What serves: release and target, empty where nothing does."""

    release_id: str = ""
    target: str = ""


def report_of(
    record: Record, update: Update | None, refusal: Refusal | None, served: Served, *, bytes_done: int, trouble: str
) -> Report:
    """The report.

    An update in hand comes first, then a refused assignment, then what was settled last. A refusal of a generation
    that was passed long ago only adds its reason: it must not make the device look as if it had gone back.

    Args:
        record: what is committed, accepted and settled.
        update: in hand; None where there is none.
        refusal: the last assignment that was not accepted; None after a good one.
        served: what serves.
        bytes_done: of the download in hand.
        trouble: what keeps the device from its work just now; empty otherwise.
    """
    if update is not None and (update.state not in SETTLED or update.goal.generation != record.settled_generation):
        goal = update.goal
        return Report(
            generation=goal.generation,
            state=update.state,
            release_id=goal.release_id,
            release_digest=goal.release_digest,
            serving_release_id=served.release_id,
            target=goal.target,
            reason=update.reason or trouble,
            bytes_done=bytes_done,
            bytes_total=goal.engine_bytes,
        )
    settled = Report(
        generation=record.settled_generation,
        state=State(record.settled_state) if record.settled_state else State.EMPTY,
        release_id=record.settled_release_id,
        release_digest=record.generation_digest if record.settled_generation == record.generation else "",
        serving_release_id=served.release_id,
        target=served.target,
        reason=record.settled_reason or trouble,
    )
    if refusal is None:
        return settled
    if refusal.generation > record.generation:
        return Report(
            generation=refusal.generation,
            state=State.REVERTED,
            serving_release_id=served.release_id,
            target=served.target,
            reason=refusal.reason,
        )
    return dataclasses.replace(settled, reason=refusal.reason)
