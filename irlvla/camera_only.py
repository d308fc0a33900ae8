"""A copy of a data set in which some logs of a split hold cameras only: what to learn from driving that nobody annotated.

Boxes, traffic lights, routes and map places are taken out of the logs themselves, so that nothing that reads them can use what
the experiment says is not there.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.data import navsim
from irlvla.data.frames import ANNOTATION_KEYS, is_camera_only
from irlvla.halves import shuffled_logs
from irlvla.prepare import paths_of, scene_filter_of
from irlvla.world.export import write_log

KEPT_KEYS = (
    "token", "timestamp", "log_name", "log_token", "scene_token", "scene_name", "frame_idx", "vehicle_name", "sample_prev", "sample_next",
    "can_bus", "ego2global_translation", "ego2global_rotation", "ego2global", "ego_dynamic_state", "driving_command",
    "lidar2ego_translation", "lidar2ego_rotation", "lidar2ego", "lidar2global", "cams",
)  # fmt: skip
"""What a log without annotations keeps of a frame: names, time, ego, command, cameras and how they are mounted (on the lidar)."""
LISTING = "camera_only.json"


def write_camera_only(logs: Path, split: Path | str, out: Path, share: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Copies a data set's logs, a share of a split's logs without their annotations; the same arguments give the same files.

    Args:
        logs: an OPENSCENE_DATA_ROOT.
        split: a scene filter file, or a folder below navsim_logs: some of its logs are stripped, all others are linked as they are.
        out: the new OPENSCENE_DATA_ROOT; pictures and whatever else lies in the old one are linked. What is in the way is replaced.
        share: of the split's logs that have scenes; of an odd number half is rounded up.
        seed: by which they are chosen; with half of them stripped those that stay annotated are half A of `irlvla.halves.log_halves`.

    Returns:
        What camera_only.json in `out` holds: the names of the split's annotated and camera-only logs, split, share, and seed.

    Raises:
        ValueError: the share is none, the split or a log cannot be used, a log to be stripped has no annotations, or `out` holds something else.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, not between 0 and 1")
    if out.exists() and any(out.iterdir()) and not (out / LISTING).exists():
        raise ValueError(f"{out} is not empty and holds no {LISTING}: refusing to overwrite it")
    if logs.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"{out} lies in {logs}, which is to be copied: write the copy somewhere else")
    chosen = scene_filter_of(split)
    known = {path.stem: path for path in paths_of(logs, split, chosen)}
    names = shuffled_logs([name for name, path in known.items() if navsim.windows(navsim.log_frames(path), chosen)], seed)
    if not names:
        raise ValueError(f"{split}: no scene passes the filter, the split is empty")
    count = len(names) - int(len(names) * (1 - share))
    stripped = sorted(names[len(names) - count :])
    listing = {
        "logs": str(logs.resolve()), "split": str(split), "share": share, "seed": seed,
        "annotated": sorted(set(names) - set(stripped)), "camera_only": stripped,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / LISTING).write_text(json.dumps(listing, indent=1) + "\n")
    for place in logs.iterdir():
        if place.name not in ("navsim_logs", LISTING):
            _link(out / place.name, place)
    _copy_logs(logs, out, stripped)
    return listing


def _copy_logs(logs: Path, out: Path, stripped: Sequence[str]) -> None:
    """Every log of every folder, linked or stripped, and nothing else. Times of change are kept, so that equal logs stay equal inputs."""
    wanted = set()
    for path in sorted((logs / "navsim_logs").glob("*/*.pkl")):
        place = out / "navsim_logs" / path.parent.name / path.name
        wanted.add(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if path.stem in stripped:
            write_log(place, [camera_only(frame, path) for frame in navsim.log_frames(path)])
            shutil.copystat(path, place)
        else:
            try:
                os.link(path, place)
            except OSError:
                shutil.copy2(path, place)
    for place in set((out / "navsim_logs").glob("*/*.pkl")) - wanted:
        place.unlink()


def camera_only(frame: dict[str, Any], path: Path) -> dict[str, Any]:
    """A frame of a log as it would be if nobody had annotated it.

    Args:
        frame: as the pickle holds it.
        path: of the log, for messages.

    Returns:
        Of its keys those in KEPT_KEYS, and None for each of `irlvla.data.frames.ANNOTATION_KEYS`.

    Raises:
        ValueError: it has no annotations that could be taken away.
    """
    if is_camera_only(frame):
        raise ValueError(f"log {path}: frame {frame['token']} has no annotations that could be taken away")
    return {key: _plain(frame[key]) for key in KEPT_KEYS if key in frame} | dict.fromkeys(ANNOTATION_KEYS)


def _plain(value: Any) -> Any:
    """The value with NumPy's own arrays in place of those that the reader makes."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(part) for part in value)
    return np.array(value) if isinstance(value, np.ndarray) else value


def _link(place: Path, source: Path) -> None:
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        raise ValueError(f"{place} is in the way: it should be a link to {source}")
    place.symlink_to(source.resolve())
