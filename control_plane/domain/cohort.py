"""Which devices go first, and which stay behind as control: a seeded draw within strata.

How it is drawn
1. Devices are sorted by id and shuffled by ``random.Random(seed)``, so that the order in which they were listed plays
   no part. A stratum is what the values of the strategy's attributes come to: ``site=berlin, gpu=none``.
2. A queue is made of them that is fair at every length: of its first *h* devices each stratum has its share of *h*,
   rounded down or up. (Each stratum's *j*-th device has the span of places in which that holds; the one whose span ends
   first goes first. With shares that add up to one this always works out.)
3. The first devices of the queue are held out as control. Of the others a queue is made in the same way, and the waves
   are cut from it. The control devices move with the last wave.

4. Where an engine has not run on any device of its target yet, :func:`prove_first` takes one device of that target to
   the front: the first of the queue, one that is there if any is, and none of the control devices if it can be helped.

Same seed and same devices, same draw. A wave that would bring no device is refused.

>>> draw(strategy, {"d-1": {"site": {"berlin"}}, "d-2": {"site": {"paris"}}})["d-1"]
Place(wave=0, cohort=<Cohort.CANARY: 'CANARY'>, stratum='site=berlin')
"""

from __future__ import annotations

import dataclasses
import enum
import heapq
import random
from collections.abc import Collection, Container, Mapping, Sequence

from control_plane.domain.strategy import Share, Strategy, WaveSpec
from maskfleet.errors import InvalidInputError

Attributes = Mapping[str, Collection[str]]


class Cohort(enum.Enum):
    """The group of devices that a device belongs to. Names are those of the wire."""

    CANARY = "CANARY"
    CONTROL = "CONTROL"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a device was drawn to.

    Attributes:
        wave: counts from 0.
        cohort: CONTROL for those that are held out up to the last wave.
        stratum: within which it was drawn; empty where there is one for all.
    """

    wave: int
    cohort: Cohort
    stratum: str


def draw(strategy: Strategy, devices: Mapping[str, Attributes]) -> dict[str, Place]:
    """Each device's place.

    Args:
        strategy: checked, with the seed that it is drawn by.
        devices: their attributes by id, as of :meth:`control_plane.domain.device.Device.attributes`.

    Raises:
        InvalidInputError: a wave would bring no device, the holdout leaves none, or the last wave is not everybody.
    """
    strata = {device_id: stratum_of(strategy.strata, devices[device_id]) for device_id in sorted(devices)}
    shuffled = list(strata)
    random.Random(strategy.seed).shuffle(shuffled)  # noqa: S311  # repeatable on purpose
    total = len(shuffled)
    held = strategy.control_holdout.of(total) if strategy.control_holdout is not None else 0
    if held >= total:
        raise InvalidInputError(
            f"a control holdout of {strategy.control_holdout} leaves none of {_devices(total)} to try the release on",
            remedy="hold fewer devices out, or choose more devices",
        )
    control = dict.fromkeys(_fair(shuffled, strata)[:held])  # in the order of the draw
    queue = _fair([d for d in shuffled if d not in control], strata)
    last = len(strategy.waves) - 1
    places = {d: Place(last, Cohort.CONTROL, strata[d]) for d in control}
    start = 0
    for wave, end in enumerate(_ends(strategy, len(queue), held)):
        places |= {d: Place(wave, Cohort.CANARY, strata[d]) for d in queue[start:end]}
        start = end
    return places


def prove_first(
    strategy: Strategy,
    places: Mapping[str, Place],
    runs: Mapping[str, str],
    names: Mapping[str, str],
    online: Container[str],
) -> tuple[Strategy, dict[str, Place]]:
    """A strategy with a wave 0 in front, and the places that come of it: one device for each unproven engine.

    Args:
        strategy: as it was asked for.
        places: as they were drawn for it.
        runs: targets whose engines no device has run yet, by the devices that would run them; may be empty.
        names: of the devices.
        online: devices that are there.
    """
    if not runs:
        return strategy, dict(places)
    rank = {device_id: number for number, device_id in enumerate(places)}

    def suits(device_id: str) -> tuple[bool, bool, int, int]:
        place = places[device_id]
        return place.cohort is Cohort.CONTROL, device_id not in online, place.wave, rank[device_id]

    provers = {
        target: min((d for d in places if runs.get(d) == target), key=suits) for target in sorted(set(runs.values()))
    }
    wave = WaveSpec(Share(count=len(provers)), proves={target: names[d] for target, d in provers.items()})
    moved = {d: dataclasses.replace(place, wave=place.wave + 1) for d, place in places.items()}
    moved |= {d: Place(0, Cohort.CANARY, places[d].stratum) for d in provers.values()}
    return dataclasses.replace(strategy, waves=(wave, *strategy.waves)), moved


def _ends(strategy: Strategy, total: int, held: int) -> list[int]:
    ends: list[int] = []
    last = len(strategy.waves) - 1
    for wave, spec in enumerate(strategy.waves):
        end, before = spec.share.of(total), ends[-1] if ends else 0
        of = f"{_devices(total)}{' that the holdout leaves' if held else ''}"
        if wave == last and end < total:
            raise InvalidInputError(
                f"wave {wave + 1} is the last one and has {_part(spec.share)} of {of}",
                remedy="give the last wave 100 %",
            )
        if end < before or (end == before and not (wave == last and held)):
            raise InvalidInputError(
                f"wave {wave + 1} ({_part(spec.share)} of {of}) brings no device that wave {wave} has not",
                remedy="use fewer waves, or larger steps",
            )
        ends.append(end)
    return ends


def _part(share: Share) -> str:
    return str(share) if share.count is None else str(share.count)


def stratum_of(keys: Sequence[str], attributes: Attributes) -> str:
    """The stratum of a device, as ``site=berlin, gpu=none``.

    Args:
        keys: attributes that part devices into strata.
        attributes: of the device.
    """
    return ", ".join(f"{key}={'+'.join(sorted(attributes.get(key, ()))) or 'none'}" for key in keys)


def _fair(devices: Sequence[str], strata: Mapping[str, str]) -> list[str]:
    """The devices in an order that is fair to strata at every length; within a stratum the order stays."""
    by_stratum: dict[str, list[str]] = {}
    for device_id in devices:
        by_stratum.setdefault(strata[device_id], []).append(device_id)
    total = len(devices)
    # Places count from 1. The j-th of n devices may come where its stratum's share of the places so far exceeds j - 1,
    # and has to come by the place where that share reaches j.
    jobs = sorted(
        ((j - 1) * total // len(mine) + 1, -(-j * total // len(mine)), rank, device_id)
        for rank, mine in enumerate(by_stratum.values())
        for j, device_id in enumerate(mine, start=1)
    )
    queue: list[str] = []
    ready: list[tuple[int, int, str]] = []
    upcoming = iter(jobs)
    job = next(upcoming, None)
    for place in range(1, total + 1):
        while job is not None and job[0] <= place:
            heapq.heappush(ready, (job[1], job[2], job[3]))
            job = next(upcoming, None)
        queue.append(heapq.heappop(ready)[2])
    return queue


def _devices(number: int) -> str:
    return f"{number} device{'' if number == 1 else 's'}"
