"""All stages on a store half of whose logs have no annotations: they are imitated and driven in, and nothing else is asked of them."""

import dataclasses

import numpy as np
import pytest
import torch

from irlvla import run
from irlvla.halves import log_halves
from irlvla.model.bev import ahead_loss, map_loss
from irlvla.model.reward_world_model import RewardWorldModelConfig
from irlvla.rollout import chosen_scenes, exact_sub_scores, load_policy
from irlvla.scene_cache import stage_caches
from irlvla.train import continuation, imitation, imitation_loss, labels, ppo, reward
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.continuation import ContinuationConfig
from irlvla.train.imitation import fresh_policy
from irlvla.train.moments import ego_status, moments, pictures
from irlvla.train.ppo import PpoConfig
from irlvla.train.reward import RewardConfig
from irlvla.train.rewards import Scenes, driven_scenes, reward_function

from ..stand_in import IMITATION, POLICY, MemoryStore

FEW = CandidatesConfig(deployed=2, likely=4, even=4, vocabulary=16, near=3, far=2)
REWARD = RewardConfig(
    model=RewardWorldModelConfig(width=32, pose_width=16, layers=1), candidates=FEW, steps=4, batch=8, proposals=8, warmup=2, group=6
)
PPO = PpoConfig(iterations=2, scenes=6, group=6, passes=1, clone_samples=2, candidates=1, save_every=2)
JUDGED = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec", "ec_defined")


class HalfStore(MemoryStore):
    """Logs of half B have no annotations: who asks for them fails."""

    def __init__(self, scenes=24, seed=0):
        super().__init__(scenes, seed)
        self.key = f"half-{self.key}"
        self.annotated = np.isin(np.arange(scenes), log_halves(self.log_names, REWARD.seed)[0])

    def targets(self, indices, previous=False):
        self._check_annotated(indices)
        return super().targets(indices, previous)

    def prepared(self, index):
        self._check_annotated([index])
        return super().prepared(index)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store, val = HalfStore(), MemoryStore(9, 1)
    policy = imitation.fit(IMITATION, store, val, folder / "imitation", cache_folder=folder / "cache")
    return folder, store, val, policy, reward.fit(REWARD, policy, store, val, folder / "reward", cache_folder=folder / "cache")


def fitted(stages, folder, config):
    _, store, val, policy, model = stages
    return ppo.fit(config, policy, model, store, val, folder, cache_folder=stages[0] / "cache")


def test_targets_of_moments_without_annotations_are_not_read():
    store = HalfStore()
    pairs = moments(store)
    sight, maps = pictures(store, pairs)
    known = store.annotated[pairs[:, 0]]
    assert sight.images.any(dim=(1, 2, 3, 4)).all() and not maps[~known].any()
    np.testing.assert_array_equal(maps[known], pictures(MemoryStore(), pairs)[1][known])


PAIRS = np.array([[row, 0] for row in range(4)])


@pytest.mark.parametrize("known", [(True, True, True, True), (True, False, False, True), (False, False, False, False)])
def test_birds_eye_losses_are_those_of_the_annotated_moments_alone(known):
    store = MemoryStore(4)
    policy = fresh_policy(POLICY, store.human(np.arange(4)).astype(np.float32), seed=0)
    sight, maps = pictures(store, PAIRS)
    seen, rows = policy.see(sight, *(torch.from_numpy(values) for values in ego_status(store, PAIRS))), np.flatnonzero(known)
    config = dataclasses.replace(IMITATION, policy=POLICY)
    drawn, ahead = imitation_loss.birds_eye_losses(config, seen, maps, np.array(known)).values()
    if len(rows):
        torch.testing.assert_close(drawn, map_loss(seen.scene.grid[rows], maps[rows], config.map_positive), rtol=0, atol=0)
        torch.testing.assert_close(ahead, ahead_loss(seen.view.ahead[rows], maps[rows]), rtol=0, atol=0)
    else:
        assert drawn.item() == ahead.item() == 0.0
    (drawn + ahead).backward()
    assert all(value.grad is None or torch.isfinite(value.grad).all() for value in policy.parameters())


def test_labels_are_those_of_the_annotated_logs(stages):
    folder, store, _, _, model = stages
    assert labels.opened(folder / "reward" / "labels").rows.tolist() == np.flatnonzero(store.annotated).tolist()
    assert chosen_scenes("unjudged", model, store).tolist() == np.flatnonzero(~store.annotated).tolist()


