"""``fleet rollouts``: moving devices from the release that they run to another, wave by wave."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.completion import complete_release, complete_rollout
from fleet.cli.context import connected
from fleet.cli.output import (
    Format,
    FormatOption,
    PlaneOption,
    TokenOption,
    console,
    facts,
    print_json,
    say,
    short_time,
    show_list,
    show_one,
    table,
)
from fleet.cli.rollout_view import UNSUCCESSFUL, counts, drawn, share_words
from fleet.cli.times import now
from fleet.waves import wave_count, wave_number, wave_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.rollout_file import Plan

app = typer.Typer(no_args_is_help=True, help="Rollouts: move devices from the release that they run to another.")

RolloutArgument = Annotated[str, typer.Argument(help="Its id, as ro-2.", autocompletion=complete_rollout)]


class JudgeWord(enum.Enum):
    """How a rollout is judged."""

    THRESHOLDS = "thresholds"
    NONE = "none"


@app.command("create")
def create(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE.yaml", help="The rollout; see `fleet rollouts schema`.")
    ] = None,
    release: Annotated[
        str, typer.Option(help="The release, as r-3; it must be READY.", autocompletion=complete_release)
    ] = "",
    selector: Annotated[str, typer.Option("--selector", "-l", help="Which devices, as site=berlin.")] = "",
    wave: Annotated[
        list[str] | None, typer.Option(metavar="SHARE[:SOAK]", help="A step, as 10%:10m or 3:90s; repeat it.")
    ] = None,
    holdout: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Devices that are compared with, up to the last wave, as 10%.")
    ] = None,
    judge: Annotated[JudgeWord | None, typer.Option(help="thresholds is no statistical verdict.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the draw of devices repeatable.")] = None,
    stratum: Annotated[
        list[str] | None, typer.Option(metavar="ATTRIBUTE", help="Draw within its values, as site; repeat it.")
    ] = None,
    expire_after: Annotated[
        str | None, typer.Option(metavar="TIME", help="Leave devices behind that are offline for this long, as 12h.")
    ] = None,
    watch: Annotated[bool, typer.Option(help="Follow it until it ends.")] = False,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Start a rollout, from a file or from flags. Without waves all devices move at once."""
    from fleet.cli.plain import plain
    from fleet.cli.rollout_watch import followed
    from fleet.rollout_file import plan_of_flags
    from maskfleet.ids import new_id

    flags = plan_of_flags(
        waves=wave or (),
        holdout=holdout,
        judge=judge.value if judge is not None else None,
        seed=seed,
        strata=stratum or (),
        expire_after=expire_after,
    )
    request = _plan(file, flags).request(new_id("req"), release=release, selector=selector)
    with connected(plane, token_file) as there:
        rollout = plain(there.call(there.rollouts.CreateRollout, request).rollout)
        count = len(rollout["devices"])
        waves = f" in {wave_count(rollout)} waves" if wave_count(rollout) > 1 else ""
        say(
            f"rollout {rollout['id']} moves {count} device{'' if count == 1 else 's'} to {rollout['release_id']}{waves}"
        )
        if watch:
            rollout = followed(there, rollout["id"])
    _finish(rollout, output)


def _plan(file: Path | None, flags: Plan) -> Plan:
    from fleet.rollout_file import read_plan
    from maskfleet.errors import InvalidInputError

    if file is None:
        return flags
    if flags.values:
        raise InvalidInputError(
            f"{file} says how the rollout goes, and flags ({', '.join(flags.values)}) say it too",
            remedy="write it into the file; --release and --selector alone may go before it",
        )
    return read_plan(file)


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of rollout files, for editors."""
    from fleet.rollout_file import schema_text

    print(schema_text(), end="", flush=True)  # this is the command line


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
            "WAVE": wave_of,
            "DEVICES": counts,
            "MADE (UTC)": lambda r: short_time(r["create_time"]),
            "REASON": lambda r: r["reason"],
        },
    )
    if output is Format.TABLE and any(_by_limits(rollout) for rollout in found):
        say("reasons of judged rollouts are by fixed limits: none of them is a statistical verdict")


@app.command("show")
def show(
    rollout: RolloutArgument,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one rollout with its waves, cohorts, newest verdict and devices."""
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
    """Follow a rollout until it ends; exit code 1 where it did not succeed. Ctrl-C leaves it running.

    With `-o json` each state is a line on stdout.
    """
    from fleet.cli.rollout_watch import followed

    with connected(plane, token_file) as there:
        found = followed(there, rollout, output)
    if output is Format.TABLE:
        show_one(output, found, _draw)
    _exit(found)


