"""Each reader of files with a way to make damaged input for it: `prepare` a folder, `write` an input into it, `read` it as the project does."""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from PIL import Image

from irlvla import run
from irlvla.data.elements import elements
from irlvla.data.facts import facts
from irlvla.data.features import SensorConfig, features, targets
from irlvla.data.frames import frame
from irlvla.data.maps import Maps, city_map
from irlvla.data.navsim import SceneFilter, log_scenes, scene_filter
from irlvla.data.store import Store
from irlvla.evaluate import DISTANCE_NAMES, METRIC_NAMES, SceneTable, read_table, write_table
from irlvla.score.epdms import sub_scores
from irlvla.score.prepared import prepared
from irlvla.train.reward import RewardConfig
from irlvla.trajectory_file import KINDS, opened, plans, tokens_in

from .. import tiny
from ..data import test_store
from . import devkit_readers as devkit
from . import mutations

FRAMES = 13
FILTER = SceneFilter(num_future_frames=8, has_route=False)
YAML = (
    b"_target_: navsim.common.dataclasses.SceneFilter\n_convert_: 'all'\n"
    b"num_history_frames: 4\nnum_future_frames: 10\nframe_interval: 1\nhas_route: true\n"
    b"max_scenes: null\nlog_names: ['2021.05.12.22.00.38_veh-35_01008_01518', \"log\"]\ntokens:\n- '0123456789abcdef'\n- 'a'\n"
)
YAML_WORDS = (
    b"&a ", b"*a", b"<<: *a\n", b"!!python/object/apply:os.system ['touch /tmp/never']", b"!!python/name:os.system", b"!!binary ", b"!!int ''",
    b"!!timestamp x", b"!!bool x",
    b"!!set {a}", b"!!omap [a: 1]", b"2001-99-99", b"1:99:99", b"1" * 5000, b"[" * 400, b"{" * 400, b"? ", b": ", b"- ", b"|\n", b">\n", b"\t",
    b"%YAML 9.9\n---\n", b"---\n", b"...\n",
    b".inf", b".nan", b"~", b"true", b"-1", b"0x_", b"0b", b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"&a [*a, *a]", b"&a {<<: *a}",
)  # fmt: skip
JSON_WORDS = (
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"1" * 5000,
    b"NaN",
    b"Infinity",
    b"-",
    b"1e999",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'""',
    b'"..\\u002f.."',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"1.0/../1.0"',
)


class _OneCity(Maps):
    """Stands in for the map files: one city, made in memory."""

    def __init__(self) -> None:
        self._known = {tiny.CITY: tiny.city(motion=(*tiny.ORIGIN, 0.0))}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            raise ValueError(f"log.pkl: no map {ascii(name)}")
        return self._known[name]


