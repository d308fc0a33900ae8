"""A small world with two logs, and footage of the moments in which what follows a scene of each begins."""

import numpy as np
from PIL import Image

from irlvla.data.features import SensorConfig
from irlvla.follow_ups import DRAWN_FRAMES, write_follow_ups
from irlvla.world.camera import EGO_FROM_LIDAR, mounting
from irlvla.world.look import look
from irlvla.world.scenery import Footage, save_footage, save_scenery

from .tiny import ORIGIN, frame, table, write_log, write_maps
from .world.test_camera import moment, town

CAMERA = "CAM_F0"
SENSORS = SensorConfig(cameras=(CAMERA,), height=24, width=44)
NOW = 4
LOGS = ("one", "two")
CAR = ("vehicle", 60.0, 3.2, 0.0, 4.6, 1.8, 1.5, 3, False)
ROADS = {"1": ((-20.0, 0.0), (150.0, 0.0)), "2": ((160.0, 0.0), (210.0, 0.0))}


def logged(name, **changes):
    """A log along a straight road at 5 m/s, with one car 20 m ahead and 3 m to the left of every frame's ego."""
    rig = mounting(CAMERA)
    about = {"sensor2lidar_rotation": rig.rotation, "sensor2lidar_translation": rig.translation, "cam_intrinsic": rig.intrinsics}
    lidar = {"lidar2ego_rotation": np.array((1.0, 0.0, 0.0, 0.0)), "lidar2ego_translation": np.array(EGO_FROM_LIDAR)}
    rows = []
    for place in range(NOW + 17):
        own = frame(place, log=name, traffic_lights=[], **changes)
        own["token"] = f"{LOGS.index(name) + 1:x}{place:015x}"
        camera = about | {"distortion": np.zeros(5), "data_path": f"{name}/{CAMERA}/{own['token']}.jpg"}
        rows.append(own | {"cams": {CAMERA: camera}} | lidar)
    return rows


def made_world(root, **changes):
    """The folder of a world, and the scenes of it that others shall follow: log name -> token."""
    write_maps(root / "maps", table(ROADS, {"11": ("1", "2")}))
    logs, followed = root / "openscene", {}
    (logs / "sidecar").mkdir(parents=True)
    save_scenery(logs / "sidecar" / "street.npz", town(at=ORIGIN))
    for name in LOGS:
        frames = logged(name, **changes)
        write_log(logs, frames, name=name)
        tokens = tuple(frames[NOW + later]["token"] for later in DRAWN_FRAMES)
        film = Footage(town="street", look=look(4), tokens=tokens, moments=(moment([CAR], at=ORIGIN),) * 2)
        save_footage(logs / "sidecar" / f"{name}.npz", film)
        blobs = logs / "sensor_blobs" / "test" / name / CAMERA
        blobs.mkdir(parents=True)
        for row in frames[NOW - 1 : NOW + 1]:
            Image.new("RGB", (384, 216)).save(blobs / f"{row['token']}.jpg")
        followed[name] = frames[NOW]["token"]
    return root, followed


def followed_world(root, count=3):
    """The folder of a world with follow-ups, and which scenes belong together."""
    folder, followed = made_world(root)
    return folder, write_follow_ups(folder, followed, count, (CAMERA,), seed=1, processes=1)