@app.command("pause")
def pause(
    rollout: RolloutArgument,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Stop a rollout where it stands until it is resumed; devices under way finish."""
    _moved("Pause", rollout, plane, token_file, output)


@app.command("resume")
def resume(
    rollout: RolloutArgument,
    watch: Annotated[bool, typer.Option(help="Follow it until it ends.")] = False,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Go on with a rollout that is PAUSED or HELD."""
    _moved("Resume", rollout, plane, token_file, output, watch=watch)


@app.command("promote")
def promote(
    rollout: RolloutArgument,
    watch: Annotated[bool, typer.Option(help="Follow it until it ends.")] = False,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Open every wave that is left without waiting for the judge; hard limits still hold."""
    _moved("Promote", rollout, plane, token_file, output, watch=watch)


@app.command("abort")
def abort(
    rollout: RolloutArgument,
    watch: Annotated[bool, typer.Option(help="Follow it until every device settled.")] = False,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Stop a rollout: every device of it goes back to the release that it ran before, those that committed it too."""
    _moved("Abort", rollout, plane, token_file, output, watch=watch)


@app.command("explain")
def explain(
    rollout: RolloutArgument,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Tell in plain sentences why a rollout went on, held or rolled back."""
    from fleet.cli.plain import plain
    from maskfleet.v1 import rollouts_service_pb2

    with connected(plane, token_file) as there:
        request = rollouts_service_pb2.ExplainRolloutRequest(rollout_id=rollout)
        said = plain(there.call(there.rollouts.ExplainRollout, request))
    if output is Format.JSON:
        print_json(said)
        return
    from rich.text import Text

    found = said["rollout"]
    paper = console()
    paper.print(Text(f"{found['id']} → {found['release_id']}: {found['state']}", style="bold"))
    for sentence in said["sentences"]:
        paper.print(Text(f"- {sentence}"))
    if _by_limits(found):
        judge = ((found.get("strategy") or {}).get("judge") or {}).get("kind")
        how = (
            "Its judge compares with fixed limits"
            if judge == "THRESHOLDS"
            else "Hard limits and silence alone judge it"
        )
        paper.print(Text(f"{how}: none of this is a statistical verdict.", style="dim"))


@app.command("decisions")
def decisions(
    rollout: RolloutArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many of the newest.")] = 20,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List a rollout's decisions, newest first; `-o json` has everything that went into each."""
    from itertools import islice

    from fleet.cli.plain import plain
    from fleet.plane import pages
    from maskfleet.v1 import rollouts_service_pb2

    with connected(plane, token_file) as there:
        request = rollouts_service_pb2.ListDecisionsRequest(rollout_id=rollout, page_size=min(limit, 100))
        every = (d for page in pages(there, there.rollouts.ListDecisions, request) for d in page.decisions)
        found = [plain(decision) for decision in islice(every, limit)]
        asked = rollouts_service_pb2.GetRolloutRequest(rollout_id=rollout)
        whole = plain(there.call(there.rollouts.GetRollout, asked).rollout)
    if output is Format.JSON or not found:
        show_list(output, found, {})
        return
    rows = [
        (
            d["id"],
            short_time(d["time"]),
            wave_number(whole, d["wave"]),
            d["verdict"],
            d["action"],
            "\n".join(d["reasons"]),
        )
        for d in found
    ]
    paper = console()
    paper.print(table(("DECISION", "TIME (UTC)", "WAVE", "VERDICT", "ACTION", "REASONS"), rows))
    if any(not decision["statistical"] for decision in found):
        say("these verdicts are by fixed limits: none of them is a statistical verdict")


def _moved(
    verb: str, rollout: str, plane: str | None, token_file: Path | None, output: Format, *, watch: bool = False
) -> None:
    """Pause, Resume, Promote or Abort."""
    from fleet.cli.plain import plain
    from fleet.cli.rollout_watch import followed
    from maskfleet.v1 import rollouts_service_pb2

    with connected(plane, token_file) as there:
        request = getattr(rollouts_service_pb2, f"{verb}RolloutRequest")(rollout_id=rollout)
        found = plain(there.call(getattr(there.rollouts, f"{verb}Rollout"), request).rollout)
        if watch:
            found = followed(there, rollout)
    if watch and verb != "Abort":
        _finish(found, output)
    else:
        show_one(output, found, _draw)


def _finish(rollout: dict[str, Any], output: Format) -> None:
    show_one(output, rollout, _draw)
    _exit(rollout)


def _exit(rollout: dict[str, Any]) -> None:
    if rollout["state"] in UNSUCCESSFUL:
        raise typer.Exit(1)


def _by_limits(rollout: dict[str, Any]) -> bool:
    judge = (rollout.get("strategy") or {}).get("judge") or {}
    decision = rollout.get("decision") or {}
    return judge.get("kind") == "THRESHOLDS" or (bool(decision) and not decision["statistical"])


def _draw(rollout: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    strategy = rollout.get("strategy") or {}
    judge = strategy.get("judge") or {}
    said = "" if rollout.get("decision") else " (no statistical verdict)"  # the verdict above says it
    kinds = {"THRESHOLDS": f"fixed limits{said}", "NONE": "hard limits only"}
    about = facts(
        {
            "judge": kinds.get(judge.get("kind", "")),
            "holdout": share_words(strategy.get("control_holdout")),
            "strata": ", ".join(strategy.get("strata") or ()),
            "seed": strategy.get("seed") or "",
            "made": short_time(rollout["create_time"]),
            "ended": short_time(rollout["end_time"]),
        }
    )
    return Group(drawn(rollout, now(), width=console().width), "", about)
