"""Uploads a file to the control plane by its digest; an upload that was cut off goes on where it stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from maskfleet.errors import InvalidInputError, NotFoundError, UnavailableError
from maskfleet.ids import digest_file

if TYPE_CHECKING:
    from fleet.plane import Plane
    from maskfleet.v1 import artifacts_service_pb2

CHUNK = 512 << 10
TRIES = 4
PAUSE_S = 1.0
TIMEOUT_S = 1800.0


def upload(plane: Plane, path: Path, *, progress: Callable[[int, int], None] = lambda _done, _size: None) -> str:
    """Uploads a file unless it is there already; its digest.

    Args:
        plane: where to.
        path: the file.
        progress: is told bytes done and bytes in all.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is empty, or cannot be read.
        FleetError: what the plane answered; UnavailableError after several tries.
    """
    from maskfleet.v1 import artifacts_service_pb2

    if not path.exists():
        raise NotFoundError(f"there is no file {path}", remedy="check the path")
    try:
        size = path.stat().st_size
        digest = digest_file(path)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror})", remedy="check the path") from None
    if not size:
        raise InvalidInputError(f"{path} is empty", remedy="download or export it again")
    for attempt in range(1, TRIES + 1):
        try:
            request = artifacts_service_pb2.StatArtifactRequest(digest=digest)
            there = plane.call(plane.artifacts.StatArtifact, request)
            if not there.complete:
                pieces = _requests(path, digest, size, there.size_bytes, progress)
                plane.call(plane.artifacts.UploadArtifact, pieces, timeout=TIMEOUT_S)
            progress(size, size)
            break
        except UnavailableError:
            if attempt == TRIES:
                raise
            threading.Event().wait(PAUSE_S * attempt)
    return digest


def _requests(
    path: Path, digest: str, size: int, offset: int, progress: Callable[[int, int], None]
) -> Iterator[artifacts_service_pb2.UploadArtifactRequest]:
    from maskfleet.v1 import artifacts_service_pb2

    header = artifacts_service_pb2.UploadArtifactHeader(digest=digest, size_bytes=size, offset=offset)
    yield artifacts_service_pb2.UploadArtifactRequest(header=header)
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK):
            yield artifacts_service_pb2.UploadArtifactRequest(chunk=chunk)
            progress(file.tell(), size)