@cache
def _maps() -> _OneCity:
    return _OneCity()


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What is fuzzed: `file` below the folder. `words` are what a message has to hold one of: the file's name, or the scene's."""

    file: str
    prepare: Callable[[Path], Any]
    write: Callable[[Any, Path, Any], None]
    read: Callable[[Path], Any]
    words: tuple[str, ...]


def _log_frames() -> list[dict]:
    camera = {
        "data_path": "log/CAM_F0/a.jpg", "sensor2lidar_rotation": np.eye(3), "sensor2lidar_translation": np.zeros(3), "cam_intrinsic": np.eye(3),
        "distortion": np.zeros(5),
    }  # fmt: skip
    lidar = {"lidar2ego_rotation": np.array((1.0, 0.0, 0.0, 0.0)), "lidar2ego_translation": np.zeros(3)}
    return [tiny.frame(place, cams={"CAM_F0": camera}, **lidar) for place in range(FRAMES)]


def _prepare_log(folder: Path) -> dict[str, Any]:
    frames = _log_frames()
    contents = [pickle.dumps(frames, protocol) for protocol in range(6)]
    contents.append(contents[0].replace(b"numpy._core", b"numpy.core"))
    tiny.write_log(folder / "logs", contents[4])
    return {"frames": frames, "contents": contents, "codes": [mutations.opcodes(content) for content in contents]}


def _write_log(random: Any, folder: Path, seeds: dict[str, Any]) -> None:
    way = random.randrange(4)
    place = random.randrange(len(seeds["contents"]))
    if way == 0:
        content = mutations.spoiled(random, seeds["contents"][place], seeds["contents"], mutations.EVIL_OPCODES)
    elif way == 1:
        content = mutations.reordered(random, seeds["codes"][place])
    elif way == 2:
        content = b"".join(random.choice(mutations.EVIL_OPCODES) for _ in range(random.randrange(12))) + random.choice((b"", b"."))
    else:
        content = mutations.other_frames(random, seeds["frames"])
    tiny.write_log(folder / "logs", content)


def _read_log(folder: Path) -> int:
    scenes = log_scenes(folder / "logs" / "navsim_logs" / "test" / "log.pkl", _maps(), FILTER, folder / "logs")
    for scene in scenes[:1]:
        ready = prepared(scene)
        features(scene, SensorConfig(cameras=()))
        targets(scene, ready), elements(scene), facts(scene, ready)
        sub_scores(ready, ready.human_poses[None])
    return len(scenes)


def _prepare_map(folder: Path) -> dict[str, Any]:
    square = shapely.box(52.0, -5.0, 58.0, 5.0)
    path = tiny.write_maps(folder / "maps", tiny.table(intersections=[square], carparks=[square], crosswalks=[square], stops=[square]))
    tables = {name: ["geom", *columns] for name, (*_, columns) in tiny.table().items()} | {"meta": ["key", "value"]}
    tables |= {
        "gpkg_geometry_columns": ["table_name", "column_name", "srs_id"],
        "gpkg_spatial_ref_sys": ["organization", "organization_coordsys_id"],
    }
    return {"content": path.read_bytes(), "tables": tables}


def _map_file(folder: Path) -> Path:
    return folder / "maps" / tiny.CITY / "1.0" / "map.gpkg"


def _write_map(random: Any, folder: Path, seeds: dict[str, Any]) -> None:
    path = _map_file(folder)
    if random.random() < 0.5:
        path.write_bytes(
            mutations.spoiled(
                random, seeds["content"], (seeds["content"],), (b"<OGRVRTDataSource>", b"SQLite format 3\0", b"CREATE VIEW ", b"GP\0\x01")
            )
        )
    else:
        path.write_bytes(seeds["content"])
        mutations.other_cells(random, path, seeds["tables"])
        if random.random() < 0.1:
            path.write_bytes(mutations.spoiled(random, path.read_bytes()))


def _read_map(folder: Path) -> int:
    found = city_map(folder / "maps", tiny.CITY)
    scene = tiny.scene(found, (*(tiny.ORIGIN + (10.0, 0.0)), 0.0))
    ready = prepared(scene)
    elements(scene), facts(scene, ready)
    sub_scores(ready, ready.human_poses[None])
    return len(found.lanes)


def _prepare_index(folder: Path) -> bytes:
    tiny.write_maps(folder / "maps")
    return json.dumps({tiny.CITY: {"version": "1.0", "layers": {}}, "us-ma-boston": {"version": "9"}}).encode()


def _write_index(random: Any, folder: Path, seed: bytes) -> None:
    (folder / "maps" / "nuplan-maps-v1.0.json").write_bytes(mutations.spoiled(random, seed, (seed,), JSON_WORDS))


def _write_filter(random: Any, folder: Path, seed: bytes) -> None:
    (folder / "filter.yaml").write_bytes(mutations.spoiled(random, seed, (seed,), YAML_WORDS))


def _prepare_table(folder: Path) -> bytes:
    tokens = tuple(f"{place:016x}" for place in range(4))
    values = {name: np.full(4, 0.5) for name in (*METRIC_NAMES, *DISTANCE_NAMES)}
    write_table(folder / "table.csv", SceneTable(policy="table", tokens=tokens, log_names=("a", "a", "b", "b"), values=values))
    return (folder / "table.csv").read_bytes()


def _write_table(random: Any, folder: Path, seed: bytes) -> None:
    words = (b"nan", b"inf", b"-1", b"1e999", b"abc", b'"', b"," * 50, b"\0", b"\xff", b"\n\n", b"a" * 200_000)
    (folder / "table.csv").write_bytes(mutations.spoiled(random, seed, (seed,), words))


def _prepare_picture(folder: Path) -> list[bytes]:
    rng, contents = np.random.default_rng(0), []
    for form, options in (
        ("JPEG", {"quality": 80}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {}),
        ("ICO", {}),
        ("PPM", {}),
    ):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (54, 96, 3), np.uint8)).save(stream, form, **options)
        contents.append(stream.getvalue())
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 54\n%%EndComments\n(never) (w) file\nshowpage\n%%EOF\n"
    return [*contents, contents[0], contents[1], contents[0], postscript]


def _write_picture(random: Any, folder: Path, seeds: list[bytes]) -> None:
    sizes = (b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03", b"\xff\xc2", b"\xff\xd9", b"\xff\xe1\xff\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (folder / "picture.jpg").write_bytes(mutations.spoiled(random, random.choice(seeds), seeds, sizes))


def _read_picture(folder: Path) -> int:
    camera = {
        "data_path": "picture.jpg", "sensor2lidar_rotation": np.eye(3), "sensor2lidar_translation": np.zeros(3), "cam_intrinsic": np.eye(3),
        "distortion": np.zeros(5),
    }  # fmt: skip
    cameras = frame(tiny.frame(0, cams={"CAM_F0": camera}), folder).cameras
    scene = replace(tiny.scene(), cameras=(cameras,) * 4)
    return features(scene, SensorConfig(cameras=("CAM_F0",), height=24, width=44)).images.size


def _prepare_store(folder: Path) -> dict[str, bytes]:
    test_store.written(folder / "store")
    return {path.name: path.read_bytes() for path in sorted((folder / "store").iterdir())}


def _write_store(random: Any, folder: Path, seeds: dict[str, bytes]) -> None:
    for name, content in seeds.items():
        (folder / "store" / name).write_bytes(content)
    name = random.choice(("store.json", "store.json", *seeds))
    if random.random() < 0.05:
        (folder / "store" / name).unlink()
        return
    words = JSON_WORDS if name.endswith(".json") else (b"|O", b"99999999", b"<f8", b"'shape': (4, 2, 4)", b"\xff" * 8)
    (folder / "store" / name).write_bytes(mutations.spoiled(random, seeds[name], tuple(seeds.values()), words))


def _read_store(folder: Path) -> int:
    store = Store(folder / "store")
    indices = range(len(store))
    store.features(indices), store.human(indices), store.targets(indices), store.elements(indices), store.facts(indices)
    before = [index for index in indices if store.has_previous[index]]
    store.features(before, previous=True)
    for index in indices:
        ready = store.prepared(index)
        sub_scores(ready, ready.human_poses[None])
    return len(store)


def _prepare_plans(folder: Path) -> dict[str, Any]:
    arrays = {"a_poses": np.zeros((2, 8, 3)), "a_prev_poses": np.ones((2, 8, 3)), "a_poses_10hz": np.zeros((2, 40, 3))}
    contents = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, **arrays)
        contents.append(stream.getvalue())
    return {"arrays": arrays, "contents": contents}


def _write_plans(random: Any, folder: Path, seeds: dict[str, Any]) -> None:
    if random.random() < 0.5:
        content = mutations.spoiled(
            random, random.choice(seeds["contents"]), seeds["contents"], (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
        )
    else:
        content = mutations.other_archive(random, seeds["arrays"])
    (folder / "plans.npz").write_bytes(content)


def _read_plans(folder: Path) -> int:
    path, count = folder / "plans.npz", 0
    with opened(path) as archive:
        for token in tokens_in(archive):
            for suffix, _, _ in KINDS:
                for poses in plans(archive, token, suffix):
                    count += 0 if poses is None else len(poses)
    return count


def _prepare_checkpoint(folder: Path) -> dict[str, bytes]:
    weights = {"policy": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}}
    config = {"sensors": SensorConfig(), "train": RewardConfig(), "rate": 0.1}
    run.save(folder / "checkpoint", weights, config, {"mean": [0.0, 1.0]}, {"commit": None})
    path = folder / "checkpoint" / "checkpoint.json"
    # Without the sums, by which every damage would be known at once, as older versions wrote it.
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in ("sum", "sums")}))
    return {path.name: path.read_bytes() for path in sorted((folder / "checkpoint").iterdir())}


def _write_checkpoint(random: Any, folder: Path, seeds: dict[str, bytes]) -> None:
    for name, content in seeds.items():
        (folder / "checkpoint" / name).write_bytes(content)
    name = random.choice(("checkpoint.json", *seeds))
    words = (*JSON_WORDS, b"-1", b'"a"', b"[1]", b'"../x"', b"F64", b"BOOL", b'"data_offsets":[0,99999999]')
    (folder / "checkpoint" / name).write_bytes(mutations.spoiled(random, seeds[name], tuple(seeds.values()), words))


def _read_checkpoint(folder: Path) -> int:
    checkpoint = run.load(folder / "checkpoint")
    try:
        run.config_of(SensorConfig, checkpoint.config.get("sensors"))
        run.config_of(RewardConfig, checkpoint.config.get("train"))
    except ValueError as error:
        raise ValueError(f"checkpoint: {error}") from error
    return len(checkpoint.weights)


READERS = {
    "pickle": Reader(
        file="logs/navsim_logs/test/log.pkl", prepare=_prepare_log, write=_write_log, read=_read_log, words=("log.pkl", "scene 0")
    ),
    "gpkg": Reader(
        file=f"maps/{tiny.CITY}/1.0/map.gpkg",
        prepare=_prepare_map,
        write=_write_map,
        read=_read_map,
        words=("map.gpkg", "scene 0", f"map {tiny.CITY}"),
    ),
    "index": Reader(
        file="maps/nuplan-maps-v1.0.json",
        prepare=_prepare_index,
        write=_write_index,
        read=lambda folder: len(city_map(folder / "maps", tiny.CITY).lanes),
        words=("nuplan-maps", "map.gpkg"),
    ),
    "npz": Reader(
        file="plans.npz", prepare=_prepare_plans, write=_write_plans, read=_read_plans, words=("plans.npz", "array ", "plans in a_poses")
    ),
    "yaml": Reader(
        file="filter.yaml",
        prepare=lambda _: YAML,
        write=_write_filter,
        read=lambda folder: scene_filter(folder / "filter.yaml").num_future_frames,
        words=("filter.yaml",),
    ),
    "csv": Reader(
        file="table.csv",
        prepare=_prepare_table,
        write=_write_table,
        read=lambda folder: len(read_table(folder / "table.csv").tokens),
        words=("table.csv",),
    ),
    "picture": Reader(file="picture.jpg", prepare=_prepare_picture, write=_write_picture, read=_read_picture, words=("picture.jpg",)),
    "checkpoint": Reader(
        file="checkpoint/checkpoint.json",
        prepare=_prepare_checkpoint,
        write=_write_checkpoint,
        read=_read_checkpoint,
        words=("checkpoint",),
    ),
    "submission": Reader(
        file="submission.pkl",
        prepare=devkit.prepare_submission,
        write=devkit.write_submission,
        read=devkit.read_submitted,
        words=("submission.pkl",),
    ),
    "synthetic": Reader(
        file=f"{devkit.TOKEN}.pkl",
        prepare=devkit.prepare_synthetic,
        write=devkit.write_synthetic,
        read=devkit.read_synthetic,
        words=(devkit.TOKEN,),
    ),
    "cache": Reader(
        file=f"{devkit.CACHED}/metric_cache.pkl",
        prepare=devkit.prepare_cache,
        write=devkit.write_cache,
        read=devkit.read_cache,
        words=("metric_cache.pkl",),
    ),
    "split": Reader(
        file="split.yaml",
        prepare=devkit.prepare_split,
        write=lambda random, folder, seed: (
            (folder / "split.yaml").write_bytes(mutations.spoiled(random, seed, (seed,), YAML_WORDS)) and None
        ),
        read=devkit.read_split,
        words=(".yaml",),
    ),
    "store": Reader(file="store/store.json", prepare=_prepare_store, write=_write_store, read=_read_store, words=("store",)),
}
