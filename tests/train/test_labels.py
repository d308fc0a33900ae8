"""Labels in a sharded Arrow set: they are the exact scores, survive interruption to the bit, and are made again when stale."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from irlvla.model.diffusion import ExplorationConfig
from irlvla.model.reward_world_model import HEADS
from irlvla.rollout import exact_sub_scores
from irlvla.scene_cache import scene_cache
from irlvla.shifted import ShiftConfig
from irlvla.train import labels
from irlvla.train.candidates import CandidatesConfig
from irlvla.train.imitation import fresh_policy

from ..stand_in import POLICY, MemoryStore

NOISE = ExplorationConfig()
FEW = CandidatesConfig(deployed=1, likely=2, even=1, vocabulary=8, near=2, far=1, vocabularies=(4,), words=2)
ROWS = np.array([0, 1, 2, 4, 5, 7, 8, 11])


class Careless(MemoryStore):
    """In every other scene the human runs the red light and leaves the lane."""

    def prepared(self, index):
        human_zero = np.array([name in ("tlc", "lk") and index % 2 == 0 for name in HEADS])
        return dataclasses.replace(super().prepared(index), human_zero=human_zero)


@pytest.fixture(scope="module")
def scenes():
    store = Careless(12)
    policy = fresh_policy(POLICY, store.human(np.arange(12)).astype(np.float32), seed=0).eval().requires_grad_(False)
    return policy, scene_cache(policy, store, np.arange(12)), store


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(labels, "SCENES_A_SHARD", 3)


def made(scenes, folder, config=FEW, seed=5, rows=ROWS):
    return labels.labelled(*scenes, rows, NOISE, config, seed, folder, folder / "words")


def everything(known):
    return [known.rows, known.poses[:], known.labels[:], known.raw_labels[:], known.kinds, known.vocabulary]


def same(left, right):
    return all(np.array_equal(one, other) for one, other in zip(everything(left), everything(right), strict=True))


@pytest.fixture
def counted(monkeypatch):
    """Counts shards that are scored."""
    calls, original = [], labels.scored

    def scored(store, rows, poses):
        calls.append(rows.tolist())
        return original(store, rows, poses)

    monkeypatch.setattr(labels, "scored", scored)
    return calls


def test_labels_are_the_exact_scores_with_and_without_the_human_filter(scenes, tmp_path):
    known, store = made(scenes, tmp_path), scenes[2]
    assert known.rows.tolist() == ROWS.tolist() and known.poses.shape == (8, 2 + 3 + 3 + 2, 8, 3)
    for values, human_filter in ((known.labels, True), (known.raw_labels, False)):
        scores = exact_sub_scores(store, ROWS, known.poses[:].astype(np.float64), human_filter=human_filter)
        assert np.array_equal(values[:], np.stack([getattr(scores, name) for name in HEADS], axis=-1).astype(np.float32))
    changed = (known.labels[:] != known.raw_labels[:]).any(axis=(1, 2))
    assert changed.any() and not changed[ROWS % 2 == 1].any()


def test_the_files_say_of_each_candidate_what_it_is(scenes, tmp_path):
    known, store = made(scenes, tmp_path), scenes[2]
    with pa.memory_map(str(tmp_path / "shard-00001.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.num_rows == 3 * 10 and table["token"].to_pylist()[::10] == [store.tokens[row] for row in ROWS[3:6]]
    assert table["kind"].to_pylist()[:10] == ["denoised"] * 2 + ["explored"] * 3 + ["vocabulary"] * 5
    assert table["vocabulary"].to_pylist()[10:20] == known.vocabulary.tolist() == [0] * 5 + [8] * 3 + [4] * 2
    assert table["candidate"].to_pylist()[10:20] == list(range(10))
    assert np.array_equal(np.array(table["poses"].to_pylist(), np.float32).reshape(3, 10, 8, 3), known.poses[3:6])


def test_a_set_that_is_killed_goes_on_with_the_same_numbers(scenes, tmp_path, counted, monkeypatch):
    whole = made(scenes, tmp_path / "whole")
    counted.clear()
    with monkeypatch.context() as killed:
        original = labels.write_shard

        def write(path, *values):
            if path.name == "shard-00001.arrow":
                path.with_name(f".{path.name}").write_bytes(b"half a shard")
                raise KeyboardInterrupt
            original(path, *values)

        killed.setattr(labels, "write_shard", write)
        with pytest.raises(KeyboardInterrupt):
            made(scenes, tmp_path / "halves")
    with pytest.raises(ValueError, match="half written: 1 of 3 shards"):
        labels.opened(tmp_path / "halves")
    counted.clear()
    assert same(made(scenes, tmp_path / "halves"), whole)
    assert counted == [[4, 5, 7], [8, 11]]


def test_only_a_damaged_or_missing_shard_is_made_again(scenes, tmp_path, counted):
    whole = made(scenes, tmp_path / "whole")
    made(scenes, tmp_path / "broken")
    counted.clear()
    path = tmp_path / "broken" / "shard-00001.arrow"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="shard-00001.arrow cannot be read"):
        labels.opened(tmp_path / "broken")
    assert same(made(scenes, tmp_path / "broken"), whole) and counted == [[4, 5, 7]]
    path.unlink()
    assert same(made(scenes, tmp_path / "broken"), whole) and counted == [[4, 5, 7]] * 2


@pytest.mark.parametrize("change", [{"seed": 6}, {"config": dataclasses.replace(FEW, near_x=9.0)}, {"rows": ROWS[:5]}])
def test_whatever_matters_makes_shards_stale(scenes, tmp_path, counted, change):
    made(scenes, tmp_path / "labels")
    made(scenes, tmp_path / "labels")
    assert len(counted) == 3
    again = made(scenes, tmp_path / "labels", **change)
    assert len(counted) == 3 + (2 if "rows" in change else 3)
    assert same(again, made(scenes, tmp_path / "fresh", **change))


def test_another_policy_makes_shards_stale(scenes):
    policy, _, store = scenes
    other = fresh_policy(POLICY, store.human(np.arange(12)).astype(np.float32), seed=1)
    keys = {labels.labels_key(some, store, ROWS, NOISE, FEW, 5) for some in (policy, other)}
    assert len(keys) == 2


def test_shards_of_two_sets_are_no_set(scenes, tmp_path):
    made(scenes, tmp_path / "one")
    made(scenes, tmp_path / "other", seed=6)
    (tmp_path / "one" / "shard-00000.arrow").replace(tmp_path / "other" / "shard-00000.arrow")
    with pytest.raises(ValueError, match="of 2 keys"):
        labels.opened(tmp_path / "other")


def test_a_foreign_file_is_no_shard(tmp_path):
    table = pa.table({"speed": [1.0]})
    with pa.OSFile(str(tmp_path / "shard-00000.arrow"), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="its columns are speed"):
        labels.opened(tmp_path)


def test_no_scenes_are_no_labels(scenes, tmp_path):
    with pytest.raises(ValueError, match="no scenes to label"):
        made(scenes, tmp_path, rows=ROWS[:0])


@pytest.mark.parametrize("scenes_of", [[3], [0, 7, 2, 2], [[1, 5], [6, 0]], slice(1, 6), slice(None), 4])
def test_parts_are_indexed_like_one_array(scenes_of):
    whole = np.random.default_rng(0).normal(size=(8, 2, 3)).astype(np.float32)
    parts = labels.Parts([whole[:3], whole[3:6], whole[6:]])
    index = np.array(scenes_of) if isinstance(scenes_of, list) else scenes_of
    assert np.array_equal(parts[index], whole[index]) and parts.shape == whole.shape and len(parts) == 8


def test_shifted_scenes_are_labelled_as_scenes_of_their_own(scenes, tmp_path, monkeypatch):
    policy, _, store = scenes
    asked, config = [], dataclasses.replace(FEW, shifted=ShiftConfig())

    def moved(source, rows, folder, shift, seed):
        asked.append((source.key, rows.tolist(), shift, seed))
        other = Careless(9, seed=3)
        other.log_names = tuple(f"{name}-{token}" for name, token in zip(other.log_names, other.tokens, strict=True))
        return other

    monkeypatch.setattr(labels, "shifted_store", moved)
    cache, known, logs = labels.shifted(policy, store, ROWS, NOISE, config, 5, tmp_path / "labels", tmp_path / "data")
    assert asked == [(store.key, ROWS.tolist(), config.shifted, 5)]
    assert len(cache) == 9 and known.rows.tolist() == list(range(9)) and logs == ("log000",) * 3 + ("log001",) * 3 + ("log002",) * 3
    scores = exact_sub_scores(Careless(9, seed=3), known.rows, known.poses[:].astype(np.float64))
    assert np.array_equal(known.labels[:][..., 3], scores.tlc.astype(np.float32))


def test_the_key_of_ordinary_scenes_does_not_know_of_shifted_ones(scenes):
    policy, _, store = scenes
    other = dataclasses.replace(FEW, shifted=ShiftConfig())
    assert labels.labels_key(policy, store, ROWS, NOISE, FEW, 5) == labels.labels_key(policy, store, ROWS, NOISE, other, 5)


def test_one_changed_bit_of_a_shard_is_known(scenes, tmp_path):
    whole = made(scenes, tmp_path)
    path = tmp_path / "shard-00000.arrow"
    content = path.read_bytes()
    place = content.index(np.ascontiguousarray(whole.poses[:1]).tobytes())
    path.write_bytes(content[: place + 2] + bytes([content[place + 2] ^ 1]) + content[place + 3 :])
    with pytest.raises(ValueError, match="shard-00000.arrow is damaged: it does not hold what was written"):
        labels.opened(tmp_path)
    notes = content.rindex(b'"state"')  # the schema is there twice, the last one counts
    path.write_bytes(content[:notes] + b"\xff" + content[notes + 1 :])
    with pytest.raises(ValueError, match="shard-00000.arrow (is damaged|cannot be read)"):
        labels.opened(tmp_path)
    path.write_bytes(content)
    assert same(labels.opened(tmp_path), whole)
