"""Configuration of a process: flag > environment > file > default, into one frozen dataclass.

Each field of the dataclass is a flag. Its ``metadata`` holds ``help`` and may hold ``parse`` (text → value); fields
without a default are required. The environment is read here, once, and nowhere else.

Example::

    @dataclasses.dataclass(frozen=True)
    class Config:
        data_dir: Path = setting("where everything is kept", parse=Path)
        listen: str = setting("address to listen on", default="127.0.0.1:7700")

    config = load(Config, prog="control_plane", prefix="MASKFLEET_PLANE", argv=sys.argv[1:], environ=os.environ)
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from maskfleet.errors import FleetError, InvalidInputError

_T = TypeVar("_T")


def setting(
    help: str,  # noqa: A002  # argparse's own word
    *,
    default: Any = dataclasses.MISSING,
    parse: Callable[[str], Any] = str,
    repeated: bool = False,
) -> Any:
    """A field of a configuration.

    Args:
        help: what it is for, without a full stop.
        default: its value where nobody says anything; required where this is missing.
        parse: text → value; raises ValueError or a FleetError.
        repeated: a tuple; the flag may come several times, elsewhere commas part the values.
    """
    return dataclasses.field(default=default, metadata={"help": help, "parse": parse, "repeated": repeated})


def flag(text: str) -> bool:
    """A parser for yes and no. (``bool("0")`` is True, hence this.)"""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("give yes or no")


def load(cls: type[_T], *, prog: str, prefix: str, argv: Sequence[str], environ: Mapping[str, str]) -> _T:
    """A configuration from the command line, the environment and ``--config FILE.toml``.

    Raises:
        InvalidInputError: a value is wrong or missing, or the file is; it says where it came from.
        SystemExit: ``--help``, or a flag that does not exist.
    """
    fields = [f for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]  # cls is a dataclass
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE.toml", help='settings by name, as data_dir = "/var/lib/maskfleet"')
    for field in fields:
        name = "--" + field.name.replace("_", "-")
        text = f"{field.metadata['help']} [{prefix}_{field.name.upper()}]"
        if field.default not in (dataclasses.MISSING, None, "", ()):
            text += f" (default: {field.default})"
        text = text.replace("%", "%%")
        if field.metadata["parse"] is flag:
            parser.add_argument(name, nargs="?", const="yes", metavar="yes|no", help=text)
        else:
            parser.add_argument(name, action="append" if field.metadata["repeated"] else "store", help=text)
    given = vars(parser.parse_args(list(argv)))
    file = _read(Path(given["config"])) if given["config"] else {}
    unknown = sorted(set(file) - {f.name for f in fields})
    if unknown:
        raise InvalidInputError(f"{given['config']} has unknown settings {', '.join(unknown)}", remedy="see --help")
    values: dict[str, Any] = {}
    for field in fields:
        variable = f"{prefix}_{field.name.upper()}"
        if given[field.name] is not None:
            origin, raw = "--" + field.name.replace("_", "-"), given[field.name]
        elif variable in environ:
            origin, raw = variable, environ[variable]
        elif field.name in file:
            origin, raw = f"{given['config']}: {field.name}", file[field.name]
        elif field.default is not dataclasses.MISSING:
            continue
        else:
            raise InvalidInputError(
                f"{field.name} is missing", remedy=f"give --{field.name.replace('_', '-')} or {variable}"
            )
        values[field.name] = _parsed(field, raw, origin)
    return cls(**values)


def _parsed(field: dataclasses.Field[Any], raw: Any, origin: str) -> Any:
    parse = field.metadata["parse"]
    try:
        if field.metadata["repeated"]:
            pieces = raw if isinstance(raw, list) else [p for p in str(raw).split(",") if p]
            return tuple(parse(str(piece)) for piece in pieces)
        return parse(str(raw))
    except FleetError as error:
        raise InvalidInputError(f"{origin}: {error.message}", remedy=error.remedy) from None
    except ValueError as error:
        raise InvalidInputError(f"{origin} is {raw!r}", remedy=str(error)) from None


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(path.read_text()))
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror})", remedy="check --config") from None
    except ValueError as error:
        raise InvalidInputError(f"{path} is no TOML ({error})", remedy="check --config") from None
