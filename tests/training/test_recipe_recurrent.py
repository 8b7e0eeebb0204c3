from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.export import export
from training.network.recurrent import Cell, Pooling, RecurrentClassifier
from training.recipes.recurrent import RECIPES
from training.text import PAD_ID, UNKNOWN_ID

KINDS: tuple[tuple[Cell, bool], ...] = (("plain", False), ("lstm", False), ("gru", False), ("lstm", True))
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "max")
NUM_TOKENS = 40

ids_of_a_text = st.lists(st.integers(1, NUM_TOKENS - 1), min_size=0, max_size=9)


@cache
def network(cell: Cell, both_ways: bool, pooling: Pooling) -> RecurrentClassifier:
    torch.manual_seed(4)
    return RecurrentClassifier(
        cell,
        num_tokens=NUM_TOKENS,
        embedding_size=6,
        state_size=5,
        num_classes=3,
        pooling=pooling,
        both_ways=both_ways,
        dropout=0.5,
        token_dropout=0.5,
    ).eval()


def answers(built: RecurrentClassifier, texts: list[list[int]], length: int) -> torch.Tensor:
    padded = [text + [PAD_ID] * (length - len(text)) for text in texts]
    with torch.no_grad():
        logits: torch.Tensor = built(torch.tensor(padded, dtype=torch.int32))
    return logits


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("cell", "both_ways"), KINDS)
@given(texts=st.lists(ids_of_a_text, min_size=1, max_size=4), more=st.integers(0, 7))
@settings(max_examples=8, deadline=None)
def test_padding_and_neighbours_change_nothing(
    cell: Cell, both_ways: bool, pooling: Pooling, texts: list[list[int]], more: int
) -> None:
    """A text alone and without any padding is answered as it is in any batch of any length."""
    built = network(cell, both_ways, pooling)
    together = answers(built, texts, max(1, *map(len, texts)) + more)
    assert torch.isfinite(together).all()
    for text, shown in zip(texts, together, strict=True):
        torch.testing.assert_close(answers(built, [text], max(1, len(text)))[0], shown, rtol=1e-5, atol=1e-6)


def test_one_that_embeds_also_answers_what_its_classes_are_told_from() -> None:
    plain = network("lstm", True, "mean")
    embedding = RecurrentClassifier(
        "lstm", num_tokens=NUM_TOKENS, embedding_size=6, state_size=5, num_classes=3, pooling="mean", both_ways=True,
        embeds=True,
    ).eval()  # fmt: skip
    embedding.load_state_dict(plain.state_dict())
    ids = torch.tensor([[3, 9, 4, 0], [0, 0, 0, 0]])
    with torch.no_grad():
        logits, embedded = embedding(ids)
        torch.testing.assert_close(logits, plain(ids))
        torch.testing.assert_close(embedding.head(embedded), logits)
    assert embedded.shape == (2, 10)


@pytest.mark.parametrize(("cell", "both_ways"), KINDS)
def test_the_order_of_the_tokens_matters(cell: Cell, both_ways: bool) -> None:
    built = network(cell, both_ways, "last")
    one, other = answers(built, [[5, 6, 7], [7, 6, 5]], 5)
    assert (one - other).abs().max() > 1e-3


def test_both_ways_is_torchs_own_bidirectional_lstm() -> None:
    built = network("lstm", True, "mean")
    assert built.backwards is not None
    own = torch.nn.LSTM(6, 5, batch_first=True, bidirectional=True).eval()
    with torch.no_grad():
        for reader, suffix in ((built.forwards, ""), (built.backwards, "_reverse")):
            for name, weight in reader.named_parameters():
                own.get_parameter(name + suffix).copy_(weight)
        text = [3, 9, 4, 12]
        states, _ = own(built.embedding(torch.tensor([text])))
        torch.testing.assert_close(answers(built, [text], 7), built.head(states.mean(dim=1)))


def test_unknown_tokens_are_learned_from_while_training_alone() -> None:
    built = RecurrentClassifier(
        "gru", num_tokens=9, embedding_size=4, state_size=4, num_classes=2, pooling="mean", token_dropout=0.5
    )
    built(torch.full((4, 6), 7)).sum().backward()
    gradient = built.embedding.weight.grad
    assert gradient is not None
    assert gradient[UNKNOWN_ID].abs().sum() > 0
    assert gradient[PAD_ID].abs().sum() == 0


def test_the_graph_holds_onnxs_own_operators(tmp_path: Path) -> None:
    recipe = RECIPES[-1]
    built = RecurrentClassifier(
        "lstm", num_tokens=NUM_TOKENS, embedding_size=6, state_size=5, num_classes=2, pooling="max", both_ways=True
    )
    export(built, recipe.inputs, recipe.outputs[:1], recipe.batch, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.zeros((3, *recipe.inputs[0].shape), dtype=np.int32)
    ids[0, :5], ids[1] = [2, 8, 9, 4, 3], 7
    with torch.no_grad():
        expected = built(torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(session.run(None, {"ids": ids})[0], expected, atol=1e-5)
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("LSTM") == 2
    assert "Loop" not in operators


def test_recipes_of_a_task_differ_in_the_network_and_the_gate_alone() -> None:
    assert sorted(recipe.name for recipe in RECIPES) == sorted(
        f"{task}-{kind}" for task in ("spam", "sentiment") for kind in ("rnn", "lstm", "gru", "bilstm")
    )
    for task in ("spam", "sentiment"):
        alike = {(r.inputs, r.config, r.preprocess) for r in RECIPES if r.name.startswith(task)}
        assert len(alike) == 1
