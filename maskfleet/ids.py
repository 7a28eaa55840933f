"""Names of things: digests, device ids, request ids, correlation ids."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from maskfleet.errors import InvalidInputError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CHUNK = 1 << 20


def digest_bytes(data: bytes) -> str:
    """``sha256:`` and the hexadecimal SHA-256 of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """:func:`digest_bytes` of a file, read in pieces."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            state.update(piece)
    return "sha256:" + state.hexdigest()


def check_digest(digest: str) -> str:
    """The digest, if it is one. Its hexadecimal part is safe as a file name.

    Raises:
        InvalidInputError: it is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidInputError(f"{digest!r} is no digest", remedy="give sha256: and 64 hexadecimal digits")
    return digest


def check_name(kind: str, name: str) -> str:
    """The name, if it is one: letters, digits, ``.``, ``_``, ``-``, at most 63, the first a letter or digit.

    Raises:
        InvalidInputError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} is no name for a {kind}",
            remedy="use at most 63 letters, digits, '.', '_' or '-', with a letter or digit first",
        )
    return name


def check_versioned(kind: str, name: str) -> str:
    """The name with its version, as ``street/2``, if both parts are names.

    Raises:
        InvalidInputError: one is not.
    """
    base, _, version = name.partition("/")
    try:
        check_name(kind, base)
        check_name(kind, version)
    except InvalidInputError:
        raise InvalidInputError(
            f"{name!r} names no {kind} with its version", remedy="give name/version, as street/2"
        ) from None
    return name


def device_id(public_key: bytes) -> str:
    """A device's id: ``d-`` and the first 20 hexadecimal digits of the SHA-256 of its public key."""
    return "d-" + hashlib.sha256(public_key).hexdigest()[:20]


def fingerprint(public_key: bytes) -> str:
    """A key's id, as signatures and join tokens name it: the first 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def new_id(prefix: str) -> str:
    """A fresh random id, as ``req-3f9c0a12b4d5e6f7``."""
    return f"{prefix}-{secrets.token_hex(8)}"
