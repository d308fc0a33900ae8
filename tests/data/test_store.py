import dataclasses
from pathlib import Path

import numpy as np
import pytest

from irlvla.data import store
from irlvla.data.facts import Facts
from irlvla.data.features import SensorConfig
from irlvla.data.records import packed
from irlvla.data.store import Moment, Prepared, Store
from irlvla.types import Elements, Features, Polygons

from .. import tiny
from .test_features import polygons, prepared, square

SENSORS = SensorConfig(height=6, width=8)
ELEMENT_FIELDS = ("boxes", "classes", "lines", "kinds")


def moment(value):
    """A moment full of a value from 1 to 3."""
    return Moment(
        features=Features(
            images=np.full((4, 6, 8, 3), value, np.uint8),
            rig=tiny.rig(value=value),
            ego_history=np.full((4, 7), float(value)),
            command=np.eye(4)[1],
        ),
        human=np.full((8, 3), float(value)),
        targets=np.ones((4, 32, 32), np.uint8),
        elements=tiny.elements(ahead=10.0 + value),
        facts=Facts(lead=value, lead_motion=1, light=0, pedestrian=0, turn=0, lateral=0, longitudinal=0),
    )


def bare_moment(value):
    return dataclasses.replace(moment(value), targets=None, elements=None, facts=None)


def whole(scene, now, previous):
    return Prepared(log_name=scene.log_name, prepared=scene, now=now, previous=previous, picture="f.jpg")


def written(folder, finish=True, sensors=SENSORS):
    store.create(folder, "key", {"why": "test"}, ["a", "b", "c", "d"], 2, sensors)
    first = prepared(token="a")
    second = dataclasses.replace(prepared(objects=0, red=square(0, 0, 2, 2), token="c"), log_name="gol")
    store.write_shard(folder, 0, [(0, whole(first, moment(1), moment(2))), (1, "scene b: the picture is missing")])
    store.write_shard(folder, 1, [(2, whole(second, moment(3), None))])
    if finish:
        store.finish(folder)
    return first, second


def same(left, right):
    for field in dataclasses.fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, Polygons):
            same(a, b)
        else:
            np.testing.assert_array_equal(a, b)
            assert np.asarray(a).dtype == np.asarray(b).dtype


def test_scenes_come_back_as_they_were_put_in(tmp_path):
    first, second = written(tmp_path)
    opened = Store(tmp_path)
    assert opened.tokens == ("a", "c") and opened.log_names == ("log", "gol") and len(opened) == 2
    same(opened.prepared(0), first)
    same(opened.prepared(1), second)
    assert opened.features([1, 0]).images[:, 0, 0, 0, 0].tolist() == [3, 1]
    assert opened.features([0], previous=True).ego_history[0, 0, 0] == 2.0
    np.testing.assert_array_equal(opened.histories([0], previous=True), opened.features([0], previous=True).ego_history)
    np.testing.assert_array_equal(opened.commands([1, 0]), opened.features([1, 0]).command)
    assert opened.human([1]).shape == (1, 8, 3) and opened.targets([0]).all()
    assert opened.has_previous.tolist() == [True, False]


def test_each_moment_keeps_its_own_cameras(tmp_path):
    written(tmp_path)
    opened = Store(tmp_path)
    same(opened.rig([1, 0]), opened.features([1, 0]).rig)
    assert opened.rig([1, 0]).ego_from_camera[:, 3, 0, 3].tolist() == [3.0, 1.0] and opened.rig([0, 1]).valid.all()
    assert opened.rig([0], previous=True).ego_from_camera[0, 0, 0, 3] == 2.0


def test_each_moment_keeps_its_own_elements_and_facts(tmp_path):
    written(tmp_path)
    opened = Store(tmp_path)
    same(opened.elements([0]), Elements(**{name: getattr(tiny.elements(ahead=11.0), name)[None] for name in ELEMENT_FIELDS}))
    assert opened.elements([1, 0]).boxes[:, 0, 0].tolist() == [13.0, 11.0]
    assert opened.elements([0], previous=True).boxes[0, 0, 0] == 12.0
    assert opened.facts([1, 0])[:, 0].tolist() == [3, 1] and opened.facts([0], previous=True)[0, 0] == 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("facts", 9, "facts.npy holds a value that has no name"),
        ("classes", -1, "elements: classes and"),
        ("kinds", 4, "elements: kinds has values"),
    ],
)
def test_elements_and_facts_that_cannot_be_are_named(tmp_path, name, value, message):
    written(tmp_path)
    opened = Store(tmp_path)
    np.lib.format.open_memmap(tmp_path / f"{name}.npy", mode="r+")[0, 0, 0] = value
    with pytest.raises(ValueError, match=f"is damaged, prepare it again: {message}"):
        (opened.facts if name == "facts" else opened.elements)([0])


