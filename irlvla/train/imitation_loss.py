"""What imitation minimises: its config, what a step draws by chance, and a module whose `forward` is the loss of some scenes.

Chance is drawn for a step's whole batch and then cut, and every mean is weighted by its share of that batch: however a batch
is cut into micro-batches and processes, the sum of their losses is the same; but boxes, lines and words, of which scenes have more or
fewer, are averaged over those of a micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from irlvla.model.bev import SceneTokens, ahead_loss, lamp_loss, map_loss
from irlvla.model.diffusion import noisy
from irlvla.model.element_loss import Wanted, elements_loss
from irlvla.model.language import rationale_loss
from irlvla.model.perception import Seen
from irlvla.model.planner_loss import PlannerWeights, planner_loss
from irlvla.model.policy import Memory, Policy, PolicyConfig
from irlvla.model.vision import Sight
from irlvla.train.controls import EgoMlpConfig
from irlvla.train.lamps import LampsConfig
from irlvla.train.loop import step_generator
from irlvla.train.moments import shifted

WEIGHTS = {
    "maps": "map_weight",
    "ahead": "ahead_weight",
    "lamp": "lamp_weight",
    "elements": "element_weight",
    "rationale": "rationale_weight",
}
"""What annotations teach -> the config's field that weighs it."""
PLAIN = PlannerWeights()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitationConfig:
    """One imitation run: `steps` with pictures, then `planner_steps` on kept scene tokens.

    Loss weights and rate are DiffusionDrive's; the rest was measured on the embedded world. `camera_dropout` is the probability that a
    view of a scene is not shown, for policies that have to do without a camera now and then. While there are pictures, the language model
    writes at every `reason_every`-th step, and the planner reads it; at the others it is taught alone, which takes less time.

    How it is computed: a process's part of each batch goes through in `accumulate` micro-batches; `checkpointing` computes activations
    twice to hold fewer; `bfloat16` lets the planner compute in bfloat16 too, as the vision part always does; `parallel` is one of
    `irlvla.train.distributed.PARALLEL`.
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    prior: EgoMlpConfig = field(default_factory=EgoMlpConfig)
    lamps: LampsConfig = field(default_factory=LampsConfig)
    seed: int = 0
    steps: int = 600
    batch: int = 32
    rate: float = 6e-4
    planner_steps: int = 1000
    planner_batch: int = 64
    planner_rate: float = 6e-4
    weight_decay: float = 1e-4
    warmup: int = 50
    average_decay: float = 0.995
    planner: PlannerWeights = field(default_factory=PlannerWeights)
    map_weight: float = 4.0
    ahead_weight: float = 0.5
    lamp_weight: float = 0.5
    element_weight: float = 0.5
    rationale_weight: float = 1.0
    reason_every: int = 4
    map_positive: tuple[float, float, float, float] = (1.0, 1.5, 3.0, 3.0)
    shift: int = 4
    colour: float = 0.1
    camera_dropout: float = 0.0
    candidates: int = 3
    save_every: int = 200
    accumulate: int = 1
    checkpointing: bool = False
    bfloat16: bool = False
    parallel: str = "replicated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """What one step draws for its whole batch: no colours without pictures, no noise for regression. One `shift` (pixels) for all.

    `cameras`: a number in [0, 1) for each view, by which some are left out; None if none are. `reason`: whether the language model writes.
    """

    gain: Float[Tensor, "scenes 3"] | None
    bias: Float[Tensor, "scenes 3"] | None
    shift: tuple[int, int]
    cameras: Float[Tensor, "scenes views"] | None
    reason: bool
    timestep: Int[Tensor, "scenes draws"] | None
    noise: Float[Tensor, "scenes anchors 8 3"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Some scenes of a step's batch, on the policy's device: what it sees, what it is to learn from them.

    Either `sight` (with `maps`, what is `around` and what is to be `written`, for policies that learn to tell, and `annotated`, which says
    where that is known) or kept scene tokens, or neither.
    `share` and `annotated_share`: of the batch's scenes and of its annotated ones, times the number of processes.
    """

    sight: Sight | None
    maps: Float[Tensor, "scenes 4 32 32"] | None
    around: Wanted | None
    written: Int[Tensor, "scenes words"] | None
    annotated: Bool[np.ndarray, "scenes"]
    scene: SceneTokens | None
    ego_history: Float[Tensor, "scenes 4 7"]
    command: Float[Tensor, "scenes 4"]
    human: Float[Tensor, "scenes 8 3"]
    chance: Chance
    share: float
    annotated_share: float


