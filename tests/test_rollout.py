"""Chains, rewards and choices of untrained networks on a stand-in store: what is drawn, what it weighs, what is picked."""

import dataclasses

import numpy as np
import pytest
import torch

from irlvla import run
from irlvla.halves import log_halves, share_of_logs
from irlvla.model.diffusion import ExplorationConfig, exploration_of
from irlvla.model.reward_world_model import RewardWorldModel, RewardWorldModelConfig
from irlvla.rollout import (
    LOGS,
    anchor_log_probs,
    cached_plans,
    chain_log_probs,
    chosen_scenes,
    exact_sub_scores,
    plans,
    predicted_sub_scores,
    proposals,
    sampled_chains,
    selected,
    two_frame_comfort,
)
from irlvla.scene_cache import remembered, scene_cache
from irlvla.score.epdms import epdms, sub_scores
from irlvla.train.imitation import fresh_policy
from irlvla.types import SUB_SCORE_NAMES, SubScores

from .stand_in import POLICY, MemoryStore

SCENES, SAMPLES = 9, 5
EVERY = np.arange(SCENES)
NOISE = ExplorationConfig()


class LikesFar(RewardWorldModel):
    """Thinks every plan flawless, and the farther it gets the better."""

    def sub_scores(self, scene, ego_history, command, poses):
        one, none = torch.ones(poses.shape[:2]), torch.zeros(poses.shape[:2])
        values = dict.fromkeys(SUB_SCORE_NAMES, one) | {"ep": (poses[..., -1, 0] / 100).clamp(0, 1), "ec": none}
        return SubScores(**values, ec_defined=none)


@pytest.fixture(scope="module")
def policy():
    """Untrained, so that every clean trajectory is its anchor; confidences are made to differ."""
    policy = fresh_policy(POLICY, MemoryStore().human(np.arange(24)).astype(np.float32), seed=0).eval()
    with torch.no_grad():
        policy.layers[-1].confidence[-1].weight.mul_(5.0)
    return policy.requires_grad_(False)


@pytest.fixture(scope="module")
def store():
    return MemoryStore(SCENES)


@pytest.fixture(scope="module")
def caches(policy, store):
    return tuple(scene_cache(policy, store, EVERY, previous) for previous in (False, True))


@pytest.fixture(scope="module")
def exploration(policy):
    return exploration_of(policy.in_metres(policy.anchors), policy.scale, NOISE)


def drawn(policy, cache, exploration, seed=3, samples=SAMPLES, uniform=False):
    memory = remembered(policy, cache, EVERY)
    return memory, sampled_chains(policy, memory, exploration, samples, torch.Generator().manual_seed(seed), uniform)


def test_a_chain_starts_at_its_noised_anchor_and_ends_near_what_the_denoiser_says(policy, caches, exploration):
    _, chain = drawn(policy, caches[0], exploration)
    assert chain.anchor.shape == (SCENES, SAMPLES) and chain.states.shape == (SCENES, SAMPLES, 3, 8, 3)
    assert torch.equal(chain.states[:, :, 0], policy.start(chain.anchor))
    away = (policy.in_metres(chain.states[:, :, -1]) - policy.in_metres(policy.anchors)[chain.anchor])[..., :2].norm(dim=-1)
    assert 0 < float(away.max()) < 5 * NOISE.along * 40 and bool((away[..., 0] < 0.5).all())


