from hypothesis import given
from hypothesis import strategies as st

from training.checkpoint import Epoch, Progress
from training.config import TrainConfig
from training.stopping import best_epoch, is_finished

LOSSES = st.lists(st.floats(0, 10), min_size=1, max_size=20)


def epochs(losses: list[float]) -> tuple[Epoch, ...]:
    return tuple(Epoch(loss=0, score=0, validation_loss=loss, validation_score=-loss) for loss in losses)


@given(LOSSES, st.floats(0, 1), st.sampled_from(["loss", "score"]))
def test_the_best_epoch_is_better_than_all_before_by_the_margin(losses: list[float], margin: float, what: str) -> None:
    config = TrainConfig(watched=what, min_improvement=margin)  # type: ignore[arg-type]
    best = best_epoch(config, epochs(losses))
    assert all(losses[best] < earlier for earlier in losses[:best])
    assert all(losses[best] <= later + margin for later in losses[best + 1 :])
    if margin == 0:
        assert losses[best] == min(losses)


@given(LOSSES, st.integers(1, 5))
def test_it_stops_when_patience_is_at_an_end_and_not_before(losses: list[float], patience: int) -> None:
    config = TrainConfig(epochs=21, batch_size=10, patience=patience)
    stopped = [is_finished(config, Progress(step=n * 3, epochs=epochs(losses[:n])), 30) for n in range(len(losses) + 1)]
    for num_done, stops in enumerate(stopped):
        waited = num_done - 1 - losses[:num_done].index(min(losses[:num_done])) if num_done else 0
        assert stops is (waited >= patience)


def test_without_patience_only_the_last_step_ends_it() -> None:
    config = TrainConfig(epochs=3, batch_size=10)
    worse = epochs([1.0, 2.0, 3.0])
    assert not is_finished(config, Progress(step=8, epochs=worse), 30)
    assert is_finished(config, Progress(step=9, epochs=worse), 30)