class Teacher(nn.Module):
    """The loss of a lesson as a module around the policy: what learns, whichever way processes share it."""

    def __init__(self, config: ImitationConfig, policy: Policy) -> None:
        super().__init__()
        self.config = config
        self.policy = policy

    def forward(self, lesson: Lesson) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss, weighted by the lesson's share, and its parts by name."""
        config, policy, chance = self.config, self.policy, lesson.chance
        scene, losses, told = lesson.scene, {}, {}
        if lesson.sight is not None and lesson.maps is not None:
            sight = lesson.sight
            if sight.raw is None:
                sight = replace(sight, images=shifted(sight.images, chance.shift))
            if chance.cameras is not None:
                sight = without_some_cameras(sight, config.camera_dropout, chance.cameras)
            seen = policy.see(sight, lesson.ego_history, lesson.command, chance.gain, chance.bias, chance.reason)
            losses, told = self._annotated(lesson, seen)
            scene = seen.scene
        with torch.autocast(lesson.human.device.type, torch.bfloat16, enabled=config.bfloat16):
            memory = policy.remember(scene, lesson.ego_history, lesson.command)
            planned, parts = noised_loss(policy, memory, lesson.human, chance.timestep, chance.noise, config.planner)
        total = lesson.share * planned
        for name, loss in losses.items():
            total = total + getattr(config, WEIGHTS[name]) * lesson.annotated_share * loss
            told[name] = loss.detach()
        parts = {name: lesson.share * part for name, part in {"loss": planned.detach(), **parts}.items()}
        return total, parts | {name: lesson.annotated_share * part for name, part in told.items()}

    def _annotated(self, lesson: Lesson, seen: Seen) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What annotations teach: losses by the names in WEIGHTS, and what else is worth telling."""
        losses: dict[str, Tensor] = birds_eye_losses(self.config, seen, lesson.maps, lesson.annotated)
        told: dict[str, Tensor] = {}
        if seen.found is not None and lesson.around is not None:
            losses["elements"], parts = elements_loss(seen.found, lesson.around)
            told |= parts
        if seen.read is not None and lesson.written is not None:
            reading = self.policy.perception.language(seen.read, seen.prompt, lesson.written)
            losses["rationale"], parts = rationale_loss(reading.logits, lesson.written)
            told |= parts
        return losses, told


def chance_of(config: ImitationConfig, policy: Policy, scenes: int, step: int, views: int) -> Chance:
    """What a step draws for a batch of scenes with so many pictures each (or none)."""
    generator = step_generator(config.seed, step)
    gain = bias = cameras = None
    shift = (0, 0)
    if views:
        gain = 1 + config.colour * (torch.randn(scenes, 1, generator=generator) + 0.5 * torch.randn(scenes, 3, generator=generator))
        bias = config.colour * torch.randn(scenes, 1, generator=generator).expand(-1, 3)
        if config.shift:
            down, right = torch.randint(-config.shift, config.shift + 1, (2,), generator=generator).tolist()
            shift = (down, right)
        if config.camera_dropout:
            cameras = torch.rand(scenes, views, generator=generator)
    timestep, noise = drawn_noise(policy, scenes, generator)
    reason = step % config.reason_every == config.reason_every - 1
    return Chance(gain=gain, bias=bias, shift=shift, cameras=cameras, reason=reason, timestep=timestep, noise=noise)


def part_of(chance: Chance, rows: slice, device: torch.device) -> Chance:
    """The draws of some scenes of the batch, on a device."""
    values = {each.name: getattr(chance, each.name) for each in fields(chance)}
    return Chance(**{name: value[rows].to(device) if isinstance(value, Tensor) else value for name, value in values.items()})


def summed(parts: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts of the losses of two micro-batches, added up by name."""
    return {name: part + parts[name] if name in parts else part for name, part in more.items()}


