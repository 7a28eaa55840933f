"""The TensorRT backends, RTX and classic, on one path. The only module of the compiler that imports them.

- The network is strongly typed: precision is what the graph says.
- TensorRT for RTX builds for compute capabilities that it is told, and needs no GPU; classic TensorRT builds for the
  GPU at hand. What only one of them has is looked for, not assumed.
- The logger is one for the whole process and a failed build leaves marks: one process a build (see
  :mod:`model_compiler.process`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from maskfleet.errors import BuildError, CanceledError, UnsupportedError

_MODULES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_RTX_MAGIC = b"vtrt"


def build(
    model: bytes,
    *,
    backend: str,
    sms: Sequence[str],
    progress: Callable[[float], None],
    canceled: Callable[[], bool],
    log: Callable[[str], None],
) -> bytes:
    """Builds a plan.

    Args:
        model: prepared, static, in its final precision.
        backend: ``tensorrt-rtx`` or ``tensorrt``.
        sms: compute capabilities, as ``SM86``; RTX only.
        progress: told how far it is, 0 to 1.
        canceled: asked at each step whether to stop.
        log: told what TensorRT says at level INFO and above.

    Raises:
        BuildError: an operator is not supported, or TensorRT gave up; it says where and why.
        CanceledError: ``canceled`` said so.
        UnsupportedError: the backend is not installed here, or does not know a compute capability.
    """
    try:
        trt: Any = importlib.import_module(_MODULES[backend])
    except ImportError as error:
        raise UnsupportedError(
            f"{backend} cannot be loaded here ({error})",
            remedy="install the rtx extra, or build on a machine that has it",
        ) from None
    logger, recorder, monitor = _logger(trt, log), _recorder(trt), _monitor(trt, progress, canceled)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    _parse(parser, network, model, backend)
    config = builder.create_builder_config()
    _choose_sms(trt, config, sms, backend)
    config.progress_monitor = monitor
    # Not before: a network that is made while a recorder is set takes the process down when it dies (RTX 1.7).
    builder.error_recorder = recorder
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if canceled():
            raise CanceledError("the build was canceled")
        said = " ".join(recorder.texts[0].split())[:300] if recorder.texts else "it gave no reason"
        raise BuildError(f"{backend} could not build the engine ({said})", remedy="see the build's log")
    data = bytes(plan)
    check_plan(data, backend)
    return data


def _parse(parser: Any, network: Any, model: bytes, backend: str) -> None:
    if not parser.parse(model) or parser.num_errors:
        raise _parse_error(backend, [parser.get_error(i) for i in range(parser.num_errors)])
    # Garbage parses as an empty network.
    if not network.num_layers or not network.num_outputs:
        raise BuildError(f"{backend} read an empty network", remedy="give an ONNX file that passes the checker")


def _choose_sms(trt: Any, config: Any, sms: Sequence[str], backend: str) -> None:
    if not hasattr(config, "set_compute_capability"):
        return  # classic: the GPU at hand
    config.num_compute_capabilities = len(sms)
    for i, name in enumerate(sms):
        capability = getattr(trt.ComputeCapability, name, None)
        if capability is None:
            raise UnsupportedError(
                f"{backend} {trt.__version__} does not build for {name}", remedy="install the version of the target"
            )
        config.set_compute_capability(capability, i)


def check_plan(data: bytes, backend: str) -> None:
    """A look at a plan's header: is it what this backend writes, and is it whole?

    For RTX the header was observed, not documented: magic, and the size of what follows. An engine that fails this is
    certainly broken; one that passes may still be.

    Raises:
        BuildError: it is not.
    """
    broken = len(data) < 64
    if backend == "tensorrt-rtx" and not broken:
        broken = data[:4] != _RTX_MAGIC or int.from_bytes(data[16:24], "little") > len(data)
    if broken:
        raise BuildError(
            f"{backend} gave {len(data)} bytes that are no whole engine",
            remedy="build again; if it stays so, report it with the build's log",
        )


def _parse_error(backend: str, errors: Sequence[Any]) -> BuildError:
    """What the parser holds against a model, with node and operator."""
    if not errors:
        return BuildError(f"{backend} cannot read the model", remedy="see the build's log")
    parts = []
    for error in errors[:3]:
        # 10.3 lacks none of these, but says them for some errors only
        node, operator = error.node_name(), error.node_operator()
        place = f"node {node!r}, operator {operator}: " if node or operator else ""
        text = " ".join(error.desc().split())[:300]
        # An operator that the parser does not know fails an assertion that is just "false".
        parts.append(place + (error.code().name.replace("_", " ").lower() if text in ("", "false") else text))
    more = f", and {len(errors) - 3} more" if len(errors) > 3 else ""
    return BuildError(
        f"{backend} cannot build the model: {'; '.join(parts)}{more}",
        remedy="export the model without that operator, or build for ort-cpu",
    )


def _logger(trt: Any, log: Callable[[str], None]) -> Any:
    class Lines(trt.ILogger):  # type: ignore[misc]  # the base is only known at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.INFO:
                log(f"{severity.name.lower()}: {message}")

    return Lines()


def _recorder(trt: Any) -> Any:
    class Errors(trt.IErrorRecorder):  # type: ignore[misc]  # the base is only known at run time
        """Keeps what TensorRT reports while it builds."""

        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.codes: list[Any] = []
            self.texts: list[str] = []

        def report_error(self, code: Any, text: str) -> bool:
            self.codes.append(code)
            self.texts.append(text)
            return True

        def num_errors(self) -> int:
            return len(self.codes)

        def get_error_code(self, index: int) -> Any:
            return self.codes[index]

        def get_error_desc(self, index: int) -> str:
            return self.texts[index]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.codes.clear()
            self.texts.clear()

    return Errors()


def _monitor(trt: Any, progress: Callable[[float], None], canceled: Callable[[], bool]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is only known at run time
        """Phases nest; each has a share of the step of its parent in which it runs."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[float, float]] = {}  # name → where it starts, how much one step is worth
            self._done: dict[str, int] = {}
            self._shown = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            start, share = 0.0, 1.0
            if parent in self._phases:
                begin, step = self._phases[parent]
                start, share = begin + step * self._done[parent], step
            self._phases[name] = (start, share / max(steps, 1))
            self._done[name] = 0

        def step_complete(self, name: str, step: int) -> bool:
            self._done[name] = step + 1
            start, share = self._phases.get(name, (0.0, 0.0))
            self._show(start + share * (step + 1))
            return not canceled()

        def phase_finish(self, name: str) -> None:
            self._phases.pop(name, None)
            self._done.pop(name, None)

        def _show(self, fraction: float) -> None:
            # Phases may repeat; what is shown never goes back, nor says every one per mille.
            if fraction >= self._shown + 0.02:
                self._shown = min(fraction, 1.0)
                progress(self._shown)

    return Monitor()
