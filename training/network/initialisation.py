"""What the weights of a network are before it learns: schemes that differ in how large a signal is many layers on.

Normal of deviation 0.01: Krizhevsky et al. 2012, section 5. Xavier: Glorot & Bengio 2010. Kaiming: He et al. 2015,
arXiv 1502.01852. Orthogonal: Saxe et al. 2013, arXiv 1312.6120, with the gain that makes up for a ReLU.
"""

import math
from typing import Literal, get_args

from torch import nn
from torch.nn import init

Scheme = Literal["normal", "xavier", "kaiming", "orthogonal"]


def initialise(network: nn.Module, scheme: Scheme) -> None:
    """Draw the weights of every convolution and linear layer anew, and set its bias to 0."""
    if scheme not in get_args(Scheme):
        raise ValueError(f"initialisation: expected one of {', '.join(get_args(Scheme))}, got {scheme!r}")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            match scheme:
                case "normal":
                    init.normal_(layer.weight, std=0.01)
                case "xavier":
                    init.xavier_uniform_(layer.weight)
                case "kaiming":
                    init.kaiming_normal_(layer.weight, nonlinearity="relu")
                case "orthogonal":
                    init.orthogonal_(layer.weight, gain=math.sqrt(2))
            if layer.bias is not None:
                init.zeros_(layer.bias)