def birds_eye_losses(
    config: ImitationConfig, seen: Seen, maps: Float[Tensor, "scenes 4 32 32"], annotated: Bool[np.ndarray, "scenes"]
) -> dict[str, Float[Tensor, ""]]:
    """What bird's-eye targets teach, by name: losses over the annotated moments, 0 where there are none."""
    said = {"maps": seen.view.grid, "ahead": seen.view.ahead}
    said |= {} if seen.view.lamp is None else {"lamp": seen.view.lamp}
    if not annotated.all():
        known = torch.from_numpy(np.flatnonzero(annotated)).to(maps.device)
        said, maps = {name: values[known] for name, values in said.items()}, maps[known]
    if not len(maps):
        return {name: values.sum() for name, values in said.items()}
    losses = {"maps": map_loss(said["maps"], maps, config.map_positive), "ahead": ahead_loss(said["ahead"], maps)}
    return losses if "lamp" not in said else losses | {"lamp": lamp_loss(said["lamp"], maps)}


def denoising_loss(
    policy: Policy, memory: Memory, human: Float[Tensor, "scenes 8 3"], generator: torch.Generator, weights: PlannerWeights = PLAIN
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """`planner_loss` of all anchors denoised from a random timestep of the truncated range (one a scene).

    Of full diffusion: of the human's trajectory denoised from as many timesteps and noises; of regression: of the anchors as they are.
    """
    timestep, noise = (None if drawn is None else drawn.to(human.device) for drawn in drawn_noise(policy, len(human), generator))
    return noised_loss(policy, memory, human, timestep, noise, weights)


def drawn_noise(
    policy: Policy, scenes: int, generator: torch.Generator
) -> tuple[Int[Tensor, "scenes draws"] | None, Float[Tensor, "scenes anchors 8 3"] | None]:
    """Timesteps of the range that is used and noise for every anchor: one timestep a scene, of full diffusion one an anchor."""
    count, diffusion = policy.config.anchors, policy.config.diffusion
    if diffusion.kind == "regression":
        return None, None
    timestep = torch.randint(0, diffusion.truncation, (scenes, count if diffusion.kind == "full" else 1), generator=generator)
    return timestep, torch.randn(scenes, count, 8, 3, generator=generator)


def noised_loss(
    policy: Policy,
    memory: Memory,
    human: Float[Tensor, "scenes 8 3"],
    timestep: Int[Tensor, "scenes draws"] | None,
    noise: Float[Tensor, "scenes anchors 8 3"] | None,
    weights: PlannerWeights = PLAIN,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """`denoising_loss` from what was drawn before."""
    batch, count = len(human), policy.config.anchors
    anchor = torch.arange(count, device=human.device).expand(batch, -1)
    if timestep is None or noise is None:
        return planner_loss(policy, policy.denoise(memory, policy.start(anchor), torch.zeros_like(anchor), anchor), human, weights)
    clean = policy.anchors.expand(batch, -1, -1, -1)
    if policy.config.diffusion.kind == "full":
        clean = policy.normalised(human)[:, None].expand(-1, count, -1, -1)
    timestep = timestep.expand(-1, count)
    state = noisy(clean, noise, policy.alphas[timestep])
    return planner_loss(policy, policy.denoise(memory, state, timestep, anchor), human, weights)


def without_some_cameras(sight: Sight, probability: float, chance: Float[Tensor, "scenes views"]) -> Sight:
    """A batch whose views are left out where chance is below a probability, but never all that a scene has."""
    kept = (chance >= probability) | (chance == torch.where(sight.valid, chance, -1.0).amax(1, keepdim=True))
    return replace(sight, valid=sight.valid & kept)
