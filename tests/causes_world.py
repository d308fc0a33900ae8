"""A store of one scene of a small world with its sidecar: a car ahead, one beside the way, a red light ahead and one of a crossing street."""

import numpy as np
from PIL import Image

from irlvla.data.features import SensorConfig
from irlvla.prepare import prepare
from irlvla.world.camera import EGO_FROM_LIDAR, JPEG_QUALITY, camera_pose, mounting, picture, stage
from irlvla.world.look import look
from irlvla.world.scenery import Footage, save_footage, save_scenery

from .tiny import ORIGIN, frame, write_log, write_maps
from .world.test_camera import moment, town

CAMERA = "CAM_F0"
SENSORS = SensorConfig(cameras=(CAMERA,))
NOW = 4
"""An even frame: the connector 111 from 50 to 60 m along the road is red then."""
RED, GREEN = 1, 3
CAR = ("vehicle", 18.0, 0.0, 0.0, 4.6, 1.8, 1.5, 3, True)
WALL = ("vehicle", 24.0, 5.5, np.pi, 4.6, 1.8, 1.5, 5, False)
"""As CAR, seen from the ego."""
POLES = [(50.5, -4.0, np.pi, 0.0), (56.0, 4.5, np.pi + 1.1, 0.0)]
"""At 40.5 m and 46 m from the ego, which is 10 m along the road."""


def made_world(root, tokens=None):
    """The store; `tokens` are of the two moments that the sidecar knows."""
    write_maps(root / "maps")
    rig, logs = mounting(CAMERA), root / "openscene"
    about = {"sensor2lidar_rotation": rig.rotation, "sensor2lidar_translation": rig.translation, "cam_intrinsic": rig.intrinsics}
    lidar = {"lidar2ego_rotation": np.array((1.0, 0.0, 0.0, 0.0)), "lidar2ego_translation": np.array(EGO_FROM_LIDAR)}
    frames = []
    for place in range(14):
        own = frame(place)
        camera = about | {"distortion": np.zeros(5), "data_path": f"log/{CAMERA}/{own['token']}.jpg"}
        frames.append(own | {"cams": {CAMERA: camera}} | lidar)
    write_log(logs, frames, split="trainval")
    standing = town(poles=POLES, groups=[0, 1], at=ORIGIN)
    moving = moment([CAR, WALL], lights=[RED, GREEN], at=ORIGIN + (2.5 * NOW, 0.0))
    folder = logs / "sensor_blobs" / "trainval" / "log" / CAMERA
    folder.mkdir(parents=True)
    for place in range(NOW + 1):
        pose = camera_pose(np.array([*(ORIGIN + (2.5 * place, 0.0)), 0.0]), rig)
        image = picture(stage(standing), moving, pose, rig.intrinsics, rig.width, rig.height, look(4))
        Image.fromarray(image).save(folder / f"{frames[place]['token']}.jpg", quality=JPEG_QUALITY)
    (logs / "sidecar").mkdir()
    save_scenery(logs / "sidecar" / "street.npz", standing)
    known = tuple(row["token"] for row in frames[NOW - 1 : NOW + 1])
    save_footage(logs / "sidecar" / "log.npz", Footage(town="street", look=look(4), tokens=tokens or known, moments=(moving,) * 2))
    split = root / "split.yaml"
    lines = ["num_history_frames: 4", "num_future_frames: 8", "has_route: true", "log_names: ['log']", f"tokens: ['{known[1]}']"]
    split.write_text("\n".join(lines) + "\n")
    return prepare(logs, root / "maps", split, root / "store", SENSORS, processes=1)
