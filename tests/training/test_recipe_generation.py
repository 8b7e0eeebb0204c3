"""Going on with texts and translating them: what is served is what was learned, and the data keeps its splits apart."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polib
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import training
from contract.schema import AxisRange, TensorPostprocess, TensorPreprocess, TensorSpec
from training import parity
from training.data import Dataset, Split
from training.dataset import message, novel_window
from training.dataset.message import END, PAD, START, divided, encoded, judged, pairs, texts, trained, words
from training.dataset.novel_window import Novels, written
from training.export import export
from training.network.gpt import Gpt
from training.network.seq2seq import SeqToSeq
from training.network.translator import Translator
from training.next_token import NOTHING, NextToken
from training.reference import reference_profile
from training.trigram import Trigrams

NUM_TOKENS, PLACES = 40, 7
CACHE = (3, 2, 2, PLACES, 8)


def opinionated(network: torch.nn.Module) -> Any:
    """Weights large enough that every token and every place matters."""
    torch.manual_seed(3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network.eval()


@pytest.fixture(scope="module")
def gpt() -> Gpt:
    return opinionated(Gpt(NUM_TOKENS, PLACES, width=16, num_heads=2, num_layers=3, dropout=0.1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["seq2seq", "transformer"])
def translator(request: pytest.FixtureRequest) -> Any:
    tokens = {"pad": PAD, "start": START, "end": END}
    if request.param == "seq2seq":
        return opinionated(SeqToSeq(NUM_TOKENS, PLACES, width=12, num_states=10, dropout=0.1, **tokens))
    return opinionated(Translator(NUM_TOKENS, PLACES, width=16, num_heads=2, num_layers=2, dropout=0.1, **tokens))


def sources(*lengths: int) -> tuple[Tensor, Tensor]:
    mask = torch.arange(PLACES) < torch.tensor(lengths)[:, None]
    ids = torch.randint(3, NUM_TOKENS, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    return ids, mask.long()


@torch.inference_mode()
def test_step_by_step_is_the_whole_window_at_once(gpt: Gpt) -> None:
    ids = torch.randint(0, NUM_TOKENS, (2, PLACES), generator=torch.Generator().manual_seed(1))
    cache, length, found = torch.zeros(2, *CACHE), 0, []
    for size in (3, 1, 1, 2):
        logits, cache = gpt(ids[:, length : length + size], cache, torch.full((2, 1), length))
        found.append(logits)
        length += size
    assert (torch.cat(found, dim=1) - gpt(ids)).abs().max() < 1e-4
    full, kept = gpt(ids[:, :1], cache, torch.full((2, 1), length))  # there is no room for one more
    assert torch.equal(kept, cache)
    assert full.isfinite().all()


@torch.inference_mode()
def test_texts_of_different_lengths_in_one_batch_are_each_as_alone(gpt: Gpt) -> None:
    ids = torch.randint(0, NUM_TOKENS, (3, 1), generator=torch.Generator().manual_seed(2))
    cache = torch.randn(3, *CACHE, generator=torch.Generator().manual_seed(3))
    length = torch.tensor([[0], [2], [6]])
    together = gpt(ids, cache, length)
    alone = [gpt(ids[i : i + 1], cache[i : i + 1], length[i : i + 1]) for i in range(3)]
    for both, single in zip(together, zip(*alone, strict=True), strict=True):
        assert (both - torch.cat(single)).abs().max() < 1e-5
    unused = torch.where((torch.arange(PLACES) >= 2)[:, None], 99.0, cache[1:2])
    assert torch.equal(gpt(ids[1:2], unused, length[1:2])[0], alone[1][0])  # nothing beyond its length is seen


@torch.inference_mode()
def test_no_token_sees_what_comes_after_it(gpt: Gpt) -> None:
    ids = torch.randint(0, NUM_TOKENS, (1, PLACES), generator=torch.Generator().manual_seed(4))
    changed = torch.cat((ids[:, :4], (ids[:, 4:] + 1) % NUM_TOKENS), dim=1)
    before, after = gpt(ids), gpt(changed)
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-2)


@torch.inference_mode()
def test_ids_and_lengths_that_there_are_not_are_answered_all_the_same(gpt: Gpt) -> None:
    ids, length = torch.tensor([[-5], [10**9]]), torch.tensor([[-1], [10**9]])
    logits, cache = gpt(ids, torch.zeros(2, *CACHE), length)
    assert logits.isfinite().all()
    assert cache.isfinite().all()


@torch.inference_mode()
def test_what_is_written_is_what_the_lesson_makes_likeliest(translator: Any) -> None:
    ids, mask = sources(7, 3, 1, 5)
    translation = translator(ids, mask)
    shown = torch.cat((torch.full((4, 1), START), translation[:, :-1]), dim=1)
    likeliest = translator._lesson(ids, mask, shown).argmax(dim=2)
    ended = ((translation == END).cumsum(dim=1) - (translation == END).long()) > 0
    assert torch.equal(torch.where(ended, PAD, likeliest), translation)
    assert len({tuple(row) for row in translation.tolist()}) > 1  # the sources matter


@torch.inference_mode()
def test_padding_and_neighbours_change_nothing(translator: Any) -> None:
    ids, mask = sources(7, 3, 1)
    together = translator(ids, mask)
    for i, length in enumerate((7, 3, 1)):
        alone = translator(ids[i : i + 1, :length], mask[i : i + 1, :length])
        assert torch.equal(alone[0], together[i])
    assert translator(torch.zeros_like(ids), torch.zeros_like(mask)).shape == (3, PLACES)


@torch.inference_mode()
def test_a_lesson_in_parts_is_the_whole_lesson(translator: Any) -> None:
    ids, mask = sources(7, 3, 1, 5, 2, 6)
    shown = torch.where(mask > 0, ids, PAD)
    parts, whole = translator(ids, mask, shown), translator._lesson(ids, mask, shown)
    assert (parts - whole)[mask > 0].abs().max() < 1e-4


def test_a_loop_stays_a_loop_in_the_graph(tmp_path: Path) -> None:
    network = opinionated(
        SeqToSeq(NUM_TOKENS, PLACES, pad=PAD, start=START, end=END, width=12, num_states=10, dropout=0.1)
    )
    inputs = tuple(TensorSpec(name=name, datatype="INT64", shape=(PLACES,)) for name in ("ids", "mask"))
    outputs = (TensorSpec(name="translation", datatype="INT64", shape=(PLACES,)),)
    batch = AxisRange(min=1, opt=2, max=4)
    export(network, inputs, outputs, batch, tmp_path / "model.onnx")
    ids, mask = sources(7, 3, 1, 5, 2, 6, 0)
    graph = parity.Graph(tmp_path / "model.onnx", outputs)
    arrays = {"ids": ids.numpy(), "mask": mask.numpy()}
    assert parity.check(network, graph, arrays, inputs, outputs, batch)[0].max_error == 0
    loops = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Scan"]
    assert len(loops) == 3
    assert str(Path(training.__file__).parent).encode() not in (tmp_path / "model.onnx").read_bytes()


def test_nothing_is_judged_behind_a_texts_end() -> None:
    objective = NextToken(num_tokens=3)
    logits = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]]])
    targets = torch.tensor([[0, 1, NOTHING]])
    assert objective.loss([logits], targets) < 1e-3
    assert objective.score([logits], targets) == 1
    output = (TensorSpec(name="logits", datatype="FP32", shape=(3, 3)),)
    for wrong, said in (([[3, 0]], "from 0 to 2"), ([[-2, 0]], "from 0 to 2"), ([[-1, -1]], "at least one token")):
        with pytest.raises(ValueError, match=said):
            objective.check(output, np.array(wrong), whole=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=6))
def test_trigrams_share_out_all_of_the_probability(lines: list[list[int]]) -> None:
    counted = Trigrams(np.array(lines), 5)
    asked = np.array([[a, b, c] for a in range(5) for b in range(5) for c in range(5)])
    assert np.allclose(counted.chance(asked)[:, 1].reshape(25, 5).sum(axis=1), 1)
    assert np.allclose(counted.chance(asked[::5, :2] * [1, 0] + [[0, k % 5] for k in range(25)])[:, 0].sum(), 5)


def test_trigrams_by_hand() -> None:
    counted = Trigrams(np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3]]), 4)
    # Trigrams: counts 2 and 1, a discount of 1 / (1 + 2 * 1). Bigrams: 2 and 3 after 1, each in one context, a discount
    # of 1, so all is left to the single tokens; and those were each seen after one kind, so to all four tokens alike.
    assert counted.chance(np.array([[0, 1, 2]]))[0, 1] == pytest.approx((2 - 1 / 3) / 3 + (1 / 3 * 2 / 3) / 4)


def test_messages_are_cleaned_and_kept_apart() -> None:
    file = polib.MOFile()
    for english, french in (
        ("_Open", "_Ouvrir"), ("~Open...", "~Ouvrir..."), ("Go  on", "Continuer"), ("OK", "OK"), ("%1", "%2"),
        ("<b>Bold</b>", "<b>Gras</b>"), ("Page 1", "Page nº 1"), ("page 2:", "page nº 2 :"), ("Empty", ""),
        ("~Get %EXTENSION_NAME", "L'o_btenir : %EXTENSION_NAME"), ("%A_B $error_message$ ~x", "%A_B $error_message$"),
    ):  # fmt: skip
        file.append(polib.MOEntry(msgid=english, msgstr=french, msgctxt="a dialog"))
    found = pairs({"a.mo": file.to_binary()})
    assert found == [
        ("%A_B $error_message$ x", "%A_B $error_message$"), ("Get %EXTENSION_NAME", "L'obtenir : %EXTENSION_NAME"),
        ("Go on", "Continuer"), ("Open", "Ouvrir"), ("Open...", "Ouvrir..."), ("Page 1", "Page nº 1"),
        ("page 2:", "page nº 2 :"),
    ]  # fmt: skip


def test_no_message_of_the_test_was_learned_in_other_clothes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "NUM_TEST", 30)
    monkeypatch.setattr(message, "NUM_VALIDATION", 20)
    forms = ("{} the file", "{} The File...", "{} the file 2")
    everything = [(form.format("a" * (1 + i)), f"le fichier {i}") for i in range(99) for form in forms]
    splits = divided(everything)
    assert sorted(pair for chosen in splits.values() for pair in chosen) == sorted(everything)
    assert [len(splits[name]) for name in ("test", "validation", "train")] == [90, 60, 147]
    seen = {words(english) for english, _ in splits["train"]}
    assert not seen & {words(english) for name in ("test", "validation") for english, _ in splits[name]}
    again = divided(everything[::-1])
    assert {name: sorted(chosen) for name, chosen in splits.items()} == {name: sorted(again[name]) for name in splits}


def test_ids_are_read_back_as_what_was_written() -> None:
    lines = [f"Save the file number {i} as well" for i in range(50)]
    tokenizer = trained(lines)
    assert tokenizer.to_str() == trained(lines).to_str()
    pair = ("Save the file", "né à £ 3 — 保")
    split = encoded(tokenizer, [pair, ("long " * 40, "court")])
    assert len(split) == 1  # what is too long is left out
    assert texts(tokenizer, split.inputs["ids"]) == [pair[0]]
    assert texts(tokenizer, split.targets) == [pair[1]]
    target, shown = split.targets[0], split.lesson["shown"][0]
    length = int((target != NOTHING).sum())
    assert target[length - 1] == END
    assert shown[:length].tolist() == [START, *target[: length - 1]]
    assert (shown[length:] == PAD).all()


def test_a_perfect_translation_is_judged_so() -> None:
    lines = ["Enregistrer le fichier ouvert", "Fermer la fenêtre sans enregistrer"]
    bleu, chrf, same = (measure.metric for measure in judged(lines, lines))
    assert (round(bleu.value, 6), round(chrf.value, 6), same.value) == (100, 100, 1)
    worse = [measure.metric.value for measure in judged(["Ouvrir le fichier", "Fermer"], lines)]
    assert all(0 <= value < 60 for value in worse)


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity() -> None:
    novels = Novels((1,))
    novels._letters_K = np.full(NUM_TOKENS, 4)
    targets = np.random.default_rng(0).integers(0, NUM_TOKENS, (9, PLACES))
    perplexity, bits = novels.measure({"logits": np.zeros((9, PLACES, NUM_TOKENS), np.float32)}, targets)
    assert perplexity.metric.value == pytest.approx(NUM_TOKENS)
    assert bits.metric.value == pytest.approx(np.log2(NUM_TOKENS) / 4)


def test_novels_are_paragraphs_cut_into_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["EMMA", "", "CHAPTER I", "", "", "Emma  Woodhouse,", "handsome.", "", "She was.", "FINIS", "", "FINIS"]
    assert written(lines) == "EMMA\nEmma Woodhouse, handsome.\nShe was. FINIS"
    monkeypatch.setattr(novel_window, "CONTEXT", 8)
    text = "It is a truth universally acknowledged, that a single man.\n" * 4
    tokenizer = novel_window.trained([text])
    windows = novel_window.cut(tokenizer, text)
    assert np.array_equal(windows[1:, 0], windows[:-1, -1])
    assert text.startswith(tokenizer.decode([*windows[:, :-1].ravel().tolist(), int(windows[-1, -1])]))


def test_a_state_isnt_watched_for_drift() -> None:
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {"ids": rng.integers(0, 9, (40, 1)), "cache": np.zeros((40, 3), np.float32)}
    split = Split(inputs=inputs, targets=np.zeros(40, np.int64))
    dataset = Dataset(name="x", sha256="0" * 64, train=split, validation=split, test=split)
    seam = TensorPreprocess(), TensorPostprocess(), dataset, {"logits": np.zeros((40, 1), np.float32)}
    names = {feature.name for feature in reference_profile(*seam).features}
    assert names >= {"ids.mean", "ids.std", "cache.mean", "cache.std"}
    left = {feature.name for feature in reference_profile(*seam, unwatched=("cache", "ids.std")).features}
    assert left == names - {"cache.mean", "cache.std", "ids.std"}
