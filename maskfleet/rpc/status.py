"""The one translator between the error catalogue and gRPC statuses, both ways.

On the wire an error is its status, its message, and trailing metadata that names its class and remedy, so that a client
raises the very class that the server raised.
"""

from __future__ import annotations

import json
from typing import Any

import grpc

from maskfleet import errors
from maskfleet.errors import FleetError
from maskfleet.ids import new_id
from maskfleet.logs import get_logger

ERROR_KEY = "maskfleet-error-bin"
_MAX_MESSAGE = 2000  # metadata is limited to 8 KiB by default

STATUS: dict[type[FleetError], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.IntegrityError: grpc.StatusCode.DATA_LOSS,
    errors.AuthenticationError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    errors.CapacityError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.CanceledError: grpc.StatusCode.CANCELLED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.OutputError: grpc.StatusCode.ABORTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
_CLASS_OF_STATUS = {status: cls for cls, status in STATUS.items()}
_CATALOGUE = errors.catalogue()


def status_of(error: FleetError) -> grpc.StatusCode:
    """The status of an error: that of its nearest mapped class."""
    for cls in type(error).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    return grpc.StatusCode.UNKNOWN


def wire_error(error: BaseException) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Status, message and trailing metadata for an error.

    An exception outside the catalogue becomes INTERNAL with an incident number that is also logged: its text may hold
    what a caller should not see.
    """
    if not isinstance(error, FleetError):
        incident = new_id("incident")
        get_logger(__name__).error("unexpected error", incident=incident, exc_info=error)
        error = errors.InternalError(f"unexpected {type(error).__name__} ({incident})", remedy="look for it in the log")
    message = error.message[:_MAX_MESSAGE]
    detail = {"kind": type(error).__name__, "message": message, "remedy": error.remedy[:_MAX_MESSAGE]}
    return status_of(error), message, ((ERROR_KEY, json.dumps(detail).encode()),)


def from_rpc_error(error: grpc.RpcError, *, peer: str = "the server") -> FleetError:
    """The error of the catalogue that a gRPC error stands for.

    Args:
        error: as a client's call raised it; sync or asyncio.
        peer: who was called, for the message.
    """
    call: Any = error
    code = call.code() if hasattr(call, "code") else grpc.StatusCode.UNKNOWN
    details = (call.details() if hasattr(call, "details") else None) or str(error)
    metadata = (call.trailing_metadata() if hasattr(call, "trailing_metadata") else None) or ()
    for key, value in metadata:
        if key == ERROR_KEY:
            try:
                said = json.loads(value)
                cls = _CATALOGUE.get(str(said["kind"]), _CLASS_OF_STATUS.get(code, FleetError))
                return cls(str(said["message"]), remedy=str(said["remedy"]))
            except (ValueError, KeyError, TypeError):
                break
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.UnavailableError(f"{peer} cannot be reached", remedy="check its address and that it is running")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineError(f"{peer} did not answer in time", remedy="try again, or give it more time")
    return _CLASS_OF_STATUS.get(code, FleetError)(f"{peer} answered {code.name}: {details}")
