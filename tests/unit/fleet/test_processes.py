"""Children: ready lines, failures to start, restarts, ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.processes import Arguments, Child, Ready, pause_before_restart
from maskfleet.errors import FleetError, InvalidInputError, UnavailableError

READY = 'import json, signal, sys; print(json.dumps({"event": "ready", "listen": sys.argv[1]}), flush=True); '


def script(source: str, first: str = "127.0.0.1:1") -> Arguments:
    def arguments(ready: Ready | None) -> list[str]:
        listen = ready["listen"] + "+" if ready else first
        return [sys.executable, "-c", source, listen]

    return arguments


def test_a_ready_line_says_where_a_child_listens(tmp_path: Path) -> None:
    source = "print('noise'); print('{\"event\": \"other\"}'); " + READY + "signal.pause()"
    with Child("plane", script(source), log=tmp_path / "logs" / "plane.log") as child:
        assert child.wait_ready(20)["listen"] == "127.0.0.1:1"
        assert (child.address, child.state) == ("127.0.0.1:1", "ready")
        assert child.pid is not None
    assert child.pid is None
    assert child.state == "stopped"


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        pytest.param(
            "import sys; print('error: no such target: use ort-cpu', file=sys.stderr); sys.exit(2)",
            InvalidInputError,
            "no such target: use ort-cpu",
            id="a refused configuration is said in the words of the child",
        ),
        pytest.param(
            "import sys; print('error: the port is taken', file=sys.stderr); sys.exit(1)",
            UnavailableError,
            "the port is taken",
            id="so is a failure",
        ),
        pytest.param("raise SystemExit(9)", UnavailableError, "code 9", id="a silent end names code and log"),
    ],
)
def test_a_child_that_ends_before_it_is_ready(tmp_path: Path, source: str, kind: type[FleetError], said: str) -> None:
    with (
        Child("agent-1", script(source), log=tmp_path / "a.log", restart=True) as child,
        pytest.raises(kind, match=said) as caught,
    ):
        child.wait_ready(20)
    assert str(caught.value).startswith("agent-1 ")


def test_a_child_that_dies_comes_back_on_its_address(tmp_path: Path) -> None:
    said: list[str] = []
    back = threading.Event()

    def report(text: str) -> None:
        said.append(text)
        if text.endswith("is back"):
            back.set()

    child = Child("agent", script(READY + "signal.pause()"), log=tmp_path / "a.log", restart=True, report=report)
    with child:
        child.wait_ready(20)
        pid = child.pid
        child.kill()
        assert back.wait(20)
        assert child.pid not in (None, pid)
        assert child.address == "127.0.0.1:1+"
    assert said[0].startswith(f"agent ended with code {-signal.SIGKILL} and starts again in 0.5 s")


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    source = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + "\nwhile True: signal.pause()"
    child = Child("agent", script(source), log=tmp_path / "a.log")
    child.start()
    child.wait_ready(20)
    assert child.stop(grace=0.2) == -signal.SIGKILL


def test_what_a_child_logs_is_kept_and_each_start_is_told_apart(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("error: from an earlier day\n")
    with Child("agent", script("raise SystemExit(1)"), log=log) as child, pytest.raises(UnavailableError) as caught:
        child.wait_ready(20)
    assert "earlier day" not in str(caught.value)
    assert log.read_text().startswith("error: from an earlier day\n")


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    nowhere: Callable[[Ready | None], list[str]] = lambda _: [str(tmp_path / "nowhere")]
    with pytest.raises(UnavailableError, match="nowhere"):
        Child("agent", nowhere, log=tmp_path / "a.log").start()


def test_pauses_double_up_to_a_limit() -> None:
    assert [pause_before_restart(n) for n in (1, 2, 3, 7, 50)] == [0.5, 1.0, 2.0, 30.0, 30.0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_parent_that_is_killed_takes_its_children_along(tmp_path: Path) -> None:
    parent = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from fleet.processes import Child\n"
        f"source = {READY + 'signal.pause()'!r}\n"
        f"log = Path({str(tmp_path / 'a.log')!r})\n"
        "child = Child('agent', lambda _: [sys.executable, '-c', source, 'x'], log=log)\n"
        # Started in a thread that ends at once: the child lives on all the same.
        "starter = threading.Thread(target=child.start); starter.start(); starter.join()\n"
        "child.wait_ready(20); print(child.pid, flush=True); threading.Event().wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        watched = os.pidfd_open(int(process.stdout.readline()))
        try:
            assert not select.select([watched], [], [], 0)[0]
            process.kill()
            assert select.select([watched], [], [], 20)[0], "the child outlives its parent"
        finally:
            os.close(watched)
    process.wait()
