"""What every process starts with: configuration, a data directory, logs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from maskfleet import logs
from maskfleet.config import flag, load, setting
from maskfleet.datadir import DataDir, write_atomic
from maskfleet.errors import InvalidInputError, OutputError, PreconditionError


@dataclasses.dataclass(frozen=True)
class Config:
    data_dir: Path = setting("where everything is kept", parse=Path)
    threads: int = setting("how many", default=2, parse=int)
    remote: bool = setting("whether", default=False, parse=flag)
    label: tuple[str, ...] = setting("which", default=(), repeated=True)


def read(argv: list[str], environ: dict[str, str]) -> Config:
    return load(Config, prog="thing", prefix="THING", argv=argv, environ=environ)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('data_dir = "/file"\nthreads = 3\nlabel = ["a", "b"]\n')
    config = ["--config", str(file)]
    assert read(["--data-dir", "/flag"], {}) == Config(Path("/flag"))
    assert read(config, {}) == Config(Path("/file"), 3, label=("a", "b"))
    assert read(config, {"THING_THREADS": "4", "THING_LABEL": "c,d"}).threads == 4
    assert read([*config, "--threads", "5"], {"THING_THREADS": "4"}).threads == 5
    assert read(["--data-dir", "/x", "--remote", "--label", "e", "--label", "f"], {}).label == ("e", "f")
    assert read(["--data-dir", "/x"], {"THING_REMOTE": "0"}).remote is False


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        ([], {}, "data_dir is missing: give --data-dir or THING_DATA_DIR"),
        (["--data-dir", "/x"], {"THING_THREADS": "many"}, "THING_THREADS is 'many'"),
        (["--data-dir", "/x", "--remote", "perhaps"], {}, "--remote is 'perhaps': give yes or no"),
        (["--data-dir", "/x", "--config", "/nowhere.toml"], {}, "/nowhere.toml cannot be read"),
    ],
)
def test_a_wrong_setting_says_where_it_came_from(argv: list[str], environ: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read(argv, environ)
    assert said in str(caught.value)


def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("treads = 3\n")
    with pytest.raises(InvalidInputError, match="unknown settings treads"):
        read(["--data-dir", "/x", "--config", str(file)], {})


def test_a_data_directory_is_held_by_one_process(tmp_path: Path) -> None:
    with DataDir.opened(tmp_path / "d", owner="thing") as data:
        assert data.path.stat().st_mode & 0o777 == 0o700
        script = (
            "import sys; from pathlib import Path; from maskfleet.datadir import DataDir\n"
            "with DataDir.opened(Path(sys.argv[1]), owner='thing'): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", script, str(data.path)], capture_output=True, text=True, check=False
        )
        assert "another process uses the data directory" in other.stderr
    with DataDir.opened(tmp_path / "d", owner="thing"):
        pass
    with pytest.raises(PreconditionError, match="belongs to thing"), DataDir.opened(tmp_path / "d", owner="other"):
        pass
    (tmp_path / "d" / "format.json").write_text('{"owner": "thing", "format": 99}')
    with pytest.raises(PreconditionError, match="newer maskfleet"), DataDir.opened(tmp_path / "d", owner="thing"):
        pass


def test_a_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), DataDir.opened(tmp_path / "file" / "d", owner="thing"):
        pass


def test_an_atomic_write_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_data_directory_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with DataDir.opened(tmp_path, owner="thing"):
        assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("join_token", "mfj1.abc.def", logs.HIDDEN),
        ("message", "enrol with mfj1.abc.def now", f"enrol with {logs.HIDDEN} now"),
        ("header", "Bearer abc.def", f"Bearer {logs.HIDDEN}"),
        ("url", "postgresql://fleet:hunter2@127.0.0.1/db", f"postgresql://{logs.HIDDEN}@127.0.0.1/db"),
        ("nested", {"password": "x", "n": 1}, {"password": logs.HIDDEN, "n": 1}),
        ("frame", b"\x00" * 10, "<10 bytes>"),
        ("device", "d-1", "d-1"),
    ],
)
def test_secrets_and_frames_stay_out_of_logs(key: str, value: object, shown: object) -> None:
    assert logs.redacted(value, key) == shown


def test_a_log_line_is_json_with_service_and_correlation_id() -> None:
    script = (
        "from maskfleet import logs\nlogs.configure('thing')\n"
        "with logs.correlated('c-7'): logs.get_logger('m').info('hello', credential='mfd1.x.y', n=1)\n"
        "import logging; logging.getLogger('lib').warning('mfd1.x.y leaked')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert (first["service"], first["correlation_id"], first["event"], first["n"]) == ("thing", "c-7", "hello", 1)
    assert first["credential"] == logs.HIDDEN
    assert second["event"] == f"{logs.HIDDEN} leaked"
    assert done.stdout == ""


def test_a_correlation_id_from_outside_is_used_only_if_it_is_one() -> None:
    with logs.correlated("c-abc") as good:
        assert good == logs.correlation_id() == "c-abc"
    for bad in ("", "x" * 65, "a\nb", "{}"):
        with logs.correlated(bad) as fresh:
            assert fresh.startswith("c-")
    assert logs.correlation_id() == ""
