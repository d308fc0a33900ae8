"""What a store costs, CPU seconds (one thread) and bytes a scene by part, and how often its facts occur.

python benchmarks/store.py WORLD [--split val] [--scenes 100]
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from irlvla.data import features, navsim, store
from irlvla.data.elements import elements
from irlvla.data.facts import FACT_NAMES, fact_words, facts
from irlvla.data.features import SensorConfig
from irlvla.data.records import packed
from irlvla.prepare import prepared_with_moments
from irlvla.score.prepared import prepared
from irlvla.types import HISTORY, Camera


def main(world: Annotated[Path, tyro.conf.Positional], split: str = "val", scenes: int = 100) -> None:
    """Times the parts on one thread.

    Args:
        world: a folder made by `irlvla world`.
        split: which of its splits.
        scenes: how many scenes.
    """
    chosen = navsim.scene_filter(world / "splits" / f"{split}.yaml")
    paths = navsim.log_paths(world / "openscene")
    maps, sensors = navsim.Maps(world / "maps"), SensorConfig()
    found, read = [], 0.0
    for name in sorted(chosen.log_names or paths):
        begin = time.process_time()
        found += navsim.log_moments(paths[name], maps, replace(chosen, max_scenes=None), world / "openscene")
        read += time.process_time() - begin
        if len(found) >= scenes:
            break
    prepared_with_moments(*found[0], sensors)
    parts = {"read log": read / len(found)}
    parts["prepare score"] = _seconds(found, lambda now, previous: prepared(now))
    parts["pictures (both moments)"] = _seconds(
        found, lambda now, previous: [features.pictures(one, sensors) for one in (now, previous) if one]
    )
    ready = [prepared(now) for now, _ in found]
    begin = time.process_time()
    for (now, _), scene in zip(found, ready, strict=True):
        for frame in (HISTORY - 1, HISTORY - 2):
            elements(now, frame), facts(now, scene, frame)
    parts["elements and facts (both)"] = (time.process_time() - begin) / len(found)
    parts["all but reading"] = _seconds(found, lambda now, previous: prepared_with_moments(now, previous, sensors))
    parts["pictures of 1920 x 1080"] = len(sensors.cameras) * 2 * _large_picture(found[0][0].cameras[-1][0], sensors)
    record = sum(len(packed(prepared(now))[0]) for now, _ in found) // len(found)
    size = store.size_of(1, sensors, record)
    print(f"{len(found)} scenes, {size / 1e3:.0f} kB a scene, of which {record / 1e3:.0f} kB map, traffic and references")
    for name, seconds in parts.items():
        print(f"{name:27s}{1e3 * seconds:8.2f} ms a scene")
    said = [fact_words(facts(now, scene)) for (now, _), scene in zip(found, ready, strict=True)]
    counts = {field: {name: sum(words[field] == name for words in said) for name in names} for field, names in FACT_NAMES.items()}
    for field, names in counts.items():
        print(f"{field:14s}" + "  ".join(f"{name} {count}" for name, count in names.items()))
    print(json.dumps({"scenes": len(found), "bytes": size, "seconds": parts, "facts": counts}))


def _large_picture(camera: Camera, sensors: SensorConfig, repeats: int = 20) -> float:
    """Seconds for one picture of NAVSIM's size, made from the world's by enlarging it and adding noise."""
    with Image.open(camera.path) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((1920, 1080)), dtype=np.float64)
    noise = np.random.default_rng(0).normal(0.0, 6.0, pixels.shape)
    with tempfile.TemporaryDirectory() as folder:
        large = replace(camera, path=f"{folder}/large.jpg")
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(large.path, quality=90)
        one = SensorConfig(cameras=(camera.name,), height=sensors.height, width=sensors.width)
        scene = SimpleNamespace(token="large", cameras=((large,),) * HISTORY)
        begin = time.process_time()
        for _ in range(repeats):
            features.pictures(scene, one)
        return (time.process_time() - begin) / repeats


def _seconds(found, work) -> float:
    begin = time.process_time()
    for now, previous in found:
        work(now, previous)
    return (time.process_time() - begin) / len(found)


if __name__ == "__main__":
    tyro.cli(main)
