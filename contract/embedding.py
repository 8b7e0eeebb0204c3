"""What is watched of an embedding: few enough numbers to count, among them what no single dimension shows.

With x an embedding, m the mean of the reference, v_k its principal components and s_k the deviations along them:

- `component1` to `component8`: z_k = v_k (x - m) / s_k
- `residual`: the length of what the components leave of x - m; `mahalanobis`: the length of z; `norm`: that of x
- `product12` to `product34`: z_j z_k of the first four components, which move with a correlation where each stays
- `cosine1` to `cosine8`: cos(w z + b) of random w and b, which see a cluster where there was none

Sources: Jolliffe, "Principal component analysis" (2002); Rahimi & Recht, "Random features for large-scale kernel
machines" (2007); Halko, Martinsson & Tropp 2011, arXiv 0909.4061 (how components are found without a D x D matrix).
Axes: N samples, D dimensions, K components, B columns that are iterated, W waves.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from contract.document import Document, Label
from contract.spec import TensorSpec

Floats = NDArray[np.float64]
Vector = tuple[float, ...]

PREFIX = "embedding."
KINDS = ("component", "residual", "mahalanobis", "norm", "product", "cosine")  # numbered or not

NUM_COMPONENTS, NUM_WAVES = 8, 8
_NUM_MULTIPLIED = 4  # components whose products are watched: six pairs
_FREQUENCY = 0.5  # deviation of each number of w: half a wave in about two deviations of z
_NOISE = 1e-3  # of the reference's spread: what is less is rounding, and differs between runtimes
_ALIKE = 1e-6  # of the mean's length: single precision tells no more apart

_NUM_ITERATIONS, _SEED = 20, 1901
_CHUNK_ELEMENTS = 2**20
_DIGITS = 6


class Embedding(Document):
    """The output `tensor` `[D]` is an embedding, and along what it is watched.

    `components` are rows of length 1, `scales` the reference's deviation along each, and `spread` its root mean square
    distance from `mean`. `waves` and `phases` are the random cosines' w, over standardised components, and b.
    """

    tensor: Label
    mean: Vector = Field(min_length=2)
    components: tuple[Vector, ...] = Field(min_length=1, max_length=NUM_COMPONENTS)
    scales: tuple[Annotated[float, Field(gt=0)], ...]
    spread: float = Field(gt=0)
    waves: tuple[Vector, ...]
    phases: Vector

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        num = len(self.components)
        for name, rows, length in (("components", self.components, len(self.mean)), ("waves", self.waves, num)):
            if any(len(row) != length for row in rows):
                raise ValueError(f"embedding {self.tensor!r}: expected {name} of {length} numbers each")
        if len(self.scales) != num or len(self.phases) != len(self.waves):
            raise ValueError(f"embedding {self.tensor!r}: expected a scale for each component, a phase for each wave")
        return self


class Projection:
    """An embedding's numbers as arrays: what is watched of a batch takes three small matrix products."""

    def __init__(self, embedding: Embedding) -> None:
        self.tensor = embedding.tensor
        self._mean_D = np.array(embedding.mean)
        self._components_KD = np.array(embedding.components)
        self._scales_K = np.array(embedding.scales)
        self._waves_KW = np.array(embedding.waves).T
        self._phases_W = np.array(embedding.phases)
        self._rounding = _NOISE * embedding.spread
        self._pairs = list(combinations(range(min(len(self._scales_K), _NUM_MULTIPLIED)), 2))

    def values(self, vectors_ND: NDArray[Any]) -> dict[str, Floats]:
        """Value of each feature `[N]`; NaN where any number of the embedding is NaN or infinite."""
        wide_ND = vectors_ND.astype(np.float64)
        wide_ND[~np.isfinite(wide_ND).all(axis=1)] = np.nan
        centred_ND = wide_ND - self._mean_D
        along_NK = centred_ND @ self._components_KD.T
        z_NK = along_NK / self._scales_K
        waves_NW = np.cos(z_NK @ self._waves_KW + self._phases_W)
        found = {f"component{k + 1}": z_NK[:, k] for k in range(z_NK.shape[1])}
        if len(self._scales_K) < len(self._mean_D):
            left_N = _length(centred_ND - along_NK @ self._components_KD)
            found["residual"] = np.maximum(left_N, self._rounding)
        found |= {"mahalanobis": _length(z_NK), "norm": _length(wide_ND)}
        found |= {f"product{j + 1}{k + 1}": z_NK[:, j] * z_NK[:, k] for j, k in self._pairs}
        found |= {f"cosine{w + 1}": waves_NW[:, w] for w in range(waves_NW.shape[1])}
        return {f"{PREFIX}{name}": values for name, values in found.items()}


