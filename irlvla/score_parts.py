"""The finished parts of a table of scores, kept on disk until the table is whole: rows as text, and what the summary needs."""

import csv
import fcntl
import io
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from irlvla import files
from irlvla.definitions import Traffic, human_filter
from irlvla.files import named
from irlvla.score.distance import displacement_errors
from irlvla.score.epdms import epdms, sub_scores
from irlvla.trajectory_file import KINDS, plans
from irlvla.types import SUB_SCORE_NAMES, PreparedScene

NAMES = (*SUB_SCORE_NAMES, "epdms", "ade", "fde")
COLUMNS = ("token", "trajectory", *(name.upper() for name in NAMES[:-2]), "ade", "fde", "definition", "traffic")
BATCH = 4096
"""Trajectories that are scored at once: memory stays flat however many a scene has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredScene:
    """Where a scene's rows lie, and the sums over them of all columns `NAMES`."""

    log_name: str
    part: int
    start: int
    end: int
    rows: int
    rows_with_ec: int
    sums: tuple[float, ...]


def write_part(
    folder: Path,
    number: int,
    scenes: Iterable[tuple[str, PreparedScene | str]],
    archive: zipfile.ZipFile,
    definition: str,
    traffic: Traffic,
) -> None:
    """Scores scenes one after the other, leaves their rows in the folder, and marks the part as done.

    Args:
        folder: Of the parts.
        number: Of this one.
        scenes: Token (or name of what else failed) and scene, or the reason why there is none.
        archive: The opened file of trajectories.
        definition: Of the score.
        traffic: How other road users move.
    """
    done, failures = {}, {}
    path = folder / f"{number:05d}.csv"
    with named(path), path.open("wb") as file:
        for token, scene in scenes:
            start = file.tell()
            try:
                if isinstance(scene, str):
                    raise ValueError(scene)
                counted = _write_rows(file, scene, archive, definition, traffic)
                done[token] = {"log_name": scene.log_name, "start": start, "end": file.tell(), **counted}
            except ValueError as error:
                failures[token] = str(error)
                file.seek(start)
                file.truncate()
    with files.replaced(folder / f"{number:05d}.json") as beside:
        beside.write_text(json.dumps({"scenes": done, "failures": failures}))


def _write_rows(file: BinaryIO, scene: PreparedScene, archive: zipfile.ZipFile, definition: str, traffic: Traffic) -> dict[str, Any]:
    with_filter = human_filter(definition)
    rows = rows_with_ec = 0
    sums = np.zeros(len(NAMES))
    for suffix, _, first in KINDS:
        poses, previous = plans(archive, scene.token, suffix)
        if poses is None:
            continue
        for start in range(0, len(poses), BATCH):
            some = slice(start, start + BATCH)
            values, defined = scene_values(scene, poses[some], None if previous is None else previous[some], with_filter, traffic)
            sums += values.sum(axis=0)
            rows, rows_with_ec = rows + len(values), rows_with_ec + int(defined.sum())
            lines = [[scene.token, first + start + place, *row, definition, traffic] for place, row in enumerate(values.tolist())]
            for place in np.flatnonzero(~defined):
                lines[place][COLUMNS.index("EC")] = ""
            file.write(_text(lines))
    return {"rows": rows, "rows_with_ec": rows_with_ec, "sums": sums.tolist()}


def _text(lines: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def scene_values(
    scene: PreparedScene, poses: np.ndarray, previous: np.ndarray | None, with_filter: bool, traffic: Traffic = "log_replay"
) -> tuple[Float[np.ndarray, "proposals columns"], np.ndarray]:
    """All columns `NAMES` of some plans of a scene, and where EC is defined (it is 0 elsewhere)."""
    scores = sub_scores(scene, poses, previous, human_filter=with_filter, traffic=traffic)
    ade, fde = displacement_errors(poses, scene.human_poses)
    columns = [getattr(scores, name) for name in SUB_SCORE_NAMES]
    return np.column_stack([*columns, epdms(scores), ade, fde]), np.asarray(scores.ec_defined) > 0


def part_done(folder: Path, number: int) -> bool:
    """Whether a part was finished."""
    return (folder / f"{number:05d}.json").exists()


def read_parts(folder: Path, count: int) -> tuple[dict[str, ScoredScene], dict[str, str]]:
    """Scenes of all finished parts by token, and what failed: token -> reason. A scene that two logs hold counts once."""
    scenes: dict[str, ScoredScene] = {}
    failures: dict[str, str] = {}
    for number in range(count):
        if not part_done(folder, number):
            continue
        values = json.loads((folder / f"{number:05d}.json").read_text())
        failures |= values["failures"]
        for token, about in values["scenes"].items():
            scenes.setdefault(token, ScoredScene(part=number, **about | {"sums": tuple(about["sums"])}))
    return scenes, {token: reason for token, reason in failures.items() if token not in scenes}


def write_table(path: Path, folder: Path, scenes: Iterable[ScoredScene]) -> None:
    """Writes the header and the rows of the scenes in the order given; the file appears whole or not at all."""
    with replaced(path, folder) as beside, beside.open("wb") as file:
        file.write(_text([COLUMNS]))
        for scene in scenes:
            with (folder / f"{scene.part:05d}.csv").open("rb") as part:
                part.seek(scene.start)
                file.write(part.read(scene.end - scene.start))


@contextmanager
def replaced(path: Path, folder: Path) -> Iterator[Path]:
    """A path in a folder on the same disk to write to, which takes the place of `path` if nothing went wrong."""
    new = folder / f"{path.name}.new"
    with named(path):
        yield new
        new.replace(path)


@contextmanager
def parts_folder(out: Path, key: str) -> Iterator[Path]:
    """The folder beside a table that keeps its parts, for one process at a time; parts of another key are removed.

    Raises:
        ValueError: Another process is at work on the same table.
    """
    root = folder_of(out)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        try:
            # A record lock: processes forked from this one do not hold it, and it goes with this one however that ends.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{out}: another process is writing this table (it holds {root / 'lock'})") from error
        for other in root.iterdir():
            if other.is_dir() and other.name != key:
                shutil.rmtree(other)
        (root / key).mkdir(exist_ok=True)
        yield root / key


def folder_of(out: Path) -> Path:
    """Where the parts of a table lie while it is made."""
    return out.with_name(f"{out.name}.parts")
