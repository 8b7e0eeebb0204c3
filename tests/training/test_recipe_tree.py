"""The recursive network and the functions that it reads."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.dataset.function import LABELS, LEVEL_WIDTH, NUM_LEVELS, Tree, functions, label, load, read
from training.error import DataInvalid, DataNotFound
from training.network.tree_lstm import UNKNOWN, TreeLstm

NUM_KINDS, LEVELS, WIDTH = 9, 4, 5
MODULE = """
def {name}(x, *more, y: int = 1):
    for each in more:
        x += {value}
    return x

def nothing_{name}(x):
    print(x.{value}{value})
    {body}
"""


def one(source: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    (first, *_) = functions(source.encode())
    return first


def network() -> TreeLstm:
    torch.manual_seed(3)
    return TreeLstm(num_kinds=NUM_KINDS, num_classes=3, width=6, dropout=0.5, dropped=0.5).eval()


@st.composite
def grids(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A tree as a grid: a root, and in each level some nodes whose parents are in the level above."""
    kind_LW, parent_LW = torch.zeros(2, LEVELS, WIDTH, dtype=torch.int32)
    above = 1
    kind_LW[0, 0] = draw(st.integers(1, NUM_KINDS - 1))
    for level in range(1, LEVELS):
        num = draw(st.integers(0, WIDTH)) if above else 0
        for place in range(num):
            kind_LW[level, place] = draw(st.integers(1, NUM_KINDS - 1))
            parent_LW[level, place] = draw(st.integers(0, above - 1))
        above = num
    return kind_LW, parent_LW


def recursive(net: TreeLstm, kind_LW: Tensor, parent_LW: Tensor, level: int, place: int) -> tuple[Tensor, Tensor]:
    """Equations 2 to 8 of Tai et al. as they stand there, node by node."""
    below = [
        recursive(net, kind_LW, parent_LW, level + 1, child)
        for child in range(WIDTH)
        if level + 1 < LEVELS and kind_LW[level + 1, child] and parent_LW[level + 1, child] == place
    ]
    x = net.kind.weight[int(kind_LW[level, place])]
    sum_h = sum((h for h, _ in below), torch.zeros(net.width))
    i, o, u = (x[: 3 * net.width] + net.below(sum_h)).chunk(3)
    c = torch.sigmoid(i) * torch.tanh(u)
    for h_k, c_k in below:
        c = c + torch.sigmoid(x[3 * net.width :] + net.forget(h_k)) * c_k
    return torch.sigmoid(o) * torch.tanh(c), c


@settings(deadline=None, max_examples=15)
@given(grids())
def test_level_by_level_is_what_node_by_node_is(grid: tuple[Tensor, Tensor]) -> None:
    net = network()
    with torch.no_grad():
        together = net(*(part[None] for part in grid))
        alone = net.head(recursive(net, *grid, 0, 0)[0])
    torch.testing.assert_close(together[0], alone, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.lists(grids(), min_size=2, max_size=4), st.permutations(range(WIDTH)))
