"""Two towers that find films for a person, and a ranking head that looks at the best of them once more.

Retrieval: Covington, Adams & Sargin 2016, "Deep neural networks for YouTube recommendations" (RecSys): a person is who
they are and what they saw lately, the next film is one class of all, and its score the product of two vectors. Yi et
al. 2019 (RecSys) call the two sides towers, and sample the softmax; here films are few enough for all of them.
Ranking: each of the best films is held against the person and every film they saw lately, and moved up or down; how
near it is to films seen says what a single vector of the person can't (Zhou et al. 2018, arXiv 1706.06978).
Axes: N samples, R recent films, F films, D width of a vector, K candidates.
"""

import torch
from torch import Tensor, nn

from training.network.vocabulary import known

SEEN_PENALTY = 30.0  # in nats: nobody is shown what they just said they saw
_NUM_PERSON = 3  # columns that say who a person is
_AGE_MEAN, _AGE_STD = 35.0, 12.0


class PersonTower(nn.Module):
    """Who a person is and what they saw lately, the latest first, to a vector `[N, D]`."""

    def __init__(self, *, num_recent: int, num_genders: int, num_occupations: int, width: int, dropout: float) -> None:
        super().__init__()
        self.age = nn.Linear(2, width)
        self.gender = nn.Embedding(num_genders + 1, width)
        self.occupation = nn.Embedding(num_occupations + 1, width)
        self.place_RD = nn.Parameter(torch.randn(num_recent, width) * width**-0.5)
        self.attention = nn.Linear(width, 2)
        self.body = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(4 * width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, age_N: Tensor, gender_N: Tensor, occupation_N: Tensor, recent_NRD: Tensor) -> Tensor:
        """Ages in years, NaN where one is missing; indices, the last one unseen; vectors of the recent films."""
        missing_N = age_N.isnan()
        age_N2 = torch.stack((torch.where(missing_N, 0.0, (age_N - _AGE_MEAN) / _AGE_STD), missing_N.float()), dim=1)
        who_ND = self.age(age_N2) + self.gender(gender_N) + self.occupation(occupation_N)
        # Two weighted means: the one may look at the latest films, the other at the odd ones out.
        weight_N2R = self.attention(torch.tanh(recent_NRD + self.place_RD)).transpose(1, 2).softmax(dim=2)
        lately_NE = (weight_N2R @ recent_NRD).flatten(1)
        person_ND: Tensor = self.body(torch.cat((who_ND, lately_NE, recent_NRD[:, 0]), dim=1))
        return person_ND


class Ranking(nn.Module):
    """How far each candidate is moved `[N, K]`, by what it has in common with the person and with each recent film."""

    def __init__(self, *, num_recent: int, width: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width + num_recent, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, person_ND: Tensor, recent_NRD: Tensor, candidate_NKD: Tensor) -> Tensor:
        """Vectors of the person, the recent films and the candidates."""
        near_NKR = candidate_NKD @ recent_NRD.transpose(1, 2)
        moved_NK1: Tensor = self.body(torch.cat((candidate_NKD * person_ND[:, None], near_NKR), dim=2))
        return moved_NK1[..., 0]


class TwoTowers(nn.Module):
    """Rows `[N, 3 + R]` (age, gender, occupation, recent films) to a score of each film before and after ranking.

    What isn't an index of a film counts as a film that was never seen. `dropped` is the share of a person's own cells
    that are taken away in training: of whom nothing is known, films are named by those they saw.
    """

    def __init__(
        self,
        *,
        num_recent: int,
        num_genders: int,
        num_occupations: int,
        num_films: int,
        num_candidates: int,
        width: int,
        hidden: int,
        dropout: float,
        dropped: float,
    ) -> None:
        super().__init__()
        self.num_candidates, self.dropped = num_candidates, dropped
        self.limit_C = nn.Buffer(torch.tensor([num_genders, num_occupations] + [num_films] * num_recent).float())
        self.film_F = nn.Buffer(torch.arange(num_films, dtype=torch.int32))
        self.films = nn.Embedding(num_films + 1, width)
        nn.init.normal_(self.films.weight, std=width**-0.5)
        self.bias_F = nn.Parameter(torch.zeros(num_films))
        self.person = PersonTower(
            num_recent=num_recent,
            num_genders=num_genders,
            num_occupations=num_occupations,
            width=width,
            dropout=dropout,
        )
        self.ranking = Ranking(num_recent=num_recent, width=width, hidden=hidden)

    def forward(self, row_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Ranked logits `[N, F]`, and those of retrieval alone."""
        if self.training and self.dropped:
            dropped_NC = torch.rand_like(row_NC) < self.dropped
            dropped_NC[:, _NUM_PERSON:] = False
            row_NC = row_NC.masked_fill(dropped_NC, torch.nan)
        index_NC = known(row_NC[:, 1:], self.limit_C, self.limit_C).to(torch.int32)
        gender_N, occupation_N, recent_NR = index_NC[:, 0], index_NC[:, 1], index_NC[:, 2:]
        recent_NRD = self.films(recent_NR)
        person_ND = self.person(row_NC[:, 0], gender_N, occupation_N, recent_NRD)
        seen_NF = (recent_NR[:, :, None] == self.film_F).any(dim=1)
        found_NF = person_ND @ self.films.weight[:-1].T + self.bias_F - SEEN_PENALTY * seen_NF.float()
        return self.ranked(found_NF, person_ND, recent_NRD), found_NF

    def ranked(self, found_NF: Tensor, person_ND: Tensor, recent_NRD: Tensor) -> Tensor:
        """The scores `[N, F]`, those of the candidates moved."""
        score_NK, place_NK = found_NF.topk(self.num_candidates, dim=1)
        moved_NK = self.ranking(person_ND, recent_NRD, self.films(place_NK))
        # The last candidate isn't moved at all: which of two near ones it is may be a matter of rounding.
        share_NK = torch.tanh(score_NK - score_NK[:, -1:].detach())
        return found_NF + torch.zeros_like(found_NF).scatter(1, place_NK, share_NK * moved_NK)
