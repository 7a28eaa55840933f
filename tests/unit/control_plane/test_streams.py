"""Links and changes: the newest counts, nobody waits for nothing."""

from __future__ import annotations

import asyncio

import pytest

from control_plane.changes import Changes
from control_plane.links import Ack, Desired, Links
from maskfleet.errors import CanceledError, UnavailableError


def desired(generation: int) -> Desired:
    return Desired(generation, b"", "r-1", "", b"")


async def test_only_the_newest_desired_state_and_the_highest_acknowledgement_are_sent() -> None:
    link = Links().open("d-1")
    for generation in (1, 3, 2):
        link.want(desired(generation))
    for ack in (Ack("b", 1), Ack("b", 3), Ack("b", 2), Ack("c", 1)):
        link.acknowledge(ack)
    assert await link.outgoing() == [desired(3), Ack("b", 3), Ack("c", 1)]


async def test_a_second_stream_ends_the_first_which_does_not_take_it_along() -> None:
    links = Links()
    first, second = links.open("d-1"), links.open("d-1")
    with pytest.raises(CanceledError):
        await first.outgoing()
    assert not links.close(first)
    assert "d-1" in links
    assert links.close(second)
    assert len(links) == 0


async def test_ending_all_tells_everyone_why() -> None:
    links = Links()
    link = links.open("d-1")
    links.end_all(UnavailableError("the plane is stopping"))
    with pytest.raises(UnavailableError):
        await link.outgoing()
    link.end()
    assert await link.outgoing() is None


async def test_a_follower_learns_of_what_happened_while_it_was_busy() -> None:
    changes = Changes()
    with changes.following("ro-1") as change:
        changes.touch("ro-1")
        changes.touch("ro-2")
        assert await change.wait(1)
        assert not await change.wait(0.001)
        waiting = asyncio.create_task(change.wait(5))
        await asyncio.sleep(0)
        changes.touch("ro-1")
        assert await waiting
    assert changes._followers == {}
