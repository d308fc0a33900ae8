import io
import os
import zipfile

import numpy as np
import pytest

from irlvla.trajectory_file import opened, plans, tokens_in, tokens_of


def archive(path, **arrays):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in arrays.items():
            if not isinstance(data, bytes):
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, data)
                data = buffer.getvalue()
            file.writestr(f"{name}.npy", data)
    return path


def header(shape, kind="<f8"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def read(path, suffix=""):
    with opened(path) as file:
        return plans(file, "a", suffix)


def test_arrays_come_back_as_float64_whatever_their_layout(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 8, 3))
    path = archive(tmp_path / "p.npz", a_poses=np.asfortranarray(values), a_prev_poses=values.astype(np.float32), a_kind=np.zeros(3))
    poses, previous = read(path)
    np.testing.assert_array_equal(poses, values)
    np.testing.assert_array_equal(previous, values.astype(np.float32))
    assert previous.dtype == np.float64 and read(path, "_10hz") == (None, None)
    np.savez_compressed(tmp_path / "q.npz", a_poses_10hz=np.zeros((2, 40, 3), dtype=int))
    assert read(tmp_path / "q.npz", "_10hz")[0].shape == (2, 40, 3)


def test_tokens_are_listed_in_the_files_order_with_their_bytes(tmp_path):
    some = np.zeros((1, 8, 3))
    path = archive(tmp_path / "p.npz", b_poses=some, a_poses_10hz=np.zeros((1, 40, 3)), b_prev_poses=some, a_poses=some, c_kind=some)
    assert tokens_of(path) == ["b", "a"]
    with opened(path) as file:
        sizes = tokens_in(file)
    assert sizes["b"] > some.nbytes and sizes["a"] > 6 * some.nbytes


@pytest.mark.parametrize(
    "data, reason",
    [
        (header((10**11, 8, 3)), "more than"),
        (header((10**12, 8, 3)), "its header is"),
        (header((2, 8, 3)) + bytes(100), "100 bytes for shape"),
        (header((2, 8, 3), "|O"), "its header is"),
        (header((2, 7, 3)), r"has shape \(2, 7, 3\)"),
        (header((8, 3)), r"has shape \(8, 3\)"),
        (b"\x93NUMPY\x04\x00" + header((2, 8, 3))[8:], "it is no npy array"),
        (b"", "cannot be used"),
        (b"no array at all", "cannot be used"),
        (header((1, 8, 3)) + np.full(24, np.inf).tobytes(), "not finite"),
    ],
)
def test_an_array_that_is_none_is_named(tmp_path, data, reason):
    path = archive(tmp_path / "p.npz", a_poses=data)
    with pytest.raises(ValueError, match=f"array a_poses cannot be used: .*{reason}|array a_poses {reason}"):
        read(path)


def test_damaged_bytes_are_noticed(tmp_path):
    path = archive(tmp_path / "p.npz", a_poses=np.zeros((4, 8, 3)))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read(path)


def test_two_kinds_of_plans_differ_in_number(tmp_path):
    path = archive(tmp_path / "p.npz", a_poses=np.zeros((3, 8, 3)), a_prev_poses=np.zeros((2, 8, 3)))
    with pytest.raises(ValueError, match="3 plans in a_poses but 2 in a_prev_poses"):
        read(path)


def test_a_file_opened_before_a_fork_is_read_by_both_sides(tmp_path):
    values = {f"{token}_poses": np.full((1, 8, 3), number) for number, token in enumerate("abcdef")}
    with opened(archive(tmp_path / "p.npz", **values)) as file:
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                fine = all(plans(file, token, "")[0][0, 0, 0] == number for number, token in enumerate("abcdef") for _ in range(50))
                os._exit(0 if fine else 1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_an_array_that_is_passed_over_because_its_name_was_damaged_is_no_silence(tmp_path):
    path = archive(tmp_path / "p.npz", a_poses=np.zeros((1, 8, 3)), b_poses=np.zeros((1, 8, 3)), kind=np.zeros(3))
    content = path.read_bytes()
    place = content.rindex(b"b_poses")
    path.write_bytes(content[:place] + b"b_posfs" + content[place + 7 :])
    with pytest.raises(ValueError, match="p.npz: array b_posfs.npy cannot be used: File name in directory"):
        tokens_of(path)
