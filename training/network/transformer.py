"""An encoder of texts: every token sees the whole text, both ways. BERT's, at the size of a laptop.

Devlin, Chang, Lee & Toutanova 2018, "BERT", arXiv 1810.04805 (learned positions, GELU, a head that shares the token
embeddings); blocks normalise before they compute, for deep stacks learn steadily so: Xiong et al. 2020, arXiv
2002.04745. Axes: N samples, L positions, C channels, K hidden positions, V tokens, T tags.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

from training.network.lesson import in_parts
from training.network.vocabulary import known
from training.text import UNKNOWN_ID

_STD = 0.02  # of weights at the beginning; Devlin et al. 2018
_REACH = 5  # tokens: one with two on either side
_SURE = 10.0  # a logit beside zeros: a probability of 0.9998 among five


class SelfAttention(nn.Module):
    """Every position of a text looks at every other, with several heads. Vaswani et al. 2017, arXiv 1706.03762."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_NLC: Tensor, real_NL: Tensor) -> Tensor:
        """`[N, L, C]` of what each position found among the real ones."""
        parts_NL3HD = self.query_key_value(x_NLC).unflatten(2, (3, self.num_heads, -1))
        query_NHLD, key_NHLD, value_NHLD = parts_NL3HD.permute(2, 0, 3, 1, 4)
        found_NHLD = F.scaled_dot_product_attention(query_NHLD, key_NHLD, value_NHLD, attn_mask=real_NL[:, None, None])
        answer_NLC: Tensor = self.out(found_NHLD.transpose(1, 2).flatten(2))
        return answer_NLC


class Block(nn.Module):
    """A look at the other positions, and a network on each of them alone."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.look = SelfAttention(width, num_heads)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.look_norm, self.think_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NLC: Tensor, real_NL: Tensor) -> Tensor:
        """`[N, L, C]` to `[N, L, C]`; nothing is learned from positions that aren't real."""
        x_NLC = x_NLC + self.dropout(self.look(self.look_norm(x_NLC), real_NL))
        answer_NLC: Tensor = x_NLC + self.dropout(self.think(self.think_norm(x_NLC)))
        return answer_NLC


class Encoder(nn.Module):
    """Token ids, padded at their end, to a vector a token; an id that is no token's is an unknown token."""

    def __init__(
        self, *, num_tokens: int, max_length: int, width: int, num_heads: int, num_layers: int, dropout: float, pad: int
    ) -> None:
        super().__init__()
        self.pad, self.width = pad, width
        self.token = nn.Embedding(num_tokens, width)
        self.position = nn.Embedding(max_length, width)
        self.out_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(num_layers))
        self.apply(_initialise)

    def forward(self, ids_NL: Tensor) -> Tensor:
        """`[N, L]` to `[N, L, C]`; 0 at padding."""
        ids_NL, real_NL = self.known(ids_NL), self.real(ids_NL)
        if not self.training:
            return self._encoded(ids_NL, real_NL)
        # In parts no wider than their longest texts: half of a batch is padding.
        length_N = (real_NL * torch.arange(1, ids_NL.shape[1] + 1, device=ids_NL.device)).amax(dim=1)
        return in_parts(self._encoded, length_N, (ids_NL, real_NL))

    def known(self, ids_NL: Tensor) -> Tensor:
        """The ids `[N, L]` as tokens that there are."""
        return known(ids_NL, self.token.num_embeddings, UNKNOWN_ID)

    def real(self, ids_NL: Tensor) -> Tensor:
        """Bool `[N, L]`: which positions are looked at. The first always is: attention to nothing is NaN."""
        first_L = torch.arange(ids_NL.shape[1], device=ids_NL.device) == 0
        return (ids_NL != self.pad) | first_L

    def _encoded(self, ids_NL: Tensor, real_NL: Tensor) -> Tensor:
        # As they are, not normalised as BERT's: a token that was hardly ever seen would be as loud as any other.
        x_NLC = self.dropout(self.token(ids_NL) + self.position.weight[: ids_NL.shape[1]])
        for block in self.blocks:
            x_NLC = block(x_NLC, real_NL)
        answer_NLC: Tensor = self.out_norm(x_NLC) * real_NL[..., None]
        return answer_NLC


class TextClassifier(nn.Module):
    """An encoder, and class scores from the mean of its vectors."""

    def __init__(self, encoder: Encoder, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(encoder.width, num_classes))

    def forward(self, ids_NL: Tensor) -> Tensor:
        """Token ids `[N, L]` to logits `[N, K]`."""
        mean_NC = self.encoder(ids_NL).sum(dim=1) / self.encoder.real(ids_NL).sum(dim=1, keepdim=True)
        logits_NK: Tensor = self.head(mean_NC)
        return logits_NK


