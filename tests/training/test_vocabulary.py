"""What a client sends that is no token, or no kind, is answered as the unknown one is: by torch and by the graph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from contract.schema import AxisRange, TensorSpec
from training.export import export
from training.network.gpt import Gpt
from training.network.recurrent import RecurrentClassifier
from training.network.seq2seq import SeqToSeq
from training.network.transformer import Encoder, MaskedWords, TextClassifier, TokenTagger
from training.network.translator import Translator
from training.network.tree_lstm import UNKNOWN, TreeLstm
from training.network.vocabulary import known
from training.text import END_ID, MASK_ID, PAD_ID, START_ID, UNKNOWN_ID

NUM, LENGTH = 40, 6
BATCH = AxisRange(min=1, opt=2, max=4)
IDS = [5, NUM, -1, 2**31 - 1, 9, MASK_ID]
CACHE = (1, 2, 2, LENGTH, 4)


def encoder() -> Encoder:
    return Encoder(num_tokens=NUM, max_length=LENGTH, width=8, num_heads=2, num_layers=1, dropout=0.1, pad=PAD_ID)


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "datatype": datatype, "shape": shape})


Case = tuple[Callable[[], nn.Module], int, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""A network, what stands for the unknown in it, and its inputs, the first of them ids, and outputs."""

IDS_32, IDS_64 = spec("ids", "INT32", LENGTH), spec("ids", "INT64", LENGTH)
TRANSLATED = (IDS_64, spec("mask", "INT64", LENGTH)), (spec("translation", "INT64", LENGTH),)
EXPORTED = ("gaps", "translator")  # an encoder and a loop; each takes seconds
TOKENS = {"pad": PAD_ID, "start": START_ID, "end": END_ID}
CASES: dict[str, Case] = {
    "recurrent": (
        lambda: RecurrentClassifier(
            "gru", num_tokens=NUM, embedding_size=6, state_size=5, num_classes=3, pooling="mean"
        ),
        UNKNOWN_ID, (IDS_32,), (spec("logits", "FP32", 3),),
    ),
    "classifier": (lambda: TextClassifier(encoder(), 3, 0.0), UNKNOWN_ID, (IDS_32,), (spec("logits", "FP32", 3),)),
    "tagger": (
        lambda: TokenTagger(encoder(), 5, 0.0, (PAD_ID, START_ID, END_ID)),
        UNKNOWN_ID, (IDS_32,), (spec("logits", "FP32", LENGTH, 5),),
    ),
    "gaps": (
        lambda: MaskedWords(encoder(), num_hidden=2, mask=MASK_ID, start=START_ID, num_special=5),
        UNKNOWN_ID, (IDS_32,), (spec("filled", "INT32", LENGTH),),
    ),
    "seq2seq": (lambda: SeqToSeq(NUM, LENGTH, width=6, num_states=5, dropout=0.1, **TOKENS), PAD_ID, *TRANSLATED),
    "translator": (
        lambda: Translator(NUM, LENGTH, width=8, num_heads=2, num_layers=1, dropout=0.1, **TOKENS), PAD_ID, *TRANSLATED
    ),
    "gpt": (
        lambda: Gpt(NUM, LENGTH, width=8, num_heads=2, num_layers=1, dropout=0.0),
        0, (IDS_64, spec("cache", "FP32", *CACHE), spec("length", "INT64", 1)),
        (spec("logits", "FP32", LENGTH, NUM), spec("next_cache", "FP32", *CACHE)),
    ),
    "tree": (
        lambda: TreeLstm(num_kinds=NUM, num_classes=3, width=6, dropout=0.5, dropped=0.5),
        UNKNOWN, (spec("kinds", "INT32", 1, LENGTH), spec("parents", "INT32", 1, LENGTH)), (spec("logits", "FP32", 3),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_id_that_is_no_tokens_is_an_unknown_token(name: str, tmp_path: Path) -> None:
    build, unknown, inputs, outputs = CASES[name]
    torch.manual_seed(3)
    network = build().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)  # large enough that every token matters
    plain = [unknown if not 0 <= each < NUM else each for each in IDS]
    other = [7 if not 0 <= each < NUM else each for each in IDS]
    # A tree is its root: its other places are of no level above.
    rows = [[row[1:] + row[:1] for row in (IDS, plain, other)], [IDS, plain, other]][name != "tree"]
    types = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
    arrays = {each.name: np.ones((3, *each.shape), types[each.datatype]) for each in inputs}
    arrays[inputs[0].name][:] = np.reshape(rows, arrays[inputs[0].name].shape)

    with torch.inference_mode():
        answered = network(*map(torch.from_numpy, arrays.values()))
    first = answered[0] if isinstance(answered, tuple) else answered
    torch.testing.assert_close(first[0], first[1])
    assert not torch.equal(first[1], first[2])

    if name not in EXPORTED:
        return
    export(network, inputs, outputs, BATCH, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, arrays)[0], first.numpy(), rtol=1e-4, atol=1e-4)


def test_neither_a_missing_number_nor_one_between_two_columns_limits_is_an_index() -> None:
    limit_C = torch.tensor([2.0, 4.0])
    index_NC = torch.tensor([[1.0, 3.0], [2.0, 2.0], [torch.nan, 4.0], [-1.0, 1e30]])
    assert known(index_NC, limit_C, limit_C).tolist() == [[1, 3], [2, 2], [2, 4], [2, 4]]
