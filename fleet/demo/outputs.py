"""What the demo leaves in its folder: ``masked.mp4``, ``contact_sheet.png``, ``report.html``, ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fleet.demo.contact_sheet import Pair, sheet, telling
from fleet.demo.report import render
from fleet.demo.scene import FRAMES_PER_SECOND, HEIGHT, WIDTH
from fleet.demo.streams import Stream
from fleet.demo.video import write_video
from fleet.results import Image, MaskedFrame, Outcome, decode
from fleet.scoring import TrueFace
from maskfleet.datadir import write_atomic
from maskfleet.errors import OutputError

Truth = Sequence[Sequence[TrueFace]]
"""The faces of each frame of the clip."""

_SHOWN_EXPOSED = 12
_ENLARGED = 640


def _picture(result: MaskedFrame) -> Image | None:
    return decode(result.encoded) if result.encoded is not None else None


def write_pictures(out: Path, results: Sequence[MaskedFrame], clip: Sequence[bytes], truth: Truth) -> None:
    """``masked.mp4`` and ``contact_sheet.png`` of one agent's results.

    Raises:
        OutputError: they cannot be written.
    """
    pictures = (picture for result in results if (picture := _picture(result)) is not None)
    write_video(out / "masked.mp4", pictures, width=WIDTH, height=HEIGHT, frames_per_second=FRAMES_PER_SECOND)
    png = cv2.imencode(".png", sheet(_pairs(results, clip, truth)))[1].tobytes()
    _write(out / "contact_sheet.png", png)


def _pairs(results: Sequence[MaskedFrame], clip: Sequence[bytes], truth: Truth) -> list[Pair]:
    by_sequence = {result.sequence: result for result in results}
    pairs = []
    for index, phrase in telling(truth, width=WIDTH, height=HEIGHT):
        if (result := by_sequence.get(index)) is not None:
            caption = f"{index / FRAMES_PER_SECOND:.1f} s, {phrase}: {result.outcome.value}"
            pairs.append(Pair(decode(clip[index]), _picture(result), caption))
    return pairs


def write_report(
    out: Path, found: Mapping[str, Any], streams: Mapping[str, Stream], clip: Sequence[bytes], truth: Truth
) -> None:
    """``report.json`` and ``report.html``, mode 0600.

    Raises:
        OutputError: they cannot be written.
    """
    _write(out / "report.json", json.dumps(found, indent=1, ensure_ascii=False).encode() + b"\n")
    first = next(iter(streams.values())).results
    page = render(
        found,
        contact_sheet=_jpeg(sheet(_pairs(first, clip, truth))),
        exposed=list(_exposed_crops(found, streams, clip)),
    )
    _write(out / "report.html", page.encode())


def _exposed_crops(
    found: Mapping[str, Any], streams: Mapping[str, Stream], clip: Sequence[bytes]
) -> Iterator[tuple[bytes, str]]:
    """Source beside masked around exposed faces."""
    for exposure in found["exposures"][:_SHOWN_EXPOSED]:
        result = next(r for r in streams[exposure["agent"]].results if r.sequence == exposure["sequence"])
        if result.outcome is Outcome.DROPPED or (masked := _picture(result)) is None:
            continue
        source = decode(clip[exposure["clip_frame"]])
        caption = (
            f"{exposure['agent']}, frame {exposure['sequence']} ({exposure['face']}, {exposure['visible']:.0%} visible)"
            f": {exposure['altered']:.0%} of its ellipse altered; {result.outcome.value}"
        )
        around = _around(exposure["box"], source.shape[1], source.shape[0])
        yield _jpeg(sheet([Pair(_enlarged(source[around]), _enlarged(masked[around]), "")])), caption


def _around(box: Sequence[float], width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of a square around a face, three times as high, moved into the frame."""
    side = min(round(3 * (box[3] - box[1])), width, height)
    left = min(max(round((box[0] + box[2] - side) / 2), 0), width - side)
    top = min(max(round((box[1] + box[3] - side) / 2), 0), height - side)
    return slice(top, top + side), slice(left, left + side)


def _enlarged(picture: Image) -> Image:
    return np.asarray(cv2.resize(picture, (_ENLARGED, _ENLARGED), interpolation=cv2.INTER_CUBIC), np.uint8)


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror})", remedy="choose another with --out") from None


def _jpeg(picture: Image) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
