"""How fast the camera draws: pictures of a street with traffic, each default camera, JPEG encoding included, on one thread."""

import argparse
import io
import json
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

from irlvla.world.camera import camera_pose, mounting, picture, stage
from irlvla.world.look import look
from irlvla.world.scenery import Moment, Scenery
from irlvla.world.surroundings import scenery, signal_poles

CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")
QUALITY = 88


def crossroads() -> Scenery:
    """Two straight streets, two lanes a direction, that cross at the origin, with lights, houses and trees."""
    reach, half = 250.0, 7.0
    lanes, markings, crossings, stop_lines, approaches, sidewalks = [], [], [], [], [], []
    for angle in np.arange(4) * np.pi / 2:
        turn = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))

        def placed(points: list[tuple[float, float]], turn: np.ndarray = turn) -> np.ndarray:
            return np.array(points) @ turn.T

        lanes.append(placed([(16, -half), (reach, -half), (reach, half), (16, half)]))
        markings += [("yellow", placed([(16, side), (reach, side)])) for side in (-0.2, 0.2)]
        markings += [("dashed", placed([(16, side), (reach, side)])) for side in (-3.5, 3.5)]
        markings += [("solid", placed([(16, side), (reach, side)])) for side in (-6.8, 6.8)]
        sidewalks += [placed([(16, side), (reach, side), (reach, side + 2.5), (16, side + 2.5)]) for side in (-9.5, 7.0)]
        crossings.append([*placed([(13.5, -half)])[0], *placed([(13.5, half)])[0], 4.0])
        stop_lines.append(placed([(17, 0), (17, half)]))
        approaches.append([*placed([(17, half / 2)])[0], angle + np.pi, half, 33.0])
    square = np.array(
        ((-16.0, -half), (-half, -16.0), (half, -16.0), (16.0, -half), (16.0, half), (half, 16.0), (-half, 16.0), (-16.0, half))
    )
    poles, groups = signal_poles([*lanes, square], np.array(approaches))
    return scenery(
        name="crossroads",
        lanes=lanes,
        junctions=[square],
        markings=markings,
        crossings=np.array(crossings),
        sidewalks=sidewalks,
        stop_lines=np.array(stop_lines),
        poles=poles,
        pole_groups=groups,
        seed=7,
    )


def traffic(random: np.random.Generator, count: int) -> Moment:
    """Cars, trucks, buses and people anywhere on the two streets."""
    along = random.uniform(-120, 120, count)
    lane = random.choice([-5.25, -1.75, 1.75, 5.25], count)
    crosswise = random.random(count) < 0.5
    heading = np.where(lane < 0, 0.0, np.pi) + np.where(crosswise, np.pi / 2, 0.0)
    sizes = np.array([(4.6, 1.85, 1.5), (5.2, 2.0, 1.8), (5.7, 2.05, 2.4), (9.2, 2.5, 3.4), (12.0, 2.55, 3.1)])[random.choice(5, count)]
    x, y = np.where(crosswise, -lane, along), np.where(crosswise, along, lane)
    return Moment(
        types=np.zeros(count, np.int64),
        boxes=np.column_stack([x, y, heading, sizes]),
        seeds=random.integers(0, 1 << 30, count),
        braking=random.random(count) < 0.4,
        lights=np.array([1, 3, 1, 3]),
    )


def main() -> None:
    """Print milliseconds a picture, the compile time (cold only with an empty numba cache), and write them as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/camera.json"))
    parser.add_argument("--picture", type=Path, help="write the first frame of the front camera here")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    standing = crossroads()
    moments = [traffic(random, 40) for _ in range(options.frames)]
    begin = time.perf_counter()
    drawing = stage(standing)
    first = mounting("CAM_F0")
    picture(drawing, moments[0], camera_pose(np.zeros(3), first), first.intrinsics, first.width, first.height, look(0))
    rows = {"first picture of a town, compilation included": 1e3 * (time.perf_counter() - begin)}
    begin = time.perf_counter()
    stage(standing)
    rows["make a town ready"] = 1e3 * (time.perf_counter() - begin)
    for name in CAMERAS:
        camera = mounting(name)
        seconds, size = 0.0, 0
        for number, moment in enumerate(moments):
            ego = np.array([-90.0 + 0.7 * number, -1.75, 0.0])
            begin = time.perf_counter()
            pose = camera_pose(ego, camera)
            image = picture(drawing, moment, pose, camera.intrinsics, camera.width, camera.height, look(number))
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
            seconds += time.perf_counter() - begin
            size += file.tell()
            if number == 0 and name == "CAM_F0" and options.picture:
                options.picture.write_bytes(file.getvalue())
        rows[f"{name} {camera.width}x{camera.height}, JPEG included"] = 1e3 * seconds / len(moments)
        rows[f"{name} kB a picture"] = size / len(moments) / 1e3
    for label, value in rows.items():
        print(f"{label:50s} {value:10.2f}{'' if 'kB' in label else ' ms'}")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"commit": commit, "machine": platform.processor() or platform.machine(), "milliseconds": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
