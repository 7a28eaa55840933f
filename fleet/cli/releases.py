"""``fleet releases``: a model version and a mask policy, compiled for targets."""

from __future__ import annotations

import enum
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
    pairs,
    say,
    short_time,
    show_list,
    show_one,
    size,
    table,
)
from fleet.cli.policy import (
    CoastOption,
    ConfidenceOption,
    FailClosedOption,
    MarginOption,
    ShapeOption,
    SizeOption,
    StrengthOption,
    StyleOption,
    changes,
    parse_size,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.plane import Plane

app = typer.Typer(no_args_is_help=True, help="Releases: a model and a mask policy, compiled for targets and signed.")


class PrecisionWord(enum.Enum):
    """Number format of an engine."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@app.command("create")
def create(
    model: Annotated[str, typer.Option(metavar="NAME[/VERSION]", help="The newest version where none is given.")],
    target: Annotated[list[str], typer.Option(help="What to compile for; repeat it. See `fleet targets list`.")],
    precision: Annotated[PrecisionWord, typer.Option(help="Number format.")] = PrecisionWord.FP32,
    input_size: SizeOption = "",
    style: StyleOption = None,
    shape: ShapeOption = None,
    strength: StrengthOption = None,
    margin: MarginOption = None,
    min_confidence: ConfidenceOption = None,
    coast_frames: CoastOption = None,
    fail_closed: FailClosedOption = None,
    watch: Annotated[bool, typer.Option(help="Wait until it is built.")] = True,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Compile a model for targets, with a mask policy, into a signed release."""
    from fleet.cli.plain import plain
    from maskfleet.codec import PRECISIONS, changes_message
    from maskfleet.ids import new_id
    from maskfleet.v1 import releases_service_pb2

    width, height = parse_size(input_size)
    policy = changes(
        style=style,
        shape=shape,
        strength=strength,
        margin=margin,
        min_confidence=min_confidence,
        coast_frames=coast_frames,
        fail_closed=fail_closed,
    )
    request = releases_service_pb2.CreateReleaseRequest(
        request_id=new_id("req"),
        model=model,
        policy=changes_message(policy),
        targets=target,
        precision=next(number for number, word in PRECISIONS.items() if word == precision.value),
        input_width=width,
        input_height=height,
    )
    with connected(plane, token_file) as there:
        release = plain(there.call(there.releases.CreateRelease, request).release)
        say(f"release {release['id']} is being built")
        if watch:
            release = _watched(there, release["id"])
    show_one(output, release, _draw)
    if release["state"] in ("FAILED", "CANCELED"):
        raise typer.Exit(1)


@app.command("list")
def list_releases(
    plane: PlaneOption = None, token_file: TokenOption = None, output: FormatOption = Format.TABLE
) -> None:
    """List releases, newest first."""
    from fleet.cli.plain import plain
    from fleet.plane import pages
    from maskfleet.v1 import releases_service_pb2

    with connected(plane, token_file) as there:
        request = releases_service_pb2.ListReleasesRequest()
        found = [plain(r) for page in pages(there, there.releases.ListReleases, request) for r in page.releases]
    show_list(
        output,
        found,
        {
            "RELEASE": lambda r: r["id"],
            "STATE": lambda r: r["state"],
            "MODEL": lambda r: f"{r['model_name']}/{r['model_version']}",
            "STYLE": lambda r: r["policy"].get("style", "") if r["policy"] else "",
            "TARGETS": lambda r: ", ".join(b["spec"]["target"] for b in r["builds"] if b["spec"]),
            "MADE (UTC)": lambda r: short_time(r["create_time"]),
        },
    )


@app.command("show")
def show(
    release: Annotated[str, typer.Argument(help="Its id, as r-3.")],
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one release with its builds."""
    from fleet.cli.plain import plain
    from maskfleet.v1 import releases_service_pb2

    with connected(plane, token_file) as there:
        request = releases_service_pb2.GetReleaseRequest(release_id=release)
        found = plain(there.call(there.releases.GetRelease, request).release)
    show_one(output, found, _draw)


@app.command("cancel")
def cancel(
    release: Annotated[str, typer.Argument(help="Its id, as r-3.")],
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Stop the builds of a release that is not ready yet."""
    from fleet.cli.plain import plain
    from maskfleet.v1 import releases_service_pb2

    with connected(plane, token_file) as there:
        request = releases_service_pb2.CancelReleaseRequest(release_id=release)
        found = plain(there.call(there.releases.CancelRelease, request).release)
    show_one(output, found, _draw)


def _watched(plane: Plane, release_id: str) -> dict[str, Any]:
    from fleet.cli.plain import plain
    from maskfleet.errors import UnavailableError
    from maskfleet.v1 import releases_service_pb2

    request = releases_service_pb2.WatchReleaseRequest(release_id=release_id)
    states = (plain(response.release) for response in plane.watch(plane.releases.WatchRelease, request))
    last = follow(states, _draw, _line)
    if last is None or last["state"] == "BUILDING":
        raise UnavailableError(
            f"{plane.name} ended the watch of release {release_id}", remedy=f"see `fleet releases show {release_id}`"
        )
    return last


def _line(release: dict[str, Any]) -> str:
    builds = "; ".join(f"{b['spec']['target']} {b['state']} {b['phase']}".rstrip() for b in release["builds"])
    return f"{release['id']} {release['state']}: {builds}"


def _draw(release: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    head = facts(
        {
            "release": release["id"],
            "state": release["state"],
            "reason": release["reason"],
            "model": f"{release['model_name']}/{release['model_version']}",
            "policy": pairs(release["policy"] or {}),
            "manifest": release["manifest_digest"],
            "made": short_time(release["create_time"]),
        }
    )
    rows = [
        (
            build["spec"]["target"],
            build["state"],
            "cached" if build["cached"] else f"{build['phase']} {build['progress']:.0%}".strip(),
            build["spec"]["precision"].lower(),
            f"{build['spec']['input_width']}×{build['spec']['input_height']}",
            size(build["engine_size_bytes"]) if build["engine_size_bytes"] else "",
            build["reason"] or build["engine_digest"],
        )
        for build in release["builds"]
    ]
    return Group(head, "", table(("TARGET", "STATE", "PHASE", "PRECISION", "INPUT", "SIZE", "ENGINE"), rows))
