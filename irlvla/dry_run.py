"""A rehearsal of a recipe: the same path in a few steps on a few scenes, before days of GPUs are spent on it."""

from dataclasses import replace
from pathlib import Path

import yaml

from irlvla.data import navsim
from irlvla.prepare import paths_of, scene_filter_of
from irlvla.recipes import Recipe
from irlvla.run_data import data_of
from irlvla.train import distributed
from irlvla.train.imitation_loss import ImitationConfig

LOGS, SCENES = 4, 16
"""How many logs of a split are read, and scenes taken, at most."""


def rehearsed(recipe: Recipe, processes: int, data: dict[str, str], folder: Path) -> tuple[Recipe, dict[str, str]]:
    """A recipe `dried`, and a run's data with its splits cut to the `first_scenes` to learn from."""
    split = first_scenes(Path(data["logs"]), Path(data["split"]), folder)
    return dried(recipe, processes), data_of(folder, split=split, val=split)


def dried(recipe: Recipe, processes: int) -> Recipe:
    """A recipe with its architecture, pictures and options, but two steps of each kind, on two scenes a micro-batch.

    Cameras may be missing, so that pictures need not be there yet. A pretrained encoder gives way to the small one, so that no weights
    need be there either; what a full run would load is printed.
    """
    vision = None if recipe.imitation.policy.perception is None else recipe.imitation.policy.perception.vision
    if vision is not None and vision.encoder != "small" and distributed.rank() == 0:
        print(f"dry run: the small encoder stands for {vision.encoder}", flush=True)
    return replace(
        recipe,
        sensors=replace(recipe.sensors, missing_cameras=True),
        imitation=_two_steps(recipe.imitation, processes),
        no_camera=_two_steps(recipe.no_camera, processes),
    )


def _two_steps(config: ImitationConfig, processes: int) -> ImitationConfig:
    batch, perception = 2 * processes * config.accumulate, config.policy.perception
    if perception is not None:
        perception = replace(perception, vision=replace(perception.vision, encoder="small", frozen=False))
    return replace(
        config,
        policy=replace(config.policy, perception=perception, anchors=4),
        prior=replace(config.prior, steps=2, batch=2),
        lamps=replace(config.lamps, steps=2, batch=2),
        steps=2,
        planner_steps=2,
        reason_every=2,
        batch=batch,
        planner_batch=batch,
        warmup=1,
        candidates=1,
        save_every=1,
    )


def first_scenes(logs: Path, split: Path, folder: Path) -> Path:
    """Writes a scene filter of the first scenes of the first logs of a split; gives its file.

    Args:
        logs: an OPENSCENE_DATA_ROOT.
        split: a scene filter file, or a folder below navsim_logs.
        folder: where the file shall lie.

    Raises:
        ValueError: the split names no logs that are there.
    """
    chosen = scene_filter_of(split)
    names, tokens = [], []
    for path in paths_of(logs, split, chosen):
        known = [] if chosen.tokens is None else sorted(set(chosen.tokens) & {str(frame["token"]) for frame in navsim.log_frames(path)})
        if known or chosen.tokens is None:
            names, tokens = [*names, path.stem], [*tokens, *known]
        if len(names) == LOGS or len(tokens) >= SCENES:
            break
    values = {
        "num_history_frames": chosen.num_history_frames,
        "num_future_frames": chosen.num_future_frames,
        "frame_interval": chosen.frame_interval,
        "has_route": chosen.has_route,
        "max_scenes": SCENES,
        "log_names": names,
        "tokens": tokens[:SCENES] or None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "first.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
