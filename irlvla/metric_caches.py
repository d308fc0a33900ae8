"""Scenes out of the devkit's metric caches, ready to score; neither logs nor maps nor the devkit are needed."""

from pathlib import Path

from irlvla.data.metric_cache import cached_scene, metric_cache_paths
from irlvla.score.prepared import completed
from irlvla.types import PreparedScene


def metric_cache_scenes(folder: str | Path) -> list[PreparedScene]:
    """All scenes whose caches lie below a folder, in order of path; see `irlvla.load_metric_caches`."""
    return [metric_cache_scene(path) for path in metric_cache_paths(folder).values()]


def metric_cache_scene(path: str | Path) -> PreparedScene:
    """The scene of one metric_cache.pkl; errors as in `irlvla.data.metric_cache.cached_scene`.

    What stands in the cache counts as it is, the devkit's own reference plan and centre line too. EC is defined for all plans with
    previous ones: the cache does not say whether the log has a whole scene 0.5 s before.
    """
    scene = cached_scene(path)
    try:
        return completed(scene)
    except (ValueError, IndexError) as error:
        raise ValueError(f"metric cache {path} cannot be used: {error}") from error
