"""English to French, for what a program says to its users: attention over a recurrent encoder, and over nothing else.

Networks: Bahdanau et al. 2014, arXiv 1409.0473, in training/network/seq2seq.py; Vaswani et al. 2017, arXiv 1706.03762,
in training/network/translator.py. A text goes in and its translation comes out: the graph holds the whole greedy
decoding.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from contract.schema import AxisRange, GenerationPostprocess, Slo, TensorSpec, TextPreprocess
from training.config import TrainConfig
from training.dataset.message import (
    END,
    MAX_LENGTH,
    NAME,
    NUM_TOKENS,
    PAD,
    START,
    TOKENIZER_FILE,
    Messages,
    copied,
    nearest,
)
from training.gate import Gate
from training.network.seq2seq import SeqToSeq
from training.network.translator import Translator
from training.next_token import NextToken
from training.recipe import Recipe

MESSAGES = Messages()

CONFIG = TrainConfig(
    # As many passes as four minutes allow; it would learn on.
    epochs=10,
    batch_size=64,
    # Vaswani et al. 2017, section 5.3, with a cosine in place of the inverse root, as the number of steps is known.
    optimizer="adamw",
    peak_learning_rate=2e-3,
    second_momentum=0.98,
    weight_decay=0.01,
    clip_norm=1.0,
    warmup_ratio=0.1,
)


def recurrent() -> SeqToSeq:
    """A GRU of 192 states each way, and one that writes; 1,540,160 parameters."""
    return SeqToSeq(NUM_TOKENS, MAX_LENGTH, pad=PAD, start=START, end=END, width=128, num_states=192, dropout=0.1)


def transformer() -> Translator:
    """Three layers that read and three that write; 1,913,344 parameters."""
    return Translator(
        NUM_TOKENS, MAX_LENGTH, pad=PAD, start=START, end=END, width=128, num_heads=4, num_layers=3, dropout=0.1
    )


def _recipe(name: str, network: Callable[[], nn.Module], description: str) -> Recipe:
    return Recipe(
        name=name,
        model=name,
        task="translation",
        description=f"{description} Of at most {MAX_LENGTH - 1} tokens, without marks of shortcuts: Open, not _Open.",
        data=NAME,
        load=MESSAGES.load,
        network=network,
        # Smoothing costs likelihood and gains BLEU: Vaswani et al. 2017, section 5.4.
        objective=NextToken(num_tokens=NUM_TOKENS, label_smoothing=0.1),
        inputs=(
            TensorSpec(name="ids", datatype="INT64", shape=(MAX_LENGTH,)),
            TensorSpec(name="mask", datatype="INT64", shape=(MAX_LENGTH,)),
        ),
        outputs=(TensorSpec(name="translation", datatype="INT64", shape=(MAX_LENGTH,)),),
        batch=AxisRange(min=1, opt=8, max=32),
        preprocess=TextPreprocess(
            tokenizer=TOKENIZER_FILE, ids_tensor="ids", mask_tensor="mask", max_length=MAX_LENGTH, pad_id=PAD
        ),
        postprocess=GenerationPostprocess(tensor="translation", tokenizer=TOKENIZER_FILE, end_id=END, pad_id=PAD),
        metrics=MESSAGES.measure,
        slo=Slo(latency_threshold_ms=250, latency_objective=0.99, availability_objective=0.999),
        config=CONFIG,
        # Above the nearest message's translation, 25.0 with an interval of 22.9 to 27.4.
        gates=(Gate(metric="bleu", at_least=28.0), Gate(metric="chrf", at_least=50.0)),
        # 4,096 messages three times: the commonest words; what has learned nothing has a BLEU of 0.01.
        quick_config=replace(CONFIG, epochs=3, batch_size=32, num_train=4_096),
        quick_gates=(Gate(metric="bleu", at_least=0.2),),
        baselines={"the source itself": copied, "the nearest message's translation": nearest},
    )


TRANSLATE_SEQ2SEQ = _recipe(
    "translate-seq2seq",
    recurrent,
    "Translates a program's short messages from English to French, by a recurrent network with attention.",
)
TRANSLATE_TRANSFORMER = _recipe(
    "translate-transformer",
    transformer,
    "Translates a program's short messages from English to French, by attention alone.",
)

RECIPES = (TRANSLATE_SEQ2SEQ, TRANSLATE_TRANSFORMER)
