"""The error catalogue.

Every error that a person can meet is one of these. It says what is wrong in one sentence and what to do in
another; :mod:`maskfleet.rpc.status` maps each class to a gRPC status and back, and a test holds that map complete.

::

    FleetError
    ├── InvalidInputError          INVALID_ARGUMENT     the request itself is wrong
    │   ├── BadFrameError                               a picture that cannot be read, or of a refused size
    │   ├── BadModelError                               no ONNX, or not what its decoder reads
    │   ├── BadPolicyError                              a mask policy out of range
    │   ├── BadSelectorError                            a selector that does not parse
    │   └── UnknownTargetError                          no such target
    ├── NotFoundError              NOT_FOUND            no such model, release, device, rollout, artifact
    ├── AlreadyExistsError         ALREADY_EXISTS       the name or the request id is taken by something else
    ├── PreconditionError          FAILED_PRECONDITION  right request, wrong moment
    │   ├── NoMatchError                                a selector that matches no device
    │   ├── RolloutConflictError                        a device is in another rollout
    │   └── NoEngineError                               nothing to mask with
    ├── IntegrityError             DATA_LOSS            bytes are not what they should be
    │   ├── DigestMismatchError
    │   ├── SignatureError
    │   └── SelfTestError                               an engine that does not find the golden faces
    ├── AuthenticationError        UNAUTHENTICATED      who are you
    ├── ForbiddenError             PERMISSION_DENIED    you may not
    ├── CapacityError              RESOURCE_EXHAUSTED   too many, too large, too full
    │   └── DiskFullError
    ├── UnsupportedError           UNIMPLEMENTED        not in this version
    ├── CanceledError              CANCELLED            somebody stopped it
    ├── DeadlineError              DEADLINE_EXCEEDED    it took too long
    ├── UnavailableError           UNAVAILABLE          nobody there, try again
    ├── OutputError                ABORTED              the result cannot be written where it should go
    │   └── DamagedFileError                            a file of our own that cannot be read
    └── InternalError              INTERNAL             a fault of ours
        ├── BuildError                                  a compiler said no
        │   ├── GateRefusedError                        the engine is too far from its model
        │   └── BuildCrashError                         the build died, or ran out of memory or time
        ├── EngineError                                 an engine raised or gave no numbers
        └── SourceFrameError                            a masked frame that still shows what it should not

Example::

    raise DigestMismatchError(
        f"engine {name} has digest {actual}, its manifest says {expected}",
        remedy="download it again; if it stays so, build the release again",
    )
"""

from __future__ import annotations

from typing import Any


class FleetError(Exception):
    """Base of the catalogue.

    Args:
        message: what is wrong, one sentence, naming the thing.
        remedy: what to do about it, one sentence; empty where there is nothing to do.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class InvalidInputError(FleetError):
    """The request itself is wrong."""


class BadFrameError(InvalidInputError):
    """A picture that cannot be read, or of a refused size."""


class BadModelError(InvalidInputError):
    """A file that is no ONNX, or not what its decoder reads."""


class BadPolicyError(InvalidInputError):
    """A mask policy out of range."""


class BadSelectorError(InvalidInputError):
    """A selector that does not parse."""


class UnknownTargetError(InvalidInputError):
    """No such target."""


class NotFoundError(FleetError):
    """No such model, release, device, rollout or artifact."""


class AlreadyExistsError(FleetError):
    """The name or the request id is taken by something else."""


class PreconditionError(FleetError):
    """The right request at the wrong moment."""


class NoMatchError(PreconditionError):
    """A selector that matches no device."""


class RolloutConflictError(PreconditionError):
    """A device is in another rollout."""


class NoEngineError(PreconditionError):
    """Nothing to mask with."""


class IntegrityError(FleetError):
    """Bytes are not what they should be."""


class DigestMismatchError(IntegrityError):
    """A file whose SHA-256 is not the one that was promised."""


class SignatureError(IntegrityError):
    """A signature that is missing, wrong, or by a key that is not trusted."""


class SelfTestError(IntegrityError):
    """An engine that does not find the golden faces."""


class AuthenticationError(FleetError):
    """No credential, or one that does not hold."""


class ForbiddenError(FleetError):
    """A good credential that does not allow this."""


class CapacityError(FleetError):
    """Too many, too large, too full."""


class DiskFullError(CapacityError):
    """No room left on the disk."""


class UnsupportedError(FleetError):
    """Not in this version."""


class CanceledError(FleetError):
    """Somebody stopped it."""


class DeadlineError(FleetError):
    """It took too long."""


class UnavailableError(FleetError):
    """Nobody there; try again."""


class OutputError(FleetError):
    """The result cannot be written where it should go."""


class DamagedFileError(OutputError):
    """A file of our own that cannot be read."""


class InternalError(FleetError):
    """A fault of maskfleet's own."""


class BuildError(InternalError):
    """A compiler said no."""


class GateRefusedError(BuildError):
    """The engine's answers are too far from its model's.

    Attributes:
        report: what was measured, where the build got that far; plain values, on this machine only.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.report: dict[str, Any] = {}


class BuildCrashError(BuildError):
    """The process that built died, or ran out of memory or time; another try or another builder may do."""


class EngineError(InternalError):
    """An engine raised, or gave values that are no numbers."""


class SourceFrameError(InternalError):
    """A masked frame that still shows what it should not. It never leaves the agent."""


def catalogue() -> dict[str, type[FleetError]]:
    """Every class of the tree by its name, the base included."""
    found: dict[str, type[FleetError]] = {}
    queue: list[type[FleetError]] = [FleetError]
    while queue:
        cls = queue.pop()
        found[cls.__name__] = cls
        queue.extend(cls.__subclasses__())
    return found