def test_a_scene_without_annotations_keeps_the_rest_and_says_what_is_missing(tmp_path):
    store.create(tmp_path, "key", {}, ["a", "b"], 1, SENSORS)
    bare = Prepared(log_name="gol", prepared=None, now=bare_moment(3), previous=None, picture="")
    store.write_shard(tmp_path, 0, [(0, whole(prepared(token="a"), moment(1), None)), (1, bare)])
    store.finish(tmp_path)
    opened = Store(tmp_path)
    assert opened.annotated.tolist() == [True, False] and opened.log_names == ("log", "gol")
    assert opened.human([1]).max() == opened.features([1]).images.max() == 3 and opened.targets([0]).all()
    same(opened.prepared(0), prepared(token="a"))
    assert opened.facts([1, 0]).tolist() == [[-1] * 7, [1, 1, 0, 0, 0, 0, 0]]
    for read in (lambda: opened.prepared(1), lambda: opened.targets([0, 1]), lambda: opened.elements([0, 1])):
        with pytest.raises(ValueError, match="scene b of log gol has no annotations .cameras only.: boxes, traffic lights, route and map"):
            read()


def test_arrays_of_a_prepared_scene_can_be_written_to(tmp_path):
    written(tmp_path)
    Store(tmp_path).prepared(0).centerline[:] = 1.0
    assert not Store(tmp_path).prepared(0).centerline.any()


def test_what_failed_or_was_not_found_is_listed(tmp_path):
    written(tmp_path)
    assert Store(tmp_path).failed == {"b": "scene b: the picture is missing", "d": "the token is in none of the logs"}


def test_a_missing_previous_moment_is_named(tmp_path):
    written(tmp_path)
    with pytest.raises(ValueError, match="scene c has no previous moment"):
        Store(tmp_path).features([0, 1], previous=True)


def test_a_half_written_store_is_not_opened(tmp_path):
    written(tmp_path, finish=False)
    with pytest.raises(ValueError, match="is half written"):
        Store(tmp_path)


def test_an_unfinished_shard_keeps_the_store_unfinished(tmp_path):
    store.create(tmp_path, "key", {}, ["a"], 1, SENSORS)
    with pytest.raises(ValueError, match="shard 0 of 1 is missing"):
        store.finish(tmp_path)


def test_a_folder_without_store_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no store"):
        Store(tmp_path)


def test_another_format_is_named(tmp_path, monkeypatch):
    written(tmp_path)
    monkeypatch.setattr(store, "FORMAT", 99)
    with pytest.raises(ValueError, match="was written in format 4, this version reads 99"):
        Store(tmp_path)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="refusing to overwrite"):
        store.create(tmp_path, "key", {}, [], 0, SENSORS)


@pytest.mark.parametrize("when", ["new_array", "rename", "rmtree"])
def test_a_store_whose_layout_was_interrupted_is_laid_out_again(tmp_path, monkeypatch, when):
    def interrupted(*arguments, **others):
        raise KeyboardInterrupt

    written(tmp_path / "store")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*{"new_array": (store, when), "rename": (Path, when), "rmtree": (store.shutil, when)}[when], interrupted)
        store.create(tmp_path / "store", "other", {}, ["a"], 1, SENSORS)
    written(tmp_path / "store")
    assert Store(tmp_path / "store").tokens == ("a", "c") and [path.name for path in tmp_path.iterdir()] == ["store"]


def test_the_size_told_beforehand_is_the_size_on_disk(tmp_path):
    first, second = written(tmp_path)
    records = [len(packed(scene)[0]) for scene in (first, second)]
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert on_disk == pytest.approx(store.size_of(4, SENSORS, int(np.mean(records))), rel=0.15)


def test_a_store_without_cameras_has_no_views(tmp_path):
    sensors = SensorConfig(cameras=(), height=6, width=8)
    store.create(tmp_path, "key", {}, ["a"], 1, sensors)
    nothing = dataclasses.replace(moment(1).features, images=np.zeros((0, 6, 8, 3), np.uint8), rig=tiny.rig(views=0))
    blind = dataclasses.replace(moment(1), features=nothing)
    store.write_shard(tmp_path, 0, [(0, whole(prepared(), blind, None))])
    store.finish(tmp_path)
    assert Store(tmp_path).features([0]).images.shape == (1, 0, 6, 8, 3) and Store(tmp_path).rig([0]).valid.shape == (1, 0)


def test_polygons_without_members_survive(tmp_path):
    record, shape = packed(prepared(red=None))
    assert len(record) % 8 == 0 and len(polygons()) == 0 and shape.dtype == np.int64


def test_a_calibration_that_is_not_finite_is_named(tmp_path):
    written(tmp_path)
    np.lib.format.open_memmap(tmp_path / "ego_from_camera.npy", mode="r+")[0, 0, 0, 0, 0] = np.inf
    for read in (Store(tmp_path).rig, Store(tmp_path).features):
        with pytest.raises(ValueError, match="is damaged, prepare it again: rig: ego_from_camera holds values that are not finite"):
            read([0])


def test_pictures_of_two_moments_have_one_shape(tmp_path):
    written(tmp_path)
    np.save(tmp_path / "previous_images.npy", np.zeros((4, 4, 6, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="previous_images.npy cannot be used: it has the shape"):
        Store(tmp_path)


def test_an_ego_status_that_is_not_finite_is_named(tmp_path):
    written(tmp_path)
    np.lib.format.open_memmap(tmp_path / "ego_history.npy", mode="r+")[0, 0, 0, 0] = np.nan
    for read in (Store(tmp_path).histories, Store(tmp_path).features):
        with pytest.raises(ValueError, match="is damaged, prepare it again"):
            read([0])
