"""Stages 2 and 3 on a stand-in store: they learn, resume to the same numbers, and mean what they say."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from irlvla import run
from irlvla.halves import log_halves
from irlvla.model.diffusion import ExplorationConfig, exploration_of
from irlvla.model.policy import planner_parameters
from irlvla.model.reward_world_model import RewardWorldModelConfig
from irlvla.rollout import (
    chain_log_probs,
    load_policy,
    load_reward_world_model,
    sampled_chains,
    selected,
)
from irlvla.scene_cache import remembered, scene_cache
from irlvla.train import continuation, imitation, labels, ppo, reward
from irlvla.train.advantages import denoising_weights
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.continuation import ContinuationConfig
from irlvla.train.ppo import PpoConfig, chain_loss, learning
from irlvla.train.reward import RewardConfig

from ..stand_in import IMITATION, MemoryStore

CANDIDATES = CandidatesConfig(deployed=2, likely=4, even=4, vocabulary=16, near=3, far=2)
REWARD = RewardConfig(
    model=RewardWorldModelConfig(width=32, pose_width=16, layers=1),
    candidates=CANDIDATES,
    steps=40,
    batch=8,
    proposals=8,
    warmup=5,
    group=6,
    save_every=20,
)
PPO = PpoConfig(iterations=4, scenes=6, group=6, passes=2, clone_samples=2, candidates=2, save_every=2)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    store, val = MemoryStore(24), MemoryStore(9, 1)
    config = dataclasses.replace(IMITATION, steps=30, planner_steps=20, rate=2e-3, planner_rate=2e-3, candidates=1, save_every=50)
    policy = imitation.fit(config, store, val, folder / "imitation")
    model = reward.fit(REWARD, policy, store, val, folder / "reward", cache_folder=folder / "cache")
    return folder, store, val, policy, model


def values(folder, name):
    return [value for _, key, value in run.metrics(folder / "metrics.csv") if key == name]


def test_the_reward_world_model_lowers_its_loss_and_learns_only_from_half_a(stages):
    folder, store, _, _, _ = stages
    losses = values(folder / "reward", "train/loss")
    assert losses[-1] < losses[0]
    first, second = log_halves(store.log_names, REWARD.seed)
    known = labels.opened(folder / "reward" / "labels")
    assert known.rows.tolist() == first.tolist()
    assert known.poses.shape[1] == 2 * 2 + 4 + 4 + 3 + 2
    assert not {store.log_names[row] for row in first} & {store.log_names[row] for row in second}


def test_a_resumed_reward_run_equals_an_uninterrupted_one(stages, tmp_path, monkeypatch):
    folder, store, val, policy, model = stages
    losses, original = [], reward.reward_loss

    def interrupted(*arguments):
        losses.append(0)
        if len(losses) > 25:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(reward, "reward_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reward.fit(REWARD, policy, store, val, tmp_path, cache_folder=folder / "cache")
    monkeypatch.undo()
    again = reward.fit(REWARD, policy, store, val, tmp_path, resume=True, cache_folder=folder / "cache")
    whole, halves = load_reward_world_model(model).state_dict(), load_reward_world_model(again).state_dict()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


@pytest.mark.parametrize("kind", ["ppo", "human", "best_of_g"])
def test_a_resumed_third_stage_equals_an_uninterrupted_one(stages, tmp_path, monkeypatch, kind):
    folder, store, val, policy, model = stages
    module = ppo if kind == "ppo" else continuation
    config = PPO if kind == "ppo" else ContinuationConfig(target=kind, steps=4, batch=6, group=4, candidates=2, save_every=2)
    whole = module.fit(config, policy, model, store, val, tmp_path / "whole", cache_folder=folder / "cache")
    calls, original = [], module.follow

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.fit(config, policy, model, store, val, tmp_path / "halves", cache_folder=folder / "cache")
    monkeypatch.undo()
    halves = module.fit(config, policy, model, store, val, tmp_path / "halves", resume=True, cache_folder=folder / "cache")
    left, right = load_policy(whole).state_dict(), load_policy(halves).state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert run.metrics(tmp_path / "whole" / "metrics.csv") == run.metrics(tmp_path / "halves" / "metrics.csv")
    before = load_policy(policy).state_dict()
    assert all(torch.equal(before[name], left[name]) for name in left if name.startswith(("encoder", "birds_eye")))


def chains(stages, scenes=4, samples=5):
    _, store, _, policy, _ = stages
    policy = load_policy(policy)
    cache = scene_cache(policy, store, np.arange(scenes))
    exploration = exploration_of(policy.in_metres(policy.anchors), policy.scale, ExplorationConfig())
    with torch.no_grad():
        memory = remembered(policy, cache, np.arange(scenes))
        chain = sampled_chains(policy, memory, exploration, samples, torch.Generator().manual_seed(3))
        anchor, steps = chain_log_probs(policy, memory, chain, exploration)
    return policy, cache, exploration, chain, anchor, steps


def test_on_the_first_pass_the_ratio_is_exactly_one_and_the_gradient_is_the_policy_gradient(stages):
    policy, cache, exploration, chain, old_anchor, old_steps = chains(stages)
    advantage = torch.randn(old_anchor.shape, generator=torch.Generator().manual_seed(0))
    planner_parameters(policy)
    memory = remembered(policy, cache, np.arange(4))
    anchor, steps = chain_log_probs(policy, memory, chain, exploration)
    assert torch.equal((anchor - old_anchor).exp(), torch.ones_like(anchor)) and torch.equal(
        (steps - old_steps).exp(), torch.ones_like(steps)
    )
    loss, measures = chain_loss(PPO, anchor, steps, old_anchor, old_steps, advantage)
    assert all(float(value) == 0 for value in measures.values())
    weights = PPO.trajectory_weight * denoising_weights(2, PPO.gamma_denoising)
    plain = -(advantage * anchor).mean() - sum(weights[index] * (advantage * steps[..., index]).mean() for index in range(2))
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    clipped = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    expected = torch.autograd.grad(plain, parameters, allow_unused=True)
    for left, right in zip(clipped, expected, strict=True):
        if left is not None:
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_learning_only_confidences_leaves_the_steps_out(stages):
    *_, old_anchor, old_steps = chains(stages)
    for learn, absent in (("confidences", "step"), ("trajectories", "anchor")):
        config = dataclasses.replace(PPO, learn=learn)
        _, parts = chain_loss(config, old_anchor, old_steps, old_anchor, old_steps, torch.ones_like(old_anchor))
        assert parts and not any(name.startswith(absent) for name in parts)


def test_one_head_that_learns_leaves_the_other_s_answers_as_they_are(stages):
    policy, cache, *_ = chains(stages)
    with torch.no_grad():
        before = policy.deployed(remembered(policy, cache, np.arange(4)))
    for learn, kept in (("confidences", "clean"), ("trajectories", "confidence")):
        other = copy.deepcopy(policy)
        with torch.no_grad():
            for parameter in learning(other, learn):
                parameter += 0.1
            after = other.deployed(remembered(other, cache, np.arange(4)))
        moved = {name: not torch.equal(getattr(before, name), getattr(after, name)) for name in ("clean", "confidence")}
        assert moved == {name: name != kept for name in moved}


def test_ppo_with_the_exact_reward_raises_it(stages, tmp_path):
    folder, store, val, policy, model = stages
    config = dataclasses.replace(PPO, reward="exact", iterations=25, scenes=12, group=8, rate=1e-3, candidates=1, clone_weight=0.0)
    ppo.fit(config, policy, model, store, val, tmp_path, cache_folder=folder / "cache")
    rewards = values(tmp_path, "train/reward")
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5])


def test_ppo_uses_the_half_that_its_reward_has_not_seen_whatever_its_seed(stages, tmp_path, monkeypatch):
    folder, store, val, policy, model = stages
    seen, original = set(), ppo.rewards_of

    def watched(judge, sampling, scenes, rows, *rest):
        seen.update(rows.tolist())
        return original(judge, sampling, scenes, rows, *rest)

    monkeypatch.setattr(ppo, "rewards_of", watched)
    ppo.fit(dataclasses.replace(PPO, seed=5), policy, model, store, val, tmp_path, cache_folder=folder / "cache")
    first, second = log_halves(store.log_names, REWARD.seed)
    assert log_halves(store.log_names, 5)[1].tolist() != second.tolist()
    assert seen <= set(second.tolist())


def test_an_unknown_continuation_is_an_error(stages, tmp_path):
    _, store, val, policy, model = stages
    with pytest.raises(ValueError, match="unknown target 'nobody'"):
        continuation.fit(ContinuationConfig(target="nobody"), policy, model, store, val, tmp_path)


def test_the_selector_picks_plans_for_both_moments(stages):
    _, _, val, policy, model = stages
    policy, model = load_policy(policy), load_reward_world_model(model)
    exploration = exploration_of(policy.in_metres(policy.anchors), policy.scale, ExplorationConfig())
    now, before = (scene_cache(policy, val, np.arange(len(val)), previous) for previous in (False, True))
    new, old = selected(policy, model, now, before, exploration, 5)
    assert new.shape == old.shape == (9, 8, 3)
