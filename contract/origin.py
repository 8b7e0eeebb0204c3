"""Where a node of an ONNX graph comes from: the module of the network, and the line of its code.

torch's exporter writes both into every node's `metadata_props`, at length and with this machine's paths. A published
graph keeps the short form under a key of its own, so that an error about a node can name the line that made it.
Source: torch.onnx, `pkg.torch.onnx.name_scopes` and `pkg.torch.onnx.stack_trace`.
"""

import ast
import re
from pathlib import PurePath
from typing import Any

ORIGIN_KEY = "tidegate.origin"

_SCOPES, _STACK = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.stack_trace"
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY = "site-packages"


def origin_of(node: Any) -> str | None:
    """`blocks.0.body.1 (training/network.py:58)` of an `onnx.NodeProto`, or as much of it as is known."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    if ORIGIN_KEY in notes:
        return str(notes[ORIGIN_KEY])
    module, line = _module(notes.get(_SCOPES, "")), _line(notes.get(_STACK, "") or node.doc_string)
    return f"{module} ({line})" if module and line else module or line


def module_of(origin: str) -> str:
    """The module's dotted path in an origin; empty where only the line is known, or for the network itself."""
    path = origin.partition(" (")[0]
    return "" if ":" in path else path


def _module(scopes: str) -> str | None:
    """The innermost module: the last scope is the operation's own."""
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return None
    return str(names[-2]) if isinstance(names, list) and len(names) > 1 else None


def _line(stack: str) -> str | None:
    """The innermost line that isn't a library's, by the last two parts of its path."""
    frames = _FRAME.findall(stack)
    own = [frame for frame in frames if _LIBRARY not in frame[0]] or frames
    return f"{'/'.join(PurePath(own[-1][0]).parts[-2:])}:{own[-1][1]}" if own else None
