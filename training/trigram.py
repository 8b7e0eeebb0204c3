"""The strongest way of counting: a trigram model with interpolated Kneser-Ney smoothing.

What a network that foretells tokens has to beat. Ney, Essen & Kneser 1994, Computer Speech & Language 8; in the form of
Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", section 3, with one discount a
level. Below the trigrams, what counts is in how many contexts something was seen. K is the number of tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Trigrams:
    """Counted from texts `[M, T]`, each on its own."""

    def __init__(self, texts_MT: Ints, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        thrice = texts_MT[:, :-2] * num_tokens**2 + texts_MT[:, 1:-1] * num_tokens + texts_MT[:, 2:]
        seen3, count3 = np.unique(thrice, return_counts=True)
        seen2, count2 = np.unique(seen3 % num_tokens**2, return_counts=True)
        seen1, count1 = np.unique(seen2 % num_tokens, return_counts=True)
        self._levels = [
            _Level.of(seen, count, num_tokens) for seen, count in ((seen1, count1), (seen2, count2), (seen3, count3))
        ]

    def chance(self, texts_NT: Ints) -> Floats:
        """Probability `[N, T - 1]` of every token but the first, after the two before it, or the one."""
        first, after = texts_NT[:, :-1], texts_NT[:, 1:]
        once, twice, thrice = self._levels
        chance = np.full(after.shape, 1 / self._num_tokens)
        chance = once.mixed(np.zeros_like(after), after, chance)
        chance = twice.mixed(first, after, chance)
        before = texts_NT[:, :-2] * self._num_tokens + texts_NT[:, 1:-1]
        chance[:, 1:] = thrice.mixed(before, after[:, 1:], chance[:, 1:])
        return chance


@dataclass(frozen=True, kw_only=True, slots=True)
class _Level:
    """What was seen after contexts of one length: keys of context and token, and of contexts, sorted."""

    num_tokens: int
    seen: Ints
    count: Ints
    contexts: Ints
    total: Ints
    kinds: Ints
    discount: float

    @classmethod
    def of(cls, seen: Ints, count: Ints, num_tokens: int) -> "_Level":
        contexts, place, kinds = np.unique(seen // num_tokens, return_inverse=True, return_counts=True)
        once, twice = (int((count == times).sum()) for times in (1, 2))
        return cls(
            num_tokens=num_tokens,
            seen=seen,
            count=count,
            contexts=contexts,
            total=np.bincount(place, count).astype(np.int64),
            kinds=kinds,
            discount=once / (once + 2 * twice) if once else 0.0,
        )

    def mixed(self, context: Ints, token: Ints, shorter: Floats) -> Floats:
        """Probability of tokens after contexts, given that after the shorter contexts."""
        count = _looked_up(self.seen, self.count, context * self.num_tokens + token)
        total, kinds = (_looked_up(self.contexts, of, context) for of in (self.total, self.kinds))
        left = (np.maximum(count - self.discount, 0) + self.discount * kinds * shorter) / np.maximum(total, 1)
        return np.where(total > 0, left, shorter)


def _looked_up(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    """Values of the wanted keys, 0 for those that aren't there."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
