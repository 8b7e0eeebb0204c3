"""A loop over a fixed number of steps that stays a loop in the graph.

Written out, the steps of a text's decoding are thousands of nodes, which exporters take minutes for and engine builders
longer. While a network is exported the loop is ONNX's Scan, and Python's at any other time.
Source: https://onnx.ai/onnx/operators/onnx__Scan.html
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

State = tuple[Tensor, ...]
Body = Callable[[State, State], tuple[State, Tensor]]
"""From the state and a step's items to the next state, of the same shapes, and what the step answers."""


def repeated(body: Body, state: State, items: State, *, backward: bool = False) -> Tensor:
    """What each step answers, stacked `[T, ...]` in the order of the items `[T, ...]`; `backward` begins with the last.

    Nothing that the body answers may be the very tensor that it was given.
    """
    if torch.compiler.is_exporting():
        answers: Tensor = scan(body, state, items, reverse=backward)[1]
        return answers
    steps = list(zip(*(item.unbind(0) for item in items), strict=True))
    found = []
    for step in reversed(steps) if backward else steps:
        state, answer = body(state, step)
        found.append(answer)
    return torch.stack(found[::-1] if backward else found)
