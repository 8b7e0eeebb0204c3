"""A recurrent encoder and decoder with attention: every word that is written looks at the words that were read.

Bahdanau, Cho & Bengio 2014, "Neural Machine Translation by Jointly Learning to Align and Translate", arXiv 1409.0473
(appendix A: a GRU each way, additive attention on the state before, the first state from the backward encoder's). One
table of tokens serves both languages and the output, as in arXiv 1608.05859. Axes: N samples, S source positions,
T target positions, E embedding, H states, A attention, K tokens.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

from training.network.greedy import greedy
from training.network.lesson import by_length
from training.network.repetition import State, repeated
from training.network.vocabulary import known

Source = tuple[Tensor, Tensor, Tensor]
"""What was read at each position `[N, S, 2 H]`, how it is found `[N, S, A]`, and whether there is any `[N, S, 1]`."""


class SeqToSeq(nn.Module):
    """While it learns it is shown the translation so far; served, it goes on from its own words.

    Padding isn't read, whatever the mask says; an id that is no token's counts as padding, for no token is unknown.
    """

    def __init__(
        self,
        num_tokens: int,
        num_places: int,
        *,
        pad: int,
        start: int,
        end: int,
        width: int,
        num_states: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.start, self.end, self.pad = start, end, pad
        self.token = nn.Embedding(num_tokens, width)
        nn.init.normal_(self.token.weight, std=width**-0.5)
        self.place_P = nn.Buffer(torch.arange(num_places), persistent=False)
        self.forth, self.back = nn.GRUCell(width, num_states), nn.GRUCell(width, num_states)
        self.first = nn.Linear(num_states, num_states)
        self.decoder = nn.GRUCell(width + 2 * num_states, num_states)
        self.key, self.query = nn.Linear(2 * num_states, num_states), nn.Linear(num_states, num_states, bias=False)
        self.energy = nn.Linear(num_states, 1, bias=False)
        self.out = nn.Linear(width + 3 * num_states, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, ids_NS: Tensor, mask_NS: Tensor, shown_NT: Tensor | None = None) -> Tensor:
        """The translation `[N, P]`; where one is shown, logits `[N, T, K]` of the token after each."""
        if shown_NT is not None:
            return by_length(self._lesson, ids_NS, mask_NS, shown_NT, self.pad)
        source, state_NH = self._read(ids_NS, mask_NS)

        def step(token_N1: Tensor, place_1: Tensor, state: State) -> tuple[Tensor, State]:
            (state_NH,), known_NO = self._step(state, self._words(token_N1)[:, 0], source)
            return self._logits(known_NO), (state_NH,)

        start_N1 = torch.full_like(ids_NS[:, :1], self.start)
        return greedy(step, (state_NH,), start_N1, self.place_P, end=self.end, filler=self.pad)

    def _lesson(self, ids_NS: Tensor, mask_NS: Tensor, shown_NT: Tensor) -> Tensor:
        source, state_NH = self._read(ids_NS, mask_NS)
        words_TNE = self._words(shown_NT).transpose(0, 1)
        known_TNO = repeated(lambda state, word: self._step(state, word[0], source), (state_NH,), (words_TNE,))
        return self._logits(known_TNO.transpose(0, 1))

    def _read(self, ids_NS: Tensor, mask_NS: Tensor) -> tuple[Source, Tensor]:
        """What was read of the source, and the decoder's first state."""
        ids_NS = known(ids_NS, self.token.num_embeddings, self.pad)
        words_SNE, seen_NS1 = self._words(ids_NS).transpose(0, 1), ((mask_NS > 0) & (ids_NS != self.pad)).unsqueeze(2)
        nothing_NH = words_SNE.new_zeros(ids_NS.shape[0], self.first.in_features)
        items = words_SNE, seen_NS1.transpose(0, 1)
        forth_SNH = repeated(lambda state, item: _read_word(self.forth, state, item), (nothing_NH,), items)
        back_SNH = repeated(lambda state, item: _read_word(self.back, state, item), (nothing_NH,), items, backward=True)
        read = self.drop(torch.cat((forth_SNH, back_SNH), dim=2).transpose(0, 1))
        return (read, self.key(read), seen_NS1), torch.tanh(self.first(back_SNH[0]))

    def _step(self, state: State, word_NE: Tensor, source: Source) -> tuple[State, Tensor]:
        """The next state, and all that the next word is chosen by."""
        read, key_NSA, seen_NS1 = source
        energy_NS1 = self.energy(torch.tanh(key_NSA + self.query(state[0]).unsqueeze(1)))
        # Not infinity: where nothing was read, everything is looked at alike.
        weight_NS1 = energy_NS1.masked_fill(~seen_NS1, -1e4).softmax(dim=1)
        context = (weight_NS1 * read).sum(dim=1)
        state_NH = self.decoder(torch.cat((word_NE, context), dim=1), state[0])
        return (state_NH,), torch.cat((state_NH, context, word_NE), dim=1)

    def _words(self, ids_NT: Tensor) -> Tensor:
        words_NTE: Tensor = self.drop(self.token(ids_NT) * self.token.embedding_dim**0.5)
        return words_NTE

    def _logits(self, known: Tensor) -> Tensor:
        return F.linear(self.drop(torch.tanh(self.out(known))), self.token.weight)


def _read_word(cell: nn.GRUCell, state: State, item: State) -> tuple[State, Tensor]:
    """The state after a word; it stands still where there is none."""
    word_NE, seen_N1 = item
    state_NH = torch.where(seen_N1, cell(word_NE, state[0]), state[0])
    return (state_NH,), state_NH.clone()
