"""PPO's parts by hand, and whole short runs: every reward works, guards stop, the choice by prediction is kept."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from irlvla import run
from irlvla.learned import BY_PREDICTED, checkpoint_of, learned_plans
from irlvla.model.reward_world_model import RewardWorldModelConfig
from irlvla.rollout import load_policy
from irlvla.train import imitation, ppo, reward
from irlvla.train.advantages import advantages, clip_ratios, follow_spread, scene_rows
from irlvla.train.calibration import objection
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.guards import GuardConfig, not_finite, reason_to_stop
from irlvla.train.loop import batch_rows
from irlvla.train.ppo import PpoConfig, chain_loss, ppo_loss
from irlvla.train.refit import RefitConfig
from irlvla.train.reward import RewardConfig

from ..stand_in import IMITATION, MemoryStore

REWARDS, FAILED = torch.tensor([[1.0, 0.6, 0.8, 0.0]]), torch.tensor([[False, False, True, True]])
VALUE, ANCHOR = torch.tensor([0.5]), torch.tensor([[2, 2, 0, 1]])
GUARDS = GuardConfig(probe_every=0, gap_growth=1e3, below_imitation=99)
PPO = PpoConfig(iterations=4, scenes=6, group=6, passes=2, clone_samples=2, candidates=2, save_every=2, guards=GUARDS)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store, val = MemoryStore(24), MemoryStore(9, 1)
    few = CandidatesConfig(deployed=2, likely=4, even=4, vocabulary=16, near=3, far=2)
    small = RewardWorldModelConfig(width=32, pose_width=16, layers=1)
    judge = RewardConfig(model=small, candidates=few, steps=4, batch=8, proposals=8, warmup=2, group=6)
    policy = imitation.fit(IMITATION, store, val, folder / "imitation", cache_folder=folder / "cache")
    return folder, store, val, policy, reward.fit(judge, policy, store, val, folder / "reward", cache_folder=folder / "cache")


def fitted(stages, place, config, **options):
    folder, store, val, policy, model = stages
    return ppo.fit(config, policy, model, store, val, place, cache_folder=folder / "cache", **options)


def told(place):
    return json.loads((place / "probes.json").read_text())


def test_advantages_are_centred_scaled_and_gated():
    rewards, failed = torch.cat([REWARDS, torch.full((1, 4), 0.4)]), torch.cat([FAILED, torch.zeros_like(FAILED)])
    values, anchor = torch.tensor([0.5, 0.5]), ANCHOR.expand(2, -1)
    wanted = {"group": [2.0, 0.0, -1.0, -3.0], "critic": [2.5, 0.5, -1.0, -2.5], "both": [2.25, 0.25, -1.0, -2.75]}
    for kind, expected in wanted.items():
        found = advantages(rewards, failed, values, anchor, kind, 0.2)
        assert torch.allclose(found[0], torch.tensor(expected), atol=1e-5), kind
    # A critic that is wrong by the same amount everywhere teaches nothing else.
    assert torch.allclose(advantages(rewards, failed, values - 5, anchor, "critic", 0.2)[0], torch.tensor(wanted["critic"]), atol=1e-4)
    with pytest.raises(ValueError, match="unknown kind of advantage 'mean'"):
        advantages(REWARDS, FAILED, VALUE, ANCHOR, "mean", 0.2)


def test_within_an_anchor_only_its_own_samples_are_compared():
    found = advantages(REWARDS, torch.zeros_like(FAILED), VALUE, ANCHOR, "anchor", 0.2)
    assert torch.allclose(found, torch.tensor([[1.0, -1.0, 0.0, 0.0]]))
    assert advantages(REWARDS, FAILED, VALUE, ANCHOR, "anchor", 0.2)[0, 2:].tolist() == [-1.0, -1.0]


def test_advantages_divided_by_the_group_s_spread_have_spread_one():
    found = advantages(REWARDS, torch.zeros_like(FAILED), VALUE, ANCHOR, "group", 0.2, "std")
    assert float(found.std()) == pytest.approx(1.0, abs=1e-3) and float(found.mean()) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="unknown normalisation 'max'"):
        advantages(REWARDS, FAILED, VALUE, ANCHOR, "group", 0.2, "max")


def test_clipping_stops_the_gradient_beyond_the_range():
    log_prob = torch.tensor([0.5, -0.5, 0.1], requires_grad=True)
    loss, measures = ppo_loss(log_prob, torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]), 0.2)
    loss.backward()
    assert log_prob.grad.tolist()[:2] == [0.0, 0.0] and log_prob.grad[2] < 0
    assert float(measures["clip_fraction"]) == pytest.approx(2 / 3)


def test_the_clip_range_grows_along_the_chain():
    assert clip_ratios(3, 0.2) == [0.2, 0.2, 0.2] and clip_ratios(1, 0.2, 0.1) == [0.2]
    first, middle, last = clip_ratios(3, 0.2, 0.1)
    assert (first, last) == (0.1, 0.2) and first < middle < 0.15
    zeros, up = torch.zeros(1, 1, 2), torch.full((1, 1, 2), 0.15)
    _, parts = chain_loss(dataclasses.replace(PPO, clip_first=0.1), zeros[..., 0], up, zeros[..., 0], zeros, torch.ones(1, 1))
    assert [float(parts[f"step{index}_clip_fraction"]) for index in range(2)] == [1.0, 0.0]


def test_scenes_are_drawn_by_the_spread_of_their_rewards():
    spread = torch.zeros(40)
    spread[7] = 1.0
    even = scene_rows(spread, 8, 0.0, 3, 5)
    assert even.tolist() == batch_rows(40, 8, 3, 5).tolist()
    drawn = [scene_rows(spread, 8, 0.5, step, 5) for step in range(20)]
    assert all(len(set(rows)) == 8 for rows in drawn) and sum(7 in rows for rows in drawn) > 15
    assert scene_rows(torch.full((4,), -1.0), 8, 0.5, 0, 5).tolist() == [0, 1, 2, 3]


def test_the_running_spread_starts_at_the_first_one_seen():
    spread = torch.tensor([-1.0, 0.4, 0.2])
    follow_spread(spread, np.array([0, 1]), torch.tensor([0.3, 0.2]))
    assert torch.allclose(spread, torch.tensor([0.3, 0.3, 0.2]))


def probes(*pairs):
    return [{"step": index - 1, "epdms": epdms, "gap": gap} for index, (epdms, gap) in enumerate(pairs)]


def test_a_run_stops_when_the_gap_grows_or_the_truth_stays_below_imitation():
    config = GuardConfig(gap_growth=5.0, below_imitation=2)
    assert reason_to_stop(config, probes((70, 1))) is None
    assert reason_to_stop(config, probes((70, 1), (75, 5.5))) is None
    assert reason_to_stop(config, probes((70, -60), (75, 4))) is None
    assert "exploits its reward" in reason_to_stop(config, probes((70, 1), (75, 6.5)))
    assert reason_to_stop(config, probes((70, 1), (69, 1), (71, 1), (69, 1))) is None
    assert "below imitation's 70.0 in 2 probes in a row" in reason_to_stop(config, probes((70, 1), (71, 1), (69, 1), (68, 1)))


def test_what_is_not_finite_is_named():
    assert not_finite({"reward": 0.5, "loss": 1.0}) is None
    assert not_finite({"reward": 0.5, "loss": float("nan"), "z": float("inf")}) == "loss is nan"


@pytest.mark.parametrize("name", ["reward", "learn", "advantage", "normalisation"])
def test_an_unknown_kind_of_ppo_is_an_error(name):
    with pytest.raises(ValueError, match=f"unknown {name} 'luck'"):
        dataclasses.replace(PPO, **{name: "luck"})


@pytest.mark.parametrize("kind", ["nearest", "no_camera", "exact"])
def test_every_reward_trains_and_tells_its_gap(stages, tmp_path, kind):
    fitted(stages, tmp_path, dataclasses.replace(PPO, reward=kind))
    found = told(tmp_path)
    assert [probe["step"] for probe in found["probes"]] == [-1, 1, 3] and found["stopped"] is None
    for probe in found["probes"]:
        assert probe["gap"] == pytest.approx(probe["predicted"] - probe["epdms"])
        if kind == "exact":
            assert [probe[name] for name in probe if name.startswith("gap")] == pytest.approx([0.0] * 10, abs=1e-4)
    logged = {name for _, name, _ in run.metrics(tmp_path / "metrics.csv")}
    assert {"start/gap", "val/gap", "val/gap_nc", "val/predicted", "train/no_spread"} <= logged


def test_every_alternative_at_once_resumes_to_the_same_numbers(stages, tmp_path, monkeypatch):
    guards = dataclasses.replace(GUARDS, probe_every=1)
    config = dataclasses.replace(
        PPO, advantage="anchor", normalisation="std", clip_first=0.05, kl_weight=0.1, gate_below=0.0, spread_share=0.5, guards=guards
    )
    whole = fitted(stages, tmp_path / "whole", config)
    calls, original = [], ppo.follow

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(ppo, "follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(stages, tmp_path / "halves", config)
    monkeypatch.undo()
    halves = fitted(stages, tmp_path / "halves", config, resume=True)
    left, right = load_policy(whole).state_dict(), load_policy(halves).state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert told(tmp_path / "whole") == told(tmp_path / "halves") and len(told(tmp_path / "whole")["probes"]) == 5
    assert run.metrics(tmp_path / "whole" / "metrics.csv") == run.metrics(tmp_path / "halves" / "metrics.csv")


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_lost(stages, tmp_path, monkeypatch, capsys):
    original, calls = ppo.chain_loss, []

    def broken(*arguments):
        calls.append(0)
        loss, parts = original(*arguments)
        return (loss * float("nan") if len(calls) > 5 else loss), parts

    monkeypatch.setattr(ppo, "chain_loss", broken)
    kept = fitted(stages, tmp_path, PPO)
    assert all(torch.isfinite(value).all() for value in load_policy(kept).state_dict().values())
    assert "stopped after iteration 2" in capsys.readouterr().out
    assert set(told(tmp_path)["chosen"].values()) <= {-1, 1} and told(tmp_path)["stopped"].endswith("is nan")
    fitted(stages, tmp_path, PPO, resume=True)
    assert told(tmp_path)["probes"][-1]["step"] == 1


def test_a_run_stopped_before_its_first_candidate_keeps_what_it_started_from(stages, tmp_path, capsys):
    guards = GuardConfig(probe_every=1, gap_growth=-1e3)
    kept = fitted(stages, tmp_path, dataclasses.replace(PPO, guards=guards))
    left, right = load_policy(kept).state_dict(), load_policy(stages[3]).state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert "kept is the policy it started from" in capsys.readouterr().out


def test_a_stopped_run_whose_candidates_are_worse_keeps_what_it_started_from(stages, tmp_path, monkeypatch, capsys):
    answers = iter([(70.0, 70.0), (60.0, 90.0)])

    def probe(*_):
        epdms, predicted = next(answers)
        return {"epdms": epdms, "predicted": predicted, "gap": predicted - epdms}

    monkeypatch.setattr(ppo, "guarded_probe", probe)
    kept = fitted(stages, tmp_path, dataclasses.replace(PPO, guards=GuardConfig()))
    assert told(tmp_path)["chosen"] == {"by_epdms": -1, "by_predicted": 1}
    left, right = load_policy(kept).state_dict(), load_policy(stages[3]).state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert "exploits its reward; kept is the policy it started from" in capsys.readouterr().out


def test_the_candidate_of_the_highest_prediction_is_kept_beside_the_truly_best(stages, tmp_path, monkeypatch):
    answers = iter([(70.0, 70.0), (72.0, 71.0), (71.0, 75.0)])

    def probe(*_):
        epdms, predicted = next(answers)
        return {"epdms": epdms, "predicted": predicted, "gap": predicted - epdms}

    monkeypatch.setattr(ppo, "guarded_probe", probe)
    best = fitted(stages, tmp_path / "ppo", PPO)
    assert told(tmp_path / "ppo")["chosen"] == {"by_epdms": 1, "by_predicted": 3}
    other = checkpoint_of(tmp_path, f"ppo{BY_PREDICTED}")
    left, right = load_policy(best).state_dict(), load_policy(other).state_dict()
    assert any(not torch.equal(left[name], right[name]) for name in left)
    plans = learned_plans(tmp_path, stages[2], np.arange(4), [f"ppo{BY_PREDICTED}"])
    assert plans[f"ppo{BY_PREDICTED}"].poses.shape == (4, 8, 3)


def test_between_rounds_the_reward_is_refitted_and_a_resumed_run_goes_on_with_the_refitted_one(stages, tmp_path, monkeypatch):
    config = dataclasses.replace(PPO, refit_every=2, refit=RefitConfig(scenes=6, group=4, steps=2, batch=4, proposals=4, warmup=1))
    whole = fitted(stages, tmp_path / "whole", config)
    assert [path.name for path in (tmp_path / "whole" / "refit").iterdir()] == ["1"]
    judged = [step for step, name, _ in run.metrics(tmp_path / "whole" / "metrics.csv") if name == "refit/gap"]
    assert judged == [2]
    original, asked = ppo.iteration, []

    def interrupted(learner, judge, rows, generator):
        asked.append(judge)
        if len(asked) > 3:
            raise KeyboardInterrupt
        return original(learner, judge, rows, generator)

    monkeypatch.setattr(ppo, "iteration", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(stages, tmp_path / "halves", dataclasses.replace(config, save_every=3))
    monkeypatch.undo()
    assert asked[0] is asked[1] and asked[1] is not asked[2]
    halves = fitted(stages, tmp_path / "halves", dataclasses.replace(config, save_every=3), resume=True)
    left, right = load_policy(whole).state_dict(), load_policy(halves).state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert run.metrics(tmp_path / "whole" / "metrics.csv") == run.metrics(tmp_path / "halves" / "metrics.csv")


def test_only_a_learned_reward_is_refitted():
    with pytest.raises(ValueError, match="reward 'exact' cannot be refitted every 5 iterations"):
        dataclasses.replace(PPO, reward="exact", refit_every=5)


def test_a_reward_world_model_that_was_not_accepted_is_named(tmp_path):
    checkpoint = tmp_path / "reward" / "checkpoint"
    assert objection(checkpoint) is None
    checkpoint.mkdir(parents=True)
    acceptance = tmp_path / "reward" / "acceptance.json"
    acceptance.write_text('{"enrichment_ci95": [0.5, 3.0]}')
    assert objection(checkpoint) is None
    acceptance.write_text('{"enrichment_ci95": [-0.5, 3.0]}')
    assert str(acceptance) in objection(checkpoint) and "-0.5" in objection(checkpoint)
