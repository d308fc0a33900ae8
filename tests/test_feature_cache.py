import dataclasses

import numpy as np
import pytest
import torch

from irlvla.feature_cache import feature_key, fill, opened_cache, sights
from irlvla.model.perception import PerceptionConfig
from irlvla.model.policy import Policy
from irlvla.model.vision import VisionConfig, sight_of
from irlvla.scene_cache import scene_cache
from irlvla.train import imitation

from .stand_in import IMITATION, POLICY, MemoryStore

FROZEN = VisionConfig(encoder="efficientnet-lite0", frozen=True, widths=(8, 16, 16))
CONFIG = dataclasses.replace(POLICY, perception=PerceptionConfig(vision=FROZEN))


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return Policy(CONFIG).eval()


def store_in(folder, scenes=9, seed=0):
    store = MemoryStore(scenes, seed)
    store.folder = folder
    return store


def test_kept_maps_are_what_the_backbone_makes_of_the_pictures(policy, tmp_path):
    store, rows = store_in(tmp_path), np.array([7, 1, 4])
    kept = sights(policy, store)(rows, False)
    assert kept.images.shape == (3, 4, 0, 0, 3) and torch.equal(kept.intrinsics, sight_of(store.features(rows)).intrinsics)
    with torch.inference_mode():
        wanted = policy.perception.encoder.raw(sight_of(store.features(rows)))
        features = policy.perception.encoder(kept), policy.perception.encoder(sight_of(store.features(rows)))
    for found, values in zip(kept.raw, wanted, strict=True):
        torch.testing.assert_close(found, values.half().float(), rtol=0, atol=0)
    torch.testing.assert_close(features[0].fine, features[1].fine, rtol=0.05, atol=0.05)


def test_pictures_are_looked_at_once_and_only_when_they_are_asked_for(policy, tmp_path):
    store = store_in(tmp_path)
    look = sights(policy, store)
    look(np.array([2, 3]), False)
    store.limit = store.calls
    look(np.array([3, 2, 3]), False)
    with pytest.raises(KeyboardInterrupt):
        look(np.array([3]), True)


def test_an_interrupted_cache_goes_on_where_it_was(policy, tmp_path, monkeypatch):
    monkeypatch.setattr("irlvla.feature_cache.BATCH", 2)
    store, encoder = store_in(tmp_path), policy.perception.encoder
    cache = opened_cache(encoder, store)
    store.limit = store.calls + 2
    with pytest.raises(KeyboardInterrupt):
        fill(cache, encoder, store, np.arange(9))
    assert opened_cache(encoder, store).done[:, 0].tolist() == [True] * 4 + [False] * 5
    store.limit, before = None, store.calls
    whole = sights(policy, store)(np.arange(9), False)
    assert store.calls == before + 3
    (tmp_path / "other").mkdir()
    fresh = sights(policy, store_in(tmp_path / "other"))(np.arange(9), False)
    assert all(torch.equal(left, right) for left, right in zip(whole.raw, fresh.raw, strict=True))


def test_other_weights_and_other_stores_have_caches_of_their_own(policy, tmp_path):
    encoder, store = policy.perception.encoder, store_in(tmp_path)
    torch.manual_seed(1)
    other = Policy(CONFIG).perception.encoder
    keys = {feature_key(encoder, store), feature_key(other, store), feature_key(encoder, store_in(tmp_path, seed=1))}
    assert len(keys) == 3 and feature_key(encoder, store) == feature_key(encoder, store_in(tmp_path))


def test_an_encoder_that_learns_and_a_policy_without_pictures_look_at_the_store(policy, tmp_path):
    store, rows = store_in(tmp_path), np.array([1, 2])
    free = dataclasses.replace(CONFIG, perception=PerceptionConfig(vision=dataclasses.replace(FROZEN, frozen=False)))
    for config in (free, POLICY, dataclasses.replace(POLICY, perception=None)):
        assert sights(Policy(config), store)(rows, False).raw is None
    assert not any(tmp_path.iterdir())


def test_scene_caches_read_kept_maps_and_black_pictures_are_black(policy, tmp_path):
    store, rows = store_in(tmp_path), np.arange(4)
    shown, black = scene_cache(policy, store, rows), scene_cache(policy, store, rows, black=True)
    assert (tmp_path / f"features-{feature_key(policy.perception.encoder, store)[:16]}" / "done.npy").exists()
    assert not np.array_equal(shown.tokens, black.tokens)
    store.limit = store.calls
    np.testing.assert_array_equal(shown.tokens, scene_cache(policy, store, rows).tokens)


def test_a_policy_with_a_frozen_encoder_learns_but_its_backbone_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(imitation, "load_pretrained", lambda encoder: None)
    config = dataclasses.replace(IMITATION, policy=CONFIG, camera_dropout=0.3)
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    train, val = store_in(tmp_path / "train", 12), store_in(tmp_path / "val", 6, 1)
    folder = imitation.fit(config, train, val, tmp_path / "run")
    learned = imitation.run.load(folder).weights["policy"]
    start = imitation.fresh_policy(CONFIG, train.human(np.arange(12)).astype(np.float32), config.seed).state_dict()
    changed = {
        name.split(".")[2] for name in start if name.startswith("perception.encoder") and not torch.equal(start[name], learned[name])
    }
    assert changed == {"neck"}


def test_of_two_processes_that_lay_a_cache_out_the_first_one_counts(policy, tmp_path, monkeypatch):
    store, encoder = store_in(tmp_path), policy.perception.encoder
    wanted = encoder.raw

    def meanwhile(sight):
        monkeypatch.setattr(encoder, "raw", wanted)
        monkeypatch.setattr("os.getpid", lambda: -1)
        fill(opened_cache(encoder, store), encoder, store, [3])
        return wanted(sight)

    monkeypatch.setattr(encoder, "raw", meanwhile)
    assert opened_cache(encoder, store).done[:, 0].tolist() == [row == 3 for row in range(9)]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_to_is_an_error(policy, tmp_path, monkeypatch):
    def refused(self, target):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.rename", refused)
    with pytest.raises(OSError, match="no space left"):
        opened_cache(policy.perception.encoder, store_in(tmp_path))
    assert not any(tmp_path.iterdir())
