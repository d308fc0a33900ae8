"""The nearest-neighbour reward reads its table as a person would."""

import numpy as np
import pytest

from irlvla.nearest_reward import NearestConfig, kept_vocabulary, nearest_sub_scores, scored_vocabulary
from irlvla.train.candidates import Columns
from irlvla.train.labels import write_shard

ONE = NearestConfig(scenes=1, neighbours=1)


def straight(*lengths):
    poses = np.zeros((len(lengths), 8, 3))
    poses[..., 0] = np.array(lengths)[:, None] * np.arange(1, 9) / 8
    return poses


def seen(speed, command=1):
    history = np.zeros((1, 4, 7))
    history[..., 3] = speed
    return history, np.eye(4)[[command]]


def table():
    """A slow scene, where going far collides, and a fast one, where stopping leaves the lane."""
    poses = np.stack([straight(2.0, 30.0), straight(2.0, 30.0)])
    labels = np.ones((2, 2, 8))
    labels[0, 1, 0], labels[1, 0, 6] = 0.0, 0.0
    return scored_vocabulary(poses, labels, np.concatenate([seen(1.0)[0], seen(12.0)[0]]), np.eye(4)[[1, 1]])


def test_a_proposal_gets_the_label_of_the_nearest_trajectory_of_the_most_similar_scene():
    proposals = straight(3.0, 25.0)[None]
    slow = nearest_sub_scores(table(), *seen(2.0), proposals, ONE)
    fast = nearest_sub_scores(table(), *seen(10.0), proposals, ONE)
    assert slow.nc.tolist() == [[1.0, 0.0]] and slow.lk.tolist() == [[1.0, 1.0]]
    assert fast.nc.tolist() == [[1.0, 1.0]] and fast.lk.tolist() == [[0.0, 1.0]]
    assert not slow.ec_defined.any()


def test_several_neighbours_are_averaged_and_no_more_than_there_are():
    scores = nearest_sub_scores(table(), *seen(2.0), straight(3.0)[None], NearestConfig(scenes=9, neighbours=9))
    assert scores.nc.tolist() == [[0.75]]


def test_a_scene_with_the_same_command_is_nearer_than_one_with_the_same_speed():
    poses, labels = np.stack([straight(2.0), straight(2.0)]), np.ones((2, 1, 8))
    labels[0] = 0.0
    words = scored_vocabulary(poses, labels, np.concatenate([seen(5.0)[0], seen(9.0)[0]]), np.eye(4)[[0, 1]])
    assert nearest_sub_scores(words, *seen(5.0, command=1), straight(2.0)[None], ONE).dac.tolist() == [[1.0]]
    assert nearest_sub_scores(words, *seen(9.0, command=0), straight(2.0)[None], ONE).dac.tolist() == [[0.0]]


def test_scenes_do_not_influence_each_other():
    random = np.random.default_rng(0)
    words = scored_vocabulary(
        random.normal(size=(6, 5, 8, 3)), random.random((6, 5, 8)), random.normal(size=(6, 4, 7)), np.eye(4)[[0, 1] * 3]
    )
    history, command, poses = random.normal(size=(3, 4, 7)), np.eye(4)[[0, 1, 2]], random.normal(size=(3, 2, 8, 3))
    config = NearestConfig(scenes=2, neighbours=3)
    together = nearest_sub_scores(words, history, command, poses, config)
    for row in range(3):
        alone = nearest_sub_scores(words, history[[row]], command[[row]], poses[[row]], config)
        np.testing.assert_allclose(alone.ep[0], together.ep[row])


def test_the_labels_of_a_run_are_its_table(tmp_path):
    history, command = np.concatenate([seen(1.0)[0], seen(12.0)[0]]), np.eye(4)[[1, 1]]
    with pytest.raises(ValueError, match="holds no labels"):
        kept_vocabulary(tmp_path, history, command)
    poses, scores, about = straight(2.0)[None], np.full((1, 1, 8), 0.5), Columns(np.array([0]), np.array([0]))
    notes = {"key": "", "shards": 1, "state": {}}
    write_shard(tmp_path / "shard-00000.arrow", ["scene"], np.array([1]), poses, scores, scores, about, notes)
    words = kept_vocabulary(tmp_path, history, command)
    assert words.status[:, 0].tolist() == [12.0]
    with pytest.raises(ValueError, match="labels scene 1, the training store has 1"):
        kept_vocabulary(tmp_path, history[:1], command[:1])


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="vocabulary of 0 scenes"):
        scored_vocabulary(np.zeros((0, 1, 8, 3)), np.zeros((0, 1, 8)), np.zeros((0, 4, 7)), np.zeros((0, 4)))
