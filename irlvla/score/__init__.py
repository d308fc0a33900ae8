"""Trajectories -> sub-scores: NAVSIM v2's EPDMS, one stage, with log-replay or reactive traffic.

The package itself can be called, `irlvla.score(scene, poses, prev_poses=None, human_filter=True, traffic="log_replay")`; that is
the function `score` below.

Example:
    >>> import irlvla
    >>> [scene] = irlvla.load_scenes("tests/golden/openscene", "tests/golden/maps", "test", ["37d852864deef892"])
    >>> plans = np.stack([scene.human_poses, np.zeros((8, 3))])
    >>> scores = irlvla.score(scene, plans)
    >>> scores.ep.round(2), irlvla.epdms(scores).round(2)
    (array([1.  , 0.31]), array([1.  , 0.61]))
"""

import sys
from types import ModuleType

import numpy as np
from jaxtyping import Float

from irlvla.definitions import Traffic
from irlvla.types import PreparedScene, SubScores


def score(
    scene: PreparedScene,
    poses: Float[np.ndarray, "proposals poses 3"],
    prev_poses: Float[np.ndarray, "prev_proposals prev_poses 3"] | None = None,
    human_filter: bool = True,
    traffic: Traffic = "log_replay",
) -> SubScores:
    """The nine sub-scores of some plans of one scene, exactly as NAVSIM v2's devkit computes them one by one.

    A plan's score does not depend on the other plans of the call. Many in one call are much faster than one by one; the work is
    done outside Python's lock, so that threads can score several scenes at once.

    Args:
        scene: From `irlvla.load_scenes`, or `prepared(index)` of an `irlvla.data.store.Store`.
        poses: (N, 8, 3) at 0.5, 1.0 .. 4.0 s or (N, 40, 3) at 0.1, 0.2 .. 4.0 s: x forward, y left (m) and heading (rad) of the
            rear axle in the ego frame of the scene.
        prev_poses: (N, 8, 3) or (N, 40, 3), the plans made 0.5 s earlier in the ego frame of that moment, for EC.
        human_filter: Whether a sub-score in which the logged driver has 0 counts as 1 for every plan. With it the scores are of
            the definition `epdms` (the devkit's), without of `epdms_unfiltered`; see `irlvla.definitions`.
        traffic: How other road users move: "log_replay" as they were logged, or "idm", vehicles that react to the plan. That
            is simulated plan by plan, and needs a scene that was loaded from logs and maps.

    Returns:
        Arrays of N float64 in [0, 1], the higher the better: `nc` no at-fault collision, `dac` drivable area, `ddc` driving
        direction, `tlc` traffic lights, `ep` progress, `ttc` time to collision, `lk` lane keeping, `hc` comfort with the past,
        `ec` comfort between two plans. `ec_defined` is 0 where there is no previous plan or frame; `ec` is 0 there and does not
        count in `irlvla.epdms`. docs/epdms.md says what each of them measures.

    Raises:
        ValueError: `poses` or `prev_poses` have another shape, are not finite, or differ in number; no traffic has that name,
            or the scene has none that reacts.
    """
    from irlvla.score.epdms import sub_scores

    return sub_scores(scene, poses, prev_poses=prev_poses, human_filter=human_filter, traffic=traffic)


class _CallablePackage(ModuleType):
    """The public function and this package share a name, so the package itself takes the call."""

    def __call__(
        self,
        scene: PreparedScene,
        poses: Float[np.ndarray, "proposals poses 3"],
        prev_poses: Float[np.ndarray, "prev_proposals prev_poses 3"] | None = None,
        human_filter: bool = True,
        traffic: Traffic = "log_replay",
    ) -> SubScores:
        return score(scene, poses, prev_poses, human_filter, traffic)


_CallablePackage.__call__.__doc__ = score.__doc__
sys.modules[__name__].__class__ = _CallablePackage
