"""What is said to Triton and how it answers: `config.pbtxt`, derived from the contract, and the reasons it gives.

No queue policy (size or timeout) is set: with one, Triton's batcher now and then misses its wake-up and a request
stalls for half a second (triton-inference-server/server#8870). The gateway bounds the queue and the wait instead.

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

import json
import re
from collections.abc import Sequence
from typing import Literal

from contract.schema import Contract, TensorSpec

Runtime = Literal["onnxruntime", "tensorrt"]

MODEL_FILE: dict[Runtime, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}

MAX_REASON_CHARACTERS = 500
_NOISE = re.compile(r"^(?:\w+: )?TritonModelException: ")


def model_config(contract: Contract, runtime: Runtime, versions: Sequence[int], *, instances: int = 1) -> str:
    """Text of `config.pbtxt` for a model whose given versions all keep this contract's interface."""
    batch = contract.batch
    backend = 'platform: "tensorrt_plan"' if runtime == "tensorrt" else 'backend: "onnxruntime"'
    kind = "KIND_GPU" if runtime == "tensorrt" else "KIND_AUTO"
    return f"""\
# Made by tidegate from the contract of version {contract.version}. Don't edit: publish a version instead.
name: "{contract.name}"
{backend}
default_model_filename: "{MODEL_FILE[runtime]}"
max_batch_size: {batch.max if contract.batched else 0}
{_tensors("input", contract.inputs)}
{_tensors("output", contract.outputs)}
version_policy {{ specific {{ versions: [{", ".join(map(str, sorted(versions)))}] }} }}
instance_group [ {{ kind: {kind} count: {instances} }} ]
{_batching(contract)}{_warmups(contract)}"""


def plain_reason(details: str) -> str:
    """Triton's reason on one line, without the Python traceback (with paths) that its Python backend appends."""
    return _NOISE.sub("", " ".join(details.partition("\n\nAt:")[0].split()))[:MAX_REASON_CHARACTERS]


def _batching(contract: Contract) -> str:
    if not contract.batched:
        return ""
    preferred = ", ".join(map(str, sorted({contract.batch.opt, contract.batch.max})))
    return f"dynamic_batching {{ preferred_batch_size: [{preferred}] }}\n"


def _warmups(contract: Contract) -> str:
    """Nothing for a model that zeros make fail: Triton wouldn't load it."""
    if not contract.takes_zeros:
        return ""
    warmups = ",\n".join(_warmup(contract, size) for size in sorted({1, contract.batch.max}))
    return f"model_warmup [\n{warmups}\n]\n"


def _warmup(contract: Contract, batch_size: int) -> str:
    """A first inference of zeros before the version counts as ready, so that no client waits for allocations."""
    inputs = []
    for spec in contract.inputs:
        dims = ", ".join(str(bounds.opt) for bounds in spec.bounds()) or "1"
        inputs.append(
            f"    inputs {{ key: {_quoted(spec.name)} "
            f"value {{ data_type: {_data_type(spec)} dims: [{dims}] zero_data: true }} }}"
        )
    return f'  {{\n    name: "zeros x{batch_size}" batch_size: {batch_size}\n' + "\n".join(inputs) + "\n  }"


def _data_type(spec: TensorSpec) -> str:
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"


def _quoted(name: str) -> str:
    """A string of protobuf's text format: names are the model's own, and may hold anything."""
    return json.dumps(name, ensure_ascii=False)


def _tensors(direction: str, specs: Sequence[TensorSpec]) -> str:
    lines = []
    for spec in specs:
        dims = ", ".join(map(str, spec.wire_shape))
        reshape = "" if spec.shape else " reshape { shape: [] }"
        lines.append(f"  {{ name: {_quoted(spec.name)} data_type: {_data_type(spec)} dims: [{dims}]{reshape} }}")
    return f"{direction} [\n" + ",\n".join(lines) + "\n]"
