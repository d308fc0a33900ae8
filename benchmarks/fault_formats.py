"""Every kind of file that is read from disk, cut off and with single bits changed: a part of benchmarks/faults.py."""

import dataclasses
import hashlib
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file to be damaged: `write` makes it in a folder and gives its path, `read` reads it as the project does."""

    title: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    summed: str
    """Why a changed bit can or cannot be noticed."""


def formats() -> list[Format]:
    """Everything that is read from disk and may be damaged there."""
    from irlvla import run
    from irlvla.data.features import SensorConfig, features
    from irlvla.data.frames import frame
    from irlvla.data.maps import city_map
    from irlvla.data.navsim import SceneFilter, log_frames, log_scenes
    from irlvla.data.store import Store
    from irlvla.train import labels
    from irlvla.trajectory_file import opened, plans, tokens_in
    from tests import tiny
    from tests.fuzz import readers

    def log(folder: Path) -> Path:
        return tiny.write_log(folder / "logs", [tiny.frame(place) for place in range(readers.FRAMES)])

    def scenes(path: Path) -> Any:
        chosen = SceneFilter(num_future_frames=8, has_route=False)
        log_frames(path)
        return log_scenes(path, readers._maps(), chosen, path.parents[2])

    def city(path: Path) -> Any:
        found = city_map(path.parents[2], tiny.CITY)
        return [(lane.id, lane.polygon.wkb, lane.speed_limit, lane.incoming, lane.outgoing) for lane in found.lanes.values()]

    def picture(folder: Path) -> Path:
        from PIL import Image

        y, x = np.mgrid[:540, :960]
        Image.fromarray(np.stack([x % 256, y % 256, (x + y) // 6 % 256], -1).astype(np.uint8)).save(folder / "picture.jpg", quality=80)
        return folder / "picture.jpg"

    def pixels(path: Path) -> Any:
        camera = {
            "data_path": path.name, "sensor2lidar_rotation": np.eye(3), "sensor2lidar_translation": np.zeros(3),
            "cam_intrinsic": np.eye(3), "distortion": np.zeros(5),
        }  # fmt: skip
        cameras = frame(tiny.frame(0, cams={"CAM_F0": camera}), path.parent).cameras
        scene = dataclasses.replace(tiny.scene(), cameras=(cameras,) * 4)
        return features(scene, SensorConfig(cameras=("CAM_F0",), height=24, width=44)).images

    def weights(folder: Path) -> Path:
        import torch

        values = {"policy": {"weight": torch.arange(600.0).reshape(20, 30), "bias": torch.zeros(30)}}
        run.save(folder / "checkpoint", values, {"width": 30}, {"scale": [1.0, 2.0]}, {"commit": None})
        return folder / "checkpoint" / "policy.safetensors"

    def checkpoint(path: Path) -> Any:
        found = run.load(path.parent)
        return [(name, tensor.numpy()) for name, tensor in sorted(found.weights["policy"].items())], found.config, found.normaliser

    def shard(folder: Path) -> Path:
        from irlvla.train.candidates import Columns

        about = Columns(np.zeros(5, np.int64), np.zeros(5, np.int64))
        values = np.random.default_rng(0).random((3, 5, 8, 3))
        labels.write_shard(
            folder / "shard-00000.arrow", ["a", "b", "c"], np.arange(3), values.astype(np.float32), values[..., 0], values[..., 1], about,
            {"key": "key", "shards": 1, "state": {"chains": "00", "words": {}}},
        )  # fmt: skip
        return folder / "shard-00000.arrow"

    def labelled(path: Path) -> Any:
        found = labels.opened(path.parent)
        return [found.rows, found.poses[:], found.labels[:], found.raw_labels[:], found.kinds, found.vocabulary]

    def store(name: str) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            from tests.data import test_store

            test_store.written(folder / "store")
            return folder / "store" / name

        return write

    def records(path: Path) -> Any:
        found = Store(path.parent)
        return [found.prepared(index) for index in range(len(found))]

    def archive(folder: Path) -> Path:
        np.savez(folder / "plans.npz", a_poses=np.random.default_rng(0).random((20, 8, 3)))
        return folder / "plans.npz"

    def trajectories(path: Path) -> Any:
        with opened(path) as file:
            return [plans(file, token, "") for token in tokens_in(file)]

    foreign = "the format has no sum"
    return [
        Format(title="log (pickle)", write=log, read=scenes, summed=f"{foreign}; values are checked for sense"),
        Format(title="map (GPKG)", write=lambda folder: tiny.write_maps(folder / "maps"), read=city, summed=f"{foreign}; the graph is checked"),
        Format(title="picture (JPEG)", write=picture, read=pixels, summed=foreign),
        Format(title="weights (safetensors)", write=weights, read=checkpoint, summed="sum in checkpoint.json"),
        Format(
            title="checkpoint.json", write=lambda folder: weights(folder).with_name("checkpoint.json"),
            read=lambda path: checkpoint(path), summed="sum in itself",
        ),
        Format(title="labels (Arrow)", write=shard, read=labelled, summed="sum in its notes"),
        Format(title="scenes of a store", write=store("prepared-0000.bin"), read=records, summed="sum of each record"),
        Format(title="trajectories (npz)", write=archive, read=trajectories, summed="sums of zip"),
    ]  # fmt: skip


def digest(value: Any) -> str:
    """A hash of a result: arrays, dataclasses, containers, plain values."""
    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, np.ndarray) and part.dtype != object:
            found.update(f"{part.shape}{part.dtype}".encode() + np.ascontiguousarray(part).tobytes())
        elif dataclasses.is_dataclass(part):
            for field in dataclasses.fields(part):
                if field.name != "lane_map":
                    add(getattr(part, field.name))
        elif isinstance(part, dict):
            add(list(part.items()))
        elif isinstance(part, list | tuple | np.ndarray):
            found.update(str(len(part)).encode())
            for inner in part:
                add(inner)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()


def damage(flips: int, cuts: int = 20) -> Iterator[dict[str, Any]]:
    """Each kind of file cut off, and with one bit changed, at places that follow from a seed."""
    warnings.simplefilter("ignore")
    for one in formats():
        with tempfile.TemporaryDirectory() as temporary:
            path = one.write(Path(temporary))
            whole, right = path.read_bytes(), digest(one.read(path))
            chance = random.Random(one.title)
            for kind, count in (("cut off", cuts), ("one bit changed", flips)):
                counts = {"error": 0, "same": 0, "other": 0}
                strange = []
                for _ in range(count):
                    place = chance.randrange(len(whole))
                    changed = bytearray(whole[:place] if kind == "cut off" else whole)
                    if kind != "cut off":
                        changed[place] ^= 1 << chance.randrange(8)
                    path.write_bytes(changed)
                    try:
                        counts["same" if digest(one.read(path)) == right else "other"] += 1
                    except ValueError as error:
                        named = (
                            path.name in str(error) or path.parent.name in str(error) or "a_poses" in str(error) or "scene " in str(error)
                        )
                        counts["error"] += 1
                        strange += [] if named else [str(error)[:150]]
                unnoticed = f", {counts['other']} read as something else ({one.summed})" if counts["other"] else ""
                allowed = counts["other"] == 0 or (kind != "cut off" and one.summed.startswith("the format has no sum"))
                yield {
                    "kind": "damaged", "what": f"{one.title}, {kind}", "tried": f"{count} places",
                    "seen": f"{counts['error']} errors that name it, {counts['same']} the same result{unnoticed}"
                    + (f"; NOT NAMED: {strange[0]}" if strange else ""),
                    "good": allowed and not strange,
                }  # fmt: skip