def is_embedding_feature(name: str) -> bool:
    """Whether a feature is of an embedding, rather than of an input that is called so."""
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).rstrip("0123456789") in KINDS


def check_embedding(tensor: str, outputs: Sequence[TensorSpec]) -> int:
    """The number of dimensions; raises ValueError unless that output is FP32 `[D]`, D of 2 or more and known."""
    spec = next((spec for spec in outputs if spec.name == tensor), None)
    if spec is None:
        names = ", ".join(repr(spec.name) for spec in outputs)
        raise ValueError(f"the embedding {tensor!r} is no output of the model: expected one of {names}")
    if spec.datatype != "FP32" or len(spec.shape) != 1 or spec.shape[0] < 2:
        raise ValueError(
            f"the embedding {tensor!r} is expected as FP32 [D], D of 2 or more and fixed, "
            f"got {spec.datatype} {list(spec.shape)}"
        )
    return spec.shape[0]


def fit_embedding(tensor: str, vectors_ND: NDArray[Any]) -> Embedding:
    """Along what embeddings like these are to be watched; rows with NaN or infinity are left out.

    Other samples than those that fill the bins: components fit the samples they were found on best, so against a
    reference of the same ones all others would seem to have drifted. Raises ValueError when they don't differ.
    """
    known_ND = vectors_ND[np.isfinite(vectors_ND).all(axis=1)]
    mean_D = known_ND.mean(axis=0, dtype=np.float64) if len(known_ND) else np.zeros(vectors_ND.shape[1])
    spread = np.sqrt(sum(float(np.sum(part**2)) for part in _centred(known_ND, mean_D)) / max(len(known_ND), 1))
    if not spread > _ALIKE * np.linalg.norm(mean_D):
        raise ValueError(f"embedding {tensor!r}: expected finite vectors that differ, got {len(known_ND)} all alike")
    random = np.random.default_rng(_SEED)
    scales_K, components_KD = _components(known_ND, mean_D, random)
    kept = scales_K > _NOISE * spread
    num_kept = int(kept.sum())
    return Embedding(
        tensor=tensor,
        mean=_rounded(mean_D),
        components=tuple(_rounded(row) for row in components_KD[kept]),
        scales=_rounded(scales_K[kept]),
        spread=_rounded([spread])[0],
        waves=tuple(_rounded(row) for row in _FREQUENCY * random.normal(size=(NUM_WAVES, num_kept))),
        phases=_rounded(random.uniform(0, 2 * np.pi, NUM_WAVES)),
    )


def _components(vectors_ND: NDArray[Any], mean_D: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Deviations `[K]` along the principal components `[K, D]`, by subspace iteration."""
    num_dimensions = len(mean_D)
    basis_DB = random.normal(size=(num_dimensions, min(2 * NUM_COMPONENTS, num_dimensions)))
    for _ in range(_NUM_ITERATIONS):
        basis_DB = np.linalg.qr(_times_covariance(vectors_ND, mean_D, basis_DB))[0]
    variance_B, turn_BB = np.linalg.eigh(basis_DB.T @ _times_covariance(vectors_ND, mean_D, basis_DB))
    largest = np.argsort(-variance_B)[:NUM_COMPONENTS]
    components_KD = (basis_DB @ turn_BB[:, largest]).T
    highest_K = np.abs(components_KD).argmax(axis=1)
    signs_K = np.sign(components_KD[np.arange(len(highest_K)), highest_K])  # of two opposite ones always the same
    return np.sqrt(np.maximum(variance_B[largest], 0)), components_KD * signs_K[:, None]


def _times_covariance(vectors_ND: NDArray[Any], mean_D: Floats, basis_DB: Floats) -> Floats:
    total_DB = np.zeros_like(basis_DB)
    for part_ND in _centred(vectors_ND, mean_D):
        total_DB += part_ND.T @ (part_ND @ basis_DB)
    return total_DB / len(vectors_ND)


def _centred(vectors_ND: NDArray[Any], mean_D: Floats) -> Iterator[Floats]:
    """The vectors without their mean in double precision, some at a time."""
    step = max(_CHUNK_ELEMENTS // len(mean_D), 1)
    for start in range(0, len(vectors_ND), step):
        yield vectors_ND[start : start + step] - mean_D


def _length(vectors_ND: Floats) -> Floats:
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND)))


def _rounded(values: Any) -> Vector:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
