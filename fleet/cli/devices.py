"""``fleet devices``: what the plane knows of each device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.completion import complete_device
from fleet.cli.context import connected
from fleet.cli.output import (
    Format,
    FormatOption,
    PlaneOption,
    TokenOption,
    facts,
    pairs,
    parse_pairs,
    print_json,
    say,
    short_time,
    show_list,
    show_one,
    table,
)
from fleet.cli.times import ago, now
from fleet.durations import parse_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_OF_ID = 12
"""Letters of an id in lists: enough to tell devices apart, and every command takes them."""

_MARK = "*"
app = typer.Typer(no_args_is_help=True, help="Devices: agents that enrolled, their labels and what they run.")

DeviceArgument = Annotated[
    str, typer.Argument(help="Its id, its name, or the first letters of its id.", autocompletion=complete_device)
]


@app.command("list")
def list_devices(
    selector: Annotated[str, typer.Option("--selector", "-l", help="Which, as site=berlin,gpu!=none.")] = "",
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List devices by name."""
    from fleet.cli.plain import plain
    from fleet.plane import pages
    from maskfleet.v1 import devices_service_pb2

    with connected(plane, token_file) as there:
        request = devices_service_pb2.ListDevicesRequest(selector=selector)
        devices = [plain(d) for page in pages(there, there.devices.ListDevices, request) for d in page.devices]
    at = now()
    show_list(
        output,
        devices,
        {
            "NAME": lambda d: d["name"],
            "ID": lambda d: d["id"][:_SHOWN_OF_ID],
            "ONLINE": _online,
            "SERVES": lambda d: _engine(d).get("serving_release_id", "") or "–",
            "STANDBY": lambda d: _standby(_engine(d)),
            "TARGET": _target,
            "LABELS": lambda d: pairs(d["labels"]),
            "LAST SEEN": lambda d: ago(d["last_seen"], at),
            "HEALTH": lambda d: d["health"],
        },
    )
    if output is Format.TABLE and any(_note(device) for device in devices):
        say(f"{_MARK} its GPU is not used, or something is missing: `fleet devices show NAME` says why")


@app.command("show")
def show(
    device: DeviceArgument,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one device: what it is, what is wanted of it, what it says."""
    from fleet.cli.plain import plain
    from maskfleet.v1 import devices_service_pb2

    with connected(plane, token_file) as there:
        request = devices_service_pb2.GetDeviceRequest(device=device)
        found = plain(there.call(there.devices.GetDevice, request).device)
    show_one(output, found, _draw)


@app.command("label")
def label(
    device: DeviceArgument,
    labels: Annotated[list[str], typer.Argument(help="key=value sets a label, key- removes one.")],
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Set and remove labels, as `fleet devices label agent-1 site=berlin rack-`."""
    from fleet.cli.plain import plain
    from maskfleet.v1 import devices_service_pb2

    request = devices_service_pb2.LabelDeviceRequest(
        device=device,
        set=parse_pairs([text for text in labels if "=" in text or not text.endswith("-")]),
        remove=[text[:-1] for text in labels if "=" not in text and text.endswith("-")],
    )
    with connected(plane, token_file) as there:
        found = plain(there.call(there.devices.LabelDevice, request).device)
    show_one(output, found, _draw)


@app.command("join-token")
def join_token(
    ttl: Annotated[str, typer.Option(help="How long it holds, as 30m, 12h or 7d.")] = "1h",
    max_uses: Annotated[int, typer.Option(min=0, help="How many devices may use it; 0 for any number.")] = 0,
    label: Annotated[list[str] | None, typer.Option(help="key=value that its devices start with; repeat it.")] = None,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a token with which devices enrol. It is printed once, alone on stdout."""
    from google.protobuf import duration_pb2

    from fleet.cli.plain import plain
    from maskfleet.v1 import devices_service_pb2

    request = devices_service_pb2.CreateJoinTokenRequest(
        ttl=duration_pb2.Duration(seconds=parse_duration(ttl)), max_uses=max_uses, labels=parse_pairs(label or [])
    )
    with connected(plane, token_file) as there:
        response = plain(there.call(there.devices.CreateJoinToken, request))
    if output is Format.JSON:
        print_json(response)
        return
    print(response["token"])  # this is the command line
    say(f"holds until {short_time(response['expire_time'])} UTC; write it to a file and give it to edge_agent "
        "with --join-token-file")  # fmt: skip


def _target(device: dict[str, Any]) -> str:
    """The target of its engine, else the best that it can run; marked where there is something to say about it."""
    target = _engine(device).get("target", "") or ", ".join((device["facts"] or {}).get("targets", [])[:1])
    return f"{target}{_MARK}" if target and _note(device) else target


def _note(device: dict[str, Any]) -> str:
    return str((device["facts"] or {}).get("target_note", ""))


def _gpu(about: dict[str, Any]) -> str:
    """``NVIDIA A10 SM86, driver 580.65.06``"""
    chip = " ".join(filter(None, (about.get("gpu"), about.get("compute_capability"))))
    driver = about.get("driver")
    return ", ".join(filter(None, (chip, f"driver {driver}" if driver else "")))


def _online(device: dict[str, Any]) -> str:
    return "online" if device["online"] else "offline"


def _engine(device: dict[str, Any]) -> dict[str, Any]:
    components = (device["reported"] or {}).get("components", [])
    return next((c for c in components if c["name"] == "engine"), {})


_SETTLED = ("EMPTY", "COMMITTED", "UNSPECIFIED")


def _standby(engine: dict[str, Any]) -> str:
    """What the slot that does not serve is about: ``r-4 DOWNLOADING 40 %``; empty where it rests."""
    state, release = engine.get("state", ""), engine.get("release_id", "")
    if not state or state in _SETTLED:
        return ""
    done, total = engine.get("bytes_done", 0), engine.get("bytes_total", 0)
    share = f" {100 * done // total} %" if state == "DOWNLOADING" and total else ""
    return f"{release} {state}{share}".strip()


def _draw(device: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    about = device["facts"] or {}
    reported = device["reported"] or {"generation": 0, "components": []}
    head = facts(
        {
            "device": device["name"],
            "id": device["id"],
            "online": _online(device),
            "last seen": f"{ago(device['last_seen'], now())} ({short_time(device['last_seen'])} UTC)",
            "serves": _engine(device).get("serving_release_id", ""),
            "standby": _standby(_engine(device)),
            "health": device["health"],
            "enrolled": short_time(device["enrol_time"]),
            "labels": pairs(device["labels"]),
            "system": " ".join(filter(None, (about.get("os"), about.get("arch"), about.get("jetpack")))),
            "gpu": _gpu(about),
            "agent": about.get("agent_version"),
            "runtimes": pairs(about.get("runtimes", {})),
            "targets": ", ".join(about.get("targets", [])),
            "note": _note(device),
            "wanted": ", ".join(f"{d['name']} {d['release_id']}" for d in device["desired"]),
            "generation": f"{reported['generation']} of {device['desired_generation']}",
        }
    )
    rows = [
        (c["name"], c["state"], c["release_id"], c["serving_release_id"], c["target"], c["reason"])
        for c in reported["components"]
    ]
    return Group(head, "", table(("COMPONENT", "STATE", "RELEASE", "SERVING", "TARGET", "REASON"), rows))
