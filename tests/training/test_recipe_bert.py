from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.data import Dataset
from training.dataset import name_tag
from training.dataset.novel_name import TEST, TRAIN, VALIDATION, passages
from training.masked import HIDDEN_RATIO, HiddenTokens, Hide, chosen, exam, is_chosen, num_hidden
from training.network.transformer import Encoder, MaskedWords, TextClassifier, TokenTagger
from training.next_token import NOTHING
from training.recipes.ernie import INPUTS, PREPROCESS
from training.text import END_ID, MASK_ID, PAD_ID, SPECIAL, START_ID, TOKENIZER_FILE, encode

LENGTH, NUM_TOKENS = 16, 40
FIRST = len(SPECIAL)


def encoder(dropout: float = 0.0) -> Encoder:
    torch.manual_seed(1)
    return Encoder(
        num_tokens=NUM_TOKENS, max_length=LENGTH, width=16, num_heads=2, num_layers=2, dropout=dropout, pad=PAD_ID
    )


def ids(*lengths: int) -> Tensor:
    rows = [[START_ID, *range(FIRST, FIRST + n - 2), END_ID] + [PAD_ID] * (LENGTH - n) for n in lengths]
    return torch.tensor(rows, dtype=torch.int32)


def test_a_text_is_encoded_the_same_alone_and_beside_longer_ones() -> None:
    network, texts = encoder().eval(), ids(16, 9, 3)
    together = network(texts)
    for i in range(len(texts)):
        torch.testing.assert_close(network(texts[i : i + 1])[0], together[i])
    assert (together[1, 9:] == 0).all()


def test_every_token_sees_the_ones_before_it_and_the_ones_behind() -> None:
    network = encoder().eval()
    changed = ids(9)
    changed[0, 4] = NUM_TOKENS - 1
    moved = (network(ids(9)) - network(changed)).abs().sum(dim=-1)[0] > 0
    assert moved[:9].all()
    assert not moved[9:].any()


def test_a_lesson_cut_by_length_is_the_whole_lesson() -> None:
    network, texts = encoder(), ids(16, 3, 9, 9, 4, 16)
    torch.testing.assert_close(network.train()(texts), network.eval()(texts))


def test_nothing_but_padding_is_answered_by_numbers() -> None:
    """A version is warmed up with zeros."""
    empty = torch.zeros(2, LENGTH, dtype=torch.int32)
    assert TextClassifier(encoder(), 2, 0.0).eval()(empty).isfinite().all()
    assert (TokenTagger(encoder(), 5, 0.0, (PAD_ID, START_ID, END_ID)).eval()(empty).argmax(dim=-1) == 0).all()


def test_tokens_that_stand_for_no_text_are_tagged_outside() -> None:
    texts = ids(16, 5)
    tags = TokenTagger(encoder(), 5, 0.0, (PAD_ID, START_ID, END_ID)).eval()(texts).argmax(dim=-1)
    assert (tags[texts < FIRST] == 0).all()
    assert (tags[texts >= FIRST] != 0).any()


def test_a_tag_is_decided_beside_two_neighbours_on_either_side() -> None:
    torch.manual_seed(1)
    alone = Encoder(num_tokens=NUM_TOKENS, max_length=LENGTH, width=16, num_heads=2, num_layers=0, dropout=0.0, pad=0)
    network = TokenTagger(alone, 5, 0.0, (PAD_ID, START_ID, END_ID)).eval()
    changed = ids(16)
    changed[0, 8] = NUM_TOKENS - 1
    moved = (network(ids(16)) - network(changed)).abs().sum(dim=-1)[0] > 0
    assert moved.nonzero().flatten().tolist() == [6, 7, 8, 9, 10]


