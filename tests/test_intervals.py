import numpy as np
import pytest

from irlvla.intervals import mean_interval, mean_interval_over_seeds


def test_one_log_leaves_nothing_to_resample():
    assert mean_interval(np.array([1.0, 5.0]), ["a", "a"]) == (3.0, 3.0)


def test_the_width_is_that_of_the_normal_law_when_every_scene_is_a_log():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = mean_interval(values, [str(i) for i in range(400)])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert low < values.mean() < high


def test_scenes_of_one_log_are_no_more_than_one_scene():
    values = np.random.default_rng(1).normal(size=50)
    single = mean_interval(values, [str(i) for i in range(50)])
    copied = mean_interval(np.repeat(values, 7), [str(i) for i in range(50) for _ in range(7)])
    assert copied == pytest.approx(single)


def test_seeds_that_disagree_widen_the_interval():
    logs = [[str(i) for i in range(100)]] * 3
    noise = np.random.default_rng(2).normal(size=(3, 100))
    same = mean_interval_over_seeds(noise, logs)
    apart = mean_interval_over_seeds(noise + np.array([[0.0], [3.0], [6.0]]), logs)
    assert apart[1] - apart[0] > 3 * (same[1] - same[0])


def test_values_and_logs_must_match():
    with pytest.raises(ValueError, match="0 values for 0 scenes"):
        mean_interval(np.array([]), [])
    with pytest.raises(ValueError, match="2 values for 1 scenes"):
        mean_interval(np.array([1.0, 2.0]), ["a"])
