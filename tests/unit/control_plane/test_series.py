"""Cumulative series added up: restarts, repeats, old devices, and what makes no sense."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain import series
from control_plane.domain.series import FORGOTTEN_NS, Ledger, Point, RefusedPoint, check, rebucketed

UP = 1_000


def point(value: float, time: int, start: int = 0, name: str = "frames") -> Point:
    return Point(name, (), start, time, (value,))


CASES = {
    "what came on top of the last total counts": ([point(3, 10), point(5, 20)], [3, 2]),
    "a total that is sent twice counts once": ([point(3, 10), point(3, 10)], [3, None]),
    "a total that comes late counts nothing": ([point(5, 20), point(3, 10)], [5, None]),
    "a later start counts in full": ([point(9, 20), point(4, 30, start=25)], [9, 4]),
    "a total from before the last start counts nothing": ([point(4, 30, start=25), point(9, 40, start=0)], [4, None]),
    "a total that fell is a restart": ([point(9, 20), point(2, 30)], [9, 2]),
    "what was counted before the plane was up is left to the process before it": (
        [point(100, UP + 50), point(101, UP + 60)],
        [0, 1],
    ),
    "a clock years away changes nothing": ([point(3, 10**18 + 10, 10**18), point(5, 10**18 + 20, 10**18)], [3, 2]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_new_in_a_total(name: str) -> None:
    points, wanted = CASES[name]
    ledger = Ledger()
    news = [ledger.news("d-1", p, uptime_ns=UP) for p in points]
    assert [n[0] if n is not None else None for n in news] == wanted


def test_devices_are_counted_apart() -> None:
    ledger = Ledger()
    assert [ledger.news(d, point(3, 10), uptime_ns=UP) for d in ("d-1", "d-2")] == [(3.0,), (3.0,)]


def test_a_device_has_so_many_series_and_no_more_until_old_ones_are_an_hour_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(series, "MAX_SERIES", 2)
    ledger = Ledger()
    for name in ("a", "b"):
        ledger.news("d-1", point(1, 10, name=name), uptime_ns=UP)
    with pytest.raises(RefusedPoint, match="more than 2 series"):
        ledger.news("d-1", point(1, 20, name="c"), uptime_ns=UP)
    assert ledger.news("d-1", point(4, 20, name="a"), uptime_ns=UP) == (3.0,)
    later = FORGOTTEN_NS + 15
    assert ledger.news("d-1", point(1, later, start=later, name="c"), uptime_ns=UP) == (1.0,)
    assert ledger.news("d-2", point(1, 20, name="c"), uptime_ns=UP) == (1.0,)


SENSELESS = {
    "a NaN": point(math.nan, 10),
    "an infinite total": point(math.inf, 10),
    "a negative total": point(-1, 10),
    "an end before the start": point(1, 10, start=20),
    "bounds that fall": Point("h", (), 0, 10, (1.0, 1.0, 1.0, 0.5), (2.0, 1.0)),
    "a bucket too few": Point("h", (), 0, 10, (1.0, 1.0, 0.5), (1.0, 2.0)),
    "a bound that is no number": Point("h", (), 0, 10, (1.0, 1.0, 0.5), (math.nan,)),
    "more bounds than anybody needs": Point("h", (), 0, 10, (0.0,) * 102, tuple(map(float, range(100)))),
}


@pytest.mark.parametrize("name", SENSELESS)
def test_what_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(RefusedPoint):
        check(SENSELESS[name])


@given(
    totals=st.lists(st.integers(0, 1000), min_size=1, max_size=30),
    restarts=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_the_sum_is_what_the_device_counted_however_often_it_began_again(
    totals: list[int], restarts: list[bool]
) -> None:
    ledger, time, start, total, taken = Ledger(), 0, 0, 0, 0.0
    for more, again in zip(totals, restarts):
        if again:
            start, total = time, 0
        time, total = time + 1, total + more
        news = ledger.news("d-1", point(total, time, start), uptime_ns=10**9)
        taken += news[0] if news else 0
    assert taken == sum(totals)


@given(
    bounds=st.lists(st.floats(0.001, 10), min_size=1, max_size=20, unique=True).map(sorted),
    data=st.data(),
)
def test_no_latency_looks_better_in_other_buckets_and_none_is_lost(bounds: list[float], data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 100).map(float), min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    into = (0.01, 0.1, 1.0)
    made = rebucketed(counts, bounds, into)
    assert sum(made) == sum(counts)
    for index, bound in enumerate(into):
        within = sum(c for c, b in zip(counts, bounds) if b <= bound)
        assert sum(made[: index + 1]) <= within
    assert rebucketed(counts, bounds, bounds) == tuple(counts)