def test_the_same_seed_draws_the_same_chains(policy, caches, exploration):
    first, again, other = (drawn(policy, caches[0], exploration, seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first.states, again.states) and torch.equal(first.anchor, again.anchor)
    assert not torch.equal(first.states, other.states)


def test_log_probs_are_the_anchors_share_and_the_gaussian_density_a_dimension(policy, caches, exploration):
    memory, chain = drawn(policy, caches[0], exploration)
    anchor, steps = chain_log_probs(policy, memory, chain, exploration)
    assert anchor.shape == (SCENES, SAMPLES) and steps.shape == (SCENES, SAMPLES, 2)
    confidence = policy.deployed(memory).confidence
    torch.testing.assert_close(anchor, torch.log_softmax(confidence, dim=1).gather(1, chain.anchor))
    torch.testing.assert_close(anchor_log_probs(policy, memory).exp().sum(1), torch.ones(SCENES))
    spread = exploration.sampling.double()
    covariance = spread @ spread.transpose(1, 2) + NOISE.density_floor**2 * torch.eye(24)
    mean = policy.anchors.flatten(1).double()[chain.anchor]
    density = torch.distributions.MultivariateNormal(mean, covariance[chain.anchor]).log_prob(chain.states[:, :, -1].flatten(2).double())
    torch.testing.assert_close(steps[..., -1].double(), density / 24, rtol=1e-3, atol=1e-3)


def test_anchors_come_by_confidence_or_evenly(policy, caches, exploration):
    memory, chain = drawn(policy, caches[0], exploration, samples=400)
    share = torch.nn.functional.one_hot(chain.anchor, POLICY.anchors).float().mean(1)
    torch.testing.assert_close(share, anchor_log_probs(policy, memory).exp(), atol=0.1, rtol=0)
    _, chain = drawn(policy, caches[0], exploration, samples=400, uniform=True)
    share = torch.nn.functional.one_hot(chain.anchor, POLICY.anchors).float().mean(1)
    torch.testing.assert_close(share, torch.full_like(share, 1 / POLICY.anchors), atol=0.1, rtol=0)


def test_proposals_begin_with_the_deployed_plan_and_repeat(policy, store, caches, exploration):
    poses, confidence = proposals(policy, caches[0], exploration, SAMPLES, seed=1)
    assert poses.shape == (SCENES, 1 + SAMPLES, 8, 3) and confidence.shape == (SCENES, 1 + SAMPLES)
    np.testing.assert_allclose(poses[:, 0], cached_plans(policy, caches[0]), atol=1e-5)
    np.testing.assert_allclose(poses[:, 0], plans(policy, store, EVERY), atol=1e-5)
    assert (confidence[:, 0] == confidence.max(axis=1)).all() and (confidence < 0).all()
    np.testing.assert_array_equal(poses, proposals(policy, caches[0], exploration, SAMPLES, seed=1)[0])


def test_threads_score_as_one_after_the_other_does(store, policy, caches, exploration):
    poses, _ = proposals(policy, caches[0], exploration, SAMPLES)
    earlier = poses[:, ::-1].copy()
    got = exact_sub_scores(store, EVERY, poses, earlier)
    for row in EVERY:
        expected = sub_scores(store.prepared(row), poses[row], earlier[row])
        for name in (*SUB_SCORE_NAMES, "ec_defined"):
            np.testing.assert_array_equal(getattr(got, name)[row], getattr(expected, name), err_msg=name)
    assert (got.ec_defined[:, 0] == store.has_previous).all()


def test_comfort_between_two_plans_is_what_the_exact_scorer_measures(store, policy, caches, exploration):
    poses, _ = proposals(policy, caches[0], exploration, SAMPLES)
    poses = np.concatenate([store.human(EVERY)[:, None], poses], axis=1)
    earlier = store.human(EVERY)
    comfort = two_frame_comfort(*caches, EVERY, poses, earlier)
    exact = exact_sub_scores(store, EVERY, poses, np.repeat(earlier[:, None], poses.shape[1], axis=1))
    np.testing.assert_array_equal(comfort.defined, store.has_previous)
    np.testing.assert_array_equal(comfort.ec, exact.ec)
    assert 0 < comfort.ec[comfort.defined].mean() < 1


def test_where_there_is_no_earlier_moment_comfort_does_not_count(policy, caches, exploration):
    torch.manual_seed(0)
    model = RewardWorldModel(RewardWorldModelConfig(width=32, pose_width=16, layers=1)).eval()
    poses, _ = proposals(policy, caches[0], exploration, SAMPLES)
    comfort = two_frame_comfort(*caches, EVERY, poses, poses[:, 0])
    without, scores = (predicted_sub_scores(model, caches[0], EVERY, torch.from_numpy(poses).float(), each) for each in (None, comfort))
    assert (scores.ec_defined.bool()[:, 0].numpy() == caches[1].valid).all()
    same = (epdms(scores) == epdms(without)).all(1).numpy()
    assert same[~caches[1].valid].all() and not same[caches[1].valid].any()


def test_the_selector_picks_the_proposal_that_is_predicted_best(policy, caches, exploration):
    now, before = caches
    model = LikesFar(RewardWorldModelConfig(width=32, pose_width=16, layers=1)).eval()
    poses, earlier = selected(policy, model, now, before, exploration, SAMPLES, seed=2)
    old, new = (proposals(policy, cache, exploration, SAMPLES, seed=2)[0] for cache in (before, now))
    np.testing.assert_array_equal(earlier, old[EVERY, old[..., -1, 0].argmax(1)])
    comfort = two_frame_comfort(now, before, EVERY, new, earlier)
    ep = np.clip(new[..., -1, 0] / 100, 0, 1)
    score = np.where(comfort.defined[:, None], (5 * ep + 9 + 2 * comfort.ec) / 16, (5 * ep + 9) / 14)
    np.testing.assert_array_equal(poses, new[EVERY, score.argmax(1)])
    assert (poses[~before.valid, -1, 0] == new[~before.valid, :, -1, 0].max(1)).all()


def test_a_reward_world_model_without_pictures_to_see_is_an_error(store, policy):
    blind = fresh_policy(dataclasses.replace(POLICY, perception=None), store.human(EVERY).astype(np.float32), seed=0).eval()
    model = LikesFar(RewardWorldModelConfig(width=32, pose_width=16, layers=1))
    with pytest.raises(ValueError, match="needs scene tokens"):
        predicted_sub_scores(model, scene_cache(blind, store, EVERY), EVERY, torch.zeros(SCENES, 1, 8, 3))


def test_halves_share_no_log_and_together_are_everything():
    names = [f"log{index % 7}" for index in range(40)]
    first, second = log_halves(names, seed=5)
    assert not {names[row] for row in first} & {names[row] for row in second}
    assert sorted([*first, *second]) == list(range(40))
    assert len({names[row] for row in first}) == 3
    assert log_halves(names, seed=5)[0].tolist() == first.tolist()
    assert any(log_halves(names, seed=seed)[0].tolist() != first.tolist() for seed in range(5))


def test_what_a_reward_world_model_has_not_seen_is_told_by_its_own_seed_and_half(tmp_path):
    store, judge = MemoryStore(12, scenes_a_log=1), tmp_path / "checkpoint"
    run.save(judge, {}, {"training": {"seed": 3}}, {}, {})
    first, second = log_halves(store.log_names, 3)
    assert {logs: chosen_scenes(logs, judge, store).tolist() for logs in LOGS} == {
        "unjudged": second.tolist(), "annotated": list(range(12)), "judged": first.tolist(), "all": list(range(12)),
    }  # fmt: skip


def test_with_logs_without_annotations_all_others_are_judged_and_just_those_are_not(tmp_path):
    store, judge = MemoryStore(12, scenes_a_log=1), tmp_path / "checkpoint"
    run.save(judge, {}, {"training": {"seed": 3}}, {}, {})
    store.annotated = np.arange(12) % 4 != 0
    known = np.flatnonzero(store.annotated).tolist()
    assert {logs: chosen_scenes(logs, judge, store).tolist() for logs in LOGS} == {
        "unjudged": [0, 4, 8], "annotated": known, "judged": known, "all": list(range(12)),
    }  # fmt: skip


def test_logs_of_no_name_and_none_of_a_kind_are_errors(tmp_path):
    store = MemoryStore(3)
    with pytest.raises(ValueError, match="unknown logs 'some'"):
        chosen_scenes("some", tmp_path, store)
    store.annotated = np.zeros(3, bool)
    with pytest.raises(ValueError, match="none of 3 training scenes is of annotated logs"):
        chosen_scenes("annotated", tmp_path, store)


def test_a_smaller_share_of_logs_is_part_of_a_larger_one_and_never_empty():
    names = [f"log{place // 3}" for place in range(30)]
    rows = np.arange(6, 30)
    shares = [share_of_logs(rows, names, share, seed=2) for share in (0.01, 0.25, 0.5, 1.0)]
    assert [len(found) for found in shares] == [3, 6, 12, 24] and np.array_equal(shares[-1], rows)
    assert all(set(small) <= set(large) for small, large in zip(shares, shares[1:], strict=False))
