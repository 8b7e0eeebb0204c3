"""The optimizer that a configuration names, over the parameters that are to be learned.

Sources: momentum, Sutskever et al. 2013; Adam, Kingma & Ba 2014, arXiv 1412.6980; decay apart from the gradient
(AdamW), Loshchilov & Hutter 2017, arXiv 1711.05101.
"""

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from training.config import TrainConfig


def make_optimizer(config: TrainConfig, network: nn.Module) -> Optimizer:
    """The optimizer of the network's parameters that aren't frozen; only those of two axes and more decay."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, betas = config.peak_learning_rate, (config.momentum, config.second_momentum)
    match config.optimizer:
        case "sgd":
            return SGD(groups, lr=rate, momentum=config.momentum, nesterov=config.nesterov)
        case "adam":
            return Adam(groups, lr=rate, betas=betas, eps=config.epsilon)
        case "adamw":
            return AdamW(groups, lr=rate, betas=betas, eps=config.epsilon)
