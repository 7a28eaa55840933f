"""The catalogue and its translator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskfleet import errors
from maskfleet.errors import FleetError
from maskfleet.rpc import status


def test_every_kind_of_error_has_a_status_of_its_own() -> None:
    assert set(FleetError.__subclasses__()) == set(status.STATUS)
    assert len(set(status.STATUS.values())) == len(status.STATUS)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == set(errors.catalogue()) - {"FleetError"}


def test_every_error_that_is_raised_in_the_sources_is_in_the_catalogue() -> None:
    root = Path(errors.__file__).parents[1]
    known = set(errors.catalogue()) | {"StopIteration"}
    for package in ("maskfleet", "edge_agent", "model_compiler", "control_plane", "fleet"):
        for source in (root / package).rglob("*.py"):
            for name in re.findall(r"^class (\w+Error)\(\w*Error\)", source.read_text(), re.MULTILINE):
                assert name in known, f"{source} defines {name}; it belongs into maskfleet/errors.py"


@pytest.mark.parametrize("cls", errors.catalogue().values())
def test_an_error_comes_back_as_the_class_it_was(cls: type[FleetError]) -> None:
    code, message, trailing = status.wire_error(cls("what is wrong – ü", remedy="what to do"))

    class CallError(Exception):
        def code(self) -> object:
            return code

        def details(self) -> str:
            return message

        def trailing_metadata(self) -> object:
            return trailing

    back = status.from_rpc_error(CallError())  # type: ignore[arg-type]
    assert type(back) is cls
    assert str(back) == "what is wrong – ü: what to do"


def test_the_text_of_an_unexpected_exception_stays_on_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    code, message, trailing = status.wire_error(RuntimeError("/etc/passwd says hello"))
    assert code.name == "INTERNAL"
    assert "passwd" not in message
    assert b"passwd" not in trailing[0][1]
    incident = re.search(r"incident-[0-9a-f]+", message)
    assert incident is not None
    logged = capsys.readouterr()
    assert incident.group() in logged.out + logged.err
