"""The model registry: MLflow, held at arm's length.

MLflow runs in a worker process (:mod:`control_plane.registry_worker`) that is started in the background, given a time
limit for every answer, and started again when it dies. Its database and files are its own, beside the plane's, unless
``MLFLOW_TRACKING_URI`` names a server.

Checking a model is another process: reading a stranger's file is nothing for the plane's own memory.

>>> # version, uri = await registry.register("centerface", path, facts, request_id="req-1", tags={}, description="")
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from control_plane.domain.release import Tensor
from maskfleet.errors import BadModelError, DeadlineError, FleetError, InternalError, UnavailableError, catalogue
from maskfleet.logs import get_logger

START_S = 120.0
ANSWER_S = 120.0
WARM_UP_S = (5.0, 300.0)
"""Least and most seconds between tries to start the worker with the plane."""

INSPECT_S = 60.0
_IN_TURN = {"MLFLOW_ENABLE_ASYNC_LOGGING": "false"}
_MAX_LINE = 1 << 20


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What a check finds out about a model.

    Attributes:
        inputs: what goes in.
        outputs: what comes out.
        fixed_size: width and height that the graph is made for; None where it works at any size.
        default_size: width and height of an engine where nobody asks for another.
        exported: the file was a PyTorch model; what was found holds for the ONNX that was made of it.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    fixed_size: tuple[int, int] | None
    default_size: tuple[int, int]
    exported: bool = False


@dataclasses.dataclass(frozen=True)
class LogEntry:
    """What a model's version is told of one engine.

    Attributes:
        tag: its name, as ``maskfleet.r-3.ort-cpu``.
        line: the tag's value.
        file: path of an artifact of the run that made the version.
        text: what is in it.
    """

    tag: str
    line: str
    file: str
    text: str


async def inspect(path: Path, decoder: str, onnx: Path) -> ModelFacts:
    """Checks a model file against its decoder, in a process of its own.

    Args:
        path: an ONNX file, or a program that PyTorch exported.
        decoder: its decoder.
        onnx: where the ONNX goes that is made of a PyTorch model.

    Raises:
        BadModelError: it is no model, or not what its decoder reads.
        UnsupportedError: it is a PyTorch model, and torch is not installed here.
        DeadlineError: the check took too long.
        InternalError: the check itself failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "model_compiler", "inspect", str(path), "--decoder", decoder, "--onnx", str(onnx),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), INSPECT_S)
    except TimeoutError:
        raise DeadlineError(
            f"checking the model took more than {INSPECT_S:.0f} s", remedy="try a smaller one"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        said = json.loads(out)
        if "error" in said:
            raise _told(said["error"], BadModelError)
        size = said["fixed_size"]
        return ModelFacts(
            inputs=_tensors(said["inputs"]),
            outputs=_tensors(said["outputs"]),
            fixed_size=(int(size[0]), int(size[1])) if size else None,
            default_size=(int(said["default_size"][0]), int(said["default_size"][1])),
            exported=bool(said.get("exported")),
        )
    except (ValueError, KeyError, TypeError, IndexError):
        tail = err.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise InternalError(f"the model check failed ({tail[0][:300]})", remedy="look for it in the log") from None


def _tensors(values: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(str(v["name"]), str(v["dtype"]), tuple("?" if d is None else str(d) for d in v["shape"])) for v in values
    )


def _told(said: Mapping[str, Any], default: type[FleetError]) -> FleetError:
    """An error that another process told."""
    cls = catalogue().get(str(said.get("kind", "")), default)
    return cls(str(said["message"]), remedy=str(said.get("remedy", "")))


class Registry:
    """The worker and the conversation with it.

    Args:
        folder: where the embedded registry keeps its database and files.
        tracking_uri: of an MLflow server; empty for the embedded registry.
    """

    def __init__(self, folder: Path, *, tracking_uri: str = "") -> None:
        self._folder = folder
        self._tracking_uri = tracking_uri
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._warming: asyncio.Task[None] | None = None
        self._started = False
        self._log = get_logger(__name__)

    @property
    def uri(self) -> str:
        """What MLflow calls the registry."""
        return self._tracking_uri or f"sqlite:///{self._folder / 'mlflow.db'}"

    @property
    def started(self) -> bool:
        """The worker was there at least once; it is started again where it is needed."""
        return self._started

    def warm_up(self) -> None:
        """Starts the worker in the background, so that the first model does not wait for it."""
        self._warming = asyncio.create_task(self._warm_up())

    async def _warm_up(self) -> None:
        pause = WARM_UP_S[0]
        while True:
            try:
                async with self._turn:
                    await self._running()
                return
            except FleetError as error:
                self._log.warning("the registry did not start", reason=str(error), again_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, WARM_UP_S[1])

    async def register(
        self,
        name: str,
        path: Path,
        facts: ModelFacts,
        *,
        request_id: str,
        tags: Mapping[str, str],
        description: str,
    ) -> tuple[int, str]:
        """Registers an ONNX file as the next version of a name.

        Returns:
            The version, and its URI as ``models:/name/1``. The same request id gives the same version.

        Raises:
            UnavailableError: MLflow does not answer, or said no.
            DeadlineError: it took too long.
        """
        said = await self._ask(
            {
                "op": "register",
                "name": name,
                "path": str(path),
                "inputs": [dataclasses.asdict(t) for t in facts.inputs],
                "outputs": [dataclasses.asdict(t) for t in facts.outputs],
                "request_id": request_id,
                "tags": dict(tags),
                "description": description,
            }
        )
        return int(said["version"]), str(said["uri"])

    async def log(self, name: str, version: int, entries: Sequence[LogEntry]) -> None:
        """Logs engines at a model's version: first the file, then the tag. Said twice, the second time changes nothing.

        Raises:
            UnavailableError: MLflow does not answer, or said no.
            DeadlineError: it took too long.
        """
        for entry in entries:
            await self._ask({"op": "log", "name": name, "version": version, **dataclasses.asdict(entry)})

    async def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        async with self._turn:
            process = await self._running()
            assert process.stdin is not None  # noqa: S101  # it was started with pipes
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                await process.stdin.drain()
                return await self._answer(process, ANSWER_S)
            except (BrokenPipeError, ConnectionResetError):
                await self._kill()
                raise UnavailableError("the registry's process ended", remedy="try again: it is started anew") from None

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        arguments = ["--uri", self.uri]
        if not self._tracking_uri:
            arguments += ["--artifacts", str(self._folder / "artifacts")]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "control_plane.registry_worker", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_MAX_LINE, env=os.environ | _IN_TURN,
        )  # fmt: skip
        self._process = process
        await self._answer(process, START_S)
        self._started = True
        self._log.info("the registry is ready")
        return process

    async def _answer(self, process: asyncio.subprocess.Process, limit: float) -> dict[str, Any]:
        assert process.stdout is not None  # noqa: S101  # it was started with pipes
        try:
            line = await asyncio.wait_for(process.stdout.readline(), limit)
        except TimeoutError:
            await self._kill()
            raise DeadlineError(f"the registry did not answer within {limit:.0f} s", remedy="try again") from None
        except asyncio.CancelledError:
            # Its answer would be taken for the next question's.
            await self._kill()
            raise
        try:
            said = json.loads(line)
            if "error" in said:
                raise _told(said["error"], UnavailableError)
            return dict(said["ok"])
        except (ValueError, KeyError, TypeError):
            await self._kill()
            raise UnavailableError(
                "the registry's process ended without an answer", remedy="try again: it is started anew; see the log"
            ) from None

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """Ends the worker."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await self._kill()
