"""Two networks have the same digest only where they compute alike from the same weights."""

import torch
from torch import nn

from training.structure import structure


class Scaled(nn.Module):
    def __init__(self, scale: float, dropout: float = 0.1, size: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.Linear(3, size), nn.Dropout(dropout))


def test_settings_count_that_no_shape_shows_and_weights_do_not() -> None:
    torch.manual_seed(0)
    digest = structure(Scaled(2.0))
    torch.manual_seed(1)
    assert structure(Scaled(2.0)) == digest
    assert structure(Scaled(2.0).eval()) == digest
    others = [Scaled(3.0), Scaled(2.0, dropout=0.2), Scaled(2.0, size=4), nn.Linear(3, 2)]
    assert len({digest, *map(structure, others)}) == 5
