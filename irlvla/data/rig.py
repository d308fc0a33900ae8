"""Cameras of a log -> the rig that comes with a policy's pictures: calibrations as shares of a picture's size, in the ego frame.

A camera's place is composed as its log says: lidar to ego after camera to lidar. NAVSIM's logs call camera to ego "sensor2lidar" (CAM_F0
lies at 1.66, -0.01, 1.49 m there) and have no way between lidar and ego, since their merged point clouds are in the ego frame.

A log's ego frame has its origin at the rear axle. The embedded world puts it onto the road. nuPlan's logs have it at the height of the
axle: there `ground` (`irlvla.data.features.SensorConfig`) is about -0.4 m, the road's height in that frame, so that z = 0 is the road
in a rig of either. It is no exact number: nuPlan gives none, the car leans, and roads bend.

Source: OpenDriveLab/OpenScene at 436e7e5, create_openscene_metadata.py and nuplan_cameras_utils.py (what the keys of a log hold);
autonomousvision/navsim, issue 71 (point clouds are in the ego frame, origin at the rear axle). py123d 0.7 puts the centre of nuPlan's
Pacifica, 1.777 m high, 0.45 m above the rear axle (with the remark that nuPlan does not say), and so the axle 0.44 m above the road;
half the height of its tyres, 235/65 R17, is 0.37 m.
"""

from collections.abc import Sequence

import numpy as np

from irlvla.types import Camera, Rig


def views_of(name: str) -> int:
    """How many views a camera gives: the front camera's middle half is a second one."""
    return 2 if name == "CAM_F0" else 1


def camera_rig(camera: Camera, width: int, height: int, ground: float = 0.0) -> Rig:
    """The rig of one camera's views: the whole picture, and for the front camera its middle half, whose lens is twice as long.

    Args:
        camera: its calibration.
        width: of the picture that the calibration is of, pixels.
        height: likewise.
        ground: height of the road in the log's ego frame, m.

    Raises:
        ValueError: a focal length is not positive.
    """
    matrix, count = camera.intrinsics, views_of(camera.name)
    fx, fy, cx, cy = matrix[0, 0] / width, matrix[1, 1] / height, matrix[0, 2] / width, matrix[1, 2] / height
    if not (fx > 0.0 and fy > 0.0):
        raise ValueError(f"{camera.name} has the focal lengths {matrix[0, 0]} and {matrix[1, 1]}, not positive ones")
    views = [(fx, fy, cx, cy), (2.0 * fx, 2.0 * fy, 2.0 * cx - 0.5, 2.0 * cy - 0.5)]
    turn = camera.ego_from_lidar[:3, :3]
    ego_from_camera = np.empty((count, 3, 4), np.float32)
    ego_from_camera[..., :3] = turn @ camera.rotation
    ego_from_camera[..., 3] = turn @ camera.translation + camera.ego_from_lidar[:3, 3] - (0.0, 0.0, ground)
    return Rig(
        intrinsics=np.array(views[:count], np.float32),
        distortion=np.array([camera.distortion] * count, np.float32),
        ego_from_camera=ego_from_camera,
        valid=np.ones(count, dtype=bool),
    )


def missing_rig(name: str) -> Rig:
    """The rig of a camera's views where it took no picture: zeros, not valid."""
    return _empty(views_of(name))


def joined_rigs(rigs: Sequence[Rig]) -> Rig:
    """The views of several rigs side by side, in their order."""
    parts = [_empty(0), *rigs]
    return Rig(
        intrinsics=np.concatenate([rig.intrinsics for rig in parts]),
        distortion=np.concatenate([rig.distortion for rig in parts]),
        ego_from_camera=np.concatenate([rig.ego_from_camera for rig in parts]),
        valid=np.concatenate([rig.valid for rig in parts]),
    )


def _empty(views: int) -> Rig:
    return Rig(
        intrinsics=np.zeros((views, 4), np.float32),
        distortion=np.zeros((views, 5), np.float32),
        ego_from_camera=np.zeros((views, 3, 4), np.float32),
        valid=np.zeros(views, dtype=bool),
    )
