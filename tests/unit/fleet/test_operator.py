"""The operator's commands against a plane that a test fills: rollouts, decisions, devices, events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest

from fleet.cli.completion import complete_device, complete_rollout
from fleet.cli.main import main
from fleet.cli.rollout_watch import states
from fleet.plane import Plane
from maskfleet.errors import NotFoundError, UnavailableError
from maskfleet.rpc.server import bind, make_server
from maskfleet.v1 import (
    decisions_pb2,
    devices_pb2,
    devices_service_pb2,
    devices_service_pb2_grpc,
    events_service_pb2,
    events_service_pb2_grpc,
    rollouts_service_pb2,
    rollouts_service_pb2_grpc,
)

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)


def rollout(state: str = "SOAKING", *, wave: int = 1, p95: float = 48.0, verdict: str = "PASS") -> Any:
    """A rollout of three waves over four devices."""
    made = rollouts_service_pb2.Rollout(
        id="ro-3",
        release_id="r-4",
        selector="site=berlin",
        state=rollouts_service_pb2.RolloutState.Value(f"ROLLOUT_STATE_{state}"),
        reason="the devices of wave 2 are watched",
        wave=wave,
        waves=3,
        device_count=4,
    )
    made.strategy.judge.kind = 2
    made.strategy.control_holdout.percent = 25
    for percent in (25, 50, 100):
        made.strategy.waves.add().share.percent = percent
    made.soak_end_time.FromDatetime(datetime.now(timezone.utc) + timedelta(seconds=42))
    for number in range(4):
        made.devices.add(
            device_id=f"d-{number}",
            device_name=f"agent-{number + 1}",
            baseline_release_id="r-3",
            state=3 if number <= wave else 1,
            wave=min(number, 2),
            online=True,
            cohort=1 if number <= wave else 2,
        )
    made.decision.CopyFrom(decision(7, verdict))
    for cohort, base in ((1, p95), (2, 47.0)):
        series = made.series.add(cohort=cohort, devices=2)
        for number in range(30):
            point = series.points.add(frames=100, failed=int(cohort == 1 and number == 3), p95_ms=base + number % 3)
            point.time.FromDatetime(NOON + timedelta(seconds=2 * number))
    return made


def decision(number: int, verdict: str = "PASS") -> Any:
    made = decisions_pb2.DecisionRecord(
        id=f"ro-3/{number}",
        rollout_id="ro-3",
        wave=1,
        verdict=decisions_pb2.Verdict.Value(f"VERDICT_{verdict}"),
        action="wait",
        reasons=["p95 of the canaries is 48 ms, of the control 47 ms: 1.02 times, at most 1.25 times is allowed"],
        inputs_json='{"policy": {"max_p95_ratio": 1.25}}',
    )
    made.time.FromDatetime(NOON)
    return made


class PlaneOfATest(
    rollouts_service_pb2_grpc.RolloutsServiceServicer,
    devices_service_pb2_grpc.DevicesServiceServicer,
    events_service_pb2_grpc.EventsServiceServicer,
):
    """Gives what it holds; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.states: list[Any] = [rollout()]
        self.drops = 0
        self.devices: list[Any] = []
        self.events: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        if name in ("CreateRollout", "PauseRollout", "ResumeRollout", "PromoteRollout", "AbortRollout", "GetRollout"):

            def answer(request: Any, context: Any) -> Any:
                self.asked.append(request)
                if getattr(request, "rollout_id", "ro-3") != "ro-3":
                    raise NotFoundError("there is no rollout ro-9")
                return getattr(rollouts_service_pb2, f"{name}Response")(rollout=self.states[0])

            return answer
        return super().__getattribute__(name)

    def ListRollouts(self, request: Any, context: Any) -> Any:  # noqa: N802
        return rollouts_service_pb2.ListRolloutsResponse(rollouts=self.states[:1])

    def WatchRollout(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        while self.states:
            state = self.states.pop(0)
            yield rollouts_service_pb2.WatchRolloutResponse(rollout=state)
            if state.state == rollouts_service_pb2.ROLLOUT_STATE_SUCCEEDED:
                return
            if self.drops:
                self.drops -= 1
                raise UnavailableError("the plane stops")

    def ExplainRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        sentences = ["12:00:05 wave 1 opened for agent-1.", "12:00:20 it was rolled back: p95 is 4.1 times as high."]
        return rollouts_service_pb2.ExplainRolloutResponse(rollout=self.states[0], sentences=sentences)

    def ListDecisions(self, request: Any, context: Any) -> Any:  # noqa: N802
        first = int(request.page_token or 7)
        page = [decision(number) for number in range(first, max(0, first - 3), -1)]
        token = str(first - 3) if first > 3 else ""
        return rollouts_service_pb2.ListDecisionsResponse(decisions=page, next_page_token=token)

    def ListDevices(self, request: Any, context: Any) -> Any:  # noqa: N802
        return devices_service_pb2.ListDevicesResponse(devices=self.devices)

    def GetDevice(self, request: Any, context: Any) -> Any:  # noqa: N802
        return devices_service_pb2.GetDeviceResponse(device=self.devices[0])

    def ListEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return events_service_pb2.ListEventsResponse(events=self.events[::-1])

    def WatchEvents(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self.asked.append(request)
        yield events_service_pb2.WatchEventsResponse(event=event(request.after + 1))
        if request.after > 5:
            raise NotFoundError("that is enough for a test")


def event(number: int) -> Any:
    made = events_service_pb2.Event(
        number=number, kind="rollout.moved", subject="ro-3", text=f"moved for the {number}th time", actor="plane"
    )
    made.time.FromDatetime(NOON + timedelta(seconds=number))
    return made


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlaneOfATest]:
    held = PlaneOfATest()
    server = make_server(workers=4, max_message_bytes=4 << 20)
    rollouts_service_pb2_grpc.add_RolloutsServiceServicer_to_server(held, server)
    devices_service_pb2_grpc.add_DevicesServiceServicer_to_server(held, server)
    events_service_pb2_grpc.add_EventsServiceServicer_to_server(held, server)
    address = bind(server, "127.0.0.1:0")
    server.start()
    token = tmp_path / "operator.token"
    token.write_text("mfo1.abcdefgh")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MASKFLEET_PLANE_ADDRESS", address)
    monkeypatch.setenv("MASKFLEET_TOKEN_FILE", str(token))
    yield held
    server.stop(0).wait()


def test_a_rollout_from_a_file_reaches_the_plane_whole(plane: PlaneOfATest, tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(
        "release: r-4\nselector: site=berlin\nwaves:\n- {count: 1, soak: 90s}\n- {percent: 50, soak: 10m}\n"
        "- {percent: 100}\ncontrol_holdout: {percent: 10}\nstrata: [site]\nseed: 7\nexpire_after: 12h\n"
        "judge: {kind: thresholds, max_p95_ratio: 1.5, min_frames: 10, silence_after: 30s, patience: 5m}\n"
    )
    assert main(["rollouts", "create", "-f", str(file), "--release", "r-5"]) == 0
    asked = plane.asked[0]
    assert (asked.release_id, asked.selector) == ("r-5", "site=berlin")
    strategy = asked.strategy
    assert [(w.share.WhichOneof("kind"), w.soak.seconds) for w in strategy.waves] == [
        ("count", 90),
        ("percent", 600),
        ("percent", 0),
    ]
    assert (strategy.control_holdout.percent, list(strategy.strata), strategy.seed) == (10, ["site"], 7)
    assert (strategy.judge.kind, strategy.judge.max_p95_ratio, strategy.judge.min_frames) == (2, 1.5, 10)
    assert (strategy.judge.silence_after.seconds, strategy.judge.patience.seconds) == (30, 300)
    assert strategy.expire_after.seconds == 12 * 3600
    assert not strategy.judge.HasField("max_error_increase")


def test_flags_say_the_same_as_a_file(plane: PlaneOfATest, tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(
        "waves: [{percent: 10, soak: 10m}, {percent: 100}]\ncontrol_holdout: {count: 2}\nstrata: [site]\nseed: 7\n"
        "expire_after: 1h\njudge: {kind: thresholds}\n"
    )
    flags = "--wave 10%:10m --wave 100% --holdout 2 --stratum site --seed 7 --expire-after 1h --judge thresholds"
    assert main(["rollouts", "create", "--release", "r-4", *flags.split()]) == 0
    assert main(["rollouts", "create", "--release", "r-4", "-f", str(file)]) == 0
    assert plane.asked[0].strategy == plane.asked[1].strategy
    assert main(["rollouts", "create", "--release", "r-4"]) == 0
    assert not plane.asked[2].HasField("strategy")


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "abort", "show"])
def test_each_verb_asks_the_plane_and_shows_the_rollout(
    plane: PlaneOfATest, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollouts", verb, "ro-3"]) == 0
    said = capsys.readouterr().out
    assert type(plane.asked[0]).__name__.lower().startswith(verb if verb != "show" else "get")
    for word in ("ro-3 → r-4", "SOAKING", "✓ 25 %", "▶ 50 % soaking", "○ 100 %", "2 of 2 settled", "agent-4"):
        assert word in said
    assert "this is no statistical verdict" in said
    assert main(["rollouts", verb, "ro-9"]) == 4


def test_explain_prints_the_sentences_and_says_what_kind_of_judge_it_was(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollouts", "explain", "ro-3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["ro-3 → r-4: SOAKING", "- 12:00:05 wave 1 opened for agent-1."]
    assert said[-1].endswith("none of this is a statistical verdict.")


def test_decisions_come_newest_first_page_by_page(plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "decisions", "ro-3", "-n", "5", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [d["id"] for d in found] == [f"ro-3/{n}" for n in (7, 6, 5, 4, 3)]
    assert found[0]["inputs"] == {"policy": {"max_p95_ratio": 1.25}}
    assert main(["rollouts", "decisions", "ro-3"]) == 0
    out, err = capsys.readouterr()
    assert out.count("ro-3/") == 7
    assert "none of them is a statistical verdict" in err


def test_watch_in_lines_tells_each_change_once_and_its_exit_code_the_end(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    plane.states = [rollout(), rollout(p95=60.0), rollout("ROLLING_BACK", verdict="FAIL"), rollout("ROLLED_BACK")]
    assert main(["rollouts", "watch", "ro-3"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["ro-3 SOAKING", "ro-3 ROLLING_BACK", "ro-3 ROLLED_BACK"]
    assert "wave 2 of 3; PASS by fixed limits, no statistical verdict" in lines[0]


def test_watch_as_json_is_a_line_for_each_state(plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]) -> None:
    plane.states = [rollout(), rollout("SUCCEEDED", wave=2)]
    assert main(["rollouts", "watch", "ro-3", "-o", "json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["state"] for r in said] == ["SOAKING", "SUCCEEDED"]
    assert said[0]["series"][0]["points"][0]["p95_ms"] == 48.0


def test_a_watch_outlives_a_plane_that_restarts(plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]) -> None:
    plane.states = [rollout(), rollout("SUCCEEDED", wave=2)]
    plane.drops = 1
    notes: list[str] = []
    pauses: list[float] = []
    with Plane(os.environ["MASKFLEET_PLANE_ADDRESS"], token="mfo1.abcdefgh") as there:
        seen = [r["state"] for r in states(there, "ro-3", notes.append, pause=pauses.append)]
        assert seen == ["SOAKING", "SUCCEEDED"]
        assert any("trying again" in note for note in notes)
        assert pauses == [1.0]
        # Away for longer than a minute is an error, not a wait without end.
        plane.states = [rollout()]
        plane.drops = 1
        times = iter((0.0, 61.0))
        with pytest.raises(UnavailableError, match="the plane stops"):
            list(states(there, "ro-3", notes.append, pause=pauses.append, clock=lambda: next(times)))


def test_devices_say_what_serves_what_comes_and_how_they_are(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    device = devices_pb2.Device(id="d-1", name="agent-1", online=True, health="1,200 frames, 0 failed, p95 48 ms")
    device.last_seen.FromDatetime(datetime.now(timezone.utc) - timedelta(seconds=3700))
    device.reported.components.add(
        name="engine", state=2, release_id="r-4", serving_release_id="r-3", bytes_done=40, bytes_total=100
    )
    plane.devices = [device]
    for command in ("list", "show agent-1"):
        assert main(["devices", *command.split()]) == 0
        said = capsys.readouterr().out
        for word in ("r-3", "r-4 DOWNLOADING 40 %", "1 h 01 m ago", "1,200 frames, 0 failed, p95 48 ms"):
            assert word in said


def test_the_shell_completes_names_of_the_plane(plane: PlaneOfATest) -> None:
    plane.devices = [devices_pb2.Device(id="d-1", name="agent-1", online=True), devices_pb2.Device(id="d-2")]
    assert complete_rollout("ro") == [("ro-3", "r-4 SOAKING")]
    assert complete_rollout("x") == []
    assert complete_device("") == [("agent-1", "online"), ("d-2", "offline")]


def test_events_are_told_oldest_first_and_followed_from_the_last(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.cli.events._PAUSE_S", 0.0)
    plane.events = [event(number) for number in range(3, 6)]
    assert main(["events", "--subject", "ro-3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said] == ["12:00:03", "12:00:04", "12:00:05"]
    assert "rollout.moved" in said[0]
    assert plane.asked[0].subject == "ro-3"
    # The stream ends after its first event; the next one goes on behind it.
    assert main(["events", "--follow", "-o", "json"]) == 4
    numbers = [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()]
    assert numbers == [3, 4, 5, 6, 7]
    assert [request.after for request in plane.asked[2:]] == [5, 6]


def test_a_device_whose_gpu_is_not_used_is_marked_and_says_why(
    plane: PlaneOfATest, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "its GPU is not used, engines run on ort-cpu: rtx-ampere-plus needs driver 580 or later, this machine has 570"
    facts = devices_pb2.DeviceFacts(
        gpu="NVIDIA A10", compute_capability="SM86", driver="570.1", targets=["ort-cpu"], target_note=why
    )
    well = devices_pb2.DeviceFacts(targets=["rtx-turing"])
    plane.devices = [
        devices_pb2.Device(id="d-1", name="agent-1", facts=facts),
        devices_pb2.Device(id="d-2", name="agent-2", facts=well),
    ]
    assert main(["devices", "list"]) == 0
    out, err = capsys.readouterr()
    assert [word for word in out.split() if word.startswith(("ort", "rtx"))] == ["ort-cpu*", "rtx-turing"]
    assert "`fleet devices show NAME` says why" in err
    assert main(["devices", "show", "agent-1"]) == 0
    out = capsys.readouterr().out
    assert why in out
    assert "NVIDIA A10 SM86, driver 570.1" in out
    plane.devices = [devices_pb2.Device(id="d-2", name="agent-2", facts=well)]
    assert main(["devices", "list"]) == 0
    assert capsys.readouterr().err == ""
