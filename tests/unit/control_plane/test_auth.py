"""Token files, and who a token stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.auth import Authenticating, Principal, Role, Tokens, token_from
from maskfleet.enrolment import issue_credential
from maskfleet.errors import AuthenticationError, FleetError, ForbiddenError, PreconditionError
from maskfleet.manifest import public_bytes

KEY = Ed25519PrivateKey.generate()
OPERATOR, BUILDER = "mfo1." + "o" * 32, "mfb1." + "b" * 32
GUARD = Authenticating(Tokens(operator=OPERATOR, builder=BUILDER, plane_public_key=public_bytes(KEY)))
LIST, LEASE, CONNECT, ENROL, DOWNLOAD = (
    f"/maskfleet.v1.{name}"
    for name in (
        "DevicesService/ListDevices",
        "BuildsService/LeaseBuild",
        "DevicesService/Connect",
        "DevicesService/Enrol",
        "ArtifactsService/DownloadArtifact",
    )
)
DEVICE = issue_credential(KEY, "d-1")


def test_a_token_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "operator.token"
    token = token_from(path, "mfo1")
    assert token_from(path, "mfo1") == token
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(PreconditionError, match="read by others"):
        token_from(path, "mfo1")
    path.chmod(0o600)
    for text in ("", "mfb1." + "x" * 32, "mfo1.short"):
        path.write_text(text)
        with pytest.raises(PreconditionError, match="holds no token"):
            token_from(path, "mfo1")


ADMITTED = {
    "an operator lists": (LIST, f"Bearer {OPERATOR}", Principal(Role.OPERATOR, "operator")),
    "a builder leases": (LEASE, f"Bearer {BUILDER}", Principal(Role.BUILDER, "builder")),
    "a device connects": (CONNECT, f"Bearer {DEVICE}", Principal(Role.DEVICE, "d-1")),
    "a device downloads": (DOWNLOAD, f"Bearer {DEVICE}", Principal(Role.DEVICE, "d-1")),
    "anyone enrols": (ENROL, "", Principal(Role.ANYONE, "")),
}


@pytest.mark.parametrize(("method", "header", "who"), ADMITTED.values(), ids=ADMITTED.keys())
def test_admitted(method: str, header: str, who: Principal) -> None:
    assert GUARD.admitted(method, (("authorization", header),) if header else ()) == who


REFUSED = {
    "no token": (LIST, "", AuthenticationError),
    "no bearer": (LIST, OPERATOR, AuthenticationError),
    "an unknown token": (LIST, "Bearer mfo1.unknown", AuthenticationError),
    "a builder lists": (LIST, f"Bearer {BUILDER}", ForbiddenError),
    "a device lists": (LIST, f"Bearer {DEVICE}", ForbiddenError),
    "an operator connects": (CONNECT, f"Bearer {OPERATOR}", ForbiddenError),
    "a credential that was changed": (CONNECT, f"Bearer {DEVICE[:-4]}AAAA", AuthenticationError),
    "a method that is not in the table": ("/maskfleet.v1.NewService/Do", f"Bearer {OPERATOR}", ForbiddenError),
}


@pytest.mark.parametrize(("method", "header", "cls"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(method: str, header: str, cls: type[FleetError]) -> None:
    with pytest.raises(cls):
        GUARD.admitted(method, (("authorization", header),) if header else ())


def test_two_tokens_at_once_are_none() -> None:
    headers = (("authorization", f"Bearer {OPERATOR}"), ("authorization", f"Bearer {BUILDER}"))
    with pytest.raises(AuthenticationError):
        GUARD.admitted(LIST, headers)
