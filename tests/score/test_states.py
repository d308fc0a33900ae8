import numpy as np
import pytest

from irlvla.score.states import reference_poses, sampled_reference
from tests.score.scenes import TIME_US

EGO = np.array([100.0, 200.0, np.pi / 2, 5.0, 0.0, 0.0, 0.0])


def test_a_plan_starts_at_the_logged_pose_and_is_turned_into_the_map():
    poses = np.array([[[2.5 * k, 1.0, 0.0] for k in range(1, 9)]])
    reference = reference_poses(EGO, TIME_US, poses)[0]
    assert np.allclose(reference[0], EGO[:3])
    assert np.allclose(reference[-1], [99.0, 220.0, np.pi / 2], atol=1e-4)


def test_a_plan_at_2_hz_equals_its_linear_upsampling_to_10_hz():
    random = np.random.default_rng(0)
    poses = np.cumsum(random.uniform(-0.5, 2.0, (3, 8, 3)), axis=1) * [1.0, 0.3, 0.1]
    knots = np.concatenate([np.zeros((3, 1, 3)), poses], axis=1)
    times = 0.5 * np.arange(9)
    dense = np.stack([[np.interp(0.1 * np.arange(1, 41), times, plan[:, c]) for c in range(3)] for plan in knots]).transpose(0, 2, 1)
    assert np.abs(reference_poses(EGO, TIME_US, poses) - reference_poses(EGO, TIME_US, dense)).max() < 3e-5


def test_sample_times_are_cut_to_whole_microseconds():
    poses = np.array([[[1000.0 * 0.5 * k, 0.0, 0.0] for k in range(1, 9)]])
    offsets = []
    for time_us in range(TIME_US, TIME_US + 50):
        reference = reference_poses(np.zeros(7), time_us, poses)[0]
        offsets.append(1e3 * (reference[1:40, 0] - 100.0 * np.arange(1, 40)))
    rounded = np.round(offsets, 3)
    assert np.isin(np.round(np.array(offsets)), [-2.0, -1.0, 0.0, 1.0]).all() and (rounded != 0.0).any()


def test_headings_turn_the_short_way_and_may_carry_full_turns():
    poses = np.zeros((1, 8, 3))
    poses[..., 0], poses[..., 2] = np.arange(1, 9), np.pi - 0.1
    full = poses.copy()
    full[..., 2] += 2 * np.pi
    ego = EGO.copy()
    ego[2] = 0.3
    assert np.allclose(reference_poses(ego, TIME_US, poses), reference_poses(ego, TIME_US, full), atol=1e-9)
    headings = np.unwrap(reference_poses(ego, TIME_US, poses)[0, :, 2])
    assert np.abs(np.diff(headings)).max() < 0.7


def test_a_planners_own_10_hz_plan_is_sampled_at_its_own_stamps():
    plan = np.stack([np.arange(51.0), np.zeros(51), np.zeros(51)], axis=1)
    assert np.allclose(sampled_reference(TIME_US, plan)[:, 0], np.arange(41), atol=3e-5)


@pytest.mark.parametrize("count", [8, 40])
def test_a_plan_of_4_s_ends_at_its_last_pose(count):
    poses = np.cumsum(np.ones((1, count, 3)), axis=1) * [40.0 / count, 0.0, 0.0]
    assert reference_poses(np.zeros(7), TIME_US, poses)[0, -1, 0] == pytest.approx(40.0, abs=1e-4)
