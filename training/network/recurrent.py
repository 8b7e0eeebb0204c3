"""Recurrent text classifiers: a text's tokens are read one after the other into a state that is carried along.

`plain`: Elman 1990, "Finding structure in time". `lstm`: Hochreiter & Schmidhuber 1997, "Long short-term memory", with
the forget gate of Gers et al. 2000. `gru`: Cho et al. 2014, arXiv 1406.1078. Both ways: Schuster & Paliwal 1997,
"Bidirectional recurrent neural networks".

Padding changes nothing: it stands behind the text, where a forward reader comes last, and the backward reader is a
forward one of the text turned round in its place. Pooling leaves padding out. Every shape is fixed but the batch's.
Axes: N samples, T tokens, E embedding, H state, K classes.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from training.network.vocabulary import known
from training.text import PAD_ID, UNKNOWN_ID

Cell = Literal["plain", "lstm", "gru"]
Pooling = Literal["last", "mean", "max"]

_CELLS: dict[Cell, Callable[..., nn.RNNBase]] = {"plain": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentClassifier(nn.Module):
    """Token ids to class scores; with `both_ways` a second reader begins at the text's end.

    While it learns, a share `token_dropout` of the tokens is unknown to it (Iyyer et al. 2015, "Deep unordered
    composition rivals syntactic methods for text classification"): no text is known by a rare word, and unknown ones
    are something it has seen. One that `embeds` answers what it tells the classes from, too, to watch drift on.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        num_tokens: int,
        embedding_size: int,
        state_size: int,
        num_classes: int,
        pooling: Pooling,
        both_ways: bool = False,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        embeds: bool = False,
    ) -> None:
        super().__init__()
        self.pooling, self.token_dropout, self.embeds = pooling, token_dropout, embeds
        self.embedding = nn.Embedding(num_tokens, embedding_size)
        # Small, so that a rare token says nothing until it has learned to: its accidents aren't what a text is read by.
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.forwards = _CELLS[cell](embedding_size, state_size, batch_first=True)
        self.backwards = _CELLS[cell](embedding_size, state_size, batch_first=True) if both_ways else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(state_size * (2 if both_ways else 1), num_classes)

    def forward(self, ids_NT: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Integer ids `[N, T]`, padding behind, to logits `[N, K]`; an id that is no token's is an unknown token.

        One that embeds answers the pooled states `[N, H]` too, of both ways `[N, 2 H]`.
        """
        ids_NT = known(ids_NT, self.embedding.num_embeddings, UNKNOWN_ID)
        if self.training and self.token_dropout:
            dropped_NT = torch.rand(ids_NT.shape, device=ids_NT.device) < self.token_dropout
            ids_NT = torch.where(dropped_NT & (ids_NT != PAD_ID), UNKNOWN_ID, ids_NT)
        place_T = torch.arange(ids_NT.shape[1], device=ids_NT.device)
        length_N1 = ((ids_NT != PAD_ID) * (place_T + 1)).amax(dim=1, keepdim=True)
        pooled = [self._pool(self._read(self.forwards, ids_NT), place_T, length_N1)]
        if self.backwards is not None:
            turned_NT = ids_NT.gather(1, torch.where(place_T < length_N1, length_N1 - 1 - place_T, place_T))
            pooled.append(self._pool(self._read(self.backwards, turned_NT), place_T, length_N1))
        embedding_NH = torch.cat(pooled, dim=1)
        logits_NK: Tensor = self.head(self.dropout(embedding_NH))
        return (logits_NK, embedding_NH) if self.embeds else logits_NK

    def _read(self, reader: nn.RNNBase, ids_NT: Tensor) -> Tensor:
        """The state `[N, T, H]` after each token."""
        state_NTH: Tensor = reader(self.dropout(self.embedding(ids_NT)))[0]
        return state_NTH

    def _pool(self, state_NTH: Tensor, place_T: Tensor, length_N1: Tensor) -> Tensor:
        """The states of each text's tokens as one `[N, H]`; zeros for a text without tokens."""
        kept_NT = place_T == length_N1 - 1 if self.pooling == "last" else place_T < length_N1
        if self.pooling == "max":
            lowest = -1.0  # of a state
            return torch.where(kept_NT.unsqueeze(2), state_NTH, lowest).amax(dim=1) * (length_N1 > 0)
        total_NH = torch.where(kept_NT.unsqueeze(2), state_NTH, 0.0).sum(dim=1)
        return total_NH / kept_NT.sum(dim=1, keepdim=True).clamp(min=1)
