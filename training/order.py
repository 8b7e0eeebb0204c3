"""The order of an ONNX graph's nodes after a converter changed it.

ONNX Runtime's converters put their own nodes where they please, and their sorting doesn't see what the body of a loop
reads from the graph around it.
"""

import onnx
import onnx_ir
from onnx_ir.passes.common import TopologicalSortPass


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, each node after those that it or a loop in it reads from."""
    return onnx_ir.to_proto(TopologicalSortPass()(onnx_ir.from_proto(model)).model)
