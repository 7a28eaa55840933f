"""The draw: repeatable, whole, and fair to every stratum at every wave."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.cohort import Attributes, Cohort, draw, prove_first, stratum_of
from control_plane.domain.strategy import ALL, Share, Strategy, WaveSpec
from maskfleet.errors import InvalidInputError


def fleet(*sites: str) -> dict[str, Attributes]:
    return {f"d-{n:04}": {"site": {site}} for n, site in enumerate(sites)}


def strategy(*shares: Share, held: Share | None = None, seed: int = 7) -> Strategy:
    return Strategy(tuple(WaveSpec(s, timedelta(0)) for s in shares), held, ("site",), seed)


def percent(share: float) -> Share:
    return Share(percent=share)


sites = st.lists(st.sampled_from("aaaaabbbcd"), min_size=8, max_size=120)


@given(sites=sites, held=st.integers(0, 4), first=st.integers(20, 45), seed=st.integers(1, 2**63 - 1))
@settings(max_examples=150, deadline=None)
def test_every_device_has_one_place_and_every_stratum_its_share_of_every_wave(
    sites: list[str], held: int, first: int, seed: int
) -> None:
    devices = fleet(*sites)
    plan = strategy(percent(first), percent(first + 35.0), ALL, held=Share(count=held) if held else None, seed=seed)
    places = draw(plan, devices)
    assert set(places) == set(devices)
    control = [d for d, place in places.items() if place.cohort is Cohort.CONTROL]
    assert len(control) == held
    assert {places[d].wave for d in control} <= {2}
    fair(control, list(devices), devices)
    canaries = [d for d in devices if d not in control]
    so_far: list[str] = []
    for wave, share in enumerate((first, first + 35.0, 100.0)):
        so_far += [d for d in canaries if places[d].wave == wave]
        assert len(so_far) == percent(share).of(len(canaries))
        fair(so_far, canaries, devices)
    for device_id, place in places.items():
        assert place.stratum == f"site={next(iter(devices[device_id]['site']))}"


def fair(some: list[str], everybody: list[str], devices: dict[str, Attributes]) -> None:
    """Of each stratum there are as many as its share says, rounded down or up."""
    mine, all_of = (Counter(next(iter(devices[d]["site"])) for d in them) for them in (some, everybody))
    for site, total in all_of.items():
        assert abs(mine[site] - len(some) * total / len(everybody)) < 1


@given(sites=sites, order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_in_which_devices_are_listed_plays_no_part(sites: list[str], order: random.Random) -> None:
    devices = fleet(*sites)
    listed = list(devices)
    order.shuffle(listed)
    plan = strategy(percent(30), ALL, held=Share(count=1))
    assert draw(plan, {d: devices[d] for d in listed}) == draw(plan, devices)


def test_a_draw_is_the_same_on_every_machine_and_another_with_another_seed() -> None:
    devices = fleet(*"aaaabbbb")
    first = [d for d, place in draw(strategy(Share(count=2), ALL), devices).items() if place.wave == 0]
    assert sorted(first) == ["d-0002", "d-0006"]
    drawn = {
        tuple(sorted(d for d, p in draw(strategy(Share(count=2), ALL, seed=s), devices).items() if p.wave == 0))
        for s in range(1, 60)
    }
    assert drawn == {(f"d-{a:04}", f"d-{b:04}") for a in range(4) for b in range(4, 8)}


def test_a_stratum_names_its_values() -> None:
    attributes = {"site": {"berlin"}, "target": {"ort-cpu", "rtx-turing"}}
    assert stratum_of(("site", "target", "gpu"), attributes) == "site=berlin, target=ort-cpu+rtx-turing, gpu=none"
    assert stratum_of((), attributes) == ""


REFUSED = {
    "a wave that brings nobody": (strategy(percent(10), percent(20), ALL), "wave 2 (20 % of 3 devices) brings no"),
    "more in the first wave than there are": (strategy(Share(count=5), ALL), "wave 2 (100 % of 3 devices) brings no"),
    "mixed shares that fall": (strategy(Share(count=3), percent(50), ALL), "wave 2 (50 % of 3 devices) brings no"),
    "a last wave by number that is not everybody": (
        strategy(Share(count=2)),
        "wave 1 is the last one and has 2 of 3 devices",
    ),
    "a number that brings nobody": (
        strategy(Share(count=3), Share(count=4), ALL),
        "wave 2 (4 of 3 devices) brings no",
    ),
    "a holdout of everybody": (strategy(Share(count=1), ALL, held=Share(count=3)), "leaves none of 3 devices"),
}


@pytest.mark.parametrize(("plan", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_the_devices_is_refused_by_name(plan: Strategy, told: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        draw(plan, fleet("a", "a", "b"))
    assert told in caught.value.message


def test_the_last_wave_may_bring_the_control_devices_alone() -> None:
    places = draw(strategy(Share(count=1), ALL, held=Share(count=1)), fleet("a", "a"))
    assert sorted((p.wave, p.cohort.value) for p in places.values()) == [(0, "CANARY"), (1, "CONTROL")]


FIVE: dict[str, Attributes] = {f"d-{n}": {} for n in range(5)}
NAMES = {d: d.replace("d-", "cam-") for d in FIVE}
PLAN = strategy(Share(count=1), ALL, held=Share(count=1))


def proved(runs: dict[str, str], online: set[str], plan: Strategy = PLAN) -> tuple[Strategy, list[str], list[str]]:
    """The strategy, the devices of wave 0, and those that are control."""
    made, places = prove_first(plan, draw(plan, FIVE), runs, NAMES, online)
    assert set(places) == set(FIVE)
    return made, [d for d in places if places[d].wave == 0], [d for d in places if places[d].cohort is Cohort.CONTROL]


def test_without_an_unproven_engine_there_is_no_wave_0() -> None:
    places = draw(PLAN, FIVE)
    assert prove_first(PLAN, places, {}, NAMES, set(FIVE)) == (PLAN, places)


def test_one_device_for_each_unproven_engine_goes_first_and_everybody_else_a_wave_later() -> None:
    runs = {"d-0": "rtx-turing", "d-1": "rtx-turing", "d-2": "rtx-turing", "d-3": "jp6-orin", "d-4": "jp6-orin"}
    before = draw(PLAN, FIVE)
    plan, first, _ = proved(runs, set(FIVE))
    assert {runs[d] for d in first} == {"rtx-turing", "jp6-orin"}
    assert plan.waves[0].proves == {runs[d]: NAMES[d] for d in first}
    assert plan.waves[1:] == PLAN.waves
    assert (plan.numbered(0), plan.numbered(1), plan.asked_for) == ("wave 0", "wave 1", PLAN.waves)
    _, places = prove_first(PLAN, before, runs, NAMES, set(FIVE))
    assert all(places[d].wave == before[d].wave + 1 for d in FIVE if d not in first)


@pytest.mark.parametrize("seed", range(1, 30))
def test_who_proves_is_there_and_no_control_device_and_the_same_with_the_same_seed(seed: int) -> None:
    plan = dataclasses.replace(PLAN, seed=seed)
    control = next(d for d, place in draw(plan, FIVE).items() if place.cohort is Cohort.CONTROL)
    other = next(d for d in FIVE if d != control)
    runs = dict.fromkeys(FIVE, "rtx-turing")
    _, first, held = proved(runs, {control, other}, plan)
    assert (first, held) == ([other], [control])
    assert proved(runs, {control, other}, plan)[1] == first
    _, first, held = proved({control: "rtx-turing"}, set(), plan)  # nobody else has that GPU
    assert (first, held) == ([control], [])
