"""Camera-based driving policies judged by an exact and fast NAVSIM v2 EPDMS.

Three calls score plans, without torch:

    scenes = irlvla.load_scenes(logs, maps, "test")          # NAVSIM's logs and nuPlan's maps
    scores = irlvla.score(scenes[0], poses)                  # poses (N, 8, 3) -> nine sub-scores of each plan
    total = irlvla.epdms(scores)                             # (N,), in [0, 1]

`irlvla.prepare.scene_store` prepares scenes once on disk, `irlvla.score_table.score_split` scores a file of plans for a whole
split over several processes (the command `irlvla score`), `irlvla.definitions` names the scores there are.

Importing this package is cheap: numba, shapely and the like come in with the first call, torch never.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Shaped

from irlvla.types import PreparedScene, SubScores

if TYPE_CHECKING:
    # What a type checker sees of the package `irlvla.score`, which can be called.
    from irlvla.score import score as score
else:
    from irlvla import score

__all__ = ["PreparedScene", "SubScores", "epdms", "load_metric_caches", "load_scenes", "score"]


def load_scenes(
    logs: str | Path | None,
    maps: str | Path | None,
    split: str | Path | None = None,
    tokens: Sequence[str] | None = None,
    store: str | Path | None = None,
) -> list[PreparedScene]:
    """Scenes ready to score.

    All of them are held in memory, 0.1 MB each; to go through many, open a store with `irlvla.prepare.scene_store`.

    Args:
        logs: An OPENSCENE_DATA_ROOT (holds navsim_logs/<split>/*.pkl); None if the store is there.
        maps: A NUPLAN_MAPS_ROOT; None if the store is there.
        split: Folder below navsim_logs, or the path of one of NAVSIM's scene filter files (.yaml); test if None.
        tokens: Scene tokens; all scenes of the split if None (of a folder: every frame with 3 frames before and 10 after, and
            a route; of a store: all that it holds).
        store: Folder in which scenes are kept once they are prepared: filled by the first call, read by later ones, filled
            again when logs, maps, the split or this package have changed.

    Returns:
        The scenes in the order of `tokens`.

    Raises:
        ValueError: A file is missing or damaged, a token is in no log, or a scene cannot be prepared; the message names it.

    Example:
        >>> scenes = load_scenes("tests/golden/openscene", "tests/golden/maps", "test", ["37d852864deef892"])
        >>> scenes[0].token, scenes[0].object_boxes.shape
        ('37d852864deef892', (41, 8, 5))
    """
    from irlvla.score_table import prepared_scenes

    roots = (None if root is None else Path(root) for root in (logs, maps))
    return prepared_scenes(*roots, split, tokens, None if store is None else Path(store))


def load_metric_caches(folder: str | Path, maps: str | Path | None = None) -> list[PreparedScene]:
    """Scenes ready to score out of the devkit's metric caches; neither logs nor the devkit are needed.

    Args:
        folder: Holds <anything>/<scene token>/metric_cache.pkl, as NAVSIM_EXP_ROOT/metric_cache does. Classes in the pickles are not
            imported; one that is none of a cache's is an error.
        maps: A NUPLAN_MAPS_ROOT, needed only to score with reactive traffic (`traffic="idm"`): caches hold no lanes.

    Returns:
        The scenes, in order of their paths.

    Raises:
        ValueError: There is no cache, two of one scene, or one that is damaged; the message names it.

    Example:
        >>> [scene.token for scene in load_metric_caches("tests/golden/metric_cache")]
        ['5ae9604062e39a93', '271ebfe4c3922d41']
    """
    from irlvla.metric_caches import metric_cache_scenes

    return metric_cache_scenes(folder, maps)


def epdms(sub_scores: SubScores) -> Shaped[Any, "*trajectories"]:
    """EPDMS of each trajectory: NC * DAC * DDC * TLC * (5 EP + 5 TTC + 2 LK + 2 HC + 2 EC) / 16.

    Args:
        sub_scores: Of NumPy arrays (what `irlvla.score` returns) or torch tensors (predicted ones, differentiable).

    Returns:
        Of the kind and shape of the sub-scores, in [0, 1]. Where EC is not defined it is left out and the divisor is 14. It is
        of the definition of its sub-scores: epdms if they were scored with the human filter, epdms_unfiltered without.

    Example:
        >>> import numpy as np
        >>> perfect = {name: np.ones(1) for name in ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")}
        >>> epdms(SubScores(**perfect | {"ttc": np.zeros(1)}, ec=np.zeros(1), ec_defined=np.zeros(1))).round(4)
        array([0.6429])
    """
    from irlvla.score.epdms import epdms as score_of

    return score_of(sub_scores)
