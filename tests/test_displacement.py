import numpy as np
import pytest
import torch

from irlvla.displacement import arcs, baseline_poses, displacements, proposed, untrained_policy
from irlvla.learned import checkpoint_of
from irlvla.rollout import load_policy, plans
from irlvla.train.imitation import fresh_policy, save_policy

from .stand_in import IMITATION, POLICY, MemoryStore

EVERY = np.arange(9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose imitation looks at its pictures."""
    folder, store = tmp_path_factory.mktemp("run"), MemoryStore(9)
    policy = fresh_policy(POLICY, store.human(EVERY).astype(np.float32), seed=0).eval()
    with torch.no_grad():  # a fresh planner begins at its anchors, whatever it sees
        for weights in policy.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    save_policy(checkpoint_of(folder, "imitation"), policy, IMITATION, store)
    return folder


def test_a_plan_that_falls_behind_by_a_metre_a_second_is_that_far_off():
    driven = np.zeros((2, 8, 3))
    driven[..., 0] = 2.0 * np.arange(1, 9)
    plan = driven - np.array([0.5, 0.0, -3.0]) * np.arange(1, 9)[:, None]
    found = displacements(plan, driven)
    assert [found[f"fde_{second}s"].tolist() for second in (1, 2, 3, 4)] == [[1.0] * 2, [2.0] * 2, [3.0] * 2, [4.0] * 2]
    assert found["ahead_4s"].tolist() == [-4.0] * 2 and found["left_4s"].tolist() == [0.0] * 2
    assert found["ade_4s"].tolist() == [2.25] * 2 and found["ade_1s"].tolist() == [0.75] * 2


def test_the_proposals_hold_the_plan_that_is_driven_and_the_most_confident_one_is_it(folder):
    policy, store = load_policy(checkpoint_of(folder, "imitation")), MemoryStore(9)
    found = proposed(policy, store, EVERY)
    assert found.plans == pytest.approx(plans(policy, store, EVERY), abs=1e-5)
    assert found.looks and found.proposals.shape == (9, POLICY.anchors, 8, 3) and found.confidences.sum(1) == pytest.approx(1.0)
    best = found.confidences.argmax(1)
    assert found.proposals[EVERY, best] == pytest.approx(found.plans, abs=1e-5)


def test_black_pictures_change_a_trained_policy_s_proposals_and_not_an_untrained_one_s(folder):
    store = MemoryStore(9)
    trained = load_policy(checkpoint_of(folder, "imitation"))
    assert not np.array_equal(proposed(trained, store, EVERY).proposals, proposed(trained, store, EVERY, black=True).proposals)
    guessing = untrained_policy(0, folder)
    np.testing.assert_array_equal(proposed(guessing, store, EVERY).plans, proposed(guessing, store, EVERY, black=True).plans)


def test_an_untrained_policy_has_the_run_s_anchors_and_its_seed_s_weights(folder):
    store, trained = MemoryStore(9), load_policy(checkpoint_of(folder, "imitation"))
    first, again, other = (untrained_policy(seed, folder) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.in_metres(first.anchors), trained.in_metres(trained.anchors))
    np.testing.assert_array_equal(proposed(first, store, EVERY).plans, proposed(again, store, EVERY).plans)
    assert not np.array_equal(proposed(first, store, EVERY).confidences, proposed(other, store, EVERY).confidences)


def test_arcs_keep_speed_and_curvature():
    found = arcs()
    steps = np.linalg.norm(np.diff(found[..., :2], axis=1), axis=2)
    assert found.shape[1:] == (8, 3) and steps == pytest.approx(np.repeat(steps[:, :1], 7, axis=1), abs=1e-4)
    # 6 m/s on a radius of 10 m are 3.6 m/s2, 8 m/s would be too many.
    assert np.abs(found[:, -1, 2]).max() == pytest.approx(6.0 * 4.0 * 0.1) and found[:, -1, 0].max() == pytest.approx(64.0)
    assert untrained_policy(0).anchors.shape == (20, 8, 3)


def test_baselines_plan_from_the_store_s_histories():
    found = baseline_poses(MemoryStore(9), EVERY)
    assert set(found) == {"constant_velocity", "ctra", "stand_still"} and not found["stand_still"].any()
    assert found["constant_velocity"][:, -1, 0] == pytest.approx(4.0 * MemoryStore(9).speed)
