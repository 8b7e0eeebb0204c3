"""A voice from one second of sound: a log-mel spectrum as part of the graph, and a small residual network on it.

The spectrum is a convolution with fixed weights (a windowed Fourier transform) and a product with fixed mel filters, so
that whoever serves the model sends samples and can't compute it otherwise. Stevens, Volkmann & Newman 1937 for the
scale, in O'Shaughnessy's form: mel = 2595 log10(1 + f / 700). Network: He et al. 2015, arXiv 1512.03385, figure 2.

Axes: N sounds, T samples, F frames, B frequencies, M mels, C channels, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from numpy.typing import NDArray
from torch import Tensor, nn

from training.network.residual import Block

FLOOR = 1e-7  # of a full-scale tone's power: what is quieter counts as silence, and silence has a logarithm
LOUDEST = 32_768.0  # what a WAV file's integers reach


class LogMel(nn.Module):
    """Samples `[N, T]`, full scale 1, to the logarithm of the power `[N, M, F]` around each mel frequency.

    The mean over the whole second is taken off, for how loud somebody speaks says nothing of who it is; so samples that
    nobody divided by 32,768 are answered all the same. Larger ones are cut off there, where their power has a number.
    """

    transform: Tensor
    filters: Tensor

    def __init__(self, rate_hz: int, num_mels: int, window: int, hop: int, lowest_hz: float) -> None:
        super().__init__()
        self.hop = hop
        self.register_buffer("transform", torch.from_numpy(_fourier(window)).float())
        self.register_buffer("filters", torch.from_numpy(mel_filters(rate_hz, num_mels, window, lowest_hz)).float())

    def forward(self, samples_NT: Tensor) -> Tensor:
        """`[N, T]` to `[N, M, F]`, natural logarithm."""
        clipped_NT = samples_NT.clamp(-LOUDEST, LOUDEST)
        both_NBF = F.conv1d(clipped_NT[:, None], self.transform[:, None], stride=self.hop)
        real_NBF, imaginary_NBF = both_NBF.chunk(2, dim=1)
        power_NMF = self.filters @ (real_NBF**2 + imaginary_NBF**2)
        log_NMF = torch.log(power_NMF + FLOOR)
        return log_NMF - log_NMF.mean(dim=(1, 2), keepdim=True)


class SpectrumNetwork(nn.Module):
    """One second of sound to class scores; each of `widths` but the first halves the mels and the frames."""

    def __init__(self, log_mel: LogMel, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.log_mel = log_mel
        self.stem = nn.Sequential(
            nn.BatchNorm2d(1), nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(w, wider, 2) for w, wider in pairwise(widths)))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, samples_NT: Tensor) -> Tensor:
        """Samples `[N, T]` to logits `[N, K]`."""
        features_NCMF = self.blocks(self.stem(self.log_mel(samples_NT)[:, None]))
        logits_NK: Tensor = self.head(features_NCMF.mean(dim=(2, 3)))
        return logits_NK


def mel_filters(rate_hz: int, num_mels: int, window: int, lowest_hz: float) -> NDArray[np.float64]:
    """Triangles `[num_mels, window // 2 + 1]` that overlap by half, at equal steps of mel up to half the rate."""
    mel = np.linspace(_mel(lowest_hz), _mel(rate_hz / 2), num_mels + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency_B = np.arange(window // 2 + 1) * rate_hz / window
    rising = (frequency_B - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency_B) / (edges[2:] - edges[1:-1])[:, None]
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))


def _fourier(window: int) -> NDArray[np.float64]:
    """Cosines, then sines, `[2 (window // 2 + 1), window]` under a Hann window whose sum is 1."""
    phase = 2 * np.pi * np.outer(np.arange(window // 2 + 1), np.arange(window)) / window
    hann = np.sin(np.pi * np.arange(window) / window) ** 2
    return np.asarray(np.concatenate((np.cos(phase), np.sin(phase))) * (hann / hann.sum()))
