"""The device's end of ``Connect``, free of I/O: threads drive it on a device, asyncio may elsewhere.

Rules:

- Hello goes first, and nothing else until the plane's Welcome; versions may differ by one.
- A report goes out when it changes, and again when the plane's interval is over. Progress of a download alone waits for
  :data:`PROGRESS_S`.
- A health window is kept until the plane has acknowledged it. After a reconnect all that are left go out again; at most
  :data:`MAX_IN_FLIGHT` are on their way at a time.

Example::

    session = Session(facts, boot_id, report, windows)
    send(session.connected(now))
    for message in stream:
        for said in session.received(message, now): ...   # Desired: carry it out; Ack: forget windows
        send(session.outgoing(now))
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

from edge_agent.updates.messages import Ack, Desired, Facts, FromDevice, FromPlane, Hello, Report, Welcome, Window
from maskfleet.errors import UnsupportedError
from maskfleet.protocol import VERSION, check_peer

DEFAULT_INTERVAL_S = 10.0
LONGEST_INTERVAL_S = 300.0
PROGRESS_S = 0.5
MAX_IN_FLIGHT = 32
MAX_WINDOWS = 10_000
FEATURES = ("health-windows", "policy-reuse")


class Session:
    """One device's conversation with its plane, over as many connections as it takes. Not safe for several threads."""

    def __init__(self, facts: Facts, boot_id: str, report: Report, windows: Iterable[Window] = ()) -> None:
        self._facts = facts
        self._boot_id = boot_id
        self._report = report
        self._sent_report: Report | None = None
        self._report_at = 0.0
        self._interval_s = DEFAULT_INTERVAL_S
        self._windows: collections.deque[Window] = collections.deque(windows, maxlen=MAX_WINDOWS)
        self._in_flight: set[tuple[str, int]] = set()
        self._greeted = False
        self._open = False

    @property
    def is_open(self) -> bool:
        """Whether the plane has said Welcome on this connection."""
        return self._open

    def connected(self) -> Hello:
        """A connection was made: what to say first."""
        self.disconnected()
        self._greeted = True
        return Hello(VERSION, FEATURES, self._facts, self._boot_id, self._report)

    def disconnected(self) -> None:
        """The connection is gone; what was on its way may not have arrived."""
        self._greeted = self._open = False
        self._in_flight.clear()

    def reported(self, report: Report) -> None:
        """The device's state is this now."""
        self._report = report

    def closed_window(self, window: Window) -> None:
        """A health window is over. Beyond :data:`MAX_WINDOWS` the oldest is lost."""
        self._windows.append(window)

    def received(self, message: FromPlane, now: float) -> Desired | Ack | None:
        """Takes the plane's message.

        Returns:
            What the device has to act on; None where there is nothing.

        Raises:
            UnsupportedError: the plane's version does not fit, or it does not say Welcome first.
        """
        if isinstance(message, Welcome):
            check_peer(message.protocol_version, peer="the plane")
            self._interval_s = min(float(message.report_interval_s), LONGEST_INTERVAL_S) or DEFAULT_INTERVAL_S
            self._open = True
            self._sent_report, self._report_at = None, now
            return None
        if not self._open:
            raise UnsupportedError("the plane did not say Welcome first", remedy="check the address of the plane")
        if isinstance(message, Ack):
            acked = [w for w in self._windows if w.boot_id == message.boot_id and w.sequence <= message.sequence]
            if acked:
                gone = {(w.boot_id, w.sequence) for w in acked}
                self._windows = collections.deque(
                    (w for w in self._windows if (w.boot_id, w.sequence) not in gone), maxlen=MAX_WINDOWS
                )
                self._in_flight -= gone
        return message

    def outgoing(self, now: float) -> list[FromDevice]:
        """What to send now; each message is given once a connection."""
        if not self._open:
            return []
        due: list[FromDevice] = []
        if now >= self._report_due(now):
            self._sent_report, self._report_at = self._report, now
            due.append(self._report)
        for window in self._windows:
            if len(self._in_flight) >= MAX_IN_FLIGHT:
                break
            key = (window.boot_id, window.sequence)
            if key not in self._in_flight:
                self._in_flight.add(key)
                due.append(window)
        return due

    def due_at(self, now: float) -> float:
        """When :meth:`outgoing` has to be asked again at the latest."""
        return self._report_due(now) if self._open else now + LONGEST_INTERVAL_S

    def _report_due(self, now: float) -> float:
        if self._sent_report is None:
            return now
        if self._report == self._sent_report:
            return self._report_at + self._interval_s
        if dataclasses.replace(self._report, bytes_done=self._sent_report.bytes_done) == self._sent_report:
            return self._report_at + PROGRESS_S
        return now
