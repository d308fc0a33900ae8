"""Trajectories -> sub-scores. The package can be called: `irlvla.score(scene, poses)` is `irlvla.score.epdms.sub_scores`."""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """The public function and this package share a name, so the package itself takes the call."""

    def __call__(self, scene: Any, poses: Any, prev_poses: Any = None, human_filter: bool = True) -> Any:
        """See `irlvla.score.epdms.sub_scores`."""
        from irlvla.score.epdms import sub_scores

        return sub_scores(scene, poses, prev_poses=prev_poses, human_filter=human_filter)


sys.modules[__name__].__class__ = _CallablePackage
