"""A rollout as an operator writes it: a YAML file, or flags for the simple cases.

Both become the same plain values, are checked against the same JSON schema (``schemas/rollout.schema.json``, which
editors read too) and become the same message. What only the plane can know (whether a release exists, how many devices
a percentage is) the plane checks.

Example::

    plan = read_plan(Path("rollout.yaml"))
    request = plan.request("req-1")
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.durations import parse_duration
from fleet.schema_check import check
from fleet.yaml_nodes import Node, node_of, read_yaml
from maskfleet.errors import InvalidInputError

if TYPE_CHECKING:
    from maskfleet.v1 import rollouts_service_pb2, strategy_pb2

SCHEMA_FILE = Path(__file__).parent / "schemas" / "rollout.schema.json"
COMMAND_LINE = "the command line"
_STRATEGY = ("waves", "control_holdout", "strata", "seed", "expire_after", "judge")
_JUDGE_TIMES = ("silence_after", "patience")
_JUDGE_NUMBERS = ("max_error_increase", "max_p95_ratio", "min_frames", "crash_loop_starts")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked rollout file.

    Attributes:
        values: plain values, as the file has them.
        where: the file, for messages.
    """

    values: Mapping[str, Any]
    where: str

    def request(
        self, request_id: str, *, release: str = "", selector: str = ""
    ) -> rollouts_service_pb2.CreateRolloutRequest:
        """The message that starts the rollout.

        Args:
            request_id: makes the call idempotent.
            release: goes before the file's.
            selector: likewise.

        Raises:
            InvalidInputError: nobody said which release.
        """
        from maskfleet.v1 import rollouts_service_pb2

        release = release or str(self.values.get("release", ""))
        if not release:
            raise InvalidInputError(f"{self.where} names no release", remedy="add release: r-3, or give --release")
        message = rollouts_service_pb2.CreateRolloutRequest(
            request_id=request_id, release_id=release, selector=selector or str(self.values.get("selector", ""))
        )
        if any(key in self.values for key in _STRATEGY):
            message.strategy.CopyFrom(_strategy(self.values))
        return message


def schema_text() -> str:
    """The JSON schema of rollout files."""
    return SCHEMA_FILE.read_text()


def read_plan(path: Path) -> Plan:
    """A rollout file.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is wrong; the message begins with ``file:line:column`` and says what is allowed.
        PreconditionError: PyYAML is not installed.
    """
    return _checked(read_yaml(path), str(path))


def plan_of_flags(
    *,
    waves: Sequence[str] = (),
    holdout: str | None = None,
    judge: str | None = None,
    seed: int | None = None,
    strata: Sequence[str] = (),
    expire_after: str | None = None,
) -> Plan:
    """A rollout from flags.

    Args:
        waves: ``10%:10m`` or ``3:10m`` (devices), each; the time to soak may be left out.
        holdout: ``10%`` or ``3``.
        judge: ``thresholds`` or ``none``.
        seed: of the draw.
        strata: labels or facts.
        expire_after: as ``12h``.

    Raises:
        InvalidInputError: one is wrong.
    """
    values: dict[str, Any] = {}
    if waves:
        values["waves"] = [_wave(text) for text in waves]
    if holdout is not None:
        values["control_holdout"] = _share(holdout, "--holdout")
    if strata:
        values["strata"] = list(strata)
    for key, value in (("seed", seed), ("expire_after", expire_after)):
        if value is not None:
            values[key] = value
    if judge is not None:
        values["judge"] = {"kind": judge}
    return _checked(node_of(values, COMMAND_LINE), COMMAND_LINE)


def _checked(root: Node, where: str) -> Plan:
    check(root, json.loads(schema_text()))
    waves = (root.entries or {}).get("waves")
    for before, wave in zip((waves.items or ())[:-1], (waves.items or ())[1:]) if waves is not None else ():
        for key in ("percent", "count"):
            mine, last = (node.plain().get(key) for node in (wave, before))
            if mine is not None and last is not None and mine <= last:
                unit = " %" if key == "percent" else " devices"
                raise InvalidInputError(
                    f"{(wave.entries or {})[key].where}: a wave of {mine:g}{unit} comes after one of {last:g}{unit}",
                    remedy="let the waves rise; each holds the devices of those before it",
                )
    for name, node in _durations(root):
        try:
            parse_duration(node.value, zero=name == "soak")
        except InvalidInputError as error:
            raise InvalidInputError(f"{node.where}: {name}: {error.message}", remedy=error.remedy) from None
    return Plan(root.plain(), where)


def _durations(root: Node) -> list[tuple[str, Node]]:
    top = root.entries or {}
    mappings = [top, *((wave.entries or {}) for wave in (top["waves"].items or ()))] if "waves" in top else [top]
    if "judge" in top:
        mappings.append(top["judge"].entries or {})
    names = ("soak", "expire_after", *_JUDGE_TIMES)
    return [(name, entries[name]) for entries in mappings for name in names if name in entries]


def _wave(text: str) -> dict[str, Any]:
    share, colon, soak = text.partition(":")
    return {**_share(share, "--wave"), **({"soak": soak} if colon else {})}


def _share(text: str, flag: str) -> dict[str, Any]:
    number = text.removesuffix("%").strip()
    try:
        return {"percent": float(number)} if text.endswith("%") else {"count": int(number)}
    except ValueError:
        raise InvalidInputError(
            f"{flag} {text!r} is no number of devices", remedy="give 10% or 3, and for a wave its soak, as 10%:10m"
        ) from None


def _strategy(values: Mapping[str, Any]) -> strategy_pb2.RolloutStrategy:
    from maskfleet.v1 import strategy_pb2

    message = strategy_pb2.RolloutStrategy(strata=values.get("strata", ()), seed=values.get("seed", 0))
    for wave in values.get("waves", ({"percent": 100},)):
        added = message.waves.add(share=_share_message(wave))
        added.soak.FromSeconds(parse_duration(wave.get("soak", "0s"), zero=True))
    if "control_holdout" in values:
        message.control_holdout.CopyFrom(_share_message(values["control_holdout"]))
    if "expire_after" in values:
        message.expire_after.FromSeconds(parse_duration(values["expire_after"]))
    judge = values.get("judge", {})
    if "kind" in judge:
        message.judge.kind = strategy_pb2.JudgeKind.Value(f"JUDGE_KIND_{judge['kind'].upper()}")
    for name in _JUDGE_NUMBERS:
        if name in judge:
            setattr(message.judge, name, judge[name])
    for name in _JUDGE_TIMES:
        if name in judge:
            getattr(message.judge, name).FromSeconds(parse_duration(judge[name]))
    return message


def _share_message(values: Mapping[str, Any]) -> strategy_pb2.Share:
    from maskfleet.v1 import strategy_pb2

    if "percent" in values:
        return strategy_pb2.Share(percent=values["percent"])
    return strategy_pb2.Share(count=values["count"])
