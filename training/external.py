"""External data: weights that a graph doesn't hold but names by file, and so could name any file of the machine.

A published version is whole and closed: what its graph names lies in its own folder and is hashed like everything else.
Source: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from contract.error import ContractInvalid


def check_enclosed(graph: Path, files: Collection[str]) -> None:
    """Hold a graph against the files that may belong to it, given relative to its folder, without reading any of them.

    Raises ContractInvalid when it is no ONNX graph, or names another file.
    """
    where = f"{graph.parent.parent.name}/{graph.parent.name}/{graph.name}"
    try:
        model = onnx.load(graph, load_external_data=False)
    except DecodeError:
        model = onnx.ModelProto()
    if not model.HasField("graph"):
        raise ContractInvalid(f"{where} is no ONNX graph: export the model to ONNX again")
    for tensor in _tensors(model):
        locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
        if outside := [location for location in locations if location not in files]:
            raise ContractInvalid(
                f"{where} takes {tensor.name!r:.80} from {outside[0]!r:.120}, which is no file of this version: "
                "export it with its weights inside"
            )


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor at any depth: of the graph, of its nodes' attributes and subgraphs, of functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if isinstance(part, onnx.TensorProto):
                yield part
            else:
                yield from _tensors(part)
