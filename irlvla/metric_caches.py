"""Scenes out of the devkit's metric caches, ready to score; neither logs nor the devkit are needed, maps only for traffic that reacts."""

from pathlib import Path

import numpy as np

from irlvla.data.maps import Maps
from irlvla.data.metric_cache import cached_scene, metric_cache_paths
from irlvla.score.drivers import with_drivers
from irlvla.score.prepared import Traffic, completed
from irlvla.types import PreparedScene


def metric_cache_scenes(folder: str | Path, maps: str | Path | None = None) -> list[PreparedScene]:
    """All scenes whose caches lie below a folder, in order of path; see `irlvla.load_metric_caches`."""
    cities = None if maps is None else Maps(maps)
    return [metric_cache_scene(path, cities) for path in metric_cache_paths(folder).values()]


def metric_cache_scene(path: str | Path, maps: Maps | None = None) -> PreparedScene:
    """The scene of one metric_cache.pkl; errors as in `irlvla.data.metric_cache.cached_scene`.

    What stands in the cache counts as it is, the devkit's own reference plan and centre line too. EC is defined for all plans with
    previous ones: the cache does not say whether the log has a whole scene 0.5 s before.

    Args:
        path: The file.
        maps: Map files, read as needed, for traffic that reacts: the cache names the city and holds no lanes.
    """
    scene, now = cached_scene(path)
    try:
        if maps is None:
            return completed(scene)
        places = {token: place for place, token in enumerate(dict.fromkeys(now.track_tokens))}
        traffic = Traffic(
            types=scene.object_types,
            first_speed=scene.object_first_speed,
            boxes=scene.object_boxes,
            valid=scene.object_valid,
            now=np.array([places[token] for token in now.track_tokens], dtype=np.int64),
            types_now=now.types,
            boxes_now=now.boxes[:, [0, 1, 6, 3, 4]],
            velocities_now=now.velocities[:, :2],
        )
        return with_drivers(completed(scene), traffic, maps[scene.map_name])
    except (ValueError, IndexError) as error:
        raise ValueError(f"metric cache {path} cannot be used: {error}") from error
