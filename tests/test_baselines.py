import numpy as np
import pytest

from irlvla.baselines import constant_velocity, ctra, stand_still


def history(speed=0.0, acceleration=0.0, turn_rate=0.0):
    states = np.zeros((4, 7))
    states[:, 2] = turn_rate * np.array([-1.5, -1.0, -0.5, 0.0]) + 3.1
    states[:, 3], states[:, 5] = speed, acceleration
    return states


def test_constant_velocity_drives_twenty_metres_at_five_metres_a_second():
    assert constant_velocity(history(5.0, acceleration=9.0))[-1].tolist() == [20.0, 0.0, 0.0]


def test_ctra_brakes_to_a_stop_and_does_not_reverse():
    poses = ctra(history(3.0, acceleration=-3.0))
    assert poses[-1, 0] == pytest.approx(1.5) and (np.diff(poses[:, 0]) >= 0).all()


def test_ctra_follows_a_circle():
    poses = ctra(history(6.0, turn_rate=0.3))
    radius = 6.0 / 0.3
    assert poses[:, 0] == pytest.approx(radius * np.sin(poses[:, 2]), abs=0.01)
    assert poses[:, 1] == pytest.approx(radius * (1 - np.cos(poses[:, 2])), abs=0.01)
    assert poses[-1, 2] == pytest.approx(1.2)


def test_ctra_does_not_turn_on_the_spot():
    assert ctra(history(0.0, turn_rate=0.5))[-1].tolist() == [0.0, 0.0, 0.0]


def test_ctra_accelerates_to_fifteen_metres_a_second_at_most():
    poses = ctra(history(14.0, acceleration=4.0))
    assert (poses[-1, 0] - poses[-2, 0]) / 0.5 == pytest.approx(15.0)


def test_standing_still_stays():
    assert not stand_still(history(8.0)).any()
