"""A function's tree, without its returns: whether it returns a value, nothing, or is a generator.

Network: a Child-Sum Tree-LSTM, Tai et al. 2015, arXiv 1503.00075. Which kinds of nodes there are says little: it is how
they hang together, which the baseline doesn't see.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from contract.schema import AxisRange, ClassificationPostprocess, Slo, TensorPreprocess, TensorSpec
from training.config import TrainConfig
from training.data import Dataset, Split
from training.dataset.function import LABELS, LEVEL_WIDTH, NUM_KINDS, NUM_LEVELS, UNKNOWN, load
from training.gate import Gate
from training.network.tree_lstm import TreeLstm
from training.objective import Classification
from training.recipe import Recipe


def bag_of_kinds(dataset: Dataset) -> float:
    """Accuracy of a logistic regression on how many nodes of each kind there are."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=2_000).fit(_log_counts(dataset.train), dataset.train.targets)
    return float(fitted.score(_log_counts(dataset.test), dataset.test.targets))


def _log_counts(samples: Split) -> NDArray[np.float64]:
    """The logarithm of 1 and a kind's nodes `[M, kinds]`."""
    kind_MN = samples.inputs["kinds"].reshape(len(samples), -1)
    return np.asarray(np.log1p([(kind_MN == kind).sum(axis=1) for kind in range(UNKNOWN, NUM_KINDS)])).T


FUNCTION_RETURNS = Recipe(
    name="function-returns",
    model="function-returns",
    task="tree-classification",
    description=(
        "Says of a Python function whether it returns a value, from its syntax tree without `return` and `yield`: "
        "row d holds the kinds of the nodes of depth d, and of each the place of its parent in the row above."
    ),
    data="Python's standard library",
    load=load,
    network=partial(TreeLstm, num_kinds=NUM_KINDS, num_classes=len(LABELS), width=48, dropout=0.3, dropped=0.02),
    objective=Classification(),
    inputs=tuple(
        TensorSpec(name=name, datatype="INT32", shape=(NUM_LEVELS, LEVEL_WIDTH)) for name in ("kinds", "parents")
    ),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(len(LABELS),)),),
    batch=AxisRange(min=1, opt=16, max=64),
    preprocess=TensorPreprocess(),
    postprocess=ClassificationPostprocess(tensor="logits", labels=LABELS, top_k=len(LABELS)),
    slo=Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
    # Recursive networks see single huge gradients.
    config=TrainConfig(
        epochs=6, batch_size=64, optimizer="adamw", peak_learning_rate=5e-3, weight_decay=0.05, clip_norm=1.0
    ),
    gates=(Gate(metric="accuracy", at_least=0.83), Gate(metric="calibration_error", at_most=0.05)),
    quick_config=TrainConfig(
        epochs=2, batch_size=32, optimizer="adamw", peak_learning_rate=5e-3, clip_norm=1.0, num_train=2_048
    ),
    # Who always says `returns a value` is right 0.56 of the time.
    quick_gates=(Gate(metric="accuracy", at_least=0.62),),
    baselines={"bag of node kinds": bag_of_kinds},
)

RECIPES = (FUNCTION_RETURNS,)
