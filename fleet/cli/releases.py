"""``fleet releases``: a model version and a mask policy, compiled for targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.completion import complete_model, complete_release, complete_target
from fleet.cli.context import connected
from fleet.cli.gate import (
    CalibrationOption,
    GateOption,
    PrecisionOption,
    PrecisionWord,
    WorkspaceOption,
    parse_calibration,
    parse_gate,
)
from fleet.cli.output import (
    Format,
    FormatOption,
    PlaneOption,
    TokenOption,
    follow,
    print_json,
    say,
    short_time,
    show_list,
    show_one,
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
from fleet.cli.release_view import drawn, line, progress, watched
from fleet.release_matrix import target_of

if TYPE_CHECKING:
    from fleet.plane import Plane

app = typer.Typer(no_args_is_help=True, help="Releases: a model and a mask policy, compiled for targets and signed.")


ReleaseArgument = Annotated[str, typer.Argument(help="Its id, as r-3.", autocompletion=complete_release)]
TargetsOption = Annotated[
    list[str],
    typer.Option(help="What to compile for; repeat it. See `fleet targets list`.", autocompletion=complete_target),
]
ModelOption = Annotated[
    str,
    typer.Option(
        metavar="NAME[/VERSION]", help="The newest version where none is given.", autocompletion=complete_model
    ),
]


@app.command("create")
def create(
    model: ModelOption,
    target: TargetsOption,
    precision: PrecisionOption = PrecisionWord.AUTO,
    input_size: SizeOption = "",
    gate: GateOption = None,
    calibration: CalibrationOption = "",
    workspace_mb: WorkspaceOption = 0,
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
    from maskfleet.codec import changes_message
    from maskfleet.ids import new_id
    from maskfleet.v1 import builds_pb2, releases_service_pb2

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
        precision=builds_pb2.Precision.Value(f"PRECISION_{precision.name}"),
        input_width=width,
        input_height=height,
        margins=builds_pb2.GateMargins(**parse_gate(gate or [])),
        calibration=parse_calibration(calibration),
        workspace_mb=workspace_mb,
    )
    with connected(plane, token_file) as there:
        release = plain(there.call(there.releases.CreateRelease, request).release)
        say(f"release {release['id']} is being built")
        if watch:
            release = _watched(there, release["id"])
    show_one(output, release, drawn)
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
    release: ReleaseArgument,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one release: what was tried for each target, what won, and why."""
    with connected(plane, token_file) as there:
        found = _release(there, release)
    show_one(output, found, drawn)


@app.command("log")
def log(
    release: ReleaseArgument,
    target: Annotated[
        str, typer.Option(help="Of which build; needed where there are several.", autocompletion=complete_target)
    ] = "",
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Print the end of a build's log, as its builder sent it."""
    with connected(plane, token_file) as there:
        build = build_for(_release(there, release), target)
    if output is Format.JSON:
        print_json({"release": release, "target": target_of(build), "state": build["state"], "log": build["log_tail"]})
    elif not build["log_tail"]:
        say(f"the build for {target_of(build)} is {build['state']} and has no log yet")
    else:
        print(readable(build["log_tail"]).rstrip("\n"))  # this is the command line


@app.command("diff")
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A release.", autocompletion=complete_release)],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one.", autocompletion=complete_release)],
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what differs between two releases; what is equal is left out."""
    from fleet.cli.diff_view import drawn_diff
    from fleet.release_diff import difference

    with connected(plane, token_file) as there:
        found = difference(_release(there, before), _release(there, after))
    show_one(output, found.to_json(), lambda _json: drawn_diff(found))


@app.command("page")
def page(
    release: ReleaseArgument,
    file: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.html", help="Where the page is written.")],
    plane: PlaneOption = None,
    token_file: TokenOption = None,
) -> None:
    """Write a page about a release: matrix, speed against accuracy, where everything comes from."""
    from fleet.release_page import render
    from maskfleet.datadir import write_atomic
    from maskfleet.errors import OutputError

    with connected(plane, token_file) as there:
        found = _release(there, release)
    try:
        write_atomic(file, render(found).encode(), mode=0o644)
    except OSError as error:
        raise OutputError(f"{file} cannot be written ({error.strerror})", remedy="choose another -o") from None
    say(f"wrote {file}")


@app.command("cancel")
def cancel(
    release: ReleaseArgument,
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
    show_one(output, found, drawn)


def build_for(release: dict[str, Any], target: str) -> dict[str, Any]:
    """The build of a release for a target; the only one where no target is named.

    Raises:
        NotFoundError: the release has none for that target.
        InvalidInputError: no target is named and there are several.
    """
    from maskfleet.errors import InvalidInputError, NotFoundError

    builds = {target_of(build): build for build in release["builds"]}
    names = ", ".join(builds)
    if not target and len(builds) == 1:
        return dict(next(iter(builds.values())))
    if not target:
        raise InvalidInputError(f"{release['id']} has several builds", remedy=f"give --target, one of {names}")
    if target not in builds:
        raise NotFoundError(f"{release['id']} has no build for {target!r}", remedy=f"use one of {names}")
    return dict(builds[target])


def readable(text: str) -> str:
    """A log without what would steer a terminal: it comes from a builder."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text.replace("\r\n", "\n"))


def _release(plane: Plane, release_id: str) -> dict[str, Any]:
    from fleet.cli.plain import plain
    from maskfleet.v1 import releases_service_pb2

    request = releases_service_pb2.GetReleaseRequest(release_id=release_id)
    return plain(plane.call(plane.releases.GetRelease, request).release)


def _watched(plane: Plane, release_id: str) -> dict[str, Any]:
    from fleet.cli.plain import plain
    from maskfleet.errors import UnavailableError
    from maskfleet.v1 import releases_service_pb2

    request = releases_service_pb2.WatchReleaseRequest(release_id=release_id)
    states = (plain(response.release) for response in plane.watch(plane.releases.WatchRelease, request))
    last = follow(watched(states), progress, line)
    if last is None or last.release["state"] == "BUILDING":
        raise UnavailableError(
            f"{plane.name} ended the watch of release {release_id}", remedy=f"see `fleet releases show {release_id}`"
        )
    return last.release
