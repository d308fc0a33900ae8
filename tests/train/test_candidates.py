"""Candidates of the reward world model: every kind can be left out, and leaving one out does not change the others' meaning."""

import dataclasses

import numpy as np
import pytest

from irlvla.model.diffusion import ExplorationConfig
from irlvla.rollout import cached_plans
from irlvla.scene_cache import rows_of, scene_cache
from irlvla.train.candidates import DENOISED, EXPLORED, VOCABULARY, CandidatesConfig, candidates, chance, columns, is_near, palette
from irlvla.train.imitation import fresh_policy
from irlvla.train.vocabularies import apart, centres, human_plans, nearest, vocabularies

from ..stand_in import POLICY, MemoryStore

NOISE = ExplorationConfig()
FEW = CandidatesConfig(deployed=2, likely=3, even=2, vocabulary=8, near=3, far=2)
NONE = {"deployed": 0, "likely": 0, "even": 0, "near": 0, "far": 0}


@pytest.fixture(scope="module")
def scenes():
    store = MemoryStore(12)
    policy = fresh_policy(POLICY, store.human(np.arange(12)).astype(np.float32), seed=0).eval().requires_grad_(False)
    return store, policy, scene_cache(policy, store, np.arange(12))


def made(scenes, config, rows=np.arange(12), more=(), source=None):
    _, policy, cache = scenes
    colours = palette(policy, cache.human, NOISE, config, 3, more)
    return candidates(policy, cache, rows, colours, config, 3, chance(3) if source is None else source), columns(policy, colours, config)


@pytest.mark.parametrize(
    "kept, kind, count",
    [({"deployed": 2}, DENOISED, 4), ({"likely": 3}, EXPLORED, 3), ({"even": 2}, EXPLORED, 2), ({"near": 3}, VOCABULARY, 3),
     ({"far": 2}, VOCABULARY, 2)],
)  # fmt: skip
def test_each_kind_can_be_the_only_one(scenes, kept, kind, count):
    poses, about = made(scenes, dataclasses.replace(FEW, **{**NONE, **kept}))
    assert poses.shape == (12, count, 8, 3) and about.kinds.tolist() == [kind] * count


def test_columns_name_kind_and_vocabulary_in_order(scenes):
    config = dataclasses.replace(FEW, vocabularies=(4, 6), words=2)
    words = tuple(centres(human_plans(scenes[0]), size) for size in config.vocabularies)
    poses, about = made(scenes, config, more=words)
    assert about.kinds.tolist() == [DENOISED] * 4 + [EXPLORED] * 5 + [VOCABULARY] * 9
    assert about.vocabulary.tolist() == [0] * 9 + [8] * 5 + [4] * 2 + [6] * 2
    assert poses.shape == (12, 18, 8, 3)
    assert all(any(np.array_equal(pose, word.astype(np.float32)) for word in words[1]) for pose in poses[:, -1])


def test_further_vocabularies_leave_all_other_candidates_as_they_were(scenes):
    plain, _ = made(scenes, FEW)
    words = (centres(human_plans(scenes[0]), 4),)
    more, _ = made(scenes, dataclasses.replace(FEW, vocabularies=(4,), words=2), more=words)
    assert np.array_equal(more[:, : plain.shape[1]], plain)


def test_batches_go_on_where_the_one_before_stopped(scenes):
    _, policy, cache = scenes
    source = chance(3)
    first, _ = made(scenes, FEW, np.arange(5), source=source)
    kept = [source.chains.get_state(), source.words.bit_generator.state]
    second, _ = made(scenes, FEW, np.arange(5, 12), source=source)
    again = chance(99)
    again.chains.set_state(kept[0])
    again.words.bit_generator.state = kept[1]
    assert np.array_equal(made(scenes, FEW, np.arange(5, 12), source=again)[0], second)
    assert not np.array_equal(first[0, 4:9], second[0, 4:9])


def test_the_first_candidate_of_the_last_step_is_the_deployed_plan(scenes):
    _, policy, cache = scenes
    poses, _ = made(scenes, FEW)
    np.testing.assert_allclose(poses[:, 2], cached_plans(policy, rows_of(cache, np.arange(12))), atol=1e-4)


def test_near_words_stay_within_the_bounds_and_far_ones_need_not():
    human = np.zeros((8, 3))
    human[:, 0] = np.arange(1, 9)
    moved = np.stack([human + shift for shift in ([9.9, 0, 0], [10.1, 0, 0], [0, -4.9, 0], [0, 5.1, 0], [0, 0, 0.34], [0, 0, 0.36])])
    assert is_near(moved, human, FEW).tolist() == [True, False, True, False, True, False]


def test_headings_are_compared_the_short_way_round():
    words, human = np.zeros((1, 8, 3)), np.zeros((8, 3))
    words[..., 2], human[:, 2] = 3.1, -3.1
    assert apart(words, human)[0, 2] == pytest.approx(2 * np.pi - 6.2)


def test_a_scene_without_near_words_gets_the_nearest(scenes):
    words = np.zeros((2, 8, 3))
    words[0, :, 0], words[1, :, 0] = 200.0, 300.0
    poses, _ = made(scenes, dataclasses.replace(FEW, **NONE, vocabularies=(2,), words=3), more=(words,))
    assert (poses[..., 0] == 200.0).all()


def test_a_config_without_candidates_or_with_negative_numbers_is_refused(scenes):
    with pytest.raises(ValueError, match="at least one kind"):
        CandidatesConfig(**NONE)
    with pytest.raises(ValueError, match="no negative number"):
        CandidatesConfig(near=-1)
    with pytest.raises(ValueError, match="0 vocabularies are given, the config asks for 1"):
        made(scenes, dataclasses.replace(FEW, vocabularies=(4,)))


def test_k_means_finds_two_groups_and_takes_all_plans_where_there_are_too_few():
    plans = np.zeros((20, 8, 3))
    plans[:10, :, 0], plans[10:, :, 0] = 1.0 + 0.01 * np.arange(10)[:, None], 30.0
    found = centres(plans, 2)
    assert sorted(found[:, 0, 0].round(3).tolist()) == [1.045, 30.0]
    assert len(centres(plans, 500)) == 20
    with pytest.raises(ValueError, match="0 words of 20 plans"):
        centres(plans, 0)


def test_the_nearest_word_is_found_in_pieces_as_at_once(monkeypatch):
    random = np.random.default_rng(0)
    points, words = random.normal(size=(50, 24)), random.normal(size=(7, 24))
    slow = ((points[:, None] - words) ** 2).sum(-1).argmin(1)
    monkeypatch.setattr("irlvla.train.vocabularies.LARGEST", 21)
    assert np.array_equal(nearest(points, words), slow)


def test_vocabularies_are_made_once_a_store_and_hold_mirror_images(tmp_path, monkeypatch):
    store = MemoryStore(12)
    store_human = store.human(np.arange(12))
    assert len(human_plans(store)) == 2 * (12 + 8)
    assert np.array_equal(human_plans(store)[20:32], store_human * [1.0, -1.0, -1.0])
    first = vocabularies(store, (4, 64), tmp_path)
    assert [len(words) for words in first] == [4, 40]
    monkeypatch.setattr("irlvla.train.vocabularies.centres", None)
    again = vocabularies(store, (4, 64), tmp_path)
    assert all(np.array_equal(left, right) for left, right in zip(first, again, strict=True))
    assert vocabularies(store, (), tmp_path / "none") == () and not (tmp_path / "none").exists()