class WideTextClassifier(TextClassifier):
    """A text classifier, and beside it a score of each token for each class.

    What the words add is the mean of their scores times the root of their number and `word_scale`: logistic regression
    on counts of words, normalised to a length of about 1, which few texts suffice for. The first `num_special` tokens
    are no words; those that were masked (`mask`) are words of which nothing is known.
    Wide and deep: Cheng et al. 2016, arXiv 1606.07792.
    """

    def __init__(
        self, encoder: Encoder, num_classes: int, dropout: float, *, num_special: int, mask: int, word_scale: float
    ) -> None:
        super().__init__(encoder, num_classes, dropout)
        self.num_special, self.mask, self.word_scale = num_special, mask, word_scale
        self.word = nn.Embedding(encoder.token.num_embeddings, num_classes)
        nn.init.zeros_(self.word.weight)

    def forward(self, ids_NL: Tensor) -> Tensor:
        """Token ids `[N, L]` to logits `[N, K]`."""
        ids_NL = self.encoder.known(ids_NL)
        known_NL = ids_NL >= self.num_special
        num_known_N1 = known_NL.sum(dim=1, keepdim=True)
        num_N1 = num_known_N1 + (ids_NL == self.mask).sum(dim=1, keepdim=True)
        mean_NK = (self.word(ids_NL) * known_NL[..., None]).sum(dim=1) / num_known_N1.clamp(min=1)
        logits_NK: Tensor = super().forward(ids_NL) + self.word_scale * num_N1.float().sqrt() * mean_NK
        return logits_NK


class TokenTagger(nn.Module):
    """An encoder, and a tag for each token; tokens that stand for no text (`blank` ids) are tagged 0, which is none.

    A token is tagged by its neighbours' vectors too: the pieces of a word, and the words of a name, belong together.
    """

    def __init__(self, encoder: Encoder, num_tags: int, dropout: float, blank: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.blank = encoder, tuple(blank)
        self.beside = nn.Conv1d(encoder.width, encoder.width, _REACH, padding=_REACH // 2)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(encoder.width, num_tags))

    def forward(self, ids_NL: Tensor) -> Tensor:
        """Token ids `[N, L]` to logits `[N, L, T]`."""
        x_NLC = self.encoder(ids_NL)
        x_NLC = x_NLC + F.gelu(self.beside(x_NLC.transpose(1, 2)).transpose(1, 2))
        logits_NLT = self.head(x_NLC)
        blank_NL = torch.stack([ids_NL == each for each in self.blank]).any(dim=0)
        none_T = _SURE * (torch.arange(logits_NLT.shape[-1], device=ids_NL.device) == 0)
        return torch.where(blank_NL[..., None], none_T, logits_NLT)


class MaskedWords(nn.Module):
    """An encoder that says which tokens were hidden: what BERT is pre-trained as, and a model that fills gaps.

    `num_special` tokens come first, and are never an answer; `mask` is one of them, and stands for a hidden token.
    """

    def __init__(self, encoder: Encoder, *, num_hidden: int, mask: int, start: int, num_special: int) -> None:
        super().__init__()
        self.encoder, self.num_hidden = encoder, num_hidden
        self.mask, self.start, self.num_special = mask, start, num_special
        width, num_tokens = encoder.width, encoder.token.num_embeddings
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.head.apply(_initialise)
        self.head.register_parameter("bias", nn.Parameter(torch.zeros(num_tokens)))

    def forward(self, ids_NL: Tensor, positions_NK: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Without positions: the ids `[N, L]` with the first `num_hidden` gaps of each text filled, and no start.

        With positions `[N, K]`, -1 where there are fewer: logits `[N, K, V]` of what is there, and the positions.
        """
        if positions_NK is not None:
            return self._logits(ids_NL, positions_NK.clamp(min=0)), positions_NK
        ids_NL = self.encoder.known(ids_NL)
        sooner_L = torch.arange(ids_NL.shape[1], 0, -1, device=ids_NL.device)
        position_NK = ((ids_NL == self.mask) * sooner_L).float().topk(self.num_hidden, dim=1).indices
        words_NK = self._logits(ids_NL, position_NK)[..., self.num_special :].argmax(dim=-1) + self.num_special
        before_NK = ids_NL.gather(1, position_NK)
        filled_NK = torch.where(before_NK == self.mask, words_NK.to(ids_NL.dtype), before_NK)
        filled_NL = ids_NL.scatter(1, position_NK, filled_NK)
        return torch.where(filled_NL == self.start, self.encoder.pad, filled_NL)

    def _logits(self, ids_NL: Tensor, position_NK: Tensor) -> Tensor:
        at_NKC = position_NK[..., None].expand(-1, -1, self.encoder.width)
        hidden_NKC = self.head(self.encoder(ids_NL).gather(1, at_NKC))
        logits_NKV: Tensor = F.linear(hidden_NKC, self.encoder.token.weight, self.head.get_parameter("bias"))
        return logits_NKV


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
