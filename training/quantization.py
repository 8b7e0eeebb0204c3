"""A graph in INT8, by Q/DQ nodes whose ranges come from real inputs.

Two forms, for the two runtimes want different ones (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html,
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html):

- `cpu`: activations UINT8, weights INT8 a channel, biases INT32: what ONNX Runtime has kernels for.
- `tensorrt`: all INT8 and symmetric, for TensorRT knows no zero point; biases stay FP32, which it adds itself.

ONNX Runtime's own quantizer does both. nvidia-modelopt 0.47 was tried beside it: on the residual network it came to
92.57 % of the pictures where this comes to 92.76 (FP32: 92.68), and it asks for six more packages and an older onnx.
Ranges are the least and greatest values seen, taken in the graph itself: memory doesn't grow with the samples.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from contract.tensor import Tensors
from training.error import ExportFailed
from training.order import in_order

Target = Literal["cpu", "tensorrt"]

# Where the arithmetic is, and what lies between: normalisations, softmax and the like gain nothing and lose accuracy.
OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool")


def quantize(source: Path, path: Path, batches: Iterator[Tensors], *, target: Target) -> None:
    """Write the graph in INT8, calibrated on batches of real inputs as the graph takes them.

    Raises ExportFailed when there is nothing to quantize in it, or the result is no valid graph.
    """
    symmetric = target == "tensorrt"
    options = {"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": not symmetric}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".quantization-") as folder:
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                quantized,
                _Batches(batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=_with_constants(onnx.load(prepared).graph),
                extra_options=options,
            )
            model = in_order(onnx.load(quantized))
            onnx.checker.check_model(model)
        except (ValueError, RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
            raise ExportFailed(f"the graph has no INT8 form: {str(exc).strip().splitlines()[0]:.200}") from exc
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportFailed(f"the graph has no INT8 form: none of its nodes is one of {', '.join(OPERATORS)}")
    path.write_bytes(model.SerializeToString(deterministic=True))


def _with_constants(graph: onnx.GraphProto) -> list[str]:
    """Names of additions of a constant: they gain nothing, and TensorRT refuses a quantized scalar."""
    constants = {weight.name for weight in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "Add" and constants & {*node.input}]


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterator[Tensors]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {name: np.ascontiguousarray(array) for name, array in batch.items()}
