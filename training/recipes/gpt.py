"""GPT-2 in small, on Jane Austen's novels: what she would write next. `tidegate generate` writes with it.

Network: Radford et al. 2019; see training/network/gpt.py.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from contract.schema import AxisRange, Slo, TensorPostprocess, TensorPreprocess, TensorSpec
from contract.tensor import Tensors
from training.config import TrainConfig
from training.data import Dataset
from training.dataset.novel_window import CONTEXT, NAME, NUM_TOKENS, Novels
from training.gate import Gate
from training.network.gpt import Gpt
from training.next_token import NextToken
from training.recipe import Recipe
from training.trigram import Trigrams

NUM_LAYERS, NUM_HEADS, WIDTH = 4, 4, 128
NUM_STEPS = 16
CACHE = (NUM_LAYERS, 2, NUM_HEADS, CONTEXT, WIDTH // NUM_HEADS)  # half a megabyte

NOVELS = Novels(CACHE)

CONFIG = TrainConfig(
    # Seven minutes on two cores; the novel that is watched is still foretold a little better after each pass.
    epochs=8,
    # 2,048 tokens an update, and so 470 updates a pass.
    batch_size=16,
    # As GPT-2's family is trained: Brown et al. 2020, arXiv 2005.14165, appendix B; the rate is that of a model this
    # small.
    optimizer="adamw",
    peak_learning_rate=3e-3,
    second_momentum=0.95,
    weight_decay=0.1,
    clip_norm=1.0,
    warmup_ratio=0.05,
)


def network() -> Gpt:
    """Four layers of four heads; 1,071,872 parameters, a quarter of them the table of tokens."""
    return Gpt(NUM_TOKENS, CONTEXT, width=WIDTH, num_heads=NUM_HEADS, num_layers=NUM_LAYERS, dropout=0.0)


def steps(network: nn.Module, inputs: Tensors) -> Tensors:
    """Single tokens, each after more of a window than the one before: from none of it to all but the last place."""
    place_N = np.linspace(0, CONTEXT - 1, NUM_STEPS).astype(np.int64)
    ids_NT = torch.from_numpy(inputs["ids"][:NUM_STEPS])
    caches = []
    network.eval()
    with torch.inference_mode():
        for ids_T, place in zip(ids_NT, place_N, strict=True):
            cache = torch.zeros(1, *CACHE)
            if place:
                _, cache = network(ids_T[None, :place], cache, torch.zeros(1, 1, dtype=torch.int64))
            caches.append(cache.numpy())
    return {
        "ids": np.take_along_axis(inputs["ids"][:NUM_STEPS], place_N[:, None], axis=1),
        "cache": np.concatenate(caches),
        "length": place_N[:, None],
    }


def trigram(dataset: Dataset) -> float:
    """Perplexity of the best way of counting."""
    learned = np.concatenate((dataset.train.lesson["ids"], dataset.train.targets[:, -1:]), axis=1)
    asked = np.concatenate((dataset.test.inputs["ids"], dataset.test.targets[:, -1:]), axis=1)
    return float(np.exp(-np.log(Trigrams(learned, NUM_TOKENS).chance(asked)).mean()))


AUSTEN_GPT = Recipe(
    name="austen-gpt2",
    model="austen-gpt2",
    task="text-generation",
    description="Goes on with a text as Jane Austen might, token by token, with its cache in the client's hands.",
    data=NAME,
    load=NOVELS.load,
    network=network,
    objective=NextToken(num_tokens=NUM_TOKENS),
    inputs=(
        # A whole prompt at once, and then one token after the other.
        TensorSpec(name="ids", datatype="INT64", shape=(-1,), ranges=(AxisRange(min=1, opt=1, max=CONTEXT),)),
        TensorSpec(name="cache", datatype="FP32", shape=CACHE),
        TensorSpec(name="length", datatype="INT64", shape=(1,)),
    ),
    outputs=(
        TensorSpec(name="logits", datatype="FP32", shape=(-1, NUM_TOKENS)),
        TensorSpec(name="next_cache", datatype="FP32", shape=CACHE),
    ),
    # Small: a step carries its cache both ways, and eight of them are four megabytes.
    batch=AxisRange(min=1, opt=4, max=8),
    preprocess=TensorPreprocess(),
    postprocess=TensorPostprocess(),
    metrics=NOVELS.measure,
    golden=steps,
    # The reference is of single tokens, as nearly all requests are; their spread is nothing, a prompt's is not.
    unwatched=("cache", "length", "ids.std"),
    slo=Slo(latency_threshold_ms=100, latency_objective=0.99, availability_objective=0.999),
    config=CONFIG,
    gates=(Gate(metric="perplexity", at_most=60.0),),
    # 1,536 windows once: seconds, and far below the 2,048 of knowing nothing.
    quick_config=replace(CONFIG, epochs=1, num_train=1_536),
    quick_gates=(Gate(metric="perplexity", at_most=500.0),),
    baselines={"trigrams, Kneser-Ney": trigram},
)

RECIPES = (AUSTEN_GPT,)
