"""Where genes are cut: says of 60 bases of DNA whether an exon ends in their middle, begins there, or neither.

Network: dilated convolutions in residual blocks, van den Oord et al. 2016, arXiv 1609.03499, as Jaganathan et al. 2019
(Cell 176) use them for splice sites. It comes to 0.962 where logistic regression comes to 0.958: most of what there is
to say is said by a few bases, each at its place.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from contract.schema import AxisRange, ClassificationPostprocess, Slo, TensorSpec, TextPreprocess
from training.config import TrainConfig
from training.data import Dataset, Split
from training.dataset.splice_site import (
    FIRST_BASE_ID,
    LABELS,
    MAX_LENGTH,
    NUM_BASES,
    PAD_ID,
    TOKENIZER_FILE,
    UNKNOWN_ID,
    load,
)
from training.gate import Gate
from training.network.convolution1d import BaseNetwork
from training.objective import Classification
from training.recipe import Recipe


def logistic_regression(dataset: Dataset) -> float:
    """Accuracy of a logistic regression on which base is at which place."""
    from sklearn.linear_model import LogisticRegression

    train, test = dataset.train, dataset.test
    # C: the best of five by cross-validation on the training split.
    fitted = LogisticRegression(C=0.03, max_iter=1_000).fit(_bases(train), train.targets)
    return float(fitted.score(_bases(test), test.targets))


def _bases(samples: Split) -> NDArray[np.bool_]:
    """Which base is where `[M, places * bases]`."""
    ids_ML1 = samples.inputs["ids"][:, :NUM_BASES, None]
    return np.asarray(ids_ML1 == np.arange(FIRST_BASE_ID, FIRST_BASE_ID + 4)).reshape(len(samples), -1)


SPLICE_SITES = Recipe(
    name="splice-sites",
    model="splice-sites",
    task="sequence-classification",
    description="Says whether an exon ends or begins in the middle of 60 bases, sent as letters A, C, G, T and N.",
    data="primate splice sites",
    load=load,
    # Dilations 1, 2, 4 and 8 see 65 places: the whole window.
    network=partial(
        BaseNetwork,
        first_id=FIRST_BASE_ID,
        num_bases=NUM_BASES,
        num_classes=len(LABELS),
        channels=32,
        num_blocks=4,
        dropout=0.3,
        input_dropout=0.1,
    ),
    objective=Classification(),
    inputs=(TensorSpec(name="ids", datatype="INT32", shape=(MAX_LENGTH,)),),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(len(LABELS),)),),
    batch=AxisRange(min=1, opt=16, max=64),
    preprocess=TextPreprocess(
        tokenizer=TOKENIZER_FILE, ids_tensor="ids", max_length=MAX_LENGTH, pad_id=PAD_ID, unknown_id=UNKNOWN_ID
    ),
    postprocess=ClassificationPostprocess(tensor="logits", labels=LABELS, top_k=3),
    slo=Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
    # 1,700 windows are few: twenty passes of small batches, which is where cross-validation flattens.
    config=TrainConfig(epochs=20, batch_size=64, optimizer="adamw", peak_learning_rate=3e-3, weight_decay=0.01),
    gates=(Gate(metric="accuracy", at_least=0.94), Gate(metric="calibration_error", at_most=0.05)),
    quick_config=TrainConfig(epochs=6, batch_size=32, optimizer="adamw", peak_learning_rate=3e-3, num_train=1_024),
    # Who always says `neither` is right 0.57 of the time.
    quick_gates=(Gate(metric="accuracy", at_least=0.80),),
    baselines={"logistic regression": logistic_regression},
)

RECIPES = (SPLICE_SITES,)
