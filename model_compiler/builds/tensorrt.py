"""The TensorRT backends, RTX and classic, on one path. The only module of the compiler that imports them.

- The network is strongly typed: precision is what the graph says.
- TensorRT for RTX builds for compute capabilities that it is told, and needs no GPU; classic TensorRT builds for the
  GPU at hand. What only one of them has is looked for, not assumed.
- What the network takes and gives has one shape: an engine is built for one size of picture.
- The logger is one for the whole process and a failed build leaves marks: one process a build (see
  :mod:`model_compiler.process`).
- An error names node and operator where TensorRT does, repeats what it said, and says what to do.

Every member of the bindings that is used here is checked against TensorRT 10.3, 10.13, 11.4 and RTX by a test.

Example::

    plan = build(
        model, backend="tensorrt-rtx", sms=("SM86", "SM89"), progress=print, canceled=lambda: False, log=print
    )
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskfleet.errors import BuildError, CanceledError, UnsupportedError

_MODULES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_RTX_MAGIC = b"vtrt"
_REQUESTED = re.compile(r"Requested size was (\d+) bytes")
_GPU_FULL = re.compile(r"out of memory|OutOfMemory|out_of_memory", re.IGNORECASE)


def build(
    model: bytes,
    *,
    backend: str,
    sms: Sequence[str],
    progress: Callable[[float], None],
    canceled: Callable[[], bool],
    log: Callable[[str], None],
    workspace_mb: int = 0,
) -> bytes:
    """Builds a plan.

    Args:
        model: prepared, static, in its final precision.
        backend: ``tensorrt-rtx`` or ``tensorrt``.
        sms: compute capabilities, as ``SM86``; RTX only, classic builds for the GPU at hand.
        progress: told how far it is, 0 to 1. Called from C++: it must not raise.
        canceled: asked at each step whether to stop. Called from C++: it must not raise.
        log: told what TensorRT says at level INFO and above, and which phase begins.
        workspace_mb: MiB of GPU memory that one layer may use for scratch; 0 for what TensorRT takes by default.

    Raises:
        BuildError: an operator is not supported, a shape is not static, the workspace is too small, or TensorRT gave
            up; it says where and why.
        CanceledError: ``canceled`` said so.
        UnsupportedError: the backend is not installed here, does not know a compute capability, or finds no GPU.
    """
    trt = _bindings(backend)
    logger, recorder, monitor = _logger(trt, log), _recorder(trt), _monitor(trt, progress, canceled, log)
    try:
        builder = trt.Builder(logger)
    except Exception as error:  # noqa: BLE001  # pybind's factories raise TypeError where C++ gives nothing
        raise UnsupportedError(
            f"{backend} {trt.__version__} cannot start here ({error})",
            remedy="build on a machine with the target's GPU and its driver; see the build's log",
        ) from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    _parse(parser, network, model, backend)
    _check_static(network, backend)
    config = builder.create_builder_config()
    _choose_sms(trt, config, sms, backend)
    if workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.progress_monitor = monitor
    # Not before: a network that is made while a recorder is set takes the process down when it dies (RTX 1.7).
    builder.error_recorder = recorder
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if canceled():
            raise CanceledError("the build was canceled")
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        raise build_error(backend, recorder.texts, {layer.name: layer.type.name for layer in layers}, workspace_mb)
    data = bytes(plan)
    check_plan(data, backend)
    return data


def _bindings(backend: str) -> Any:
    try:
        trt = importlib.import_module(_MODULES[backend])
    except (ImportError, OSError) as error:  # OSError: the bindings are there, a library of theirs is not
        raise UnsupportedError(
            f"{backend} cannot be loaded here ({error})",
            remedy="install the rtx extra, or build on a machine that has it",
        ) from None
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise UnsupportedError(
            f"{backend} {trt.__version__} has no strongly typed networks", remedy="install TensorRT 10.3 or later"
        )
    return trt


def _parse(parser: Any, network: Any, model: bytes, backend: str) -> None:
    if not parser.parse(model) or parser.num_errors:
        raise _parse_error(backend, [parser.get_error(i) for i in range(parser.num_errors)])
    # Garbage parses as an empty network.
    if not network.num_layers or not network.num_outputs:
        raise BuildError(f"{backend} read an empty network", remedy="give an ONNX file that passes the checker")


def _check_static(network: Any, backend: str) -> None:
    """What goes in and out has one shape, which the agent allocates once."""
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    for tensor in tensors:
        shape = [int(length) for length in tensor.shape]
        if any(length < 1 for length in shape):
            said = ", ".join("?" if length < 0 else str(length) for length in shape)
            raise BuildError(
                f"{backend} builds engines of one shape, and {tensor.name!r} has shape [{said}]",
                remedy="prepare the model with a width and a height: python -m model_compiler compile",
            )


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
    """What the parser holds against a model, with node, operator and the place in the parser that says so."""
    if not errors:
        return BuildError(f"{backend} cannot read the model", remedy="see the build's log")
    parts = []
    for error in errors[:3]:
        node, operator = error.node_name(), error.node_operator()
        name = repr(node) if node else f"number {error.node()}"
        inside = "".join(f" in function {function!r}" for function in error.local_function_stack()[-1:])
        place = f"node {name}{inside}, operator {operator}: " if node or operator else ""
        text = " ".join(error.desc().split())[:300]
        # An operator that the parser does not know fails an assertion that is just "false".
        text = error.code().name.replace("_", " ").lower() if text in ("", "false") else text
        parts.append(f"{place}{text} ({error.file()}:{error.line()}, {error.func()})")
    more = f", and {len(errors) - 3} more" if len(errors) > 3 else ""
    return BuildError(
        f"{backend} cannot build the model: {'; '.join(parts)}{more}",
        remedy="export the model without that operator, or build for ort-cpu",
    )


def build_error(backend: str, said: Sequence[str], layers: Mapping[str, str], workspace_mb: int) -> BuildError:
    """Why a network that parsed gave no engine.

    Args:
        backend: as in :func:`build`.
        said: what TensorRT reported, in order.
        layers: kind of each of the network's layers by its name, which is that of its ONNX node.
        workspace_mb: that was allowed; 0 for the default.
    """
    text = " ".join(said[0].split())[:300] if said else "it gave no reason"
    everything = " ".join(said)
    asked = max((int(size) for size in _REQUESTED.findall(everything)), default=0)
    if workspace_mb and asked:  # TensorRT for RTX says "out of memory" of its workspace too, with what did not fit
        return BuildError(
            f"{backend} could not build the engine within a workspace of {workspace_mb} MiB: it had no room "
            f"for {asked / (1 << 20):.1f} MiB more",
            remedy="allow a larger workspace, or build a smaller input size",
        )
    if _GPU_FULL.search(everything):
        return BuildError(
            f"{backend} found no room on the GPU to build the engine",
            remedy="end what else uses the GPU, or build a smaller input size",
        )
    if "workspace" in everything.lower():
        allowed = f"{workspace_mb} MiB" if workspace_mb else "what it takes by default"
        return BuildError(
            f"{backend} could not build the engine within a workspace of {allowed} ({text})",
            remedy="allow a larger workspace, or build a smaller input size",
        )
    # Layers that were fused are named by the first and the last of them.
    named = [name for name in layers if re.search(rf"(?<![\w/]){re.escape(name)}(?![\w/])", everything)]
    places = " and ".join(f"node {name!r}, operator {layers[name].lower()}" for name in named[:2])
    return BuildError(
        f"{backend} could not build the engine{' at ' if places else ''}{places} ({text})",
        remedy="build in another precision or for ort-cpu; the build's log has everything that it said",
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


def _monitor(
    trt: Any, progress: Callable[[float], None], canceled: Callable[[], bool], log: Callable[[str], None]
) -> Any:
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
            else:
                log(f"phase: {name}, {steps} steps")
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