def test_neither_the_batch_nor_the_order_of_the_deepest_nodes_matters(
    trees: list[tuple[Tensor, Tensor]], order: list[int]
) -> None:
    net = network()
    kind_NLW, parent_NLW = (torch.stack(parts) for parts in zip(*trees, strict=True))
    moved = [part.clone() for part in (kind_NLW, parent_NLW)]
    for part in moved:
        part[:, -1] = part[:, -1, order]
    with torch.no_grad():
        whole = net(kind_NLW, parent_NLW)
        torch.testing.assert_close(net(kind_NLW[:1], parent_NLW[:1]), whole[:1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(net(*moved), whole, rtol=1e-5, atol=1e-6)


def test_kinds_that_it_does_not_know_and_parents_that_are_not_there_are_answered() -> None:
    net = network()
    kind_NLW = torch.zeros(4, LEVELS, WIDTH, dtype=torch.int32)
    kind_NLW[:, 0, 0] = torch.tensor([1, 500, -7, 1], dtype=torch.int32)
    kind_NLW[3, 1, 0] = 2
    parent_NLW = torch.zeros_like(kind_NLW)
    parent_NLW[3, 1] = 99
    with torch.no_grad():
        logits_NK = net(kind_NLW, parent_NLW)
        assert net(torch.zeros_like(kind_NLW), parent_NLW).isfinite().all()
    for other in logits_NK[1:]:
        assert torch.equal(other, logits_NK[0])


def test_the_unknown_kind_is_learned() -> None:
    net = network().train()
    kind_NLW = torch.zeros(8, LEVELS, WIDTH, dtype=torch.int32)
    kind_NLW[:, 0, 0] = 2
    net(kind_NLW, torch.zeros_like(kind_NLW)).sum().backward()
    assert net.kind.weight.grad is not None
    assert net.kind.weight.grad[UNKNOWN].abs().sum() > 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return x", 0),
        ("return", 1),
        ("print(x)", 1),
        ("yield x", 2),
        ("y = yield", 2),
        ("yield from x; return 1", 2),
        ("return lambda: (yield)", 0),
        ("\n  def inner():\n    return 1\n", 1),
    ],
)
def test_a_function_is_labelled_by_what_it_does_itself(body: str, expected: int) -> None:
    assert LABELS[label(one(f"def f(x): {body}"))] == LABELS[expected]


@pytest.mark.parametrize("body", ["return x.y", "yield x.y", "yield from x.y", "x.y"])
def test_the_tree_does_not_show_what_is_to_be_told(body: str) -> None:
    assert Tree.of(one(f"def f(x): {body}")) == Tree.of(one("def f(x): x.y"))
    assert Tree.of(one("def f(): return")) == Tree.of(one("def f(): pass"))
    assert Tree.of(one("def f(): yield")) == Tree.of(one("def f(): return None"))
    assert Tree.of(one("@cached\ndef f(x: int) -> str: return 1")) == Tree.of(one("def g(y): 'a'"))


def test_functions_too_deep_or_too_wide_are_left_out() -> None:
    assert Tree.of(one(f"def f(): return {'-' * NUM_LEVELS}x")) is None
    assert Tree.of(one(f"def f(): return [{'x,' * (LEVEL_WIDTH + 1)}]")) is None


def modules(folder: Path, values: str = "abcdefghijklmnopqrst") -> Path:
    for at, value in enumerate(values):
        body = "\n    ".join(["x()"] * at) or "pass"
        (folder / f"{value}.py").write_text(MODULE.format(name=value, value=value, body=body))
    (folder / "broken.py").write_text("def f(:")
    (folder / "test").mkdir()
    (folder / "test" / "test_it.py").write_text("def f(): return 1, 2, 3, 4")
    return folder


def test_a_tree_is_in_one_split_and_a_folder_of_source_does(tmp_path: Path) -> None:
    dataset = load(modules(tmp_path))
    trees = [
        {(kind.tobytes(), parent.tobytes()) for kind, parent in zip(*split.inputs.values(), strict=True)}
        for split in (dataset.train, dataset.validation, dataset.test)
    ]
    # Twenty that differ, and one that all modules have.
    assert sum(map(len, trees)) == len(set.union(*trees)) == 21
    assert dataset.train.inputs["kinds"].shape[1:] == (NUM_LEVELS, LEVEL_WIDTH)
    assert np.bincount(dataset.train.targets)[0] == 1

    (tmp_path / "a.py").write_text("x = 1")
    assert load(tmp_path).sha256 != dataset.sha256


def test_a_folder_without_enough_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="expected Python source, got none"):
        read(tmp_path)
    (tmp_path / "a.py").write_text("x = 1")
    with pytest.raises(DataInvalid, match="expected functions"):
        load(tmp_path)
