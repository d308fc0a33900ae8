"""Readers of the devkit's own pickles with ways to damage them; see `readers`."""

import lzma
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.data.mapping import two_stage_split
from irlvla.data.maps import Maps
from irlvla.data.synthetic import synthetic_scene
from irlvla.metric_caches import metric_cache_scene
from irlvla.score.drivers import with_reactive_traffic
from irlvla.score.epdms import sub_scores
from irlvla.score.prepared import prepared
from irlvla.submit import read_submission
from irlvla.two_stage import scored_plan

from . import mutations

GOLDEN = Path(__file__).parents[1] / "golden"
TOKEN = "0129de0fb7424fa11"
CACHED = "271ebfe4c3922d41"
OPCODES = (
    *mutations.EVIL_OPCODES, b"\x81", b")\x81", b"}b", b"N}\x86b", b"cshapely.io\nfrom_wkb\n", b"cnavsim.common.dataclasses\nTrajectory\n)\x81",
    b"cnuplan.common.actor_state.state_representation\nStateSE2\n)\x81", b"cpathlib\nPosixPath\n(\x8c\x01atR",
)  # fmt: skip


@cache
def _maps() -> Maps:
    return Maps(GOLDEN / "maps")


@cache
def _scene() -> Any:
    return metric_cache_scene(next(GOLDEN.glob(f"metric_cache/*/unknown/{CACHED}/metric_cache.pkl")), _maps())


def _seed(content: bytes) -> dict[str, Any]:
    return {"content": content, "codes": mutations.opcodes(content)}


def _damaged(random: Any, seed: dict[str, Any]) -> bytes:
    if random.random() < 0.6:
        return mutations.spoiled(random, seed["content"], (seed["content"],), OPCODES)
    return mutations.reordered(random, seed["codes"])


def prepare_submission(_: Path) -> dict[str, Any]:
    """Seeds."""
    return _seed((GOLDEN / "two_stage" / "perturbed.pkl").read_bytes())


def write_submission(random: Any, folder: Path, seed: dict[str, Any]) -> None:
    """A damaged submission."""
    (folder / "submission.pkl").write_bytes(_damaged(random, seed))


def read_submitted(folder: Path) -> int:
    """As two-stage scoring does, for some of the plans."""
    found = read_submission(folder / "submission.pkl")
    for plan in [*found.stage_one.values(), *found.stage_two.values()][:2]:
        assert np.isfinite(scored_plan(_scene(), plan, "idm").values).all()
    return len(found.stage_one)


def prepare_synthetic(folder: Path) -> dict[str, Any]:
    """Seeds."""
    return _seed((GOLDEN / "openscene" / "navhard_two_stage" / "synthetic_scene_pickles" / f"{TOKEN}.pkl").read_bytes())


def write_synthetic(random: Any, folder: Path, seed: dict[str, Any]) -> None:
    """A damaged synthetic scene."""
    (folder / f"{TOKEN}.pkl").write_bytes(_damaged(random, seed))


def read_synthetic(folder: Path) -> int:
    """Up to a score."""
    scene = synthetic_scene(folder / f"{TOKEN}.pkl", _maps())
    return len(sub_scores(with_reactive_traffic(scene, prepared(scene)), np.zeros((1, 8, 3)), traffic="idm").nc)


def prepare_cache(folder: Path) -> dict[str, Any]:
    """Seeds."""
    path = next(GOLDEN.glob(f"metric_cache/*/unknown/{CACHED}/metric_cache.pkl"))
    (folder / CACHED).mkdir(exist_ok=True)
    return _seed(lzma.decompress(path.read_bytes())) | {"packed": path.read_bytes()}


def write_cache(random: Any, folder: Path, seed: dict[str, Any]) -> None:
    """A damaged cache, inside or as it is packed."""
    if random.random() < 0.1:
        content = mutations.spoiled(random, seed["packed"], (seed["packed"],), ())
    else:
        content = lzma.compress(_damaged(random, seed), preset=0, check=lzma.CHECK_NONE)
    (folder / CACHED / "metric_cache.pkl").write_bytes(content)


def read_cache(folder: Path) -> int:
    """Up to a score."""
    ready = metric_cache_scene(folder / CACHED / "metric_cache.pkl", _maps())
    sub_scores(ready, ready.human_poses[None], ready.human_poses[None])
    return 0 if isinstance(ready.reactive, str) else len(sub_scores(ready, ready.human_poses[None], traffic="idm").nc)


def prepare_split(_: Path) -> bytes:
    """Seeds."""
    conf = GOLDEN / "two_stage" / "conf"
    chosen = (conf / "scene_filter" / "small.yaml").read_bytes()
    return chosen + (conf / "small.yaml").read_bytes().split(b"small\n", 1)[1]


def read_split(folder: Path) -> int:
    """As two-stage scoring does."""
    return len(two_stage_split(folder / "split.yaml").pairs)
