import numpy as np
import pytest
from scipy.signal import savgol_filter

from irlvla.score.comfort import _filtered, extended_comfort, history_comfort, sampled_past, savgol_weights
from irlvla.score.states import reference_poses
from irlvla.vehicle import simulated
from tests.score.scenes import TIME_US, driven, prepared_by_hand, straight_plan


@pytest.mark.parametrize("window, degree, derivative", [(8, 2, 0), (15, 2, 1), (5, 2, 1), (5, 3, 2), (5, 2, 2)])
@pytest.mark.parametrize("count", [36, 41, 56])
def test_smoothing_is_scipys_even_for_an_even_window(window, degree, derivative, count):
    values = np.random.default_rng(count).normal(size=count)
    expected = np.round(savgol_filter(values, window, degree, deriv=derivative, delta=0.1), 8)
    assert np.abs(_filtered(values, savgol_weights(window, degree, derivative)) - expected).max() < 2e-8


def test_the_past_misses_its_last_sample_and_late_stamps_bring_it_back():
    assert len(sampled_past(prepared_by_hand())) in (14, 15)
    lengths = {late: len(sampled_past(prepared_by_hand(gaps_us=(500_000, 500_000, 500_000 + late)))) for late in (-137, 137)}
    assert lengths == {-137: 14, 137: 15}


def test_the_past_is_linear_between_the_logged_states():
    past = sampled_past(prepared_by_hand(yaw_rate=0.2, acceleration=(0.5, -0.1)))
    assert np.allclose(np.diff(past[:, 0]), 0.02, atol=1e-5)
    assert np.allclose(past[:, 1:], [0.5, -0.1])


def test_steady_driving_is_comfortable():
    scene = prepared_by_hand()
    assert history_comfort(scene, driven(scene))[0] == 1.0


def comfort_of(column, value, step=slice(10, 30), **made):
    scene = prepared_by_hand(**made)
    states = driven(scene)
    states[0, step, column] += value
    return history_comfort(scene, states)[0]


def test_acceleration_bounds_are_asymmetric():
    ramp = np.concatenate([np.linspace(0, 1, 20), np.linspace(1, 0, 21)])
    assert comfort_of(5, 2.6 * ramp, slice(0, 41)) == 0.0
    assert comfort_of(5, -2.6 * ramp, slice(0, 41)) == 1.0


def test_a_jump_of_acceleration_is_a_jerk():
    for low, high, score in ((-3.2, 1.8, 0.0), (-3.2, 0.0, 1.0), (0.0, 1.8, 1.0)):
        assert comfort_of(5, np.where(np.arange(41) < 20, low, high), slice(0, 41)) == score


def test_turning_fast_is_uncomfortable():
    turn = 0.1 * np.maximum(np.arange(41) - 10, 0) * 1.0
    assert comfort_of(2, turn, slice(0, 41)) == 0.0


def test_lateral_acceleration_of_simulated_states_is_zero_so_only_the_log_can_exceed_it():
    plan = simulated(scene_state := prepared_by_hand().ego_state, reference_poses(scene_state, TIME_US, straight_plan(turn=0.3)))
    assert (plan[:, 1:, 6] == 0.0).all() and plan[..., 9].max() > 0.3
    assert comfort_of(6, 0.0) == 1.0 and comfort_of(6, 0.0, acceleration=(0.0, 6.0)) == 0.0


def test_the_centre_shift_adds_turning_to_the_longitudinal_axis():
    ramp = np.concatenate([np.linspace(0, 1, 20), np.linspace(1, 0, 21)])
    assert comfort_of(9, np.sqrt(2.6 / 1.461 * ramp), slice(0, 41)) == 0.0
    assert comfort_of(9, np.sqrt(2.0 / 1.461 * ramp), slice(0, 41)) == 1.0


def test_comfort_of_a_turning_car_hangs_on_time_stamp_jitter():
    outcomes = {}
    for late in (-1000, 137):
        for rate in np.linspace(0.2, 0.7, 26):
            scene = prepared_by_hand(yaw_rate=rate, gaps_us=(500_000, 500_000, 500_000 + late))
            states = driven(scene)
            states[0, :, 2] = scene.ego_state[2] + rate * 0.1 * np.arange(41)
            outcomes.setdefault(late, []).append(history_comfort(scene, states)[0])
    assert sum(outcomes[-1000]) < sum(outcomes[137])


def test_equal_plans_feel_alike_and_a_sudden_brake_does_not():
    scene = prepared_by_hand()
    states = driven(scene)
    braking = states.copy()
    braking[0, :, 5] -= 1.0
    assert extended_comfort(states, states, 0.5)[0] == 1.0
    assert extended_comfort(braking, states, 0.5)[0] == 0.0
    braking[0, :, 5] = -0.69
    assert extended_comfort(braking, states, 0.5)[0] == 1.0


def test_two_plans_are_compared_where_they_overlap():
    scene = prepared_by_hand()
    now, before = driven(scene), driven(scene)
    wave = 4.0 + 3.0 * np.sin(0.4 * np.arange(46))
    now[0, :, 5], before[0, :, 5] = wave[5:], wave[:41]
    assert extended_comfort(now, before, 0.5)[0] == 1.0
    assert extended_comfort(now, before, 0.3)[0] == 0.0
