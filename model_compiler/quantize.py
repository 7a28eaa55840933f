"""Eight bits where they do no harm: a prepared model as QDQ ONNX, with its sensitive nodes left at 32 bits.

1. The ranges of all values are learnt on a set of :mod:`model_compiler.calibration`.
2. Every unit – a convolution or addition with the activation after it – is measured: it alone gets eight bits, and
   what that does to the outputs is its sensitivity.
3. The most sensitive ones stay at 32 bits, more and more of them, until the model keeps within the gate's margins on
   the compiler's own calibration pictures, or until so few multiplications are left at eight bits that nothing would
   be gained.

The gate itself looks at other pictures and is not moved by what was found here: see :mod:`model_compiler.verify`.

Two schemes, as each backend wants them: ONNX Runtime fuses unsigned activations with zero points and biases of 32-bit
integers; TensorRT takes symmetric signed ones, biases as they are, and no rounding between a convolution and what it
fuses with it. OpenVINO runs both equally fast (CenterFace: 0.43 of ONNX Runtime's time at 32 bits) and is nearer to the
model with the unsigned one (least cosine 0.78, signed 0.69).

Example::

    found = quantised(
        prepared.model, decoder, spec, backend="onnxruntime", calibration=OWN, log=print, step=lambda fraction: None
    )
    found.model, found.kept
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.engines.engine import Engine, FloatArray
from edge_agent.masking.preprocess import Preprocessor
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import BuildError, FleetError, GateRefusedError, InternalError
from model_compiler import reference, verify
from model_compiler.calibration import OWN, CalibrationSet
from model_compiler.spec import BuildSpec

UNITS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add")
ACTIVATIONS = ("Relu", "Clip")
LEAST_WORK = 0.5
"""Share of the multiplications that must be left at eight bits."""

STEPS = (0, 2, 4, 8, 16, 24, 32)
"""How many units are tried at 32 bits, the most sensitive first."""

MEASURED_ON = 3
"""Pictures on which a single unit is measured: one made of each golden frame."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is at eight bits together or not at all.

    Attributes:
        nodes: names of a node and of the activation after it.
        multiplications: of one run; 0 for an addition.
    """

    nodes: tuple[str, ...]
    multiplications: int


@dataclasses.dataclass(frozen=True)
class Quantised:
    """A model with eight bits, and how it was found.

    Attributes:
        model: the ONNX file.
        kept: nodes that stayed at 32 bits, the most sensitive first.
        nodes: how many there are that could have eight.
        work: share of the multiplications at eight bits.
        sensitivity: error of the worst output with one unit alone at eight bits, as a share of its energy, by the
            unit's first node, the worst first.
        trials: what was tried: units kept, share of the work, least cosine, recall, whether within the margins.
    """

    model: bytes
    kept: tuple[str, ...]
    nodes: int
    work: float
    sensitivity: dict[str, float]
    trials: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the model."""
        return {
            "format": "int8",
            "nodes": self.nodes,
            "kept_fp32": list(self.kept),
            "work_int8": round(self.work, 4),
            "sensitivity": {name: float(f"{value:.3g}") for name, value in self.sensitivity.items()},
            "trials": list(self.trials),
        }

    def sentence(self) -> str:
        """Which nodes stayed at 32 bits, for people."""
        shown = ", ".join(self.kept[:12]) + (f" and {len(self.kept) - 12} more" if len(self.kept) > 12 else "")
        at = f"{self.nodes - len(self.kept)} of {self.nodes} nodes have 8 bits, {self.work:.0%} of the multiplications"
        return f"{at}; at 32 bits: {shown or 'none'}"


