"""``fleet rollouts``: moving devices from the release that they run to another."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.context import connected
from fleet.cli.output import (
    Format,
    FormatOption,
    PlaneOption,
    TokenOption,
    facts,
    follow,
    say,
    short_time,
    show_list,
    show_one,
    table,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.plane import Plane

app = typer.Typer(no_args_is_help=True, help="Rollouts: move devices from the release that they run to another.")

RolloutArgument = Annotated[str, typer.Argument(help="Its id, as ro-2.")]
_ENDED = ("SUCCEEDED", "FAILED", "ABORTED")


@app.command("create")
def create(
    release: Annotated[str, typer.Option(help="The release, as r-3; it must be READY.")],
    selector: Annotated[str, typer.Option("--selector", "-l", help="Which devices, as site=berlin.")] = "",
    watch: Annotated[bool, typer.Option(help="Follow it until it ends.")] = False,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Start a rollout."""
    from fleet.cli.plain import plain
    from maskfleet.ids import new_id
    from maskfleet.v1 import rollouts_service_pb2

    request = rollouts_service_pb2.CreateRolloutRequest(request_id=new_id("req"), release_id=release, selector=selector)
    with connected(plane, token_file) as there:
        rollout = plain(there.call(there.rollouts.CreateRollout, request).rollout)
        say(f"rollout {rollout['id']} moves {len(rollout['devices'])} devices to {rollout['release_id']}")
        if watch:
            rollout = _watched(there, rollout["id"])
    _finish(rollout, output)


@app.command("list")
def list_rollouts(
    plane: PlaneOption = None, token_file: TokenOption = None, output: FormatOption = Format.TABLE
) -> None:
    """List rollouts, newest first."""
    from fleet.cli.plain import plain
    from fleet.plane import pages
    from maskfleet.v1 import rollouts_service_pb2

    with connected(plane, token_file) as there:
        request = rollouts_service_pb2.ListRolloutsRequest()
        found = [plain(r) for page in pages(there, there.rollouts.ListRollouts, request) for r in page.rollouts]
    show_list(
        output,
        found,
        {
            "ROLLOUT": lambda r: r["id"],
            "STATE": lambda r: r["state"],
            "RELEASE": lambda r: r["release_id"],
            "SELECTOR": lambda r: r["selector"] or "all",
            "DEVICES": _counts,
            "MADE (UTC)": lambda r: short_time(r["create_time"]),
            "REASON": lambda r: r["reason"],
        },
    )


@app.command("show")
def show(
    rollout: RolloutArgument,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one rollout with its devices."""
    from fleet.cli.plain import plain
    from maskfleet.v1 import rollouts_service_pb2

    with connected(plane, token_file) as there:
        request = rollouts_service_pb2.GetRolloutRequest(rollout_id=rollout)
        found = plain(there.call(there.rollouts.GetRollout, request).rollout)
    show_one(output, found, _draw)


@app.command("watch")
def watch(
    rollout: RolloutArgument,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Follow a rollout until it ends; exit code 1 where it did not succeed."""
    with connected(plane, token_file) as there:
        found = _watched(there, rollout)
    _finish(found, output)


@app.command("abort")
def abort(
    rollout: RolloutArgument,
    watch: Annotated[bool, typer.Option(help="Follow it until every device settled.")] = False,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Stop a rollout: devices that have not committed go back to the release that they ran before."""
    from fleet.cli.plain import plain
    from maskfleet.v1 import rollouts_service_pb2

    with connected(plane, token_file) as there:
        request = rollouts_service_pb2.AbortRolloutRequest(rollout_id=rollout)
        found = plain(there.call(there.rollouts.AbortRollout, request).rollout)
        if watch:
            found = _watched(there, rollout)
    show_one(output, found, _draw)


def _finish(rollout: dict[str, Any], output: Format) -> None:
    show_one(output, rollout, _draw)
    if rollout["state"] in ("FAILED", "ABORTED"):
        raise typer.Exit(1)


def _watched(plane: Plane, rollout_id: str) -> dict[str, Any]:
    from fleet.cli.plain import plain
    from maskfleet.errors import UnavailableError
    from maskfleet.v1 import rollouts_service_pb2

    request = rollouts_service_pb2.WatchRolloutRequest(rollout_id=rollout_id)
    states = (plain(response.rollout) for response in plane.watch(plane.rollouts.WatchRollout, request))
    last = follow(states, _draw, _line)
    if last is None or last["state"] not in _ENDED:
        raise UnavailableError(
            f"{plane.name} ended the watch of rollout {rollout_id}", remedy=f"see `fleet rollouts show {rollout_id}`"
        )
    return last


def _counts(rollout: dict[str, Any]) -> str:
    counts = Counter(device["state"] for device in rollout["devices"])
    return ", ".join(f"{number} {state.lower()}" for state, number in sorted(counts.items()))


def _line(rollout: dict[str, Any]) -> str:
    return f"{rollout['id']} {rollout['state']}: {_counts(rollout)}"


def _draw(rollout: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    head = facts(
        {
            "rollout": rollout["id"],
            "state": rollout["state"],
            "reason": rollout["reason"],
            "release": rollout["release_id"],
            "selector": rollout["selector"] or "all",
            "made": short_time(rollout["create_time"]),
            "ended": short_time(rollout["end_time"]),
        }
    )
    rows = [
        (d["device_name"], d["device_id"], d["state"], d["detail"], d["baseline_release_id"] or "none",
         "online" if d["online"] else "offline")
        for d in rollout["devices"]
    ]  # fmt: skip
    return Group(head, "", table(("DEVICE", "ID", "STATE", "DETAIL", "BEFORE", "ONLINE"), rows))
