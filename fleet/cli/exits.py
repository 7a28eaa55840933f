"""What a command's exit code means.

====  ====================================================================
code  meaning
====  ====================================================================
0     done
1     failed: the work itself did not succeed, or the result cannot be written
2     wrong input: the command line, a file, a policy, a selector
3     unreachable: nobody answers at that address, or not in time
4     not found: no such model, release, device, rollout or file
5     not now: it exists already, is in use, or something else has to come first
6     not allowed: no credential, or one that does not allow this
130   interrupted (Ctrl-C)
====  ====================================================================
"""

from __future__ import annotations

from maskfleet import errors
from maskfleet.errors import FleetError

FAILED = 1
WRONG_INPUT = 2
INTERRUPTED = 130

EXIT_CODES: dict[type[FleetError], int] = {
    errors.InvalidInputError: WRONG_INPUT,
    errors.UnsupportedError: WRONG_INPUT,
    errors.UnavailableError: 3,
    errors.DeadlineError: 3,
    errors.NotFoundError: 4,
    errors.AlreadyExistsError: 5,
    errors.PreconditionError: 5,
    errors.AuthenticationError: 6,
    errors.ForbiddenError: 6,
    errors.CanceledError: INTERRUPTED,
    errors.CapacityError: FAILED,
    errors.IntegrityError: FAILED,
    errors.OutputError: FAILED,
    errors.InternalError: FAILED,
}
HELP = (
    "Exit codes: 0 done, 1 failed, 2 wrong input, 3 unreachable, 4 not found, 5 not now (exists already, in use, "
    "something else first), 6 not allowed, 130 interrupted."
)


def exit_code(error: FleetError) -> int:
    """The exit code of an error: that of its nearest class in the table."""
    return next((EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES), FAILED)
