import dataclasses

import numpy as np
import pytest
import torch

from irlvla import run
from irlvla.rollout import load_policy, plans
from irlvla.train import imitation
from irlvla.train.controls import EgoMlpConfig, fit_ego_mlp
from irlvla.train.imitation_loss import without_some_cameras

from ..sights import noise, sight
from ..stand_in import IMITATION, POLICY, MemoryStore


def numbers(folder):
    return run.metrics(folder / "metrics.csv"), load_policy(folder / "checkpoint").state_dict()


def same(left, right):
    assert left[0] == right[0]
    for name, value in left[1].items():
        assert torch.equal(value, right[1][name]), name


def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(tmp_path):
    imitation.fit(IMITATION, MemoryStore(), MemoryStore(6, 1), tmp_path / "whole")
    broken = MemoryStore()
    broken.limit = 7
    with pytest.raises(KeyboardInterrupt):
        imitation.fit(IMITATION, broken, MemoryStore(6, 1), tmp_path / "halves")
    assert not (tmp_path / "halves" / "checkpoint").exists()
    imitation.fit(IMITATION, MemoryStore(), MemoryStore(6, 1), tmp_path / "halves", resume=True)
    same(numbers(tmp_path / "whole"), numbers(tmp_path / "halves"))


def test_imitation_learns_to_stop_at_red_and_the_control_without_a_camera_cannot(tmp_path):
    config = dataclasses.replace(
        IMITATION, steps=80, planner_steps=40, batch=16, rate=2e-3, planner_rate=2e-3, warmup=10, save_every=120, candidates=1, shift=1
    )
    blind = dataclasses.replace(config, policy=dataclasses.replace(POLICY, perception=None))
    store, val = MemoryStore(48), MemoryStore(24, 1)
    seeing = load_policy(imitation.fit(config, store, val, tmp_path / "seeing"))
    control = load_policy(imitation.fit(blind, store, val, tmp_path / "blind"))
    every = np.arange(len(val))
    end = {name: plans(policy, val, every)[:, -1, 0] / val.speed for name, policy in (("seeing", seeing), ("blind", control))}
    assert end["seeing"][~val.red].mean() - end["seeing"][val.red].mean() > 1.0
    assert abs(end["blind"][val.red].mean() - end["blind"][~val.red].mean()) < 0.3
    held_out = {
        name: value
        for name in ("seeing", "blind")
        for _, metric, value in run.metrics(tmp_path / name / "metrics.csv")
        if metric == "val/loss"
    }
    assert 0 < held_out["seeing"] < held_out["blind"]


def test_micro_batches_add_up_to_the_batch(tmp_path):
    config = dataclasses.replace(IMITATION, policy=dataclasses.replace(POLICY, perception=None), batch=9)
    for accumulate in (1, 3):
        imitation.fit(dataclasses.replace(config, accumulate=accumulate), MemoryStore(), MemoryStore(6, 1), tmp_path / str(accumulate))
    (rows, whole), (parts_rows, parts) = (numbers(tmp_path / str(accumulate)) for accumulate in (1, 3))
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-4, atol=1e-4)
    assert [row[:2] for row in rows] == [row[:2] for row in parts_rows]
    with pytest.raises(ValueError, match="a batch of 9 scenes cannot be cut"):
        imitation.fit(dataclasses.replace(config, accumulate=10), MemoryStore(), MemoryStore(6, 1), tmp_path / "10")


def test_the_ego_control_learns_and_is_kept_when_complete(tmp_path):
    config = EgoMlpConfig(steps=60, batch=16, candidates=1)
    store = MemoryStore()
    folder = fit_ego_mlp(config, store, MemoryStore(6, 1), tmp_path)
    losses = [value for _, name, value in run.metrics(tmp_path / "metrics.csv") if name == "train/loss"]
    assert losses
    store.limit = 0
    assert fit_ego_mlp(config, store, MemoryStore(6, 1), tmp_path, resume=True) == folder


def test_cameras_are_dropped_as_often_as_asked_for_but_never_all_of_a_scene():
    seen = sight(noise(400, 4, 1, 1))
    seen.valid[:, 3] = False
    dropped = without_some_cameras(seen, 0.7, torch.rand(seen.valid.shape, generator=torch.Generator().manual_seed(0))).valid
    assert dropped.any(1).all() and not dropped[:, 3].any()
    # of three views each stays with 0.3, and one of them where none would
    assert float(dropped[:, :3].float().mean()) == pytest.approx(0.3 + 0.7**3 / 3, abs=0.03)
    assert torch.equal(without_some_cameras(seen, 0.0, torch.rand(seen.valid.shape)).valid, seen.valid)


def test_a_policy_learns_with_cameras_dropped(tmp_path):
    config = dataclasses.replace(IMITATION, camera_dropout=0.5)
    store = MemoryStore(12)
    assert (imitation.fit(config, store, store, tmp_path) / "policy.safetensors").exists()
