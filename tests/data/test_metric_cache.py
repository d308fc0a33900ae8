import lzma
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely

from irlvla.data import metric_cache
from irlvla.data.metric_cache import cached_scene, metric_cache_paths

from ..devkit import loaded

GOLDEN = Path(__file__).parents[1] / "golden" / "metric_cache"
TOKEN = "271ebfe4c3922d41"
[PATH] = GOLDEN.glob(f"*/unknown/{TOKEN}/metric_cache.pkl")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The attributes of a cache, and how to write it again."""
    whole = loaded(monkeypatch, lzma.decompress(PATH.read_bytes()))
    path = tmp_path / TOKEN / "metric_cache.pkl"
    path.parent.mkdir()

    def write():
        path.write_bytes(lzma.compress(pickle.dumps(whole), preset=0))
        return path

    return whole.__dict__, write


def test_a_cache_says_what_the_scene_is():
    scene, now = cached_scene(PATH)
    assert (scene.token, scene.map_name) == (TOKEN, "us-pa-pittsburgh-hazelwood") and scene.object_boxes.shape == (41, 5, 5)
    assert scene.past_time_us[-1] == scene.time_us and scene.previous_time_us == scene.past_time_us[-2]
    np.testing.assert_array_equal(scene.past_states[-1], scene.ego_state)
    np.testing.assert_array_equal(scene.object_boxes[0], now.boxes[:, [0, 1, 6, 3, 4]])
    assert len(scene.map_layers) == 11 and scene.map_on_route.any() and not scene.map_on_route.all()


def test_a_cache_written_again_is_the_same(cache):
    (scene, _), (again, _) = cached_scene(PATH), cached_scene(cache[1]())
    np.testing.assert_array_equal(scene.object_boxes, again.object_boxes)
    np.testing.assert_array_equal(scene.map_polygons.vertices, again.map_polygons.vertices)


def test_an_object_that_comes_later_has_the_speed_of_then(cache):
    values, write = cache
    [now], later = values["current_tracked_objects"], values["future_tracked_objects"]
    gone = now.tracked_objects.tracked_objects.pop(0)
    first = later[0].tracked_objects.tracked_objects[0]
    assert first._metadata.track_token == gone._metadata.track_token
    first._velocity._slots["_x"] = first._velocity._x = np.nan
    scene, _ = cached_scene(write())
    place = scene.object_valid[0].argmin()
    assert not scene.object_valid[0, place] and scene.object_valid[1:, place].all() and scene.object_first_speed[place] == np.inf


def test_red_lights_are_found_among_the_objects(cache):
    values, write = cache
    shape = values["drivable_area_map"]._arguments[2][0]
    for step in (0, 3):
        occupancy = values["observation"]._occupancy_maps[step]
        tokens, shapes, capacity = occupancy._arguments
        more = np.empty(len(shapes) + 1, dtype=object)
        more[:-1], more[-1] = shapes, shape
        occupancy._arguments = ([*tokens, "red_light_12"], more, capacity)
    scene, _ = cached_scene(write())
    assert np.flatnonzero(scene.red_valid[:, 0]).tolist() == [0, 3] and len(scene.red_polygons) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.update(human_trajectory=None), "with a token of 16 letters it has no human trajectory"),
        (lambda v: v["past_human_trajectory"]._arguments[0].pop(), "its past has the times"),
        (lambda v: v["trajectory"]._arguments[0].pop(), "its reference plan has 50 poses, not 51"),
        (lambda v: v["trajectory"]._arguments[0][7]._car_footprint._center.__dict__.update(x=1e7), "its reference plan leads .* m away"),
        (lambda v: v.update(centerline=None), "None stands where a PDMPath belongs"),
        (lambda v: v["centerline"]._arguments[0].__delitem__(slice(1, None)), "the centerline has 1 points"),
        (lambda v: v["map_parameters"].__dict__.update(map_name=3), "its map 3"),
        (lambda v: v["future_tracked_objects"].pop(), "it has objects at 40 moments, not 41"),
        (lambda v: v["observation"]._occupancy_maps.pop(), "its observation has 40 steps, not 41"),
        (lambda v: v["drivable_area_map"]._arguments[0].pop(), "its map has 10 polygons in 11 layers"),
        (lambda v: v["drivable_area_map"]._arguments[2].pop(), "the geometries of a PDMDrivableMap are list, not a list of 11"),
        (lambda v: v["drivable_area_map"]._arguments[1][0].__dict__.update(_arguments=(5,)), "of them unknown 5"),
        (lambda v: v["drivable_area_map"]._arguments[2].__setitem__(0, 3), "3 stands where a from_wkb belongs"),
        (lambda v: v.pop("route_lane_ids"), "route_lane_ids is None, no list"),
    ],
)
def test_caches_that_lack_something_are_named(cache, change, reason):
    change(cache[0])
    with pytest.raises(ValueError, match=f"metric cache .*{TOKEN}.* cannot be used: .*{reason}"):
        cached_scene(cache[1]())


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (shapely.LineString([(0, 0), (1, 1)]), "a LineString stands where a polygon belongs"),
        (shapely.Polygon([(0, 0), (1, 1e300), (1, 0)]), r"a polygon has a vertex at 1e\+300"),
        (shapely.Polygon([(0, 0), (1, np.inf), (1, 0)]), "a polygon has a vertex at inf, no place on a map"),
    ],
)
def test_polygons_that_are_none_are_named(cache, shape, reason):
    values, write = cache
    values["drivable_area_map"]._arguments[2][3] = shape
    with pytest.raises(ValueError, match=f"metric cache .* cannot be used: {reason}"):
        cached_scene(write())


def test_damaged_polygons_are_named(cache, monkeypatch):
    values, write = cache
    monkeypatch.setattr(metric_cache, "RED_LIGHT", "")  # every object's outline is read as well
    whole = lzma.decompress(write().read_bytes())
    start = whole.index(b"\x01\x03\x00\x00\x00\x01\x00\x00\x00\x05")
    path = write()
    path.write_bytes(lzma.compress(whole[:start] + b"\x01\x77" + whole[start + 2 :], preset=0))
    with pytest.raises(ValueError, match="metric cache .* cannot be used: "):
        cached_scene(path)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile_was_here",)


def test_hostile_and_broken_files_run_nothing_and_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "metric_cache.pkl"
    whole = PATH.read_bytes()
    for content in (lzma.compress(pickle.dumps(Hostile())), whole[:3000], whole[:-8], b"", b"\0" * 100, lzma.compress(b"")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="metric_cache.pkl: not a readable cache"):
            cached_scene(path)
    assert not (tmp_path / "hostile_was_here").exists()
    with pytest.raises(ValueError, match="nowhere.pkl cannot be read"):
        cached_scene(tmp_path / "nowhere.pkl")


def test_a_small_file_does_not_unpack_to_a_huge_one(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_cache, "LARGEST", 1 << 24)
    (tmp_path / "metric_cache.pkl").write_bytes(lzma.compress(bytes(1 << 25), preset=0))
    with pytest.raises(ValueError, match="or unpacks to more than 16777216 bytes"):
        cached_scene(tmp_path / "metric_cache.pkl")


def test_caches_are_found_by_token(tmp_path):
    assert metric_cache_paths(GOLDEN)[TOKEN] == PATH
    with pytest.raises(ValueError, match="holds no metric caches"):
        metric_cache_paths(tmp_path)
    for name in "ab":
        shutil.copytree(PATH.parent, tmp_path / name / TOKEN)
    with pytest.raises(ValueError, match=f"two metric caches of scene {TOKEN}"):
        metric_cache_paths(tmp_path)
