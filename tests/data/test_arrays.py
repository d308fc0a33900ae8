"""New arrays have their room on disk, and what is mapped of an older one stays what it was."""

import errno
import os

import numpy as np
import pytest

from irlvla.data.arrays import mapped_array, new_array


def test_a_new_array_is_read_back_and_leaves_the_mapped_older_one_alone(tmp_path):
    path = tmp_path / "a.npy"
    new_array(path, (4, 3), np.float32)[:] = 1.0
    older = mapped_array(path, (4, 3), np.float32)
    new_array(path, (2, 3), np.float32)[:] = 2.0
    assert (older == 1.0).all() and (mapped_array(path, (2, 3), np.float32) == 2.0).all()


def test_an_array_has_its_room_before_anything_is_written(tmp_path):
    new_array(tmp_path / "a.npy", (1000, 1000), np.uint8)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 1_000_000


def test_a_disk_without_room_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", lambda *arguments: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device: .*a.npy"):
        new_array(tmp_path / "a.npy", (4,), np.uint8)
