"""Whatever a file holds, reading it ends in a result or in a ValueError that names the file: by chance, from seeds that never change."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from irlvla.data.frames import frame
from irlvla.data.navsim import log_frames, scene_filter
from irlvla.data.pickles import BAD_PICKLE, unpickled

from .. import tiny
from .readers import READERS

EXAMPLES = {"pickle": 200, "gpkg": 120, "picture": 120, "store": 60, "cache": 60, "synthetic": 120, "submission": 120}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
ARRAYS = arrays.arrays(
    arrays.boolean_dtypes() | arrays.integer_dtypes() | arrays.floating_dtypes() | arrays.unicode_string_dtypes(max_len=4),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=8),
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda some: st.lists(some, max_size=8) | st.tuples(some, some) | st.dictionaries(st.text(max_size=4), some, max_size=4),
    max_leaves=12,
)


def places(values, path=()):
    found = [path] if path else []
    for key in values if isinstance(values, dict) else ():
        found += places(values[key], (*path, key))
    return found


CAMERA = {
    "data_path": "a.jpg", "sensor2lidar_rotation": np.eye(3), "sensor2lidar_translation": np.zeros(3), "cam_intrinsic": np.eye(3),
    "distortion": np.zeros(5),
}  # fmt: skip
WHOLE = tiny.frame(0, cams={"CAM_F0": CAMERA}, lidar2ego_rotation=np.eye(4)[0], lidar2ego_translation=np.zeros(3))


@pytest.fixture(scope="module")
def prepared_readers(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in READERS}
    return {name: (reader, folders[name], reader.prepare(folders[name])) for name, reader in READERS.items()}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_gives_a_result_or_is_named(prepared_readers, name):
    reader, folder, seeds = prepared_readers[name]

    @settings(max_examples=EXAMPLES.get(name, 250), derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**32))
    def check(seed):
        reader.write(random.Random(seed), folder, seeds)
        try:
            reader.read(folder)
        except ValueError as error:
            assert any(word in str(error) for word in reader.words) and len(str(error)) < 2000
        except FileNotFoundError as error:
            assert str(folder) in str(error)

    check()


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(st.sampled_from(places(WHOLE)), VALUES)
def test_any_value_in_any_place_of_a_frame_is_read_or_refused(tmp_path_factory, path, value):
    values = pickle.loads(pickle.dumps(WHOLE))  # noqa: S301
    holder = values
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    try:
        found = frame(values, tmp_path_factory.getbasetemp())
    except ValueError as error:
        assert str(error)
    else:
        assert np.isfinite(found.ego_pose).all() and np.isfinite(found.objects.boxes).all()


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(VALUES)
def test_plain_values_come_back_from_a_pickle_or_it_is_refused(value):
    for protocol in (0, 2, 4, 5):
        try:
            found = unpickled(pickle.dumps(value, protocol))
        except BAD_PICKLE:
            continue
        assert pickle.dumps(found, 4) == pickle.dumps(value, 4) or repr(found) == repr(value) or "array" in repr(value)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_no_log_and_no_filter(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    for read in (log_frames, scene_filter):
        try:
            read(path)
        except ValueError as error:
            assert "bytes.yaml" in str(error)
