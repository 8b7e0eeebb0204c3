"""Four recurrent networks on two kinds of text: is a mail spam, and does a sentence like the film.

Plain (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997), GRU (Cho et al. 2014), and an LSTM each way: the same recipe
but for the cell, so that the cells can be told apart by their figures. The LSTM each way for sentences offers what it
tells the classes from as an embedding, for drift to be watched on.
"""

from dataclasses import dataclass, replace
from functools import partial

from contract.schema import AxisRange, Slo, TensorSpec
from training.config import TrainConfig
from training.dataset import sentiment, spam
from training.gate import Gate
from training.network.recurrent import Cell, RecurrentClassifier
from training.objective import Classification
from training.recipe import Recipe
from training.text import TextTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Task(TextTask):
    """A task of text classification, and what is asked of every cell at it."""

    description: str
    data: str
    config: TrainConfig
    quick_config: TrainConfig
    quick_accuracy: float


# Adam needs no other rate for another cell; a gradient through many steps is now and then huge.
CONFIG = TrainConfig(batch_size=32, optimizer="adamw", peak_learning_rate=2e-3, weight_decay=0.01, clip_norm=1.0)

SPAM = Task(
    name="spam",
    description="Says whether a mail is spam from the text of its body.",
    data="SpamAssassin mails",
    splits=spam.splits,
    labels=spam.LABELS,
    num_tokens=8_000,
    max_length=256,  # the whole of six mails in ten; what gives spam away stands at the beginning
    config=replace(CONFIG, epochs=5),
    quick_config=replace(CONFIG, epochs=3, num_train=1_024),
    quick_accuracy=0.80,
)
SENTIMENT = Task(
    name="sentiment",
    description="Says whether a sentence about a film likes it.",
    data="film sentences, Hutto & Gilbert 2014",
    splits=sentiment.splits,
    labels=sentiment.LABELS,
    num_tokens=10_000,
    max_length=48,  # the whole of 95 sentences in a hundred
    config=replace(CONFIG, epochs=4),  # from the fifth on it only grows surer of what it knows
    quick_config=replace(CONFIG, epochs=3, num_train=4_096),
    quick_accuracy=0.60,
)


STATE_SIZE = 64


def recipe(task: Task, cell: Cell, at_least: float, *, both_ways: bool = False, embeds: bool = False) -> Recipe:
    """The recipe of one cell on one task."""
    size = STATE_SIZE * (2 if both_ways else 1)
    embedding = TensorSpec(name="embedding", datatype="FP32", shape=(size,)) if embeds else None
    name = f"{task.name}-{'bi' if both_ways else ''}{'rnn' if cell == 'plain' else cell}"
    return Recipe(
        name=name,
        model=name,
        task="text-classification",
        description=task.description,
        data=task.data,
        load=task.load,
        network=partial(
            RecurrentClassifier,
            cell,
            num_tokens=task.num_tokens,
            embedding_size=64,
            state_size=STATE_SIZE,
            num_classes=len(task.labels),
            pooling="mean",
            both_ways=both_ways,
            dropout=0.5,
            token_dropout=0.2,
            embeds=embeds,
        ),
        objective=Classification(),
        inputs=task.inputs,
        outputs=(*task.outputs, embedding) if embedding else task.outputs,
        embedding=embedding.name if embedding else None,
        batch=AxisRange(min=1, opt=8, max=32),
        preprocess=task.preprocess,
        postprocess=task.postprocess,
        slo=Slo(latency_threshold_ms=100, latency_objective=0.99, availability_objective=0.999),
        config=task.config,
        gates=(Gate(metric="accuracy", at_least=at_least),),
        quick_config=task.quick_config,
        quick_gates=(Gate(metric="accuracy", at_least=task.quick_accuracy),),
        baselines={"logistic regression on words": task.baseline},
    )


RECIPES = (
    recipe(SPAM, "plain", 0.95),
    recipe(SPAM, "lstm", 0.96),
    recipe(SPAM, "gru", 0.96),
    recipe(SPAM, "lstm", 0.96, both_ways=True),
    recipe(SENTIMENT, "plain", 0.73),
    recipe(SENTIMENT, "lstm", 0.74),
    recipe(SENTIMENT, "gru", 0.74),
    recipe(SENTIMENT, "lstm", 0.74, both_ways=True, embeds=True),
)