@pytest.mark.parametrize(
    ("kind", "logs"),
    [("model", "unjudged"), ("nearest", "unjudged"), ("exact", "annotated"), ("model", "judged"), ("exact_or_model", "all")],
)
def test_ppo_drives_in_the_logs_it_is_told_to(stages, tmp_path, monkeypatch, kind, logs):
    store, seen, original = stages[1], set(), ppo.rewards_of

    def watched(judge, sampling, scenes, rows, *rest):
        seen.update(rows.tolist())
        return original(judge, sampling, scenes, rows, *rest)

    monkeypatch.setattr(ppo, "rewards_of", watched)
    fitted(stages, tmp_path, dataclasses.replace(PPO, reward=kind, logs=logs, scenes=24))
    wanted = {"unjudged": ~store.annotated, "annotated": store.annotated, "judged": store.annotated}.get(logs, store.annotated | True)
    assert seen == set(np.flatnonzero(wanted).tolist())


def test_the_mixed_reward_is_the_exact_one_where_there_are_annotations_and_the_model_elsewhere(stages):
    folder, store, val, policy, model = stages
    policy = load_policy(policy)
    caches = stage_caches(policy, store, val, folder / "cache")
    scenes = Scenes(store, caches.train, caches.train_before)
    mixed, learned = (reward_function(kind, model, scenes, torch.device("cpu")) for kind in ("exact_or_model", "model"))
    rows = np.arange(len(store))
    prev_poses = store.human(rows)
    poses = torch.from_numpy(np.stack([prev_poses, 0.7 * prev_poses], axis=1)).float()
    known, bare = np.flatnonzero(store.annotated), np.flatnonzero(~store.annotated)
    for part in (rows, rows[::-1].copy(), known, bare):
        found = mixed(scenes, part, poses[part], prev_poses[part])
        predicted = learned(scenes, part, poses[part], prev_poses[part])
        for place, row in enumerate(part):
            exact = None
            if store.annotated[row]:
                earlier = np.repeat(prev_poses[[row], None], 2, axis=1)
                exact = exact_sub_scores(store, [int(row)], poses[[row]].numpy().astype(np.float64), earlier)
            for name in JUDGED:
                wanted = getattr(predicted, name)[place] if exact is None else torch.from_numpy(getattr(exact, name)[0]).float()
                torch.testing.assert_close(getattr(found, name)[place].float(), wanted.float(), rtol=1e-5, atol=1e-5)


def test_the_exact_reward_without_annotations_is_an_error_before_anything_is_trained(stages, tmp_path):
    store = stages[1]
    bare = int((~store.annotated).sum())
    for logs, count in (("unjudged", bare), ("all", len(store))):
        with pytest.raises(ValueError, match=f"reward 'exact' needs annotations, and {bare} of {count} scenes of {logs} logs have none"):
            fitted(stages, tmp_path, dataclasses.replace(PPO, reward="exact", logs=logs))
    assert not tmp_path.joinpath("metrics.csv").exists()
    assert len(driven_scenes("all", "exact_or_model", stages[4], store)) == len(store)
    with pytest.raises(ValueError, match="unknown logs 'some'"):
        PpoConfig(logs="some")


def test_best_of_g_imitates_choices_in_the_logs_without_annotations(stages, tmp_path):
    folder, store, val, policy, model = stages
    config = ContinuationConfig(target="best_of_g", steps=2, batch=4, group=4, candidates=1)
    continuation.fit(config, policy, model, store, val, tmp_path, cache_folder=folder / "cache")
    assert (tmp_path / "checkpoint" / "checkpoint.json").exists()


def test_the_other_half_can_be_labelled_and_is_then_the_judged_one(stages, tmp_path):
    folder, _, val, policy, _ = stages
    store = MemoryStore()
    model = reward.fit(dataclasses.replace(REWARD, half="B", steps=1), policy, store, val, tmp_path, cache_folder=folder / "other")
    first, second = log_halves(store.log_names, REWARD.seed)
    assert labels.opened(tmp_path / "labels").rows.tolist() == second.tolist() == chosen_scenes("judged", model, store).tolist()
    assert chosen_scenes("unjudged", model, store).tolist() == first.tolist()
    assert run.load(model).config["training"]["half"] == "B"
    with pytest.raises(ValueError, match="unknown half 'C'"):
        RewardConfig(half="C")
