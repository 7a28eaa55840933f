"""The device's end of Connect, without any I/O."""

from __future__ import annotations

import dataclasses

import pytest

from edge_agent.updates.messages import Ack, Buckets, Desired, Facts, Hello, Report, Welcome, Window
from edge_agent.updates.reconcile import State
from edge_agent.updates.session import MAX_IN_FLIGHT, PROGRESS_S, Session
from maskfleet.errors import UnsupportedError
from maskfleet.protocol import VERSION

FACTS = Facts("debian 12", "x86_64", "", "", "", {"onnxruntime": "1"}, "0.1.0", ("ort-cpu",))
REPORT = Report(generation=1, state=State.COMMITTED, release_id="r-1")
WELCOME = Welcome("0.1.0", VERSION, (), 5)


def window(sequence: int, boot: str = "b-1") -> Window:
    return Window(boot, sequence, 0, 1, "r-1", {}, {}, {}, 0, Buckets((), (0,), 0.0), {}, {}, {}, 1, {})


def opened(*windows: Window) -> Session:
    session = Session(FACTS, "b-1", REPORT, windows)
    session.connected()
    session.received(WELCOME, 0.0)
    return session


def test_hello_goes_first_and_nothing_else_before_welcome() -> None:
    session = Session(FACTS, "b-1", REPORT, [window(1)])
    assert session.outgoing(0.0) == []
    hello = session.connected()
    assert isinstance(hello, Hello)
    assert (hello.protocol_version, hello.report, hello.boot_id) == (VERSION, REPORT, "b-1")
    assert session.outgoing(0.0) == []
    session.received(WELCOME, 0.0)
    assert session.outgoing(0.0) == [REPORT, window(1)]
    assert session.outgoing(0.0) == []


def test_a_report_goes_out_when_it_changes_and_when_the_interval_is_over() -> None:
    session = opened()
    session.outgoing(0.0)
    assert session.due_at(0.0) == 5.0
    assert session.outgoing(4.9) == []
    assert session.outgoing(5.0) == [REPORT]
    changed = dataclasses.replace(REPORT, state=State.DOWNLOADING)
    session.reported(changed)
    assert session.outgoing(5.1) == [changed]


def test_progress_alone_is_told_now_and_then() -> None:
    session = opened()
    session.outgoing(0.0)
    for done in range(100):
        session.reported(dataclasses.replace(REPORT, bytes_done=done))
        assert session.outgoing(0.001 * done) == []
    assert session.outgoing(PROGRESS_S) == [dataclasses.replace(REPORT, bytes_done=99)]


def test_windows_are_kept_until_they_are_acknowledged_and_go_out_again_after_a_reconnect() -> None:
    session = opened(window(7, "b-0"), window(1), window(2))
    assert session.outgoing(0.0)[1:] == [window(7, "b-0"), window(1), window(2)]
    assert session.received(Ack("b-1", 1), 0.0) == Ack("b-1", 1)
    session.disconnected()
    session.closed_window(window(3))
    session.connected()
    session.received(WELCOME, 1.0)
    assert session.outgoing(1.0)[1:] == [window(7, "b-0"), window(2), window(3)]


def test_a_long_outage_is_caught_up_with_in_portions() -> None:
    session = opened(*(window(n) for n in range(1, 3 * MAX_IN_FLIGHT)))
    first = session.outgoing(0.0)[1:]
    assert len(first) == MAX_IN_FLIGHT
    session.received(Ack("b-1", MAX_IN_FLIGHT), 0.0)
    assert session.outgoing(0.0)[0] == window(MAX_IN_FLIGHT + 1)


def test_what_is_wanted_is_handed_on() -> None:
    desired = Desired(3, b"a", b"m")
    assert opened().received(desired, 0.0) == desired


@pytest.mark.parametrize("version", [v for v in (VERSION - 1, VERSION, VERSION + 1) if v > 0])
def test_a_plane_of_the_version_before_or_after_is_welcome(version: int) -> None:
    session = Session(FACTS, "b-1", REPORT)
    session.connected()
    session.received(dataclasses.replace(WELCOME, protocol_version=version), 0.0)
    assert session.is_open


@pytest.mark.parametrize("version", [0, VERSION + 2])
def test_a_plane_of_a_far_version_is_refused(version: int) -> None:
    session = Session(FACTS, "b-1", REPORT)
    session.connected()
    with pytest.raises(UnsupportedError, match="speaks protocol"):
        session.received(dataclasses.replace(WELCOME, protocol_version=version), 0.0)
    assert session.outgoing(0.0) == []


def test_a_peer_that_does_not_say_welcome_is_no_plane() -> None:
    session = Session(FACTS, "b-1", REPORT)
    session.connected()
    with pytest.raises(UnsupportedError, match="Welcome"):
        session.received(Desired(1, b"", b""), 0.0)


@pytest.mark.parametrize(("said", "used"), [(0, 10.0), (1, 1.0), (100_000, 300.0)])
def test_the_planes_interval_is_kept_within_reason(said: int, used: float) -> None:
    session = Session(FACTS, "b-1", REPORT)
    session.connected()
    session.received(dataclasses.replace(WELCOME, report_interval_s=said), 0.0)
    session.outgoing(0.0)
    assert session.due_at(0.0) == used
