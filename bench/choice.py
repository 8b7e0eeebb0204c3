"""The choices that `python -m bench ablation` compares: all of the recipe's, and what differs from them in one thing.

The network is a compact form of that of `fashion-vgg`; everything that isn't named is as in that recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from training.augmentation import Augment
from training.config import TrainConfig
from training.dataset.fashion_mnist import LABELS, PIXEL_MEAN, PIXEL_STD, SIDE_PX
from training.network.initialisation import Scheme
from training.network.pixel import PixelScale
from training.network.vgg import Switches, Vgg
from training.objective import Classification
from training.recipe import Recipe
from training.recipes.fashion_convolution import FASHION_VGG

WIDTHS, HIDDEN = (16, 16, 32), 64
# Without normalisation the recipe's rate of 0.1 hides what first weights do: some diverge that train well at this one.
BARE = "first weights, no normalisation, rate 0.03"

_AS_IT_IS, _SHARP = Switches(), Classification()
_BARE = Switches(normalisation="none")
_SCHEMES: Mapping[str, Scheme] = {
    "He": "kaiming",
    "normal 0.01": "normal",
    "Xavier": "xavier",
    "orthogonal": "orthogonal",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One choice of a topic, and where it differs from the recipe."""

    topic: str
    name: str
    switches: Switches = _AS_IT_IS
    train: Mapping[str, Any] = field(default_factory=dict)
    objective: Classification = _SHARP
    augment: Augment | None = FASHION_VGG.augment

    def recipe(self, seed: int, config: TrainConfig) -> Recipe:
        """The recipe that is trained with it."""
        network = partial(
            Vgg,
            PixelScale([PIXEL_MEAN], [PIXEL_STD]),
            side=SIDE_PX,
            widths=WIDTHS,
            hidden=HIDDEN,
            num_classes=len(LABELS),
            switches=self.switches,
        )
        return replace(
            FASHION_VGG,
            network=network,
            objective=self.objective,
            augment=self.augment,
            config=replace(config, seed=seed, **self.train),
        )


CHOICES = (
    Choice(topic="as in the recipe, compact", name="batch, He, SGD, cosine"),
    Choice(topic="normalisation", name="layer", switches=Switches(normalisation="layer")),
    Choice(topic="normalisation", name="none", switches=_BARE),
    *(
        Choice(topic="first weights", name=name, switches=Switches(initialisation=scheme))
        for name, scheme in _SCHEMES.items()
        if scheme != _AS_IT_IS.initialisation
    ),
    *(
        Choice(
            topic=BARE, name=name, switches=replace(_BARE, initialisation=scheme), train={"peak_learning_rate": 0.03}
        )
        for name, scheme in _SCHEMES.items()
    ),
    Choice(topic="dropout", name="none", switches=Switches(dropout=0.0)),
    Choice(topic="dropout", name="0.5", switches=Switches(dropout=0.5)),
    Choice(topic="optimizer", name="SGD, no momentum", train={"momentum": 0.0, "nesterov": False}),
    # Adam's steps are of about the rate's size whatever the gradient's: the usual rate for it, not that of SGD.
    Choice(topic="optimizer", name="Adam", train={"optimizer": "adam", "peak_learning_rate": 2e-3}),
    # Its decay is apart from the gradient, and so of another size.
    Choice(
        topic="optimizer", name="AdamW", train={"optimizer": "adamw", "peak_learning_rate": 2e-3, "weight_decay": 0.05}
    ),
    Choice(topic="learning rate", name="linear", train={"schedule": "linear"}),
    Choice(topic="learning rate", name="step", train={"schedule": "step"}),
    Choice(topic="learning rate", name="inverse square root", train={"schedule": "inverse_sqrt"}),
    Choice(topic="learning rate", name="constant", train={"schedule": "constant"}),
    Choice(topic="learning rate", name="cosine, no warm-up", train={"warmup_ratio": 0.0}),
    Choice(topic="labels", name="smoothed by 0.1", objective=Classification(label_smoothing=0.1)),
    Choice(topic="augmentation", name="none", augment=None),
)
