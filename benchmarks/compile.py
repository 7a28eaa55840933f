"""What compiling costs, and what it gives: `make bench-compile`.

1. CenterFace for every target that can be built on this machine, at one precision: seconds cold (an empty cache, a
   process of its own), seconds cached, bytes of the engine, peak memory of the build's process. Then for all desktop
   RTX targets by one command, from the start of its process.
2. With ``--search``: each detector at hand and each target, every precision that may do, with what was measured of it
   and who won. The detectors are CenterFace, and those of ``MASKFLEET_TESTDATA`` where it is set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.__main__ import weights
from maskfleet.errors import FleetError
from maskfleet.ids import digest_file
from maskfleet.targets import buildable
from model_compiler.cache import Cache
from model_compiler.search import run_search
from model_compiler.spec import AUTO, BuildSpec
from model_compiler.tools import machine

_WIDTHS = (16, 17, 9, 9, 9, 9, 8, 9, 60)
_TESTDATA = {"yunet": "yunet_n_dynamic.onnx", "ultraface": "ultraface_version-RFB-320.onnx"}


def detectors() -> Iterator[tuple[str, Path]]:
    """Decoder and file."""
    yield "centerface", weights()
    folder = Path(os.environ.get("MASKFLEET_TESTDATA", ""))
    for decoder, name in _TESTDATA.items():
        if (path := folder / "models" / name).is_file():
            yield decoder, path


def built(path: Path, decoder: str, target: str, precision: str, cache: Cache) -> tuple[dict[str, Any], float, int]:
    """The report, how many seconds it took, and the engine's bytes."""
    spec = BuildSpec(digest_file(path), decoder, target, precision)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        found = run_search(spec, lambda: path, Path(folder), cache=cache)
        return found.report, time.perf_counter() - begin, found.size_bytes


def costs(precision: str) -> list[dict[str, Any]]:
    """A row a target that this machine can build."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for entry in buildable(machine()):
            cache = Cache(Path(folder) / entry.name)
            report, cold, size = built(weights(), "centerface", entry.name, precision, cache)
            _, cached, _ = built(weights(), "centerface", entry.name, precision, cache)
            rows.append(
                {
                    "target": entry.name,
                    "precision": precision,
                    "cold_s": cold,
                    "cached_s": cached,
                    "size_bytes": size,
                    "peak_rss_bytes": report["peak_rss_bytes"],
                    "phases_s": report["seconds"],
                }
            )
    return rows


def desktop(precision: str) -> dict[str, Any]:
    """All RTX targets by one command, cold."""
    names = [entry.name for entry in buildable(machine()) if entry.backend == "tensorrt-rtx"]
    arguments = [argument for name in names for argument in ("--target", name)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "model_compiler", "compile", str(weights()), "--decoder", "centerface"]
        begin = time.perf_counter()
        subprocess.run(
            [*command, *arguments, "--precision", precision, "-o", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return {"targets": names, "cold_s": time.perf_counter() - begin}


def searches() -> Iterator[dict[str, Any]]:
    """A row a candidate."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder) / "cache")
        for decoder, path in detectors():
            for entry in buildable(machine()):
                try:
                    report, _, _ = built(path, decoder, entry.name, AUTO, cache)
                except FleetError as error:
                    yield {"model": decoder, "target": entry.name, "precision": "–", "verdict": str(error)}
                    continue
                for one in report["candidates"]:
                    yield {"model": decoder, "target": entry.name, **one}


def shown(rows: Iterable[tuple[str, ...]]) -> None:
    """Prints rows as a table, each as it comes."""
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, (16, 17, 9, 9, 9, 9, 8, 9, 60))).rstrip(),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile", description=__doc__)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16"))
    parser.add_argument("--search", action="store_true", help="every precision of every detector; takes minutes")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    figures: dict[str, Any] = {"costs": costs(given.precision)}
    shown([("CENTERFACE", "", given.precision, "COLD", "CACHED", "ENGINE", "PEAK")])
    for row in figures["costs"]:
        cells = (f"{row['cold_s']:.2f} s", f"{row['cached_s']:.3f} s")
        sizes = (f"{row['size_bytes'] / 1e6:.1f} MB", f"{row['peak_rss_bytes'] / 1e6:.0f} MB")
        shown([("", row["target"], "", *cells, *sizes)])
    figures["desktop_rtx"] = desktop(given.precision)
    cached = sum(row["cached_s"] for row in figures["costs"] if row["target"] in figures["desktop_rtx"]["targets"])
    shown([("", "all desktop RTX", "", f"{figures['desktop_rtx']['cold_s']:.2f} s", f"{cached:.3f} s")])
    if given.search:
        shown([(), ("MODEL", "TARGET", "PRECISION", "SIZE", "MS", "OF FP32", "RECALL", "VERDICT", "WHY NOT")])
        figures["searches"] = []
        for one in searches():
            figures["searches"].append(one)
            recall = (one.get("figures") or {}).get("recall")
            shown(
                [
                    (
                        one["model"],
                        one["target"],
                        one["precision"],
                        f"{one.get('size_bytes', 0) / 1e6:.2f} MB",
                        f"{one['ms']:.1f}" if one.get("ms") else "–",
                        f"{one['ratio']:.2f}" if one.get("ratio") else "–",
                        "–" if recall is None else f"{recall:.3f}",
                        one["verdict"],
                        one.get("reason", "")[:160],
                    )
                ]
            )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
