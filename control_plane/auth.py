"""Who calls, and what they may: every method of every service of the plane has its roles in :data:`ROLES`.

Operators and builders hold a token from a file in the plane's data directory; devices hold a credential that the plane
signed when they enrolled. The interceptor turns either into a :class:`Principal`; servicers read that and nothing
else, so that other proofs of identity change no servicer. A method that is not in the table is refused.

>>> caller().role
<Role.OPERATOR: 'operator'>
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import enum
import hashlib
import hmac
import re
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio

from control_plane.interception import PREFIXES, around
from maskfleet.datadir import write_atomic
from maskfleet.enrolment import read_credential
from maskfleet.errors import AuthenticationError, ForbiddenError, PreconditionError


class Role(enum.Enum):
    """What a caller is."""

    OPERATOR = "operator"
    BUILDER = "builder"
    DEVICE = "device"
    ANYONE = "anyone"


@dataclasses.dataclass(frozen=True)
class Principal:
    """A caller.

    Attributes:
        role: what it is.
        id: the device's id; the role's name for others.
    """

    role: Role
    id: str


_OPERATORS = frozenset({Role.OPERATOR})
_BUILDERS = frozenset({Role.BUILDER})
_MAKERS = frozenset({Role.OPERATOR, Role.BUILDER})
_DEVICES = frozenset({Role.DEVICE})
_EVERYONE = frozenset(Role)


def _methods(service: str, **roles: frozenset[Role]) -> dict[str, frozenset[Role]]:
    return {f"/maskfleet.v1.{service}/{method}": allowed for method, allowed in roles.items()}


ROLES: dict[str, frozenset[Role]] = {
    **_methods(
        "ArtifactsService",
        StatArtifact=_MAKERS,
        UploadArtifact=_MAKERS,
        DownloadArtifact=frozenset({Role.OPERATOR, Role.BUILDER, Role.DEVICE}),
    ),
    **_methods(
        "BuildsService",
        LeaseBuild=_BUILDERS,
        HeartbeatBuild=_BUILDERS,
        FindEngine=_BUILDERS,
        CompleteBuild=_BUILDERS,
    ),
    **_methods(
        "DevicesService",
        CreateJoinToken=_OPERATORS,
        CreateChallenge=_EVERYONE,
        Enrol=_EVERYONE,
        Connect=_DEVICES,
        ListDevices=_OPERATORS,
        GetDevice=_OPERATORS,
        LabelDevice=_OPERATORS,
    ),
    **_methods("EventsService", ListEvents=_OPERATORS, WatchEvents=_OPERATORS),
    **_methods("ModelsService", CreateModel=_OPERATORS, ListModels=_OPERATORS, GetModel=_OPERATORS),
    **_methods(
        "ReleasesService",
        CreateRelease=_OPERATORS,
        ListReleases=_OPERATORS,
        GetRelease=_OPERATORS,
        WatchRelease=_OPERATORS,
        CancelRelease=_OPERATORS,
    ),
    **_methods(
        "RolloutsService",
        CreateRollout=_OPERATORS,
        ListRollouts=_OPERATORS,
        GetRollout=_OPERATORS,
        WatchRollout=_OPERATORS,
        AbortRollout=_OPERATORS,
        PauseRollout=_OPERATORS,
        ResumeRollout=_OPERATORS,
        PromoteRollout=_OPERATORS,
        ListDecisions=_OPERATORS,
        ExplainRollout=_OPERATORS,
    ),
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": _DEVICES,
}
_TOKEN = re.compile(r"mf[ob]1\.[A-Za-z0-9_-]{16,128}")
_caller: contextvars.ContextVar[Principal] = contextvars.ContextVar("maskfleet_caller")


def caller() -> Principal:
    """Who makes the call that is being served."""
    return _caller.get()


def actor() -> str:
    """Who makes the call that is being served, for the history; ``plane`` where there is no call."""
    principal = _caller.get(None)
    return principal.id if principal is not None and principal.id else "plane"


def token_from(path: Path, prefix: str) -> str:
    """The token in a file; a fresh one, mode 0600, where there is no file.

    Raises:
        PreconditionError: others may read the file, or it holds no token.
    """
    try:
        mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except FileNotFoundError:
        text = f"{prefix}.{secrets.token_urlsafe(24)}"
        write_atomic(path, f"{text}\n".encode())
        return text
    if mode & 0o077:
        raise PreconditionError(
            f"the token file {path} can be read by others (mode {mode:04o})",
            remedy=f"delete it: the plane makes a new token; or chmod 600 {path} where nobody has read it",
        )
    if not _TOKEN.fullmatch(text) or not text.startswith(prefix + "."):
        raise PreconditionError(f"the token file {path} holds no token", remedy="delete it: the plane makes a new one")
    return text


class Tokens:
    """What proves which principal.

    Args:
        operator: the operator's token.
        builder: the builders' token.
        plane_public_key: what device credentials are signed with.
    """

    def __init__(self, *, operator: str, builder: str, plane_public_key: bytes) -> None:
        self._plane_public_key = plane_public_key
        self._by_digest = ((_digest(operator), Role.OPERATOR), (_digest(builder), Role.BUILDER))

    def principal(self, token: str) -> Principal:
        """Who holds a token.

        Raises:
            AuthenticationError: nobody.
        """
        if token.startswith("mfd1."):
            return Principal(Role.DEVICE, read_credential(token, self._plane_public_key))
        given = _digest(token)
        # Every comparison is made, each in constant time: how long this takes tells nothing.
        found = [role for digest, role in self._by_digest if hmac.compare_digest(digest, given)]
        if not found:
            raise AuthenticationError(
                "this token is not known to the plane", remedy="take the one in operator.token in its data directory"
            )
        return Principal(found[0], found[0].value)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Authenticating(grpc.aio.ServerInterceptor):
    """Lets a call to one of the plane's services through only with a principal whose role is in the table.

    Comes after the interceptor that turns errors into statuses.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def admitted(self, method: str, metadata: Any) -> Principal:
        """Who makes a call.

        Raises:
            AuthenticationError: nobody knows.
            ForbiddenError: somebody who may not.
        """
        allowed = ROLES.get(method, frozenset())
        given = [str(value) for key, value in metadata or () if key == "authorization"]
        if Role.ANYONE in allowed:
            return Principal(Role.ANYONE, "")
        if len(given) != 1 or not given[0].startswith("Bearer "):
            raise AuthenticationError("the call carries no token", remedy="send it as authorization: Bearer …")
        principal = self._tokens.principal(given[0].removeprefix("Bearer ").strip())
        if principal.role not in allowed:
            name = method.rpartition("/")[2]
            who = " or ".join(sorted(f"{role.value}s" for role in allowed)) or "nobody"
            raise ForbiddenError(f"a {principal.role.value} may not call {name}", remedy=f"it is for {who}")
        return principal

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        if handler is None or not method.startswith(PREFIXES):
            return handler

        @contextlib.contextmanager
        def entered() -> Iterator[None]:
            # Each call has a task, and so a context, of its own: nothing to take back.
            _caller.set(self.admitted(method, metadata))
            yield

        return around(handler, entered)