def quantised(
    model: bytes,
    decoder: DecoderSpec,
    spec: BuildSpec,
    *,
    backend: str,
    calibration: CalibrationSet,
    log: Callable[[str], None],
    step: Callable[[float], None],
) -> Quantised:
    """Finds the nodes that can have eight bits. Some 15 s for a model of 1 G multiplications on one core.

    Args:
        model: prepared.
        decoder: of its outputs.
        spec: whose margins are kept.
        backend: ``onnxruntime``, ``openvino``, or a TensorRT.
        calibration: pictures that ranges are learnt from. What passes is tried on the compiler's own: they have faces.
        log: told what is worth a line.
        step: told how far it is, 0 to 1; may raise to stop.

    Returns:
        What keeps within the margins with the fewest nodes at 32 bits; where nothing does, what comes nearest.

    Raises:
        BuildError: it cannot be quantised.
        InvalidInputError: the calibration set cannot be used.
    """
    from model_compiler.onnx_file import first_line

    try:
        graph = _Graph(model, decoder, backend, calibration.frames(), log)
    except FleetError:
        raise
    except Exception as error:  # noqa: BLE001  # the quantizer raises anything
        raise BuildError(f"the model cannot have 8 bits ({first_line(error)})", remedy="use --precision fp32") from None
    if not any(unit.multiplications for unit in graph.units):
        raise BuildError("the model has no multiplications that could have 8 bits", remedy="use --precision fp32")
    step(0.1)
    pictures = OWN.frames()
    blobs = list(_blobs(decoder, graph.size, pictures[:MEASURED_ON]))
    with reference.loaded(graph.model, decoder) as full:
        # Copied: an engine fills its arrays again.
        expected = [{r: value.copy() for r, value in full.infer(blob).items()} for blob in blobs]
        measured: dict[Unit, float] = {}
        trials: list[dict[str, Any]] = []
        best: tuple[float, Quantised] | None = None
        for count in STEPS:
            if count and not measured:
                for place, unit in enumerate(graph.units):
                    step(0.1 + 0.6 * place / len(graph.units))
                    measured[unit] = _alone(graph, unit, decoder, blobs, expected)
            ranked = sorted(measured, key=lambda unit: -measured[unit])
            kept = ranked[:count]
            work = graph.work(kept)
            if count > len(graph.units) or (count and work < LEAST_WORK):
                break
            step(0.7 + 0.3 * STEPS.index(count) / len(STEPS) if count else 0.1)
            candidate = graph.quantised(kept)
            passed, figures = _tried(full, candidate, decoder, spec, pictures)
            worst = min((output.cosine for output in figures.outputs.values()), default=0.0)
            trials.append({"kept_units": count, "work_int8": round(work, 4), "least_cosine": round(worst, 5),
                           "recall": figures.recall, "within_margins": passed})  # fmt: skip
            log(f"int8: {trials[-1]}")
            found = Quantised(
                model=candidate,
                kept=tuple(node for unit in kept for node in unit.nodes),
                nodes=sum(len(unit.nodes) for unit in graph.units),
                work=work,
                sensitivity={},
                trials=tuple(trials),
            )
            if passed or best is None or worst > best[0]:
                best = (worst, found)
            if passed:
                break
    if best is None:  # the first trial is always made
        raise InternalError("nothing was tried at 8 bits")
    ranked = sorted(measured, key=lambda unit: -measured[unit])
    sensitivity = {unit.nodes[0]: measured[unit] for unit in ranked}
    return dataclasses.replace(best[1], trials=tuple(trials), sensitivity=sensitivity)


def _alone(
    graph: _Graph, unit: Unit, decoder: DecoderSpec, blobs: Sequence[FloatArray], expected: Sequence[dict[str, Any]]
) -> float:
    """Error of the worst output with one unit at eight bits, as a share of the output's energy."""
    others = [other for other in graph.units if other is not unit]
    wrong = {role.role: 0.0 for role in decoder.outputs}
    energy = dict.fromkeys(wrong, 0.0)
    with reference.loaded(graph.quantised(others), decoder) as engine:
        for blob, truth in zip(blobs, expected):
            for role, value in engine.infer(blob).items():
                wrong[role] += float(np.square(value - truth[role], dtype=np.float64).sum())
                energy[role] += float(np.square(truth[role], dtype=np.float64).sum())
    return max(wrong[role] / energy[role] if energy[role] else float(wrong[role] > 0) for role in wrong)


def _tried(
    full: Engine, candidate: bytes, decoder: DecoderSpec, spec: BuildSpec, pictures: Sequence[Any]
) -> tuple[bool, verify.Figures]:
    with reference.loaded(candidate, decoder) as engine:
        figures = verify.compared(
            full,
            engine,
            decoder,
            pictures,
            min_confidence=spec.min_confidence,
            nms_iou=spec.nms_iou,
            match_iou=spec.margins.match_iou,
        )
    try:
        verify.check(figures, spec.margins)
    except GateRefusedError:
        return False, figures
    return True, figures


