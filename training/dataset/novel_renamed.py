"""Passages of novels in which people and places go by other names, drawn from lists.

Three novels name a few hundred people, and whoever reads nothing else learns those by heart. Read under other names
every time, they teach how names are spelt and what stands around them: knowledge from outside the text, as ERNIE's,
but brought into the text itself.
"""

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.random import Generator

from training.dataset.name_list import Names, Sort
from training.dataset.novel_gazetteer import PLACE_TAILS
from training.dataset.novel_name import TITLED, WORD, Passage, Span

_KEPT = PLACE_TAILS | {"de"}  # words of a name that aren't its own
# As in life a few names would be met always and most of them never; all equally often, and rare ones would be usual.
_TEMPER, _FIRST_RANK = 0.5, 10
_SURNAME_RATIO = 0.3  # of people who are called by one name without a title, as Willoughby is
_ESTATE_RATIO = 0.3  # of places that are called as some family is: estates are in no list of towns


def ordinary(passages: Iterable[Passage]) -> frozenset[str]:
    """The words, in lower case, that are outside names more often than in one."""
    balance = Counter[str]()
    for passage in passages:
        inside = {at for span in passage.spans for at in range(span.start, span.end)}
        for word in WORD.finditer(passage.text):
            balance[word.group().lower()] += -1 if word.start() in inside else 1
    return frozenset(word for word, more in balance.items() if more > 0)


class Renaming:
    """Draws other names for those in a passage: the commoner a name, the more often."""

    def __init__(self, names: Names, generator: Generator) -> None:
        self._names, self._generator = names, generator
        self._odds = {sort: _odds(len(each)) for sort, each in names.items()}

    def __call__(self, passage: Passage) -> Passage:
        """The same passage under other names; a word of a name that comes again gets the same one."""
        drawn: dict[str, str] = {}
        text, at, spans = "", 0, []
        for span in passage.spans:
            text += passage.text[at : span.start]
            start, at = len(text), span.end
            text += self._other(passage.text, span, drawn)
            spans.append(Span(start=start, end=len(text), kind=span.kind))
        return Passage(text=text + passage.text[at:], spans=tuple(spans))

    def _other(self, text: str, span: Span, drawn: dict[str, str]) -> str:
        before, name = text[: span.start], text[span.start : span.end]
        family = name.endswith("s") and before.endswith(("the ", "The "))  # the Musgroves
        surname = family or " " in name or bool(TITLED.search(before[-12:])) or self._happens(_SURNAME_RATIO)

        def other(word: re.Match[str]) -> str:
            if word.group() in _KEPT:
                return word.group()
            own = word.group().removesuffix("s") if family else word.group()
            if own not in drawn:
                drawn[own] = self._drawn(span.kind, surname=surname and word.end() == len(name))
            return drawn[own] + "s" * family

        return WORD.sub(other, name)

    def _drawn(self, kind: str, *, surname: bool) -> str:
        sort: Sort = "last" if surname else "first"
        if kind == "place":
            sort = "last" if self._happens(_ESTATE_RATIO) else "place"
        return self._names[sort][int(np.searchsorted(self._odds[sort], self._generator.random()))]

    def _happens(self, ratio: float) -> bool:
        return bool(self._generator.random() < ratio)


def _odds(num_names: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """For each rank, the chance that the name is of this one or a lower rank."""
    sums = np.cumsum((np.arange(num_names) + float(_FIRST_RANK)) ** -_TEMPER)
    return np.asarray(sums / sums[-1])
