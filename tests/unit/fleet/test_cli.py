"""The command line without a control plane: errors, exit codes, context, plain values."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fleet.cli.completion import complete_device, complete_release, complete_rollout
from fleet.cli.context import Context, context_path, read_context, write_context
from fleet.cli.exits import EXIT_CODES, exit_code
from fleet.cli.main import main
from fleet.cli.plain import plain
from fleet.cli.policy import parse_size
from fleet.cli.waiting import waiting
from fleet.durations import parse_duration
from maskfleet.codec import policy_message
from maskfleet.errors import FleetError, InvalidInputError, catalogue
from maskfleet.policy import MaskPolicy
from maskfleet.v1 import devices_pb2, releases_service_pb2


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("MASKFLEET_PLANE_ADDRESS", "MASKFLEET_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)


def test_every_error_has_an_exit_code_that_is_no_success() -> None:
    named = [cls for cls in catalogue().values() if FleetError in cls.__bases__]
    assert set(named) == set(EXIT_CODES)
    assert all(exit_code(cls("x")) > 0 for cls in catalogue().values())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param("models list", 5, "no control plane is known here: start one with `fleet up`", id="no plane"),
        pytest.param("models list --plane 127.0.0.1:1", 2, "there is no token for", id="no token"),
        pytest.param("models list --plane 127.0.0.1:1 --token-file {t}", 3, "cannot be reached", id="nobody there"),
        pytest.param("models list --plane 127.0.0.1:1 --token-file {x}", 2, "holds no token", id="a text as token"),
        pytest.param("models list --plane 127.0.0.1:1 --token-file /none", 2, "cannot be read", id="token missing"),
        pytest.param("models add m {x}", 2, "Missing option '--decoder'", id="an option is missing"),
        pytest.param("models add m {x} --decoder no", 2, "there is no decoder 'no': use one of", id="a decoder"),
        pytest.param("models add a/b {x} --decoder yunet", 2, "is no name for a model", id="a name"),
        pytest.param("models frob", 2, "No such command 'frob': see `fleet models --help`", id="a verb"),
        pytest.param("releases create --model m --target t --strength 3", 2, "strength is 3.0", id="a strength"),
        pytest.param("releases create --model m --target t --input-size 3", 2, "'3' is no size", id="a size"),
        pytest.param("devices join-token --ttl 0h", 2, "'0h' is no time", id="a time"),
        pytest.param("mask /none.png -o {d}/o.png", 4, "there is no file", id="no input"),
        pytest.param("mask {x} -o {d}/o.mp4", 2, "cannot be read as a picture or video", id="no video"),
        pytest.param("mask {x} -o {d}/o.mp4 --margin 9", 2, "margin is 9.0", id="a margin"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, said: str
) -> None:
    (tmp_path / "token").write_text("mfo1.abcdefgh\n")
    (tmp_path / "text").write_text("this is\nno token")
    filled = arguments.format(t=tmp_path / "token", x=tmp_path / "text", d=tmp_path)
    assert main(filled.split()) == code
    out, err = capsys.readouterr()
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("up", "mask", "models", "releases", "devices", "rollouts", "targets", "Exit codes"):
        assert word in out


def test_the_command_line_starts_without_heavy_packages() -> None:
    script = (
        "import sys, fleet.cli.main\n"
        "sys.exit(str([m for m in ('grpc', 'cv2', 'numpy', 'av', 'google.protobuf') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "\n", done.stderr


def test_a_context_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    context = Context("127.0.0.1:7700", tmp_path / "token", tmp_path, ("127.0.0.1:7710",))
    path = write_context(context)
    assert read_context() == context
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    context_path().write_text("{}")
    with pytest.raises(InvalidInputError, match="fleet up"):
        read_context()


def test_a_token_is_not_sent_to_another_plane(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text("mfo1.abcdefgh")
    write_context(Context("127.0.0.1:7700", tmp_path / "token", tmp_path))
    assert main(["models", "list", "--plane", "127.0.0.1:1"]) == 2
    assert "there is no token for" in capsys.readouterr().err


def test_messages_become_plain_values() -> None:
    release = releases_service_pb2.Release(
        id="r-1",
        state=releases_service_pb2.RELEASE_STATE_READY,
        policy=policy_message(MaskPolicy()),
        manifest=b"secret",
    )
    release.builds.add(id="b-1", progress=0.35, report_json='{"a": 1}')
    release.create_time.FromJsonString("2026-01-02T03:04:05Z")
    values = json.loads(json.dumps(plain(release)))
    assert values["state"] == "READY"
    assert values["policy"] == MaskPolicy().to_json()
    assert values["builds"][0]["report"] == {"a": 1}
    assert (values["builds"][0]["progress"], values["builds"][0]["spec"]) == (0.35, None)
    assert values["create_time"] == "2026-01-02T03:04:05.000Z"
    assert "manifest" not in values
    device = plain(devices_pb2.Device(labels={"site": "berlin"}))
    assert device["labels"] == {"site": "berlin"}
    assert device["last_seen"] is None


def test_a_long_wait_says_why_and_a_short_one_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    told = threading.Event()
    monkeypatch.setattr("fleet.cli.waiting.say", lambda text: (said.append(text), told.set()))
    with waiting("registering …", "the registry starts", after=3600):
        pass
    assert said == []
    with waiting("registering …", "the registry starts", after=0):
        assert told.wait(20)
    assert said == ["registering … (the registry starts)"]


def test_completion_is_silent_where_there_is_no_plane() -> None:
    assert complete_device("a") == complete_rollout("") == complete_release("r") == []


def test_sizes_and_times() -> None:
    assert parse_size("640x352") == parse_size("640×352") == (640, 352)
    assert parse_size("") == (0, 0)
    assert [parse_duration(text) for text in ("90s", "30m", "12h", "7d")] == [90, 1800, 43200, 604800]
