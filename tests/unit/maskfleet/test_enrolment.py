"""Joining a fleet: tokens, proofs, credentials and the keys behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from maskfleet.enrolment import (
    NONCE_BYTES,
    JoinToken,
    check_proof,
    issue_credential,
    proof_message,
    read_credential,
)
from maskfleet.errors import AuthenticationError, InvalidInputError, PreconditionError, SignatureError
from maskfleet.ids import device_id, fingerprint
from maskfleet.keys import load_or_make
from maskfleet.logs import redacted
from maskfleet.manifest import public_bytes

PLANE = Ed25519PrivateKey.from_private_bytes(b"p" * 32)
DEVICE = Ed25519PrivateKey.from_private_bytes(b"d" * 32)
PLANE_PUBLIC, DEVICE_PUBLIC = public_bytes(PLANE), public_bytes(DEVICE)
TOKEN = JoinToken.new(plane_fingerprint=fingerprint(PLANE_PUBLIC))
NONCE = b"n" * NONCE_BYTES


def test_a_join_token_survives_being_written_down() -> None:
    assert JoinToken.parse(f"  {TOKEN}\n") == TOKEN
    TOKEN.check_plane(PLANE_PUBLIC)


def test_a_join_token_stays_out_of_logs() -> None:
    assert TOKEN.secret not in redacted(f"enrolled with {TOKEN}") + repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("mfj1", id="its first word alone"),
        pytest.param("mfj1.short." + "0" * 32, id="a short secret"),
        pytest.param(str(TOKEN)[:-1], id="a letter missing"),
        pytest.param("mfo1." + str(TOKEN)[5:], id="an operator's token"),
    ],
)
def test_what_is_no_join_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no join token"):
        JoinToken.parse(text)


def test_another_plane_is_not_trusted() -> None:
    with pytest.raises(SignatureError, match="the join token is for"):
        TOKEN.check_plane(DEVICE_PUBLIC)


def test_a_proof_holds_for_its_nonce_token_and_key_only() -> None:
    proof = DEVICE.sign(proof_message(NONCE, str(TOKEN)))
    check_proof(DEVICE_PUBLIC, NONCE, str(TOKEN), proof)
    for key, nonce, token, signature in (
        (PLANE_PUBLIC, NONCE, str(TOKEN), proof),
        (DEVICE_PUBLIC, b"m" * NONCE_BYTES, str(TOKEN), proof),
        (DEVICE_PUBLIC, NONCE, "mfj1.other", proof),
        (DEVICE_PUBLIC, NONCE, str(TOKEN), b""),
        (b"short", NONCE, str(TOKEN), proof),
    ):
        with pytest.raises(AuthenticationError):
            check_proof(key, nonce, token, signature)


def test_a_credential_names_its_device() -> None:
    device = device_id(DEVICE_PUBLIC)
    credential = issue_credential(PLANE, device)
    assert read_credential(credential, PLANE_PUBLIC) == device
    kind, payload, signature = credential.split(".")
    other = issue_credential(PLANE, "d-other").split(".")[1]
    for wrong in ("", "mfd1..", f"{kind}.{other}.{signature}", f"{kind}.{payload}.{'A' * 86}"):
        with pytest.raises(AuthenticationError):
            read_credential(wrong, PLANE_PUBLIC)
    with pytest.raises(AuthenticationError):
        read_credential(credential, DEVICE_PUBLIC)


def test_a_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    key = load_or_make(path)
    assert public_bytes(load_or_make(path)) == public_bytes(key)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(PreconditionError, match="can be read by others"):
        load_or_make(path)


def test_a_broken_key_is_never_replaced_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    path.touch(mode=0o600)
    with pytest.raises(PreconditionError, match="has 0 bytes"):
        load_or_make(path)