def _blobs(decoder: DecoderSpec, size: tuple[int, int], pictures: Sequence[Any]) -> Iterator[FloatArray]:
    preprocess = Preprocessor(decoder.preprocessing, *size)
    for picture in pictures:
        yield preprocess(picture.image)[0].copy()  # its buffer is used again


class _Graph:
    """A model whose ranges are known, at any mixture of precisions."""

    def __init__(
        self, model: bytes, decoder: DecoderSpec, backend: str, pictures: Sequence[Any], log: Callable[[str], None]
    ) -> None:
        import onnx

        from model_compiler.builds import onnx_cpu

        # Normalisations inside of convolutions first: what is quantised is what runs.
        self.model = onnx_cpu.build(model, progress=lambda _fraction: None, log=log)
        self._proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(self.model), strict_mode=True)
        self._signed = backend not in ("onnxruntime", "openvino")
        self._operators = [*UNITS, *(() if self._signed else ACTIVATIONS)]
        for place, node in enumerate(self._proto.graph.node):
            node.name = node.name or f"{node.op_type}_{place}"
        height, width = (dim.dim_value for dim in self._proto.graph.input[0].type.tensor_type.shape.dim[2:])
        self.size = (width, height)
        self.units = self._units()
        self._ranges = self._calibrated(decoder, pictures)

    def work(self, kept: Sequence[Unit]) -> float:
        """Share of the multiplications that is left at eight bits."""
        total = sum(unit.multiplications for unit in self.units)
        return 1 - sum(unit.multiplications for unit in kept) / total if total else 0.0

    def quantised(self, kept: Sequence[Unit]) -> bytes:
        """The model with these units at 32 bits."""
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        excluded = {node for unit in kept for node in unit.nodes}
        chosen = [node for unit in self.units for node in unit.nodes if node not in excluded]
        if not chosen:
            return self.model
        copy = onnx.ModelProto()
        copy.CopyFrom(self._proto)
        options: dict[str, Any] = {"ActivationSymmetric": self._signed, "WeightSymmetric": True}
        if self._signed:
            options |= {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": list(self._operators)}
        quantizer = QDQQuantizer(
            model=copy,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if self._signed else QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=chosen,
            nodes_to_exclude=[],
            op_types_to_quantize=self._operators,
            extra_options=options,
        )
        quantizer.quantize_model()
        return bytes(quantizer.model.model.SerializeToString(deterministic=True))

    def _units(self) -> tuple[Unit, ...]:
        graph = self._proto.graph
        readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in itertools.chain(graph.value_info, graph.output, graph.input)
        }
        found = []
        for node in graph.node:
            if node.op_type in UNITS:
                after = readers.get(node.output[0], [])
                alone = len(after) == 1 and after[0].op_type in ACTIVATIONS and not self._signed
                nodes = (node.name, after[0].name) if alone else (node.name,)
                found.append(Unit(nodes, _multiplications(node, shapes, weights)))
        return tuple(found)

    def _calibrated(self, decoder: DecoderSpec, pictures: Sequence[Any]) -> Any:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

        blobs = _blobs(decoder, self.size, pictures)

        class Pictures(CalibrationDataReader):  # type: ignore[misc]  # its package has no types
            def get_next(self) -> dict[str, FloatArray] | None:
                blob = next(blobs, None)
                return None if blob is None else {"input": blob}

        with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(self._proto.SerializeToString())
            calibrator = create_calibrator(
                str(path),
                self._operators,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"symmetric": self._signed},
            )
            calibrator.collect_data(Pictures())
            return calibrator.compute_data()


def _multiplications(node: Any, shapes: dict[str, list[int]], weights: dict[str, list[int]]) -> int:
    """Of one run of a node; 0 where its weight is no constant."""
    weight = weights.get(node.input[1]) if len(node.input) > 1 else None
    if weight is None or node.op_type == "Add":
        return 0
    if node.op_type in ("Conv", "ConvTranspose"):
        # Each pixel meets each weight once: of the output, or of the input where the convolution is transposed.
        pixels = shapes.get(node.output[0] if node.op_type == "Conv" else node.input[0], [0])[2:]
        return int(np.prod(pixels)) * int(np.prod(weight))
    return int(np.prod(weight))
