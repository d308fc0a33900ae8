"""Scene caches of an untrained policy on a stand-in store."""

import errno
import fcntl
import json

import numpy as np
import pytest
import torch

from irlvla.scene_cache import CACHED, ego_inputs, inputs, rows_of, scene_cache
from irlvla.train.imitation import fresh_policy

from .stand_in import POLICY, MemoryStore

EVERY = np.arange(9)


@pytest.fixture(scope="module")
def policy():
    return fresh_policy(POLICY, MemoryStore().human(np.arange(24)).astype(np.float32), seed=0).eval()


def same(left, right):
    for name in CACHED:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_a_kept_cache_is_read_again_without_touching_the_pictures(policy, tmp_path):
    store = MemoryStore(9)
    first = scene_cache(policy, store, EVERY, folder=tmp_path)
    store.limit = store.calls
    again = scene_cache(policy, store, EVERY, folder=tmp_path)
    same(first, again)
    same(scene_cache(policy, MemoryStore(9), EVERY), again)
    assert isinstance(again.tokens, np.memmap) and again.tokens.dtype == np.float16


@pytest.mark.parametrize("change", ["scenes", "moment", "store", "weights"])
def test_another_question_is_never_answered_from_a_kept_cache(policy, tmp_path, change):
    store, rows, previous = MemoryStore(9), EVERY, False
    scene_cache(policy, store, EVERY, folder=tmp_path)
    key = json.loads((tmp_path / "cache.json").read_text())
    if change == "scenes":
        rows = EVERY[::-1].copy()
    if change == "moment":
        previous = True
    if change == "store":
        store = MemoryStore(9, seed=1)
    if change == "weights":
        policy = fresh_policy(POLICY, MemoryStore().human(np.arange(24)).astype(np.float32), seed=1).eval()
    new = scene_cache(policy, store, rows, previous, folder=tmp_path)
    assert json.loads((tmp_path / "cache.json").read_text()) != key
    same(new, scene_cache(policy, store, rows, previous))


def test_a_cache_whose_rewriting_was_interrupted_vouches_for_nothing(policy, tmp_path):
    scene_cache(policy, MemoryStore(9), EVERY, folder=tmp_path, batch=3)
    broken = MemoryStore(9, seed=1)
    broken.limit = 2
    with pytest.raises(KeyboardInterrupt):
        scene_cache(policy, broken, EVERY, folder=tmp_path, batch=3)
    same(scene_cache(policy, MemoryStore(9), EVERY, folder=tmp_path), scene_cache(policy, MemoryStore(9), EVERY))


class Earlier(MemoryStore):
    """A store whose earlier moments were twice as fast."""

    def histories(self, indices, previous=False):
        if previous:
            assert self.has_previous[np.asarray(indices)].all()
        found = super().histories(indices)
        if previous:
            found[..., 3] *= 2
        return found


def test_scenes_without_an_earlier_moment_hold_the_current_one_and_say_so(policy):
    store = Earlier(9)
    now, before = scene_cache(policy, store, EVERY), scene_cache(policy, store, EVERY, previous=True)
    assert now.valid.all() and before.valid.tolist() == store.has_previous.tolist()
    factor = before.ego_history[:, 3, 3] / now.ego_history[:, 3, 3]
    np.testing.assert_allclose(factor, np.where(store.has_previous, 2.0, 1.0))
    store.limit = store.calls
    ego_history, command = ego_inputs(store, EVERY, previous=True)
    np.testing.assert_array_equal(ego_history, before.ego_history)
    np.testing.assert_array_equal(command, before.command)


def test_rows_of_a_cache_give_the_same_inputs(policy):
    cache = scene_cache(policy, MemoryStore(9), EVERY)
    rows = np.array([7, 2])
    scene, ego_history, command = inputs(cache, rows)
    part, part_history, part_command = inputs(rows_of(cache, rows), np.arange(2))
    assert torch.equal(scene.tokens, part.tokens) and torch.equal(scene.grid, part.grid)
    assert torch.equal(ego_history, part_history) and torch.equal(command, part_command)
    assert scene.tokens.dtype == torch.float32


def test_two_processes_do_not_keep_tokens_in_one_folder(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: (_ for _ in ()).throw(OSError(errno.EAGAIN, "held")))
    with pytest.raises(ValueError, match="tokens: another process is at work there"):
        scene_cache(policy, MemoryStore(4), np.arange(4), folder=tmp_path / "tokens")