def test_gaps_are_filled_and_nothing_else_is_changed() -> None:
    network = MaskedWords(encoder(), num_hidden=3, mask=MASK_ID, start=START_ID, num_special=FIRST).eval()
    texts = ids(12, 5)
    shown = texts.clone()
    shown[0, [2, 5, 7, 9]] = MASK_ID  # one more than are filled
    filled = network(shown)
    assert isinstance(filled, Tensor)
    assert filled.dtype == shown.dtype
    expected = torch.where(texts == START_ID, PAD_ID, shown)
    same = filled == expected
    assert (~same).nonzero().tolist() == [[0, 2], [0, 5], [0, 7]]
    assert (filled[0, [2, 5, 7]] >= FIRST).all()


def test_a_gap_is_filled_by_the_highest_logit_of_the_lesson() -> None:
    network = MaskedWords(encoder(), num_hidden=2, mask=MASK_ID, start=START_ID, num_special=FIRST).eval()
    shown = ids(12)
    shown[0, [2, 5]] = MASK_ID
    logits, _ = network(shown, torch.tensor([[2, 5]]))
    filled = network(shown)
    assert filled[0, [2, 5]].tolist() == (logits[0, :, FIRST:].argmax(dim=-1) + FIRST).tolist()


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(0, 1_000))
def test_units_are_hidden_whole_and_about_as_many_as_they_should_be(sizes: list[int], seed: int) -> None:
    numbers = [unit for unit, size in enumerate(sizes, start=1) for _ in range(size)]
    length = max(32, len(numbers) * 2)  # room for a unit that begins within the ratio and ends beyond
    units = torch.tensor([[*numbers, *[0] * (length - len(numbers))]])
    hidden = is_chosen(chosen(units, torch.Generator().manual_seed(seed)), length)
    assert not hidden[units == 0].any()
    for unit in range(1, len(sizes) + 1):
        assert len(set(hidden[units == unit].tolist())) == 1
    budget = max(1, round(HIDDEN_RATIO * len(numbers)))
    assert budget <= int(hidden.sum()) < budget + max(sizes)


def test_hidden_tokens_are_drawn_anew_and_masked_in_the_papers_shares() -> None:
    hide = Hide(num_tokens=NUM_TOKENS, mask=MASK_ID, num_special=FIRST)
    texts = torch.full((2_000, LENGTH), NUM_TOKENS - 1)
    units = torch.arange(1, LENGTH + 1).expand(2_000, -1)
    torch.manual_seed(1)
    (shown, positions), (again, _) = hide((texts, units)), hide((texts, units))
    assert (shown != again).any()
    hidden = is_chosen(positions, LENGTH)
    assert (shown[~hidden] == texts[~hidden]).all()
    shares = [(shown[hidden] == MASK_ID).float().mean(), (shown[hidden] == NUM_TOKENS - 1).float().mean()]
    assert shares == pytest.approx([0.8, 0.1], abs=0.03)
    assert shown[hidden][shown[hidden] != MASK_ID].min() >= FIRST


def test_only_hidden_tokens_are_judged() -> None:
    objective, targets = HiddenTokens(num_tokens=NUM_TOKENS), ids(8).long()
    logits = torch.zeros(1, 2, NUM_TOKENS)
    logits[0, 0, targets[0, 3]] = 50.0
    assert objective.loss((logits, torch.tensor([[3, -1]])), targets).item() == pytest.approx(0.0, abs=1e-6)
    assert objective.score((logits, torch.tensor([[3, -1]])), targets).item() == 1.0
    assert objective.score((logits, torch.tensor([[3, 4]])), targets).item() == 0.5


def test_an_exam_hides_the_same_every_time() -> None:
    texts = ids(16, 9, 12).numpy()
    units = np.where(texts < FIRST, 0, np.arange(1, LENGTH + 1))
    first, second = (exam(texts, units, mask=MASK_ID, seed=5) for _ in range(2))
    assert (first.inputs["ids"] == second.inputs["ids"]).all()
    masked = first.inputs["ids"] == MASK_ID
    assert masked.sum(axis=1).tolist() == [2, 1, 2]
    assert (first.targets[masked] == texts[masked]).all()
    assert (first.targets[~masked] == NOTHING).all()
    assert first.lesson["positions"].shape == (3, num_hidden(LENGTH))


