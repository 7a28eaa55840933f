"""The report's sections on rollouts: what each device did, what the cohorts looked like, what the judge said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.demo import plots
from fleet.page import Html, table, text

Figures = Mapping[str, Any]
NO_STATISTICS = "The judge compares with fixed limits: none of this is a statistical verdict."
BEFORE_S = -6.0
"""From here on the cohorts are drawn: a little of how they were before the rollout."""

_SERVING = ("SOAKING", "COMMITTED")
_MARKS = {"PASS": "good", "FAIL": "bad", "ERROR": "bad"}


def rollout_section(rollout: Figures, figures: Figures) -> tuple[str, str, str]:
    """Title, note and HTML of one rollout's section.

    Args:
        rollout: over time.
        figures: what ``report.json`` holds.
    """
    spans = {
        device["name"]: [(span["from_s"], span["to_s"], span["state"]) for span in device["spans"]]
        for device in rollout["devices"]
    }
    note = f"{rollout['state']} after {rollout['seconds']:.1f} s on {len(spans)} devices."
    title = f"Rollout {rollout['id']} of release {rollout['release_id']}, over time"
    body = plots.rollout(spans)
    if "decisions" not in rollout:
        return title, note, body
    title = f"{_part(rollout, figures)}: {title[0].lower()}{title[1:]}"
    if rollout.get("reason"):
        note += f" {rollout['reason']}"
    statistical = any(decision["statistical"] for decision in rollout["decisions"])
    parts = [
        _eight_bits(rollout, figures),
        "<h3>What each device did</h3>",
        body,
        _devices(rollout),
        "<h3>Canary and control</h3>",
        _cohorts(rollout),
        "<h3>What the judge said</h3>",
        _decisions(rollout),
        "" if statistical else f'<p class="note">{text(NO_STATISTICS)}</p>',
        f"<h3>fleet rollouts explain {text(rollout['id'])}</h3>",
        "<ul>" + "".join(f"<li>{text(sentence)}</li>" for sentence in rollout["sentences"]) + "</ul>",
    ]
    return title, note, "".join(parts)


def _part(rollout: Figures, figures: Figures) -> str:
    names = {"third": "The next release as a canary", "noised": "A damaged model", "large": "A model that is too slow"}
    chapters = figures.get("chapters") or {}
    return next((names[part] for part, played in chapters.items() if played["rollout"] == rollout["id"]), "Canary")


def _eight_bits(rollout: Figures, figures: Figures) -> str:
    """Why the release has the number format that it has."""
    third = (figures.get("chapters") or {}).get("third") or {}
    if third.get("rollout") != rollout["id"]:
        return ""
    if third["precision"] == "int8":
        kept = ", ".join(third["int8_kept_fp32"]) or "none"
        return f"<p>The gate passed eight bits. Nodes kept at 32 bits: <code>{text(kept)}</code></p>"
    return (
        f"<p>Eight bits were tried as release {text(third['int8_release'])} and refused by the gate, so this release "
        f"is fp32 of static shape with another policy. The builder said:</p><p><code>{text(third['int8_reason'])}"
        "</code></p>"
    )


def _devices(rollout: Figures) -> str:
    rows = [
        (d["name"], d["cohort"].lower(), d["wave"] + 1, d["state"], d["detail"] if d["detail"] != d["state"] else "")
        for d in rollout["devices"]
    ]
    return table(("Device", "Cohort", "Wave", "State", ""), rows, numbers=(2,))


def _cohorts(rollout: Figures) -> str:
    if not any(span["state"] in _SERVING for device in rollout["devices"] for span in device["spans"]):
        return '<p class="note">No canary served a frame of it.</p>'
    series = {
        cohort: [(p["at_s"], p["p95_ms"]) for p in points if p["p95_ms"] is not None and p["at_s"] >= BEFORE_S]
        for cohort, points in rollout["series"].items()
    }
    series = {cohort: points for cohort, points in series.items() if points}
    if not series:
        return '<p class="note">No canary served a frame.</p>'
    judge = (rollout.get("strategy") or {}).get("judge") or {}
    return plots.cohorts(
        dict(sorted(series.items())),
        [(decision["at_s"], decision["verdict"]) for decision in rollout["decisions"]],
        [(move["at_s"], move["state"]) for move in rollout["moves"] if move["at_s"] > 0],
        limit=judge.get("max_p95_ratio"),
    )


def _decisions(rollout: Figures) -> str:
    rows = [
        (
            f"{decision['at_s']:.1f}\u00a0s",
            decision["wave"] + 1,
            Html(f'<span class="mark {_MARKS.get(decision["verdict"], "")}">{text(decision["verdict"])}</span>'),
            decision["action"],
            Html("<br>".join(text(reason) for reason in decision["reasons"])),
        )
        for decision in rollout["decisions"]
    ]
    return table(("After", "Wave", "Verdict", "Action", "Why"), rows, numbers=(0, 1))
