"""Rollout files: the documented example is read, and what is wrong is said with its line and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from control_plane.domain.strategy import MAX_WAVES
from fleet.rollout_file import plan_of_flags, read_plan, schema_text
from maskfleet.errors import FleetError, InvalidInputError, NotFoundError

DOCUMENT = Path(__file__).parents[3] / "docs" / "rollouts.md"


def example() -> str:
    found = re.search(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_documented_example_is_a_rollout_and_uses_every_key(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(example())
    strategy = read_plan(file).request("req-1").strategy
    assert [wave.share.percent for wave in strategy.waves] == [10, 50, 100]
    assert [wave.soak.seconds for wave in strategy.waves] == [600, 1800, 0]
    for message in (strategy, strategy.judge):
        assert {field.name for field, _ in message.ListFields()} == set(message.DESCRIPTOR.fields_by_name)


def test_the_documented_error_is_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rollout.yaml").write_text(example().replace("- percent: 50", "- percnt: 50"))
    with pytest.raises(InvalidInputError) as caught:
        read_plan(Path("rollout.yaml"))
    said = re.search(r"^error: (rollout\.yaml:.*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert said
    assert str(caught.value) == said[1]


WAVES = "waves:\n- percent: 10\n  soak: 10m\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("wavs: []", r"1:1: there is no key 'wavs' in the file: did you mean waves\?", id="a wrong key"),
        pytest.param("release: r-1\nrelease: r-2", "2:1: 'release' comes twice, first at line 1", id="a key twice"),
        pytest.param("waves: []", "1:8: waves has 0 entries: give 1 to 32", id="no wave"),
        pytest.param(WAVES + "- soak: 1m", r"4:3: waves\[2\] needs percent or count and has neither", id="no share"),
        pytest.param(
            "waves: [{percent: 9, count: 1}]", r"1:9: waves\[1\] needs .* has several of them", id="two shares"
        ),
        pytest.param(WAVES + "- percent: 5", "4:12: a wave of 5 % comes after one of 10 %", id="a wave that falls"),
        pytest.param(WAVES + "- percent: 101", r"4:12: waves.2..percent is 101: .* above 0 to 100", id="101 %"),
        pytest.param(WAVES + "- percent: 0", "give a number above 0", id="no device at all"),
        pytest.param(WAVES + "- percent: .nan", "not a number", id="a percentage that is no number"),
        pytest.param(WAVES + "- percent: '50'", "is the text '50', not a number", id="a percentage in quotes"),
        pytest.param("waves: [{count: 1.5}]", "the number 1.5, not a whole number", id="half a device"),
        pytest.param("waves: [{count: 1, soak: 10}]", "is the number 10, not a text: .* as 90s or 10m", id="no unit"),
        pytest.param("waves: [{count: 1, soak: 10:00}]", "is the number 600, not a text", id="a clock time"),
        pytest.param("expire_after: 10min", "1:15: expire_after is '10min': .* and s, m, h or d", id="another unit"),
        pytest.param("expire_after: 0s", "1:15: expire_after: '0s' is no time", id="a time of nothing"),
        pytest.param("expire_after: 99999d", "no time", id="a time of centuries"),
        pytest.param("strata: [no]", "truth value false .*, not a text", id="a word that YAML reads as false"),
        pytest.param("strata: site", "the text 'site', not a list", id="a text for a list"),
        pytest.param("judge: {kind: treshold}", "did you mean thresholds", id="a kind of judge"),
        pytest.param(
            "judge: {max_p95: 1.5}", "1:9: there is no key 'max_p95' in judge: did you mean max_p95_ratio",
            id="a metric that nobody knows",
        ),
        pytest.param(
            "judge: {fps: 25}", "no key 'fps' in judge: allowed are kind, max_error", id="no metric at all"
        ),
        pytest.param("judge: {max_p95_ratio: 0.5}", "0.5: give a number from 1 to 1000", id="a ratio below one"),
        pytest.param("judge:", "1:7: judge is empty, not a mapping", id="nothing after the colon"),
        pytest.param("seed: 0", "give a number from 1", id="the seed that says draw one"),
        pytest.param("release: 2026-01-01", "the date 2026-01-01, not a text", id="a date for a release"),
        pytest.param("release: 2026-99-99", "1:10: '2026-99-99' cannot be read", id="a date that is none"),
        pytest.param("- release", "1:1: the file is a list, not a mapping", id="a list"),
        pytest.param("", "1:1: the file is empty", id="nothing"),
        pytest.param("release: r-1\n---\nrelease: r-2", "2:1: this is no YAML", id="two documents"),
        pytest.param("release: [r-1", "this is no YAML", id="a bracket that stays open"),
        pytest.param("waves:\n\t- percent: 1", "2:1: .*indent with spaces", id="a tab"),
        pytest.param("release: r\x00", "1:11: there is a character", id="a NUL"),
        pytest.param("release: !!python/object:os.system x", "this is no YAML", id="a tag that would run something"),
        pytest.param("strata: &a [x]\njudge: *a", r"2:8: aliases \(\*a\)", id="an alias"),
        pytest.param("release: " + "[" * 5000, "nested deeper", id="nested without end"),
        pytest.param("? [a]\n: b", "a key is no plain word", id="a list as a key"),
        pytest.param("#" * (300 << 10), "is larger than 256 KiB", id="a file that is too large"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInputError, match=said) as caught:
        read_plan(file)
    assert str(caught.value).startswith(str(file))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        pytest.param(None, NotFoundError, "there is no file", id="no file"),
        pytest.param(b"release: r-1\nselector: \xff", InvalidInputError, ":2:11: this is no UTF-8", id="no text"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, data: bytes | None, kind: type[FleetError], said: str) -> None:
    file = tmp_path / "rollout.yaml"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(kind, match=said):
        read_plan(file)


def test_a_file_takes_as_many_waves_as_the_plane(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text("waves:\n" + "".join(f"- count: {n + 1}\n" for n in range(MAX_WAVES)))
    assert len(read_plan(file).request("req-1", release="r-1").strategy.waves) == MAX_WAVES
    file.write_text(file.read_text() + f"- count: {MAX_WAVES + 1}\n")
    with pytest.raises(InvalidInputError, match=f"give 1 to {MAX_WAVES}"):
        read_plan(file)


def test_a_file_without_a_release_needs_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text("waves: [{percent: 100}]")
    with pytest.raises(InvalidInputError, match=r"names no release: add release: r-3, or give --release"):
        read_plan(file).request("req-1")
    assert read_plan(file).request("req-1", release="r-1").release_id == "r-1"


@pytest.mark.parametrize("wave", ["ten", "10%:", "10%:5x", "0", "-1", "1%%", "nan%", ":5m"])
def test_a_wave_on_the_command_line_is_checked_as_in_a_file(wave: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        plan_of_flags(waves=[wave])
    assert caught.value.remedy


def test_the_schema_knows_every_field_of_the_wire() -> None:
    import json

    from maskfleet.v1 import strategy_pb2

    schema = json.loads(schema_text())
    known = set(schema["properties"]) - {"release", "selector"}
    assert known == set(strategy_pb2.RolloutStrategy.DESCRIPTOR.fields_by_name)
    assert set(schema["properties"]["judge"]["properties"]) == set(strategy_pb2.JudgePolicy.DESCRIPTOR.fields_by_name)
