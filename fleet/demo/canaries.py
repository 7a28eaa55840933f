"""The second half of the story: what becomes of releases that go out to one device first.

1. Release 3, the same model in eight bits where the gate passes it, proves itself on a canary and reaches every device.
2. A damaged model compiles; the canary refuses it by its golden self-test.
3. A model with four times the pixels serves on the canary, takes too long there, and is rolled back by itself.

What is compiled for them is compiled before the streams run: two cores are not enough for both at once, and a stream
that is late would be judged for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fleet.demo.commands import Commands
from fleet.demo.noised_model import write_noised
from fleet.demo.operator import FP32, Operator, made
from fleet.demo.screen import Screen
from fleet.demo.streams import Streams
from maskfleet.datadir import write_atomic
from maskfleet.errors import OutputError

CPU = ("ort-cpu",)
"""What the demo's agents run."""

THIRD_STYLE = "solid"
LARGE = "1280x704"
NOISED = "centerface-noised"
HEALTH_INTERVAL_S = 2
"""Of the agents here: the judge sees a canary of seconds by windows of seconds."""

LATE_S, SETTLE_S = 0.5, 25.0
"""A rollout begins when no stream is later than this, or after this time."""

CANARY = """\
# One device first, one as it is to the end; whoever is slower or fails more than that one goes back.
waves:
  - {count: 1, soak: 10s}
  - {percent: 100, soak: 2s}
control_holdout: {count: 1}
seed: 7
judge:
  kind: thresholds
  max_p95_ratio: 2.5        # two cores for everything: times are restless here
  max_error_increase: 0.05
  min_frames: 20
  silence_after: 20s
  patience: 45s
"""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Releases on their way.

    Attributes:
        small: of eight bits; it may have been refused.
        noised: of the damaged model.
        large: of four times the pixels.
    """

    small: Future[dict[str, Any]]
    noised: Future[dict[str, Any]]
    large: Future[dict[str, Any]]


@contextlib.contextmanager
def preparing(
    data: Path, model: Path, environment: Mapping[str, str], screen: Screen
) -> Iterator[Callable[[], Prepared]]:
    """A worker in the background for the time of the block; what it gives starts it.

    Args:
        data: folder for the damaged model.
        model: the good one.
        environment: added to this process's own for the commands.
        screen: shows the commands.
    """
    fleet = Commands(environment, before=screen.command)
    # Two at a time: the registry takes the damaged model while the builder looks for eight bits.
    pool = ThreadPoolExecutor(2, thread_name_prefix="preparing")

    def noised() -> dict[str, Any]:
        damaged = data / f"{NOISED}.onnx"
        write_noised(model, damaged)
        fleet.run("models", "add", NOISED, str(damaged), "--decoder", "centerface", "-o", "json")
        return made(fleet, NOISED, CPU, *FP32)

    def start() -> Prepared:
        return Prepared(
            small=pool.submit(made, fleet, "centerface", CPU, "--precision", "int8", "--style", THIRD_STYLE),
            noised=pool.submit(noised),
            large=pool.submit(made, fleet, "centerface", CPU, *FP32, "--input-size", LARGE, "--style", THIRD_STYLE),
        )

    try:
        yield start
    finally:
        fleet.stop()
        pool.shutdown(cancel_futures=True)


def compiled(prepared: Prepared, screen: Screen) -> None:
    """Waits for all releases.

    Raises:
        FleetError: a command failed.
    """
    for name, future in (("int8", prepared.small), (NOISED, prepared.noised), (LARGE, prepared.large)):
        release = future.result()
        screen.done(f"{name}: {release['id']} is {release['state']}")


def tell(operator: Operator, prepared: Prepared, streams: Streams, file: Path) -> dict[str, Any]:
    """Runs the three rollouts; which release and rollout played which part, for the report.

    Args:
        operator: who runs them.
        prepared: what is rolled out.
        streams: through all agents.
        file: where the rollout's description is written.

    Raises:
        FleetError: a command failed.
    """
    screen = operator.screen

    def canary(release: dict[str, Any]) -> dict[str, Any]:
        # A stream that still hurries after what it missed would be judged for that.
        if not streams.settle(late_s=LATE_S, timeout_s=SETTLE_S):
            screen.line("the streams are late; this machine is busy")
        return operator.canary(release["id"], file)

    try:
        write_atomic(file, CANARY.encode())
    except OSError as error:
        raise OutputError(f"{file} cannot be written ({error.strerror})", remedy="choose another --out") from None
    with screen.step("Release 3 in eight bits, if the gate passes it, goes to one device first, and then to all"):
        small = prepared.small.result()
        if small["state"] == "READY":
            third, chosen = operator.took(small), "int8"
        else:
            refused = next((b["reason"] for b in small["builds"] if b["reason"]), small["reason"])
            screen.done(f"int8 was refused: {refused}")
            third, chosen = operator.release("centerface", CPU, *FP32, "--style", THIRD_STYLE), "fp32"
        promoted = canary(third)
    with screen.step("A damaged model compiles, and the canary refuses it by its golden self-test"):
        noised = operator.took(prepared.noised.result())
        refusal = operator.canary(noised["id"], file)  # no stream is masked by it, so none is judged
    with screen.step("Four times the pixels serve on the canary, take too long, and are rolled back by themselves"):
        large = operator.took(prepared.large.result())
        slow = canary(large)
    return {
        "third": {
            "release": third["id"],
            "rollout": promoted["id"],
            "precision": chosen,
            "int8_release": small["id"],
            "int8_state": small["state"],
            "int8_reason": next((b["reason"] for b in small["builds"] if b["reason"]), ""),
            "int8_kept_fp32": next((b["kept_fp32"] for b in small["builds"]), []),
        },
        "noised": {"release": noised["id"], "rollout": refusal["id"]},
        "large": {"release": large["id"], "rollout": slow["id"]},
    }
