"""Devices: what they are, what is wanted of them, what they say.

Desired state is an :class:`Assignment`, one a device, whose generation never goes back. Reported state is a
:class:`Report`. A device has *settled* a generation when its report names it and no component is on its way.

>>> Component("engine", ComponentState.DOWNLOADING, release_id="r-2", bytes_done=40, bytes_total=100).detail
'DOWNLOADING 40 %'
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime

from maskfleet.errors import InvalidInputError
from maskfleet.ids import check_name

MAX_LABELS = 64


class ComponentState(enum.Enum):
    """How far a device has come with a component. Names are those of the wire."""

    UNSPECIFIED = "UNSPECIFIED"
    EMPTY = "EMPTY"
    DOWNLOADING = "DOWNLOADING"
    VERIFYING = "VERIFYING"
    LOADING = "LOADING"
    TESTING = "TESTING"
    SOAKING = "SOAKING"
    COMMITTED = "COMMITTED"
    REVERTED = "REVERTED"


SETTLED = frozenset({ComponentState.EMPTY, ComponentState.COMMITTED, ComponentState.REVERTED})


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a device is made of; the fields are those of the wire's ``DeviceFacts``."""

    os: str = ""
    arch: str = ""
    gpu: str = ""
    compute_capability: str = ""
    jetpack: str = ""
    runtimes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    agent_version: str = ""
    targets: tuple[str, ...] = ()
    driver: str = ""
    target_note: str = ""


@dataclasses.dataclass(frozen=True)
class Component:
    """What a device says of one component; the fields are those of the wire's ``ReportedComponent``."""

    name: str
    state: ComponentState
    release_id: str = ""
    release_digest: str = ""
    serving_release_id: str = ""
    reason: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    target: str = ""

    @property
    def detail(self) -> str:
        """What it does now, for people; after a colon why it does not get on, or was refused."""
        doing = self.state.value
        if self.state is ComponentState.DOWNLOADING and self.bytes_total:
            doing += f" {100 * self.bytes_done // self.bytes_total} %"
        told = self.reason and (self.state not in SETTLED or self.state is ComponentState.REVERTED)
        return f"{doing}: {self.reason}" if told else doing


@dataclasses.dataclass(frozen=True)
class Report:
    """What a device says of itself.

    Attributes:
        generation: the assignment that it works on or has settled; 0 for none.
        components: as they stand.
    """

    generation: int = 0
    components: tuple[Component, ...] = ()

    def without_progress(self) -> Report:
        """The same without byte counts: what is worth a write to the store when it changes."""
        plain = tuple(dataclasses.replace(c, bytes_done=0, bytes_total=0) for c in self.components)
        return Report(self.generation, plain)

    @property
    def settled(self) -> bool:
        """No component is on its way. (A device that says nothing of components has nothing on its way.)"""
        return all(component.state in SETTLED for component in self.components)

    @property
    def detail(self) -> str:
        """What the device does now: the first component that is on its way, else the first."""
        moving = [c for c in self.components if c.state not in SETTLED]
        told = (moving or list(self.components))[:1]
        return told[0].detail if told else ""


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that has enrolled.

    Attributes:
        id: hash of its public key.
        name: for people; no two devices share one.
        public_key: Ed25519, 32 bytes.
        labels: what selectors match, with the facts.
        facts: what it is made of.
        enrolled: when it joined.
        last_seen: when it was last heard of, as far as it was written down; live values are in memory.
        report: what it said last.
    """

    id: str
    name: str
    public_key: bytes
    labels: Mapping[str, str]
    facts: Facts
    enrolled: datetime
    last_seen: datetime
    report: Report = Report()

    def attributes(self) -> dict[str, frozenset[str]]:
        """What a selector sees: facts and identity, and labels over them."""
        found = {
            "id": frozenset({self.id}),
            "name": frozenset({self.name}),
            "os": frozenset({self.facts.os}),
            "arch": frozenset({self.facts.arch}),
            "gpu": frozenset({self.facts.gpu or "none"}),
            "target": frozenset(self.facts.targets),
        }
        return found | {key: frozenset({value}) for key, value in self.labels.items()}

    def relabelled(self, set_: Mapping[str, str], remove: tuple[str, ...]) -> Device:
        """The device with labels changed.

        Raises:
            InvalidInputError: a label is no label, or there are too many.
        """
        labels = {k: v for k, v in self.labels.items() if k not in remove} | check_labels(set_)
        return dataclasses.replace(self, labels=check_labels(labels))


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels, if all are: keys and values are names as ``berlin`` or ``v1.2``.

    Raises:
        InvalidInputError: one is not, or there are more than 64.
    """
    if len(labels) > MAX_LABELS:
        raise InvalidInputError(f"{len(labels)} labels are too many", remedy=f"use at most {MAX_LABELS}")
    for key, value in labels.items():
        check_name("label", key)
        check_name(f"value of label {key}", value)
    return dict(labels)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What is wanted of a device.

    Attributes:
        device_id: of whom.
        generation: grows with each change and never goes back.
        release_id: what it should run; empty for nothing but what it has committed.
        envelope: the signed assignment as it goes over the wire.
        correlation_id: of the action behind it; empty where there is none.
    """

    device_id: str
    generation: int
    release_id: str
    envelope: bytes
    correlation_id: str = ""


@dataclasses.dataclass(frozen=True)
class JoinToken:
    """A join token, as far as it is kept: never itself.

    Attributes:
        digest: SHA-256 of the token.
        expires: until when it holds.
        max_uses: how many devices may use it; 0 for any number.
        uses: how many have.
        labels: what its devices start with.
    """

    digest: str
    expires: datetime
    max_uses: int
    uses: int
    labels: Mapping[str, str]
