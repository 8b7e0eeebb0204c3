"""Statistics as PromQL text, for counts that are series.

PromQL has no error function and no quantiles of the normal distribution, so every test here ends in a z-score.
"""

ALARM_Z = 4.8  # for looks every minute at 30 features: under one false alarm in two model-months


def arcsine(count: str, total: str, join: str = "") -> str:
    """The variance-stabilised share `count / total`; twice the difference of two, over the standard error, is a z.

    Source: Anscombe, "The transformation of Poisson, binomial and negative-binomial data" (1948).
    """
    return f"asin(sqrt(({count} + 0.375) / {join}({total} + 0.75)))"


def chi_square_z(chi_square: str, df: str) -> str:
    """A chi-square with `df` degrees of freedom as a z-score.

    Source: Wilson and Hilferty, "The distribution of chi-square" (1931).
    """
    return f"((({chi_square}) / {df}) ^ (1 / 3) - (1 - 2 / (9 * {df}))) / sqrt(2 / (9 * {df}))"


def wilson(share: str, num: str, sign: str, z: float = 1.959963984540054) -> str:
    """A bound of the interval of a `share` of `num`: the upper one for sign `+`, the lower for `-`; 95 % without `z`.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    square = repr(z * z)
    spread = f"{z!r} * sqrt({share} * (1 - {share}) / {num} + {square} / (4 * {num} ^ 2))"
    return f"({share} + {square} / (2 * {num}) {sign} {spread}) / (1 + {square} / {num})"
