"""Is this machine fit: numerics, optional parts, files, splits."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from irlvla.data import maps as map_files
from irlvla.data import navsim

CITIES = ("sg-one-north", "us-ma-boston", "us-nv-las-vegas-strip", "us-pa-pittsburgh-hazelwood")


def findings(logs: Path | None, maps: Path | None, split: Path | None = None) -> list[tuple[str, bool, str]]:
    """What was looked at, whether it is as it should be, and what was seen.

    Args:
        logs: an OPENSCENE_DATA_ROOT, None if there is none.
        maps: a NUPLAN_MAPS_ROOT, None if there is none.
        split: a scene filter file to check against the logs.
    """
    found = [_of("numerics: tracker", _tracker), _of("numerics: least squares", _least_squares)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found.append(("cores", cores >= 1, str(cores)))
    free = shutil.disk_usage(".").free
    found.append(("disk", free > 6e9, f"{free / 1e9:.0f} GB free here; the demo needs 6"))
    for module, extra in (("torch", "train"), ("tensorboard", "train"), ("sumo", "world")):
        there = importlib.util.find_spec(module) is not None
        found.append(
            (f"module {module}", True, "installed" if there else f"not installed, scoring does without: pip install 'irlvla[{extra}]'")
        )
    if logs is not None:
        found.append(_of(f"logs {logs}", lambda: f"{len(navsim.log_paths(logs))} logs"))
    if maps is not None:
        found += [_of(f"map {city}", lambda city=city: str(map_files.map_path(maps, city))) for city in CITIES]
    if logs is not None and split is not None:
        found.append(_of(f"split {split}", lambda: _split(logs, split)))
    return found


def _of(name: str, look: Callable[[], str]) -> tuple[str, bool, str]:
    try:
        return name, True, look()
    except (ValueError, OSError) as error:
        return name, False, str(error)


def _tracker() -> str:
    """A car that drives straight on at 5 m/s must be followed exactly: wrong linear algebra shows here at once."""
    from irlvla.score.states import reference_poses
    from irlvla.vehicle import simulated

    state = np.array([0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0])
    poses = np.zeros((1, 8, 3))
    poses[0, :, 0] = 2.5 * np.arange(1, 9)
    end = simulated(state, reference_poses(state, 1_600_000_000_000_000, poses))[0, -1]
    if abs(end[0] - 20.0) > 1e-2 or abs(end[1]) > 1e-6:
        raise ValueError(f"a straight plan of 20 m ends at x {end[0]:.3f}, y {end[1]:.3f}")
    return f"a straight plan of 20 m ends at {end[0]:.4f}"


def _least_squares() -> str:
    """NumPy's least squares against the normal equations, on a matrix like the tracker's."""
    matrix = np.tril(np.ones((40, 40))) * 0.1
    wanted = np.sin(np.arange(40.0))
    error = float(np.abs(np.linalg.lstsq(matrix, matrix @ wanted, rcond=None)[0] - wanted).max())
    if not error < 1e-8:
        raise ValueError(f"least squares are off by {error:.1e}: the BLAS of this NumPy is broken on this processor")
    return f"off by {error:.0e}"


def _split(logs: Path, split: Path) -> str:
    chosen = navsim.scene_filter(split)
    known = navsim.log_paths(logs)
    absent = sorted(set(chosen.log_names or ()) - set(known))
    if absent:
        raise ValueError(f"{len(absent)} logs are missing, the first is {absent[0]}")
    scenes = "all windows" if chosen.tokens is None else f"{len(chosen.tokens)} scenes"
    return f"{scenes} of {len(chosen.log_names or known)} logs"
