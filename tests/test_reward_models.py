"""The benchmark of reward models from end to end on a run of a few steps, and other people's reward models in it."""

import dataclasses
import json

import numpy as np
import pytest

from irlvla import cli
from irlvla.model.reward_world_model import RewardWorldModelConfig
from irlvla.reward_benchmark import benchmark, print_quality
from irlvla.reward_models import RewardModel, answer, answers, loaded, own_models, policy_candidates, vocabulary_candidates
from irlvla.train import imitation, reward
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.reward import RewardConfig

from .stand_in import IMITATION, MemoryStore

CANDIDATES = CandidatesConfig(deployed=2, likely=4, even=4, vocabulary=16, near=3, far=2)
REWARD = RewardConfig(
    model=RewardWorldModelConfig(width=32, pose_width=16, layers=1),
    candidates=CANDIDATES,
    steps=6,
    batch=8,
    proposals=8,
    warmup=2,
    group=6,
)
MODULE = """
import numpy as np


def shortest(store, indices, poses):
    return -np.abs(poses[:, :, -1, 0])


def wrong(store, indices, poses):
    return np.zeros(3)


shortest.parameters = 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store, val = MemoryStore(24), MemoryStore(9, 1)
    config = dataclasses.replace(IMITATION, candidates=1, save_every=50)
    reward.fit(REWARD, imitation.fit(config, store, val, folder / "imitation"), store, val, folder / "reward")
    return folder, store, val


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "outside_reward.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_benchmark_compares_the_runs_models_and_another_one(trained, outside, capsys):
    folder, store, val = trained
    report = benchmark(folder, store, val, "val", 0, ["outside_reward:shortest"])
    assert set(report["kinds"]) == {"imitation", "vocabulary"} and report == json.loads(
        (folder / "reward_quality" / "val.json").read_text()
    )
    names = [row["model"] for row in report["kinds"]["imitation"]["rows"]]
    assert names == ["rwm", "nearest", "distance", "outside_reward:shortest", "confidence", "exact"]
    assert "confidence" not in [row["model"] for row in report["kinds"]["vocabulary"]["rows"]]
    rows = {row["model"]: row for row in report["kinds"]["imitation"]["rows"]}
    assert rows["exact"]["regret_64"]["value"] == 0.0 and rows["outside_reward:shortest"]["parameters"] == 1
    assert rows["rwm"]["parameters"] > 1000 and rows["rwm"]["milliseconds_per_1000"] > 0
    assert all((folder / "reward_quality" / f"val-{kind}.png").stat().st_size > 10_000 for kind in ("imitation", "vocabulary"))
    print_quality(report)
    printed = capsys.readouterr().out
    assert "val: 9 scenes of 3 logs" in printed and "rwm - nearest" in printed and "G = 64" in printed


def test_every_further_stage_of_the_reward_world_model_is_compared(trained, tmp_path):
    folder, store, val = trained
    for name in ("imitation", "reward"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "reward_in_sample").symlink_to(folder / "reward")
    assert list(own_models(tmp_path, val, store)) == ["rwm", "rwm_in_sample", "nearest", "distance"]


def test_policy_candidates_start_with_the_deployed_plan_which_distance_chooses(trained):
    folder, store, val = trained
    drawn = policy_candidates(folder, "imitation", val, 6)
    assert drawn.poses.shape == (9, 6, 8, 3) and drawn.confidence.shape == (9, 6)
    models = {name: model for name, model in own_models(folder, val, store).items() if name == "distance"}
    found = {each.model: each for each in answers(models, val, drawn)}
    assert (found["distance"].score.argmax(axis=1) == 0).all() and found["distance"].sub_scores is None
    np.testing.assert_array_equal(found["exact"].score, drawn.true_score)


def test_vocabulary_candidates_are_other_words_near_the_human(trained):
    _, store, val = trained
    drawn = vocabulary_candidates(store, val, 0, count=4, words=12)
    human = val.human(np.arange(len(val)))
    assert drawn.poses.shape == (9, 4, 8, 3) and drawn.confidence is None
    assert (np.abs(drawn.poses - human[:, None]).max(axis=(1, 2))[:, 1] <= 5.0).all()
    assert all(len(np.unique(poses[:, -1, 0])) == 4 for poses in drawn.poses)


def test_another_reward_model_that_cannot_be_had_is_named(trained, outside):
    _, store, val = trained
    with pytest.raises(ValueError, match="is named package.module:function, not 'outside_reward'"):
        loaded("outside_reward")
    with pytest.raises(ValueError, match="there is no module no_such_module"):
        loaded("no_such_module:function")
    with pytest.raises(ValueError, match="outside_reward has no function nothing"):
        loaded("outside_reward:nothing")
    drawn = vocabulary_candidates(store, val, 0, count=4, words=12)
    with pytest.raises(ValueError, match=r"outside_reward:wrong gives an answer of shape \(3,\) for candidates \(9, 4\)"):
        answer("outside_reward:wrong", loaded("outside_reward:wrong"), val, drawn)


def test_a_score_that_is_not_finite_is_refused(trained):
    _, store, val = trained
    drawn = vocabulary_candidates(store, val, 0, count=4, words=12)
    broken = RewardModel(judge=lambda store, indices, poses: np.full(poses.shape[:2], np.nan), parameters=None)
    with pytest.raises(ValueError, match="broken gives .* not finite"):
        answer("broken", broken, val, drawn)


def test_without_a_reward_world_model_there_is_nothing_to_compare(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoint of imitation: train it first"):
        benchmark(tmp_path, MemoryStore(3), MemoryStore(3), "val", 0)


def test_the_verb_wants_both_flags(tmp_path):
    with pytest.raises(ValueError, match="--reward-model goes with --reward"):
        cli.evaluate(tmp_path, reward_model=("a:b",))
