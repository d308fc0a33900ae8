import numpy as np
import pytest

from irlvla.vehicle import STEER, VX, YAW_RATE, X, Y, simulated
from tests.score import slow_twin


def reference(speed=10.0, turn=0.0, lateral=0.0):
    time = 0.1 * np.arange(41)
    heading = turn * time
    if turn:
        return np.stack([speed / turn * np.sin(heading), speed / turn * (1 - np.cos(heading)), heading], axis=1)[None]
    return np.stack([speed * time, np.full(41, lateral), heading], axis=1)[None]


def ego(speed=10.0):
    return np.array([0.0, 0.0, 0.0, speed, 0.0, 0.0, 0.0])


def test_a_straight_plan_at_its_own_speed_is_followed_exactly():
    states = simulated(ego(), reference())[0]
    assert np.allclose(states[:, X], np.arange(41), atol=1e-6) and np.abs(states[:, Y]).max() < 1e-9
    assert np.allclose(states[1:, VX], 10.0, atol=1e-6)


def test_every_rollout_starts_with_straight_wheels_and_overshoots_a_steady_turn():
    states = simulated(ego(8.0), reference(8.0, turn=0.3))[0]
    assert states[0, STEER] == 0.0 and states[0, YAW_RATE] == 0.0
    assert 1.2 * 0.3 < states[:, YAW_RATE].max() < 2.0 * 0.3


def test_an_error_along_the_path_is_not_corrected():
    ahead = reference()
    ahead[..., 0] += 3.0
    assert np.allclose(simulated(ego(), ahead), simulated(ego(), reference()), atol=1e-9)


def test_a_slow_plan_and_a_slow_car_stop_without_steering():
    states = simulated(ego(0.1), reference(0.0, lateral=1.0))[0]
    assert (states[:, STEER] == 0.0).all() and abs(states[-1, VX]) < 0.1


def test_the_closed_form_tracker_equals_pseudo_inverses():
    random = np.random.default_rng(3)
    plans = []
    for _ in range(12):
        turn, pull = random.normal(0, 0.2), random.normal(0, 1)
        time = 0.1 * np.arange(41)
        speed = np.maximum(6.0 + pull * time, 0.0)
        heading = turn * time + random.normal(0, 0.02, 41)
        plans.append(np.stack([np.cumsum(speed * np.cos(heading)) * 0.1, np.cumsum(speed * np.sin(heading)) * 0.1, heading], axis=1))
    fast = simulated(ego(6.0), np.array(plans))
    for states, plan in zip(fast, plans, strict=True):
        assert np.abs(states - slow_twin.simulated(ego(6.0), plan)).max() < 1e-8


def test_plans_do_not_influence_each_other():
    plans = np.concatenate([reference(), reference(5.0), reference(8.0, turn=0.2)])
    assert np.array_equal(simulated(ego(), plans)[1:2], simulated(ego(), plans[1:2]))


def test_a_reference_of_the_wrong_length_is_refused():
    with pytest.raises(Exception, match="references"):
        simulated(ego(), reference()[:, :40])
