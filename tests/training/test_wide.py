from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from contract.schema import AxisRange, TensorSpec
from training.export import export
from training.network.transformer import Encoder, TextClassifier, WideTextClassifier
from training.parity import Graph
from training.text import END_ID, MASK_ID, PAD_ID, SPECIAL, START_ID

LENGTH, NUM_TOKENS = 8, 40
FIRST = len(SPECIAL)
TEXTS = torch.tensor(
    [
        [START_ID, 7, 7, 39, END_ID, PAD_ID, PAD_ID, PAD_ID],
        [START_ID, FIRST, 9, 20, MASK_ID, 11, 12, END_ID],
    ],
    dtype=torch.int32,
)


def encoder() -> Encoder:
    torch.manual_seed(1)
    return Encoder(
        num_tokens=NUM_TOKENS, max_length=LENGTH, width=16, num_heads=2, num_layers=1, dropout=0.0, pad=PAD_ID
    )


def wide() -> WideTextClassifier:
    return WideTextClassifier(encoder(), 2, 0.0, num_special=FIRST, mask=MASK_ID, word_scale=3.0).eval()


def plain(network: TextClassifier) -> Tensor:
    """What the same network answers without its wide part."""
    other = TextClassifier(encoder(), 2, 0.0).eval()
    other.load_state_dict({name: t for name, t in network.state_dict().items() if not name.startswith("word.")})
    answer: Tensor = other(TEXTS)
    return answer


def test_a_wide_classifier_begins_as_a_plain_one() -> None:
    network = wide()
    torch.testing.assert_close(network(TEXTS), plain(network))


def test_what_words_add_is_linear_in_how_often_each_stands_there() -> None:
    network = wide()
    nn.init.normal_(network.word.weight)
    counts = torch.stack([torch.bincount(text, minlength=NUM_TOKENS) for text in TEXTS])[:, FIRST:]
    mean = counts.float() @ network.word.weight[FIRST:] / counts.sum(dim=1, keepdim=True)
    num_words = torch.tensor([[3.0], [6.0]])  # of the second's one is masked
    expected = 3.0 * num_words.sqrt() * mean
    torch.testing.assert_close(network(TEXTS) - plain(network), expected)


def test_the_graph_answers_what_the_network_answers(tmp_path: Path) -> None:
    network, path = wide(), tmp_path / "model.onnx"
    nn.init.normal_(network.word.weight)
    given = TensorSpec(name="ids", datatype="INT32", shape=(LENGTH,))
    answer = TensorSpec(name="logits", datatype="FP32", shape=(2,))
    export(network, [given], [answer], AxisRange(min=1, opt=4, max=8), path)
    texts = torch.cat((TEXTS, TEXTS[:1]))
    texts[2, 2] = NUM_TOKENS + 7  # no token's: unknown, which is no word
    answered = Graph(path, [answer]).run_all({"ids": texts.numpy()}, 2)["logits"]
    np.testing.assert_allclose(answered, network(texts).detach().numpy(), atol=1e-5)
