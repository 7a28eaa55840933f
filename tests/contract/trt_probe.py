"""Holds one version of TensorRT's Python bindings against what our code asks of them; prints JSON.

A program of its own, because two versions cannot share a process::

    python tests/contract/trt_probe.py tensorrt < uses.json
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any

from maskfleet.errors import FleetError
from model_compiler.builds import tensorrt as builds


def main() -> None:
    trt = importlib.import_module(sys.argv[1])
    sys.modules.setdefault("tensorrt", trt)  # as the package that joins bindings and libraries calls them
    asked = json.load(sys.stdin)
    answer = {
        "version": trt.__version__,
        "missing": [use for use in asked["uses"] if not has(trt, use["owner"], use["member"])],
        "refused": [use for use in asked["uses"] if not takes(trt, use["owner"], use["member"], use["arguments"])],
        "features": [feature for feature in asked["features"] if has(trt, *feature)],
        "callbacks": callbacks(trt),
        "flags": flags(trt),
        "without_gpu": without_gpu("tensorrt-rtx" if sys.argv[1] == "tensorrt_rtx" else "tensorrt"),
    }
    print(json.dumps(answer))


def find(trt: Any, owner: str) -> Any:
    for name in filter(None, owner.split(".")):
        trt = getattr(trt, name)
    return trt


def has(trt: Any, owner: str, member: str) -> bool:
    try:
        return hasattr(find(trt, owner), member)
    except AttributeError:
        return False


def takes(trt: Any, owner: str, member: str, arguments: int) -> bool:
    """Whether a call with so many arguments suits a signature that pybind wrote into the docstring."""
    if arguments < 0 or not has(trt, owner, member):
        return True
    called = getattr(find(trt, owner), member)
    if isinstance(called, type):
        called, arguments = called.__init__, arguments + 1
    elif member != "__init__":
        arguments += 1  # self
    for signature in re.findall(rf"^(?:\d+\. )?{called.__name__}\((.*)\) -> ", called.__doc__, re.MULTILINE):
        parameters = re.split(r", (?=\w+: )", signature)
        if sum(" = " not in parameter for parameter in parameters) <= arguments <= len(parameters):
            return True
    return False


def callbacks(trt: Any) -> dict[str, Any]:
    """Makes our subclasses of their interfaces and lets them work; what each must override."""
    lines: list[str] = []
    shown: list[float] = []
    logger = builds._logger(trt, lines.append)
    logger.log(trt.ILogger.WARNING, "heard")
    logger.log(trt.ILogger.VERBOSE, "not heard")
    recorder = builds._recorder(trt)
    recorder.report_error(trt.ErrorCodeTRT.INTERNAL_ERROR, "broken")
    monitor = builds._monitor(trt, shown.append, lambda: len(shown) > 1, lines.append)
    monitor.phase_start("build", None, 2)
    going_on = [monitor.step_complete("build", 0), monitor.step_complete("build", 1)]
    monitor.phase_finish("build")
    ours = {"ILogger": logger, "IErrorRecorder": recorder, "IProgressMonitor": monitor}
    return {
        "lines": lines,
        "errors": [recorder.num_errors(), recorder.get_error_desc(0), recorder.has_overflowed()],
        "shown": shown,
        "going_on": going_on,
        "not_overridden": [
            f"{name}.{member}"
            for name, instance in ours.items()
            for member, value in vars(getattr(trt, name)).items()
            if callable(value) and member[0].islower() and member not in vars(type(instance))
        ],
    }


def flags(trt: Any) -> dict[str, Any]:
    """Values that our code computes with."""
    return {
        "strongly_typed": 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        "bit": int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        "severities": bool(trt.ILogger.ERROR <= trt.ILogger.INFO < trt.ILogger.VERBOSE),
        "named": trt.ILogger.WARNING.name,
        "float": trt.float32 == trt.DataType.FLOAT,
    }


def without_gpu(backend: str) -> str:
    """What a build says. Stand-ins give it nothing, as NVIDIA's libraries do without a GPU; the model is empty."""
    try:
        builds.build(
            b"", backend=backend, sms=(), progress=lambda _f: None, canceled=lambda: False, log=lambda _line: None
        )
    except FleetError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    main()
