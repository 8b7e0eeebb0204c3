"""From the probabilities of each token's tags to the spans of a text that they name.

Tags follow the BIO scheme (Ramshaw and Marcus, "Text Chunking using Transformation-Based Learning", 1995), read as
leniently as the CoNLL evaluation does: an `I-` that continues nothing begins a span.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.meaning import split_tag
from contract.place import TextPlace
from contract.postprocess import Array
from contract.schema import TokenLabelsPostprocess


@dataclass(slots=True)
class _Span:
    label: str
    start: int
    end: int
    last: int  # token
    confidences: list[float]


def span_answer(spec: TokenLabelsPostprocess, probabilities_LK: Array, place: TextPlace) -> dict[str, Any]:
    """The spans of one text, in order; a token whose scores aren't finite is outside of all."""
    spans = [_described(span, place.text) for span in _merged(spec, probabilities_LK, place)]
    return {"spans": [span for span in spans if span["text"]]}


def _merged(spec: TokenLabelsPostprocess, probabilities_LK: Array, place: TextPlace) -> list[_Span]:
    shown_LK = probabilities_LK[: len(place.offsets)]
    tag_L, confidence_L = shown_LK.argmax(axis=-1), shown_LK.max(axis=-1)
    named = np.flatnonzero((tag_L != spec.labels.index(spec.outside)) & np.isfinite(confidence_L))
    spans: list[_Span] = []
    for token in named.tolist():
        start, end = place.offsets[token]
        if start == end:  # a special token
            continue
        prefix, label = split_tag(spec.labels[tag_L[token]])
        span = spans[-1] if spans else None
        # Tokens that are parts of one character can't be of two spans.
        if span and (start < span.end or (token == span.last + 1 and label == span.label and prefix != "B")):
            span.end, span.last = max(end, span.end), token
            span.confidences.append(float(confidence_L[token]))
        else:
            spans.append(_Span(label, start, end, token, [float(confidence_L[token])]))
    return spans


def _described(span: _Span, text: str) -> dict[str, Any]:
    """The span without the spaces that some tokenizers count to a token."""
    covered = text[span.start : span.end]
    start = span.start + len(covered) - len(covered.lstrip())
    shown = covered.strip()
    return {
        "label": span.label,
        "text": shown,
        "start": start,
        "end": start + len(shown),
        "confidence": sum(span.confidences) / len(span.confidences),
    }
