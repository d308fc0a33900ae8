"""Files appear whole or not at all, errors of the disk name them, and a folder is for one process at a time."""

import errno
import fcntl
import multiprocessing

import pytest

from irlvla.files import held, named, replaced


def test_a_file_that_cannot_be_finished_stays_as_it_was(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with replaced(path) as beside:
        beside.write_text("first")
    with pytest.raises(KeyboardInterrupt), replaced(path) as beside:
        beside.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and [one.name for one in path.parent.iterdir()] == ["file.txt"]


def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    with pytest.raises(OSError, match="No space left on device: .*file.txt"), replaced(tmp_path / "file.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError, match="nowhere"), named(tmp_path / "file.txt"):
        (tmp_path / "nowhere").read_text()


def ended(folder):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: held(folder).__enter__())
    process.start()
    process.join()
    return process.exitcode


def test_a_folder_is_held_by_one_process_and_free_when_that_is_gone(tmp_path):
    folder = tmp_path / "run" / "imitation"
    with held(folder):
        assert not folder.exists() and ended(folder) == 1
        with pytest.raises(ValueError, match="/run/imitation: another process is at work there"):
            raise_as_if_held(folder)
    assert ended(folder) == 0, "whoever held it is gone"
    with held(folder):
        pass


def raise_as_if_held(folder):
    """Locks are per process: what another one would get."""
    patch = pytest.MonkeyPatch()
    with patch.context() as changed:
        changed.setattr(fcntl, "lockf", lambda *arguments: (_ for _ in ()).throw(OSError(errno.EAGAIN, "held")))
        with held(folder):
            pass


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    with pytest.raises(OSError, match="no locks"), held(tmp_path / "run"):
        pass
