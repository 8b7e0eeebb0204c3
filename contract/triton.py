"""Triton's `config.pbtxt`, derived from the contract.

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from collections.abc import Sequence
from typing import Literal

from contract.schema import Contract, TensorSpec

Runtime = Literal["onnxruntime", "tensorrt"]

MODEL_FILE: dict[Runtime, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}

# A full queue or a request that waited longer is refused: waiting longer than a client would helps nobody.
QUEUE_TIMEOUT_MS = 2_000
QUEUE_BATCHES = 32


def model_config(contract: Contract, runtime: Runtime, versions: Sequence[int], *, instances: int = 1) -> str:
    """Text of `config.pbtxt` for a model whose given versions all keep this contract's interface."""
    batch = contract.batch
    backend = 'platform: "tensorrt_plan"' if runtime == "tensorrt" else 'backend: "onnxruntime"'
    kind = "KIND_GPU" if runtime == "tensorrt" else "KIND_AUTO"
    preferred = sorted({batch.opt, batch.max})
    return f"""\
# Made by tidegate from the contract of version {contract.version}. Don't edit: publish a version instead.
name: "{contract.name}"
{backend}
default_model_filename: "{MODEL_FILE[runtime]}"
max_batch_size: {batch.max}
{_tensors("input", contract.inputs)}
{_tensors("output", contract.outputs)}
version_policy {{ specific {{ versions: [{", ".join(map(str, sorted(versions)))}] }} }}
instance_group [ {{ kind: {kind} count: {instances} }} ]
dynamic_batching {{
  preferred_batch_size: [{", ".join(map(str, preferred))}]
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {QUEUE_TIMEOUT_MS * 1000}
    max_queue_size: {QUEUE_BATCHES * batch.max}
  }}
}}
"""


def _tensors(direction: str, specs: Sequence[TensorSpec]) -> str:
    lines = []
    for spec in specs:
        datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
        dims = ", ".join(map(str, spec.shape)) or "1"
        reshape = "" if spec.shape else " reshape { shape: [] }"
        lines.append(f'  {{ name: "{spec.name}" data_type: TYPE_{datatype} dims: [{dims}]{reshape} }}')
    return f"{direction} [\n" + ",\n".join(lines) + "\n]"
