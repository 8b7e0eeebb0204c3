"""What an item of a request looked like before it became tensors: an answer is about that, not about the tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

Region = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePlace:
    """A picture as it was sent, upright, in pixels.

    `region` is the part of it that the model's input picture shows, as left, top, right, bottom. It reaches beyond the
    edges where the input picture was padded, and lies within them where the picture was cropped.
    """

    width: int
    height: int
    region: Region


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPlace:
    """A text as it was sent, and the characters, from and up to, that each token stands for.

    Special tokens and padding stand for none: their two numbers are equal.
    """

    text: str
    offsets: Sequence[tuple[int, int]]


Place = ImagePlace | TextPlace
Places = Sequence[Place]
