from types import SimpleNamespace
from typing import Any

import pytest

from contract.origin import ORIGIN_KEY, module_of, origin_of

STACK = """File "/home/me/project/net/model.py", line 73, in forward
    return self.stem(x)
  File "/venv/lib/python3.11/site-packages/torch/nn/modules/batchnorm.py", line 210, in forward
    return F.batch_norm("""


def node(doc_string: str = "", **notes: str) -> Any:
    entries = [SimpleNamespace(key=key, value=value) for key, value in notes.items()]
    return SimpleNamespace(metadata_props=entries, doc_string=doc_string)


@pytest.mark.parametrize(
    ("notes", "origin", "module"),
    [
        (
            {"pkg.torch.onnx.name_scopes": "['', 'stem', 'stem.1', 'relu']", "pkg.torch.onnx.stack_trace": STACK},
            "stem.1 (net/model.py:73)",
            "stem.1",
        ),
        ({"pkg.torch.onnx.name_scopes": "['', 'stem', 'stem.1', 'relu']"}, "stem.1", "stem.1"),
        ({"pkg.torch.onnx.name_scopes": "['', 'mean']", "pkg.torch.onnx.stack_trace": STACK}, "net/model.py:73", ""),
        ({"doc_string": STACK}, "net/model.py:73", ""),
        ({ORIGIN_KEY: "head (mine.py:7)"}, "head (mine.py:7)", "head"),
        ({"pkg.torch.onnx.name_scopes": "no list", "pkg.torch.onnx.stack_trace": "no frame"}, None, ""),
        ({"pkg.torch.onnx.name_scopes": "('a',)"}, None, ""),
        ({}, None, ""),
    ],
)
def test_where_a_node_comes_from(notes: dict[str, str], origin: str | None, module: str) -> None:
    assert origin_of(node(**notes)) == origin
    assert module_of(origin or "") == module


def test_a_line_of_a_library_is_better_than_none() -> None:
    stack = 'File "/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 5, in relu'
    assert origin_of(node(**{"pkg.torch.onnx.stack_trace": stack})) == "nn/functional.py:5"
