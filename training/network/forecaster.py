"""A forecast of volatility from what happened lately: returns and ranges, smoothed over several spans at once.

Volatility is mostly a function of the path so far: of a weighted mean of past returns, for falls unsettle more than
rises, and of one of past variances, with weights that fade slowly. Guyon & Lekeufack 2023, "Volatility is (mostly)
path-dependent", Quantitative Finance 23(9), take two such means each; here there are some more, their fading is
learned, and a small network makes the forecast of them. Beside it stands the usual forecast, a regression on the means
of a few spans: Corsi 2009, "A simple approximate long-memory model of realized volatility", Journal of Financial
Econometrics 7(2).
Axes: N samples, T days, S speeds of fading, F features, H hidden units.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Smoothing(nn.Module):
    """Weighted means over days `[N, T]`, the latest first, each with weights that fade at a speed of its own.

    `spans` are the days over which weights fade to a third in the beginning.
    """

    def __init__(self, spans: Sequence[float], num_days: int) -> None:
        super().__init__()
        self.log_span_S = nn.Parameter(torch.tensor(spans).log())
        self.age_T = nn.Buffer(torch.arange(num_days, dtype=torch.float32))

    def forward(self, x_NT: Tensor) -> Tensor:
        """`[N, T]` to `[N, S]`."""
        weight_ST = torch.softmax(-self.age_T / self.log_span_S.exp()[:, None], dim=1)
        return x_NT @ weight_ST.T


class VolatilityNetwork(nn.Module):
    """The last days' returns and ranges in per cent to a volatility in per cent a year, and the usual forecast of it.

    `variance_scale` is what a range's square is divided by, `days_a_year` what a day's variance is multiplied by. The
    usual forecast's logarithm of variance a year is `usual_constant`, and of each span of `usual` its weight times the
    logarithm of a day's mean variance.
    """

    def __init__(
        self,
        *,
        num_days: int,
        spans: Sequence[float],
        width: int,
        dropout: float,
        variance_scale: float,
        days_a_year: int,
        min_variance: float,
        usual: Mapping[int, float],
        usual_constant: float,
    ) -> None:
        super().__init__()
        self.usual, self.usual_constant = tuple(usual.items()), usual_constant
        self.variance_scale, self.days_a_year, self.min_variance = variance_scale, days_a_year, min_variance
        self.variance, self.trend = Smoothing(spans, num_days), Smoothing(spans, num_days)
        self.body = nn.Sequential(
            nn.Linear(3 * len(spans), width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, len(spans) + 1)
        )

    def forward(self, row_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `[N, 2 T]`, the latest day first, to the network's forecast `[N, 1]` and the usual one `[N, 1]`."""
        return_NT, range_NT = row_NC.chunk(2, dim=1)
        variance_NT = range_NT.square() / self.variance_scale
        level_NS = self.variance(variance_NT).clamp(min=self.min_variance).log()
        trend_NS = self.trend(return_NT) * (-level_NS / 2).exp()  # in deviations
        down_NS = self.variance(return_NT.clamp(max=0).square()).clamp(min=self.min_variance).log() - level_NS
        out_NF = self.body(torch.cat((level_NS, trend_NS, down_NS), dim=1))
        # Where to between the levels, and how far from there: in the beginning it is among them.
        log_variance_N1 = (torch.softmax(out_NF[:, 1:], dim=1) * level_NS).sum(dim=1, keepdim=True) + out_NF[:, :1]
        forecast_N1 = (log_variance_N1 / 2).exp() * math.sqrt(self.days_a_year)
        return forecast_N1, self._usual(variance_NT.clamp(min=self.min_variance))

    def _usual(self, variance_NT: Tensor) -> Tensor:
        terms = [weight * variance_NT[:, :days].mean(dim=1, keepdim=True).log() for days, weight in self.usual]
        return ((sum(terms, self.usual_constant * torch.ones_like(terms[0]))) / 2).exp()
