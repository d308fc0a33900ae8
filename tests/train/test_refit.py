"""Variants of stage 2 on a stand-in store: they train, say what they cost and how sure they are, and learn on from fresh samples."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from irlvla import run
from irlvla.halves import log_halves
from irlvla.model.reward_world_model import HEADS, RewardWorldModelConfig
from irlvla.recipes import fit_stage, recipe_of
from irlvla.rollout import chosen_scenes, load_policy, load_reward_world_model
from irlvla.train import imitation, refit, reward
from irlvla.train.calibration import doubt
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.refit import RefitConfig
from irlvla.train.reward import RewardConfig, bootstrap, members_loss

from ..stand_in import IMITATION, MemoryStore

REWARD = RewardConfig(
    model=RewardWorldModelConfig(width=32, pose_width=16, layers=1, query_width=16),
    candidates=CandidatesConfig(deployed=2, likely=4, even=4, vocabulary=16, near=3, far=2),
    steps=12,
    batch=8,
    proposals=8,
    warmup=3,
    group=6,
    save_every=20,
)
REFIT = RefitConfig(steps=6, batch=6, group=6, proposals=6, warmup=2, save_every=2)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    store, val = MemoryStore(24), MemoryStore(12, 1)
    config = dataclasses.replace(IMITATION, steps=10, planner_steps=8, candidates=1, save_every=50)
    policy = imitation.fit(config, store, val, folder / "imitation")
    model = reward.fit(REWARD, policy, store, val, folder / "reward", cache_folder=folder / "cache")
    return folder, store, val, policy, model


def report(folder):
    return json.loads((folder / "acceptance.json").read_text())


def refitted(stages, to, config=REFIT, resume=False):
    folder, store, val, policy, model = stages
    labels = folder / "reward" / "labels"
    return refit.refit(config, model, labels, load_policy(policy), store, val, to, resume, folder / "cache")


def test_acceptance_tells_cost_gap_and_calibration_on_logs_left_out(stages):
    found = report(stages[0] / "reward")
    assert found["cost"]["parameters"] == sum(value.numel() for value in load_reward_world_model(stages[4]).parameters())
    assert found["cost"]["seconds_per_1000_trajectories"] > 0
    assert found["held_out"]["logs"] == 2 and found["held_out"]["scenes"] == 6
    assert set(found["held_out"]) == {"logs", "scenes", *HEADS}
    assert all(0 <= found["held_out"][name][key] <= 1 for name in HEADS for key in ("ece", "ece_uncalibrated"))
    assert set(found["gap"]) == {"all", "deployed"} and "doubt" not in found


@pytest.mark.parametrize("model", [{"members": 3, "pessimism": 0.5}, {"reader": "queries", "members": 2}])
def test_every_variant_trains_and_is_loaded_as_it_was(stages, tmp_path, model):
    folder, store, val, policy, _ = stages
    config = dataclasses.replace(REWARD, model=dataclasses.replace(REWARD.model, **model))
    checkpoint = reward.fit(config, policy, store, val, tmp_path, cache_folder=folder / "cache", labels_folder=folder / "reward" / "labels")
    assert load_reward_world_model(checkpoint).config == config.model
    assert not (tmp_path / "labels").exists()
    losses = [value for _, name, value in run.metrics(tmp_path / "metrics.csv") if name == "train/loss"]
    assert losses[-1] < losses[0]
    assert report(tmp_path)["doubt"]["spread"] > 0


def test_the_stage_without_a_camera_learns_from_the_same_labels(stages):
    folder, store, val, _, _ = stages
    recipe = dataclasses.replace(recipe_of("tiny", REWARD.seed), reward=REWARD)
    written = {path.name: path.stat().st_mtime_ns for path in (folder / "reward" / "labels").iterdir()}
    checkpoint = fit_stage("reward_no_camera", recipe, folder, store, val, resume=False)
    assert checkpoint == folder / "reward_no_camera" / "checkpoint"
    assert load_reward_world_model(checkpoint).config == dataclasses.replace(REWARD.model, camera=False)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "reward" / "labels").iterdir()} == written
    assert not (folder / "reward_no_camera" / "labels").exists()


def test_each_member_has_its_own_bootstrap_of_whole_logs():
    names = [f"log{index // 3}" for index in range(60)]
    counted = bootstrap(names, 4, seed=0)
    assert counted.shape == (4, 60) and torch.equal(counted, bootstrap(names, 4, seed=0))
    assert (counted.sum(1) == 60).all() and torch.equal(counted[:, ::3], counted[:, 2::3])
    assert len({tuple(row.tolist()) for row in counted}) == 4
    assert bootstrap(names, 1, seed=0) is None


def test_a_member_learns_nothing_from_logs_that_it_did_not_draw():
    random = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(2, 3, 4, 3 if name in ("nc", "ddc") else 1, generator=random, requires_grad=True) for name in HEADS}
    loss, _ = members_loss(logits, torch.ones(3, 4, 8), (1.0,) * 8, torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]))
    loss.backward()
    for values in logits.values():
        assert (values.grad.abs().sum((2, 3)) > 0).tolist() == [[True, False, True], [False, True, False]]


def test_doubt_is_worth_something_where_members_disagree_about_what_is_wrong():
    true = np.array([[0.9, 0.5, 0.1]])
    rewards = np.array([[[0.9, 0.5, 1.0]], [[0.9, 0.5, 0.9]], [[0.9, 0.5, 1.0]]])
    rewards[1, 0, 2] = 0.7
    found = doubt(rewards, true)
    assert found["spread"] > 0 and found["spearman_error"] > 0.8
    assert found["enrichment_pessimism_0"] == pytest.approx(40.0) and found["enrichment_pessimism_2"] == pytest.approx(40.0)
    rewards[:, 0, 2] = [1.4, 1.0, 1.0]
    found = doubt(rewards, true)
    assert found["enrichment_pessimism_0"] == pytest.approx(-40.0) and found["enrichment_pessimism_2"] == pytest.approx(40.0)
    assert doubt(np.zeros((2, 1, 3)), true)["spearman_error"] is None


def test_a_refit_learns_from_fresh_samples_of_half_a_and_still_knows_which_half_that_was(stages, tmp_path):
    _, store, _, _, model = stages
    checkpoint = refitted(stages, tmp_path)
    first, _ = log_halves(store.log_names, REWARD.seed)
    with np.load(tmp_path / "fresh.npz") as fresh:
        assert fresh["rows"].tolist() == first.tolist() and fresh["poses"].shape == (len(first), 6, 8, 3)
    old, new = load_reward_world_model(model), load_reward_world_model(checkpoint)
    assert new.config == old.config and not torch.equal(new.ego.layers[0].weight, old.ego.layers[0].weight)
    assert chosen_scenes("unjudged", checkpoint, store).tolist() == chosen_scenes("unjudged", model, store).tolist()
    assert {"gap", "enrichment", "held_out"} <= set(report(tmp_path)["after"])
    again = refitted((*stages[:4], checkpoint), tmp_path / "second", dataclasses.replace(REFIT, scenes=4, seed=1))
    with np.load(tmp_path / "second" / "fresh.npz") as fresh:
        assert len(fresh["rows"]) == 4 and set(fresh["rows"]) <= set(first)
    assert (again / "checkpoint.json").exists()


def test_a_resumed_refit_equals_an_uninterrupted_one(stages, tmp_path, monkeypatch):
    whole = refitted(stages, tmp_path / "whole")
    calls, original = [], refit.members_loss

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(refit, "members_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refitted(stages, tmp_path / "halves")
    monkeypatch.undo()
    halves = refitted(stages, tmp_path / "halves", resume=True)
    left, right = load_reward_world_model(whole).state_dict(), load_reward_world_model(halves).state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert run.metrics(tmp_path / "whole" / "metrics.csv") == run.metrics(tmp_path / "halves" / "metrics.csv")


def test_a_refit_lowers_the_loss_on_what_it_is_shown(stages, tmp_path):
    refitted(stages, tmp_path, dataclasses.replace(REFIT, steps=30, fresh_share=1.0, rate=2e-3))
    losses = [value for _, name, value in run.metrics(tmp_path / "metrics.csv") if name == "train/loss"]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])


def test_a_share_beyond_one_is_an_error():
    with pytest.raises(ValueError, match="fresh_share is a share of the batch, not 1.5"):
        RefitConfig(fresh_share=1.5)
