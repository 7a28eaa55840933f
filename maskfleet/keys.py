"""Ed25519 keys on disk: made at first start, raw 32 bytes in a file that only its owner reads.

>>> # key = load_or_make(data.path / "device.key"); ids.device_id(public_bytes(key))
"""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from maskfleet.datadir import write_atomic
from maskfleet.errors import PreconditionError

_KEY_BYTES = 32


def load_or_make(path: Path) -> Ed25519PrivateKey:
    """The key in a file; a fresh one, mode 0600, where there is no file.

    Raises:
        PreconditionError: others may read the file, or it is no key. None is made in its place:
            a new key would be a new identity.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        write_atomic(path, key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
        return key
    except OSError as error:
        raise PreconditionError(
            f"the key file {path} cannot be read ({error.strerror})", remedy="give it back to the user that runs this"
        ) from None
    if mode & 0o077:
        raise PreconditionError(
            f"the key file {path} can be read by others (mode {mode:04o})",
            remedy=f"run chmod 600 {path}, or delete it and enrol again where others may have read it",
        )
    if len(data) != _KEY_BYTES:
        raise PreconditionError(
            f"the key file {path} has {len(data)} bytes, a key has {_KEY_BYTES}",
            remedy="restore it from a backup, or start with a new data directory and enrol again",
        )
    return Ed25519PrivateKey.from_private_bytes(data)
