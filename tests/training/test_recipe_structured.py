"""Tables, sequences of bases, days of a market and films: their data, and what is particular about their networks."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from training.data import Dataset
from training.dataset import adult, film, market, splice_site
from training.network.convolution1d import BaseNetwork
from training.network.forecaster import VolatilityNetwork
from training.network.tabular import NumberTokens, RowTransformer
from training.network.two_tower import TwoTowers
from training.recipes.finance import (
    BLOCK_DAYS,
    HAR,
    HAR_CONSTANT,
    MARKET_VOLATILITY,
    blocked,
    har,
    har_weights,
    metrics,
    qlike,
)
from training.recipes.recommendation import hits

NUM_FILMS = 40


@cache
def loaded(name: str) -> Dataset:
    return {"splice": splice_site.load, "adult": adult.load, "market": market.load, "film": film.load}[name](None)


def splits(dataset: Dataset, name: str) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return [split.inputs[name] for split in (dataset.train, dataset.validation, dataset.test)]


def test_windows_of_bases_that_are_alike_are_in_one_split() -> None:
    train, validation, test = splits(loaded("splice"), "ids")
    assert len(train) + len(validation) + len(test) == 3_000
    for held_out in (validation, test):
        one_hot = [
            (ids[:, : splice_site.NUM_BASES, None] == range(1, 5)).reshape(len(ids), -1) for ids in (held_out, train)
        ]
        alike = one_hot[0].astype(np.float32) @ one_hot[1].T.astype(np.float32)
        assert alike.max() < splice_site.NUM_ALIKE
    for label, middle in ((0, "GT"), (1, "AG")):  # every intron begins with GT and ends with AG, but for a few
        chosen = loaded("splice").train.targets == label
        at = 30 if label == 0 else 28
        texts = [splice_site.spelled(ids)[at : at + 2] for ids in train[chosen]]
        assert texts.count(middle) > 0.95 * len(texts)


def test_a_text_of_bases_becomes_what_was_learned_from() -> None:
    tokenizer = Tokenizer.from_str(loaded("splice").files[splice_site.TOKENIZER_FILE].decode())
    ids = loaded("splice").test.inputs["ids"][7]
    text = splice_site.spelled(ids)
    for written in (text, text.lower(), text.replace("T", "U"), f"{text[:30]}\n{text[30:]} "):
        assert tokenizer.encode(written).ids == ids[: splice_site.NUM_BASES].tolist()
    assert tokenizer.encode("NX-é").ids == [splice_site.ANY_ID] + 3 * [splice_site.UNKNOWN_ID]


def test_bases_that_are_not_known_are_alike_and_what_is_too_long_does_not_count() -> None:
    torch.manual_seed(0)
    network = BaseNetwork(
        first_id=1, num_bases=20, num_classes=3, channels=8, num_blocks=2, dropout=0.5, input_dropout=0.5
    ).eval()
    ids_NL = torch.randint(1, 5, (4, 21), dtype=torch.int32)
    ids_NL[:, 3] = torch.tensor([0, splice_site.ANY_ID, splice_site.UNKNOWN_ID, -9])
    ids_NL[1:, :3], ids_NL[1:, 4:20] = ids_NL[0, :3], ids_NL[0, 4:20]
    logits_NK = network(ids_NL)
    torch.testing.assert_close(logits_NK, logits_NK[:1].expand(4, -1))
    assert not torch.allclose(network(ids_NL.flip(1)), logits_NK)


def test_people_who_are_alike_are_in_one_split_of_adult() -> None:
    train, validation, test = splits(loaded("adult"), "row")
    assert (len(train), len(validation), len(test)) == (34_790, 4_000, 10_000)
    kinds = [{row.tobytes() for row in rows} for rows in (train, validation, test)]
    assert sum(map(len, kinds)) == len(set.union(*kinds))
    unseen = np.array([len(known) for known in adult.CATEGORIES.values()])
    index = train[:, len(adult.NUMBERS) :]
    assert (index <= unseen).all()
    assert 0.01 < (index == unseen).mean(axis=0).max() < 0.1  # `?` of workclass, occupation and country
    for at, edges in enumerate(adult.NUMBERS.values()):
        assert edges[0] <= train[:, at].min()
        assert edges[-1] >= train[:, at].max()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=6, unique=True), st.floats(-80, 80, width=32))
def test_a_number_is_encoded_by_how_far_through_the_bins_it_is(edges: list[int], number: float) -> None:
    tokens = NumberTokens([sorted(edges), [0.0, 1.0]], width=1)
    with torch.no_grad():
        tokens.weight_CBD.fill_(1)
        tokens.bias_CD.fill_(0)
        tokens.missing_CD.fill_(-5)
        through = tokens(torch.tensor([[number, math.nan]]))
    expected = np.interp(number, sorted(edges), np.arange(len(edges)))
    assert through[0, 0].item() == pytest.approx(expected, abs=1e-3)
    assert through[0, 1].item() == -5


def test_a_category_that_is_not_known_is_the_unseen_one() -> None:
    torch.manual_seed(0)
    network = RowTransformer(
        edges=[[0, 1, 2]],
        num_categories=[3, 4],
        num_classes=2,
        width=8,
        num_layers=1,
        num_heads=2,
        dropout=0,
        dropped=0.5,
    ).eval()
    row_NC = torch.tensor([[1.5, 3, 2], [1.5, 7, 2], [1.5, -1, 2], [1.5, math.nan, 2], [1.5, 1e30, 2], [1.5, 2, 2]])
    logits_NK = network(row_NC)
    torch.testing.assert_close(logits_NK[:5], logits_NK[:1].expand(5, -1))
    assert not torch.allclose(logits_NK[5], logits_NK[0])
    assert network(torch.full((1, 3), math.nan)).isfinite().all()


def test_no_day_of_the_market_is_in_two_splits_and_none_sees_the_future() -> None:
    dataset = loaded("market")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (2_979, 595, 1_262)
    rows = [row.reshape(-1, 2, market.NUM_DAYS) for row in splits(dataset, "row")]
    days = [set(map(tuple, row.transpose(0, 2, 1).reshape(-1, 2).tolist())) for row in rows]
    assert sum(map(len, days)) == len(set.union(*days))
    for split, row in zip((dataset.train, dataset.validation, dataset.test), rows, strict=True):
        ahead_MT = row[market.HORIZON :, 1, : market.HORIZON].astype(np.float64)
        assert split.targets[: -market.HORIZON] == pytest.approx(market.volatility(ahead_MT), rel=1e-5)


def forecaster() -> VolatilityNetwork:
    torch.manual_seed(0)
    return VolatilityNetwork(
        num_days=60, spans=(1.0, 20.0), width=4, dropout=0.5, variance_scale=market.PARKINSON,
        days_a_year=market.DAYS_A_YEAR, min_variance=market.MIN_VARIANCE, usual=HAR, usual_constant=HAR_CONSTANT,
    ).eval()  # fmt: skip


def test_the_usual_forecast_is_the_regression_of_the_training_split() -> None:
    dataset = loaded("market")
    np.testing.assert_allclose([HAR_CONSTANT, *HAR.values()], har_weights(dataset), rtol=1e-6)
    usual_N = forecaster()(torch.from_numpy(dataset.test.inputs["row"]))[1][:, 0]
    cost_N = qlike(usual_N.detach().numpy().astype(np.float64), dataset.test.targets.astype(np.float64))
    assert cost_N.mean() == pytest.approx(har(dataset), rel=1e-4)


def test_a_market_without_any_range_has_a_forecast() -> None:
    for forecast in forecaster()(torch.zeros(2, 120)):
        assert forecast.isfinite().all()
        assert (forecast > 0).all()


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_qlike_is_least_for_the_truth(forecast: float, realised: float) -> None:
    cost = qlike(np.array([forecast, realised]), np.array([realised, realised]))
    assert cost[0] >= -1e-12
    assert cost[1] == 0


def test_an_interval_of_blocks_is_wider_where_days_are_alike() -> None:
    quarters = np.repeat(np.random.default_rng(0).normal(size=20), 60)
    together = blocked("x", quarters, larger_is_better=True).metric
    apart = blocked("x", np.random.default_rng(1).permutation(quarters), larger_is_better=True).metric
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_two_forecasts_are_compared_by_the_same_blocks() -> None:
    volatility_N1 = np.random.default_rng(0).uniform(10, 30, (200, 1))
    outputs = {spec.name: volatility_N1 for spec in MARKET_VOLATILITY.outputs}
    assert {measure.block for measure in metrics(outputs, volatility_N1[:, 0])} == {BLOCK_DAYS}


def test_what_is_to_be_found_was_not_seen() -> None:
    dataset = loaded("film")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90_570, 943, 943)
    for split in (dataset.validation, dataset.test):
        seen_NF = film.seen_films(split.targets)
        assert not np.take_along_axis(seen_NF, split.targets["held_out"], axis=1).any()
        recent_NR = split.inputs["row"][:, -film.NUM_RECENT :].astype(np.intp)
        assert np.take_along_axis(seen_NF, recent_NR, axis=1).all()
    # Validation's films are the last that the test's people have seen, in order.
    found = dataset.validation.targets["held_out"][:, ::-1]
    assert np.array_equal(dataset.test.inputs["row"][:, 3 : 3 + film.NUM_HELD_OUT], found)


def towers() -> TwoTowers:
    torch.manual_seed(0)
    return TwoTowers(
        num_recent=3, num_genders=2, num_occupations=4, num_films=NUM_FILMS, num_candidates=10, width=8, hidden=4,
        dropout=0.5, dropped=0.5,
    ).eval()  # fmt: skip


def test_a_person_of_whom_nothing_is_known_is_learned() -> None:
    network = towers().train()
    network(torch.tensor([[30.0, 1, 2, 5, 6, 7]]).expand(16, -1))[0].square().sum().backward()
    gender, occupation, age = (getattr(network.person, name).weight.grad for name in ("gender", "occupation", "age"))
    for missing in (gender[2], occupation[4], age[:, 1]):
        assert missing.abs().sum() > 0


def test_films_just_seen_are_not_named_and_people_do_not_mix() -> None:
    network = towers()
    row_NC = torch.tensor([[30.0, 1, 2, 5, 6, 7], [math.nan, 2, 4, 8, NUM_FILMS, NUM_FILMS], [20, 0, 1, 9, 1, 3]])
    ranked_NF, found_NF = network(row_NC)
    for scores_F, row_C in zip(ranked_NF, row_NC, strict=True):
        assert not set(scores_F.topk(10).indices.tolist()) & set(row_C[3:].tolist())
    torch.testing.assert_close(network(row_NC[1:2])[0], ranked_NF[1:2])
    moved_NF = ranked_NF != found_NF
    assert (moved_NF.sum(dim=1) == 9).all()  # the candidates but the last
    wrong_NC = torch.tensor([[math.nan, -1, math.nan, 8, 1e9, -3]])
    torch.testing.assert_close(network(wrong_NC)[0], ranked_NF[1:2])


def test_recall_and_gain_of_the_ten_named() -> None:
    targets = loaded("film").test.targets[:3]
    score_NF = np.zeros((3, film.NUM_FILMS))
    score_NF[film.seen_films(targets)] = 9  # however high, they are left out
    np.put_along_axis(score_NF[:2], targets["held_out"][:2], [[5, 4, 3, 2, 1], [5, 4, 0, 0, 0]], axis=1)
    score_NF[1, np.flatnonzero(~film.seen_films(targets)[1])[-10:]] = 3
    recall_N, gain_N = hits(score_NF, targets)
    assert recall_N[:2] == pytest.approx([1.0, 0.4])
    assert gain_N[0] == pytest.approx(1.0)
    assert gain_N[1] == pytest.approx((1 + 1 / math.log2(3)) / sum(1 / math.log2(k) for k in range(2, 7)))
