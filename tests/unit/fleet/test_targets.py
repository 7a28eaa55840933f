"""``fleet targets``: the registry itself, whatever is installed here."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest
from rich.console import Console

from fleet import compiler
from fleet.cli import output, targets
from fleet.cli.main import main
from maskfleet.targets import TARGETS, target


@pytest.fixture(autouse=True)
def uncached() -> None:
    compiler._buildable_by_compiler.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """A machine with these packages and no other; of its GPU nobody has asked yet."""
    found = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(compiler.metadata, "version", version)
    monkeypatch.setattr(compiler.platform, "system", lambda: "Linux")
    monkeypatch.setattr(compiler.platform, "machine", lambda: "AMD64")


def test_without_the_compiler_every_target_is_listed_and_none_can_be_built_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(compiler.subprocess, "run", lambda *_a, **_k: pytest.fail("a process was started"))
    assert main(["targets", "list", "-o", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == list(TARGETS)
    for row in listed:
        assert row["buildable_here"] is False
        assert row["why_not_here"].startswith("the model compiler is not installed here")
        assert row["sms"] == list(TARGETS[row["name"]].sms)
    assert main(["targets", "show", "dc-hopper"]) == 0
    assert "no: the model compiler is not installed here" in capsys.readouterr().out


def test_what_this_machine_can_build_follows_from_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, onnxruntime="1.32.0", tensorrt_rtx_cu13="1.7.0.23")
    monkeypatch.setattr(compiler.subprocess, "run", lambda *_a, **_k: pytest.fail("nothing about a GPU is in question"))
    said = {name: compiler.why_not_here(entry) for name, entry in TARGETS.items()}
    assert said["ort-cpu"] == ""
    assert said["openvino-cpu"] == "openvino-cpu needs openvino 2026, and it is not installed"
    assert said["rtx-turing"] == "rtx-turing needs tensorrt-rtx-cu13 1.7.1, and version 1.7.0.23 is installed"
    assert said["jp7-thor"] == "jp7-thor is for aarch64, not x86_64"
    assert said["dc-hopper"] == "dc-hopper needs tensorrt 11.4, and it is not installed"


@pytest.mark.parametrize(("here", "why"), [(True, ""), (False, "dc-hopper is built on a machine with an H100")])
def test_where_all_else_fits_the_compiler_is_asked_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, here: bool, why: str
) -> None:
    installed(monkeypatch, tensorrt="11.4.1", pycuda="2026.1")
    asked: list[Any] = []

    def run(arguments: Any, **_options: Any) -> str:
        asked.append(arguments)
        return json.dumps(
            [{"name": "dc-hopper", "buildable_here": here}, {"name": "jp6-orin", "buildable_here": False}]
        )

    monkeypatch.setattr(compiler, "_run", run)
    assert compiler.why_not_here(target("dc-hopper")).startswith(why)
    assert bool(compiler.why_not_here(target("dc-hopper"))) is not here
    assert asked == [["targets", "-o", "json"]]


@pytest.mark.parametrize("width", [80, 120, 240])
def test_everything_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda _name: None)

    def paper(*, error: bool = False) -> Console:
        import sys

        return Console(file=sys.stdout, width=width, markup=False, highlight=False)

    monkeypatch.setattr(output, "console", paper)
    monkeypatch.setattr(targets, "console", paper)
    assert main(["targets", "list"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in said
    words = " ".join(said.split())
    for word in ("HERE", "BUILT ON", "JetPack 7.2.2", "tensorrt-rtx 1.7.1", "onnxruntime 1.x", "fp32 fp16 int8"):
        assert word in said
    for word in ("80 86 89", "any x86-64 Linux with the rtx extra; needs no GPU"):
        assert word in words
    assert sum(line.startswith("jp7-thor") for line in lines) == (1 if width == 240 else 2)


def test_an_unknown_target_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "show", "gtx-480"]) == 2
    assert "there is no target 'gtx-480': use one of dc-ampere" in capsys.readouterr().err
