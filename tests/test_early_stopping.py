"""Early stopping: what counts as improvement, when it stops, how it resumes."""

import math

import pytest

from btxrd.models import EarlyStopping


def test_stops_after_patience_calls_without_improvement() -> None:
    stop = EarlyStopping(patience=3)
    answers = [stop(loss) for loss in (1.0, 0.8, 0.9, 0.8, 0.81)]
    assert answers == [False, False, False, False, True]
    assert (stop.best_loss, stop.counter, stop.should_stop) == (0.8, 3, True)


def test_improvement_starts_the_count_again() -> None:
    stop = EarlyStopping(patience=2)
    assert [stop(loss) for loss in (1.0, 1.1, 0.9, 1.0, 1.0)] == [False] * 4 + [True]


def test_min_delta_must_be_exceeded() -> None:
    stop = EarlyStopping(patience=1, min_delta=0.25)
    assert stop(1.0) is False
    assert stop(0.75) is True
    assert stop.best_loss == 1.0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_never_improves(loss: float) -> None:
    stop = EarlyStopping(patience=2)
    assert [stop(loss), stop(loss)] == [False, True]
    assert stop.best_loss == math.inf
    assert stop(0.5) is False


def test_resumes_where_it_stopped() -> None:
    losses = [1.0, 0.9, 0.95, 0.97, 0.92, 0.91]
    whole, first, second = (EarlyStopping(patience=4) for _ in range(3))
    expected = [whole(loss) for loss in losses]
    answers = [first(loss) for loss in losses[:3]]
    second.load_state_dict(first.state_dict())
    assert answers + [second(loss) for loss in losses[3:]] == expected
    assert expected[-1] is True
