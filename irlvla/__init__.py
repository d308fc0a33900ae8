"""Camera-based driving policies judged by an exact and fast NAVSIM v2 EPDMS.

Importing this package is cheap: numba, shapely and the like come in with the first call, torch never.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irlvla import score

__all__ = ["epdms", "load_scenes", "score"]


def load_scenes(logs: str | Path, maps: str | Path, split: str, tokens: Sequence[str] | None = None) -> list[Any]:
    """Scenes ready to score.

    Args:
        logs: An OPENSCENE_DATA_ROOT (holds navsim_logs/<split>/*.pkl).
        maps: A NUPLAN_MAPS_ROOT.
        split: Folder name below navsim_logs.
        tokens: Scene tokens; all scenes of the split (every frame with 3 frames before and 10 after) if not given.

    Returns:
        `irlvla.types.PreparedScene`s in the order of `tokens`.
    """
    from irlvla.score_table import prepared_scenes

    return prepared_scenes(Path(logs), Path(maps), split, tokens)


def epdms(sub_scores: Any) -> Any:
    """EPDMS of each trajectory, from `irlvla.types.SubScores` of NumPy arrays or torch tensors; see `irlvla.score.epdms.epdms`."""
    from irlvla.score.epdms import epdms as score_of

    return score_of(sub_scores)
