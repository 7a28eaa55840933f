"""Which control plane a command speaks to: flag > environment > context file.

The context file is ``$XDG_CONFIG_HOME/maskfleet/context.json``, which ``fleet up`` writes. It holds no secret, only the
path of the file that does, and stays when the stack stops: its agents' committed releases are still there to mask with.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from maskfleet.errors import InvalidInputError, PreconditionError

if TYPE_CHECKING:
    from fleet.plane import Plane

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,4096}")
PLANE_VARIABLE = "MASKFLEET_PLANE_ADDRESS"
TOKEN_FILE_VARIABLE = "MASKFLEET_TOKEN_FILE"  # noqa: S105  # the name of a variable that names a file


@dataclasses.dataclass(frozen=True)
class Context:
    """A stack on this machine.

    Attributes:
        plane: the control plane's address.
        token_file: file with the operator's token.
        data_dir: where the stack keeps everything.
        agents: addresses of its agents.
    """

    plane: str
    token_file: Path
    data_dir: Path
    agents: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The context file."""
        values = {
            "plane": self.plane,
            "token_file": str(self.token_file),
            "data_dir": str(self.data_dir),
            "agents": list(self.agents),
        }
        return json.dumps(values, indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Context:
        """What :meth:`to_bytes` wrote.

        Raises:
            ValueError: it is no context file.
        """
        try:
            values = json.loads(data)
            return cls(
                plane=str(values["plane"]),
                token_file=Path(values["token_file"]),
                data_dir=Path(values["data_dir"]),
                agents=tuple(map(str, values.get("agents", ()))),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None


def home(variable: str, default: str, environ: Mapping[str, str] = os.environ) -> Path:
    """A directory of the XDG base directory specification, as ``home("XDG_CACHE_HOME", ".cache")``, for maskfleet."""
    base = environ.get(variable)
    return (Path(base) if base else Path.home() / default) / "maskfleet"


def context_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the context file is."""
    return home("XDG_CONFIG_HOME", ".config", environ) / "context.json"


def read_context(environ: Mapping[str, str] = os.environ) -> Context | None:
    """The stack on this machine; None where none is known.

    Raises:
        InvalidInputError: the file is there and cannot be read.
    """
    path = context_path(environ)
    try:
        return Context.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error})", remedy="delete it and run `fleet up`") from None


def write_context(context: Context, environ: Mapping[str, str] = os.environ) -> Path:
    """Makes a stack the one that commands speak to."""
    from maskfleet.datadir import write_atomic

    path = context_path(environ)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, context.to_bytes())
    return path


def connected(plane: str | None, token_file: Path | None, environ: Mapping[str, str] = os.environ) -> Plane:
    """A connection to the control plane that a command should speak to.

    Args:
        plane: its address, as ``--plane`` or the environment said; None where neither did.
        token_file: file with the token, likewise.

    Raises:
        PreconditionError: nobody said which control plane.
        InvalidInputError: the token cannot be read.
    """
    from fleet.plane import Plane

    context = read_context(environ)
    address = plane or (context.plane if context is not None else "")
    # A token is sent only to the plane that it belongs to.
    own = context is not None and context.plane == address
    file = token_file or (context.token_file if context is not None and own else None)
    if not address:
        raise PreconditionError(
            "no control plane is known here",
            remedy=f"start one with `fleet up`, or give --plane and --token-file, or {PLANE_VARIABLE}",
        )
    if file is None:
        raise InvalidInputError(
            f"there is no token for the control plane at {address}",
            remedy=f"give --token-file or {TOKEN_FILE_VARIABLE}; the plane writes operator.token in its data directory",
        )
    try:
        token = file.read_text().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise InvalidInputError(f"the token {file} cannot be read ({reason})", remedy="check --token-file") from None
    if not _TOKEN.fullmatch(token):
        raise InvalidInputError(f"{file} holds no token", remedy="give the plane's operator.token")
    return Plane(address, token=token)