@cache
def names() -> Dataset:
    return name_tag.tagged(None, PREPROCESS, INPUTS, tokens=4_096, renamed=1)


def marked(text: str) -> Iterator[str]:
    """The passages that hold the text, their names in brackets."""
    for passage in (p for book in passages(None).values() for p in book if text in p.text):
        shown, at = "", 0
        for span in passage.spans:
            shown += f"{passage.text[at : span.start]}[{passage.text[span.start : span.end]}|{span.kind}]"
            at = span.end
        yield shown + passage.text[at:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Sir Walter Elliot, of Kellynch Hall",
            "Sir [Walter Elliot|person], of [Kellynch Hall|place], in [Somersetshire|place]",
        ),
        ("in a shop window in Milsom Street just", "in [Milsom Street|place] just"),
        ("Right Honourable Lady Catherine de", "Honourable Lady [Catherine de Bourgh|person],"),
    ],
)
def test_names_are_marked_without_their_titles(text: str, expected: str) -> None:
    assert any(expected in each for each in marked(text))


def test_no_novel_is_in_two_splits_and_every_name_has_its_tags() -> None:
    dataset, of_book = names(), passages(None)
    for split, books, times in (
        (dataset.train, TRAIN, 2),
        (dataset.validation, VALIDATION, 1),
        (dataset.test, TEST, 1),
    ):
        assert len(split) == times * sum(len(of_book[book]) for book in books)
        tagged = sum(len(list(name_tag.spans(row))) for row in split.targets["tags"])
        written = times * sum(len(p.spans) for book in books for p in of_book[book])
        assert 0.98 * written < tagged <= written  # the rest is behind the network's end
    assert len({*TRAIN, *VALIDATION, *TEST}) == 6


def test_most_names_of_the_test_are_new() -> None:
    """Otherwise what the training novels name would do."""
    dataset = names()
    assert not dataset.train.targets["new"].any()
    first = (dataset.test.targets["tags"] % 2 == 1) & (dataset.test.targets["tags"] > 0)
    assert dataset.test.targets["new"][first].mean() > 0.6
    assert name_tag.most_frequent_tag(dataset) < 0.5
    assert name_tag.most_frequent_tag_or_list(dataset) > 0.8  # whoever has the lists has to be better than that


def test_capitals_tell_the_network_nothing() -> None:
    texts = [p.text for p in passages(None)[TEST[0]][:50]]
    given, lower = (
        encode(each, PREPROCESS, INPUTS, names().files[TOKENIZER_FILE])["ids"]
        for each in (texts, [t.lower() for t in texts])
    )
    assert (given == lower).all()


def test_names_are_judged_whole() -> None:
    right = np.array([[NOTHING, 1, 2, 0, 3, 1, NOTHING]])
    targets = np.zeros(1, dtype=[("tags", "i8", (7,)), ("new", "?", (7,))])
    targets["tags"], targets["new"][0, 4] = right, True
    # The first name is cut short, the second right, the third of the wrong kind.
    said = np.array([[0, 1, 0, 0, 3, 3, 0]])
    values = {m.metric.name: m.metric.value for m in name_tag.measure({"logits": np.eye(5)[said]}, targets)}
    assert values["span_f1"] == pytest.approx(1 / 3)
    assert values["recall_of_new"] == 1.0
    assert values["span_f1.person"] == 0.0
    assert values["span_f1.place"] == pytest.approx(2 / 3)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_spans_cover_what_is_tagged_and_nothing_else(tags: list[int]) -> None:
    covered = [i for start, end, _ in name_tag.spans(np.array(tags)) for i in range(start, end)]
    assert covered == [i for i, tag in enumerate(tags) if tag > 0]
