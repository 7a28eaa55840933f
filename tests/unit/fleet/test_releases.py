"""The commands about releases, against a plane on loopback that a test fills."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fleet.cli.completion import complete_model, complete_release, complete_target
from fleet.cli.gate import complete_gate
from fleet.cli.main import main
from fleet.cli.plain import plain
from fleet.cli.release_view import drawn, line, progress, watched
from fleet.release_diff import difference
from maskfleet.errors import NotFoundError
from maskfleet.rpc.server import bind, make_server
from maskfleet.v1 import (
    builds_pb2,
    models_service_pb2,
    models_service_pb2_grpc,
    releases_service_pb2,
    releases_service_pb2_grpc,
)
from tests.unit.fleet.sample_release import REFUSED, message, sample

WAITS = "jp6-orin waits for a builder"
START = "start `python -m model_compiler run` there"
HOPPER = "a machine with an H100 and TensorRT 11.4"


class PlaneOfATest(releases_service_pb2_grpc.ReleasesServiceServicer, models_service_pb2_grpc.ModelsServiceServicer):
    """Answers with what a test put in; keeps what it was asked to make."""

    def __init__(self) -> None:
        self.releases = {release.id: release for release in (message(), message("r-4", extra_builds=False))}
        self.states: list[releases_service_pb2.Release] = []
        self.asked = releases_service_pb2.CreateReleaseRequest()

    def CreateRelease(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.CopyFrom(request)
        return releases_service_pb2.CreateReleaseResponse(release=self.releases["r-3"])

    def GetRelease(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.release_id not in self.releases:
            raise NotFoundError(f"there is no release {request.release_id}")
        return releases_service_pb2.GetReleaseResponse(release=self.releases[request.release_id])

    def WatchRelease(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        for state in self.states:
            yield releases_service_pb2.WatchReleaseResponse(release=state)

    def ListReleases(self, request: Any, context: Any) -> Any:  # noqa: N802
        return releases_service_pb2.ListReleasesResponse(releases=self.releases.values())

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        model = models_service_pb2.Model(name="centerface", version=2, decoder="centerface")
        return models_service_pb2.ListModelsResponse(models=[model])


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlaneOfATest]:
    held = PlaneOfATest()
    server = make_server(workers=4, max_message_bytes=4 << 20)
    releases_service_pb2_grpc.add_ReleasesServiceServicer_to_server(held, server)
    models_service_pb2_grpc.add_ModelsServiceServicer_to_server(held, server)
    address = bind(server, "127.0.0.1:0")
    server.start()
    (tmp_path / "operator.token").write_text("mfo1.abcdefgh")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MASKFLEET_PLANE_ADDRESS", address)
    monkeypatch.setenv("MASKFLEET_TOKEN_FILE", str(tmp_path / "operator.token"))
    yield held
    server.stop(0).wait()


def fleet(command: str) -> int:
    return main(command.split())


def building(*, progress: float, phase: str = "verify", attempts: int = 1, state: int = builds_pb2.BUILD_STATE_BUILDING,
             reason: str = "") -> releases_service_pb2.Release:  # fmt: skip
    release = message("r-3", extra_builds=False)
    release.state = releases_service_pb2.RELEASE_STATE_BUILDING
    build = release.builds[0]
    build.state, build.progress, build.phase, build.attempts, build.reason = state, progress, phase, attempts, reason
    return release


def text_of(drawing: Any, width: int = 80) -> str:
    paper = Console(file=io.StringIO(), width=width, height=60, markup=False, highlight=False)
    paper.print(drawing)
    assert isinstance(paper.file, io.StringIO)
    return paper.file.getvalue()


def test_a_release_is_asked_for_with_margins_and_the_search_for_a_precision(plane: PlaneOfATest) -> None:
    asked = (
        "releases create --model centerface --target ort-cpu --gate recall=0.99,mean-iou=0.85 --gate error=1.5 "
        "--calibration street/2 --workspace-mb 512 --no-watch -o json"
    )
    assert fleet(asked) == 0
    assert plane.asked.precision == builds_pb2.PRECISION_AUTO
    margins = plane.asked.margins
    assert {field.name: round(value, 5) for field, value in margins.ListFields()} == {
        "min_recall": 0.99,
        "min_mean_iou": 0.85,
        "max_error": 1.5,
    }
    assert (plane.asked.calibration, plane.asked.workspace_mb) == ("street/2", 512)
    assert fleet("releases create --model m --target ort-cpu --precision fp16 --no-watch -o json") == 0
    assert plane.asked.precision == builds_pb2.PRECISION_FP16
    assert not plane.asked.margins.ListFields()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        pytest.param("--gate recal=0.9", "'recal=0.9' is no margin of the gate: give KEY=VALUE with one of cosine, "
                     "error, recall, extra, match-iou, mean-iou", id="a key"),
        pytest.param("--gate recall", "'recall' is no margin of the gate", id="no value"),
        pytest.param("--gate recall=0.9,", "'' is no margin of the gate", id="a comma too many"),
        pytest.param("--gate recall=much", "the margin recall is 'much': give a number from 0 to 1", id="no number"),
        pytest.param("--gate recall=1.01", "the margin recall is '1.01': give a number from 0 to 1", id="above one"),
        pytest.param("--gate extra=-1", "the margin extra is '-1': give a number from 0 to 100", id="below nothing"),
        pytest.param("--gate recall=nan", "the margin recall is 'nan'", id="not a number"),
        pytest.param("--gate recall=0.9 --gate recall=0.8", "the margin recall is given twice", id="twice"),
        pytest.param("--calibration street", "'street' is no calibration set: give NAME/VERSION", id="set"),
        pytest.param("--calibration ../2", "'..' is no name for a calibration set", id="out of its folder"),
        pytest.param("--calibration a/b/c", "'b/c' is no name for a version", id="too deep"),
        pytest.param("--workspace-mb -1", "Input should be greater than or equal to 0", id="memory"),
        pytest.param("--precision int4", "'int4' is not one of", id="a precision"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line_that_says_what_is_allowed(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    assert fleet(f"releases create --model m --target ort-cpu {option}") == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not plane.asked.model


def test_the_matrix_has_a_row_for_each_candidate_and_fits_eighty_columns(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet("releases show r-3") == 0
    wide = capsys.readouterr().out
    rows = [" ".join(each.split()) for each in wide.splitlines()]
    for row in (
        "ort-cpu ▸ int8 2.1 MB 12.1 99.2% 0.987 won",
        "fp32 7.3 MB 21.0 100% 1.000 passed",
        "fp16 3.7 MB 20.3 93.1% 0.961 refused: recall 93.1% < 98%",
        "int8 – – – – failed: the parser does not know node conv_7",
        "jp6-orin auto – – – – queued",
    ):
        assert row in rows
    for sentence in (
        "UNVERIFIED ON HARDWARE  cached, builder-1",
        "ort-cpu: int8 is the fastest of 2 that passed the gate: 12.1 ms, fp32 21.0 ms",
        f"{WAITS}: a Jetson Orin with JetPack 6 and TensorRT 10.3; {START}",
    ):
        assert sentence in wide
    narrow = text_of(drawn(sample())).splitlines()
    assert max(map(len, narrow)) <= 80
    assert [each.split()[:1] for each in narrow if "▸" in each] == [["ort-cpu"], ["rtx-ampere-plus"]]
    header = next(each for each in narrow if each.startswith("TARGET") and "STATE" in each)
    assert header.split() == ["TARGET", "STATE", "ENGINE", "VERIFIED", "BUILDER"]


def test_json_has_everything_with_the_reports(plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet("releases show r-3 -o json") == 0
    release = json.loads(capsys.readouterr().out)
    first = release["builds"][0]
    assert first["report"]["candidates"][1]["reason"] == REFUSED
    assert (first["precision"], first["verification"]) == ("INT8", "ON_BUILDER")
    assert release["margins"]["min_recall"] == 0.98
    assert release["builds"][2]["missing_builder"].startswith("a Jetson Orin")


def test_an_engine_that_a_device_has_tested_says_which() -> None:
    release = message(extra_builds=False)
    release.builds[0].verification = builds_pb2.VERIFICATION_ON_DEVICE
    release.builds[0].verified_by = "agent-7"
    assert "on device agent-7" in text_of(drawn(plain(release)))


@pytest.mark.parametrize(
    "report",
    [
        pytest.param("", id="none"),
        pytest.param("no json", id="a text"),
        pytest.param('["a", "list"]', id="a list"),
        pytest.param('{"candidates": "all", "gate": [], "versions": 3, "why": {}}', id="other kinds"),
        pytest.param('{"candidates": [{}, 7, {"ms": "fast", "figures": [1], "size_bytes": NaN}]}', id="empty ones"),
        pytest.param('{"candidates": [{"ms": 1e999, "size_bytes": 1' + "0" * 400 + "}]}", id="numbers past all bounds"),
        pytest.param('{"precision": {"format": "fp32"}, "gate": {"figures": {"recall": 0.5}}}', id="an older builder"),
    ],
)
def test_a_report_that_is_not_what_it_should_be_is_shown_without_it(report: str) -> None:
    release = message(extra_builds=False)
    release.builds[0].report_json = report
    assert "int8" in text_of(drawn(plain(release))) or "?" in text_of(drawn(plain(release)))


def test_watching_shows_phases_percentages_attempts_and_who_is_missing(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = "builder builder-1 fell silent"
    queued = building(progress=0, attempts=1, state=builds_pb2.BUILD_STATE_QUEUED, reason=silent)
    queued.builds[0].missing_builder = HOPPER
    again = building(progress=0.63, attempts=2)
    done = message("r-3", extra_builds=False)
    plane.states = [building(progress=0.26), building(progress=0.31), queued, again, done]
    assert fleet("releases create --model m --target ort-cpu") == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "release r-3 is being built",
        "r-3 BUILDING: ort-cpu BUILDING verify 25 %",
        f"r-3 BUILDING: ort-cpu QUEUED; ort-cpu waits for a builder: {HOPPER}; {START}",
        f"r-3 BUILDING: ort-cpu BUILDING verify 50 %; ort-cpu: attempt 2; the last one: {silent}",
        "r-3 READY: ort-cpu SUCCEEDED",
    ]
    seen = list(watched(plain(state) for state in plane.states))
    live = text_of(progress(seen[3]))
    assert "████████████░░░░░░░░  63 %  verify" in live
    assert f"attempt 2; the last one: {silent}" in live
    assert line(seen[0]) == line(seen[1])


def test_a_release_that_fails_says_why_and_where_its_log_is(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = building(progress=0.9, attempts=3, state=builds_pb2.BUILD_STATE_FAILED, reason=REFUSED)
    failed.state = releases_service_pb2.RELEASE_STATE_FAILED
    failed.reason = f"ort-cpu failed: {REFUSED}"
    failed.builds[0].report_json = ""
    plane.states = [failed]
    assert fleet("releases create --model m --target ort-cpu") == 1
    out, err = capsys.readouterr()
    assert f"ort-cpu failed after 3 attempts: {REFUSED}" in out
    assert "its log: fleet releases log r-3 --target ort-cpu" in out
    assert out.count(REFUSED) == 1
    assert f"r-3 FAILED: ort-cpu FAILED; ort-cpu failed: {REFUSED}" in err


def test_a_log_is_printed_whole_without_what_steers_a_terminal(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet("releases log r-3 --target ort-cpu") == 0
    assert capsys.readouterr().out == "prepare: opset 9 became 17\nverify: ort-cpu\n"
    plane.releases["r-4"].builds[0].log_tail = "\x1b[2Jone\r\ntwo\tthree\n"
    assert fleet("releases log r-4") == 0
    assert capsys.readouterr().out == "�[2Jone\ntwo\tthree\n"
    plane.releases["r-4"].builds[0].log_tail = ""
    assert fleet("releases log r-4") == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "the build for ort-cpu is SUCCEEDED and has no log yet\n")
    assert fleet("releases log r-3") == 2
    assert "r-3 has several builds: give --target, one of ort-cpu, rtx-ampere-plus, jp6-orin" in capsys.readouterr().err
    assert fleet("releases log r-3 --target dc-hopper") == 4
    assert fleet("releases log r-9") == 4


def test_a_difference_is_told_by_section_and_what_is_equal_is_left_out(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet("releases diff r-4 r-4") == 0
    assert capsys.readouterr().out == "nothing differs between r-4 and r-4\n"
    other = plane.releases["r-4"]
    other.policy.style = 3
    other.margins.min_recall = 0.99
    other.builds[0].report_json = other.builds[0].report_json.replace('"onnx": "1.23.2"', '"onnx": "1.24.0"')
    assert fleet("releases diff r-3 r-4") == 0
    rows = [each.split() for each in capsys.readouterr().out.splitlines()]
    for row in (["style", "blur", "solid"], ["recall", "0.98", "0.99"], ["version", "of", "onnx", "1.23.2", "1.24.0"],
                ["targets", "jp6-orin", "ort-cpu", "rtx-ampere-plus", "ort-cpu"]):  # fmt: skip
        assert row in rows
    assert not any(row[:1] in (["MODEL"], ["engine"], ["prepared"], ["RTX-AMPERE-PLUS"]) for row in rows)
    assert fleet("releases diff r-3 r-4 -o json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["before"], said["after"]) == ("r-3", "r-4")
    policy = next(section for section in said["sections"] if section["title"] == "policy")
    assert policy["changes"] == [{"name": "style", "before": "blur", "after": "solid"}]


def test_where_one_has_no_engine_the_other_one_is_not_told_piece_by_piece() -> None:
    failed = message(extra_builds=False)
    build = failed.builds[0]
    build.state, build.reason, build.engine_digest, build.report_json = 4, "no", "", ""
    (section,) = difference(sample(extra_builds=False), plain(failed)).sections
    assert [(c.name, c.before, c.after) for c in section.changes] == [
        ("state", "SUCCEEDED", "FAILED"), ("reason", None, "no"),
    ]  # fmt: skip


def test_a_page_is_written_whole_or_not_at_all(
    plane: PlaneOfATest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "release.html"
    assert main(["releases", "page", "r-3", "-o", str(file)]) == 0
    assert file.read_text().startswith("<!doctype html>")
    assert main(["releases", "page", "r-3", "-o", str(tmp_path / "none" / "release.html")]) == 1
    assert "cannot be written (No such file or directory): choose another -o" in capsys.readouterr().err


def test_completion_knows_targets_margins_releases_and_models(plane: PlaneOfATest) -> None:
    assert complete_target("rtx") == [("rtx-ampere-plus", "tensorrt-rtx"), ("rtx-turing", "tensorrt-rtx")]
    assert [name for name, _ in complete_gate("m")] == ["match-iou=", "mean-iou="]
    assert complete_release("r-4") == [("r-4", "centerface/2")]
    assert complete_model("c") == [("centerface/2", "centerface")]
