"""Builders: what they say that they can build, whether that can be so, and which one is missing.

Rules
- A builder that says what its machine is made of may claim the targets that
  :func:`maskfleet.targets.buildable` gives for it, and no other.
- One that does not is an older one: it is refused where it names a version of a target's package that cannot build for
  it, and believed otherwise.
- A build whose release names a calibration set is for builders that have that set.

>>> missing("jp6-orin", "", [])
'no builder for jp6-orin has asked for work: start `python -m model_compiler run` on a Jetson Orin with JetPack 6 ...'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from control_plane.domain.device import Facts
from maskfleet.errors import InvalidInputError
from maskfleet.targets import Machine, target, unbuildable


@dataclasses.dataclass(frozen=True)
class Builder:
    """What a builder says of itself.

    Attributes:
        id: for people: host and process.
        targets: that it can build.
        versions: of its tools, by name.
        machine: what its machine is made of; None where it does not say.
        calibration_sets: digests of the folders of pictures that it has, by name as ``street/2``.
    """

    id: str
    targets: frozenset[str]
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    machine: Facts | None = None
    calibration_sets: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def can(self, target_name: str, calibration: str) -> bool:
        """Whether a build is for this builder.

        Args:
            target_name: that it is for.
            calibration: the set that it needs; empty for none.
        """
        return target_name in self.targets and (not calibration or calibration in self.calibration_sets)


def check_claims(builder: Builder) -> Builder:
    """The builder, if it can be what it says.

    Raises:
        UnknownTargetError: it claims a target that there is not.
        InvalidInputError: it claims a target that it cannot build; the message says why.
    """
    for name in sorted(builder.targets):
        entry = target(name)
        if builder.machine is not None:
            why = unbuildable(entry, machine_of(builder.machine, builder.versions))
        else:
            version = builder.versions.get(entry.distribution, entry.version)
            why = "" if version.startswith(entry.version) else f"it has {entry.distribution} {version}"
        if why:
            raise InvalidInputError(
                f"builder {builder.id} says that it builds for {name}, and cannot: {why}",
                remedy=f"{name} is built on {entry.builders}",
            )
    return builder


def machine_of(facts: Facts, versions: Mapping[str, str]) -> Machine:
    """What decides which targets a builder builds for.

    Args:
        facts: of its machine, as an agent there would say them.
        versions: of its tools.
    """
    system = facts.os.lower().partition(" ")[0]
    return Machine(
        system=system if system in ("windows", "darwin") else "linux",  # a Linux says which distribution it is
        arch=facts.arch,
        compute_capability=facts.compute_capability,
        jetpack=facts.jetpack,
        driver=facts.driver,
        runtimes={**facts.runtimes, **versions},
    )


def missing(target_name: str, calibration: str, builders: Collection[Builder]) -> str:
    """Which builder a build waits for in vain, in a sentence; empty where one is there.

    Args:
        target_name: that the build is for.
        calibration: the set that it needs; empty for none.
        builders: those that were heard of of late.
    """
    if any(builder.can(target_name, calibration) for builder in builders):
        return ""
    if any(target_name in builder.targets for builder in builders):
        return (
            f"no builder for {target_name} that has asked for work has the calibration set {calibration}: "
            "give it to one, and start that again"
        )
    return (
        f"no builder for {target_name} has asked for work: "
        f"start `python -m model_compiler run` on {target(target_name).builders}"
    )
