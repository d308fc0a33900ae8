"""The policy: pictures, ego status and command to anchored trajectories and their confidences.

Perception -> `SceneTokens`, which may be cached; planner: one query an anchor, denoised by a few
layers that attend to the tokens and look the bird's-eye grid up under the car's own footprint along the trajectory.
Anchors do not see each other, so any subset of (anchor, noise) pairs of a scene can be denoised together.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from irlvla.model.attention import CrossAttention, feed_forward, footprints, grid_lookup, squashed
from irlvla.model.bev import SceneTokens
from irlvla.model.diffusion import DiffusionConfig, alphas_cumprod, noisy, previous_mean
from irlvla.model.perception import Perception, PerceptionConfig, Seen
from irlvla.model.vision import Sight

EGO_SCALE = (20.0, 5.0, 0.5, 10.0, 1.0, 2.0, 2.0)
"""Typical sizes of x, y, heading, vx, vy, ax, ay in an ego history."""
FOOTPRINT = ((1.4, 0.0), (5.2, 0.0), (4.0, 1.3), (4.0, -1.3), (-1.0, 0.0))
"""Where the planner looks the grid up around a pose: centre, ahead of the bumper, front corners, tail (m)."""
AROUND = ((1.4, 0.0), (5.2, 0.0), (-1.0, 0.0), (1.4, 2.0), (1.4, -2.0), (1.4, 4.0), (1.4, -4.0), (1.4, 6.0), (1.4, -6.0))
"""Where local corrections look the grid up around a pose: along the car, and across the road (m)."""
LOCAL_WIDTH = 64
LOCAL_TURN = 0.1
"""Turns of local corrections are this many rad where shifts are a metre."""
REACH = 8.0
"""How far from a pose a query may look the grid up by its own choice, m each way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """The policy's architecture. `perception=None` is the control without a camera: the same planner, nothing to look at.

    `anchors` is also the number of start noises of full diffusion. `deformable`: points a pose and layer at which a query looks the
    grid up where it wants to, beside those of the car's footprint. `local`: layers after the first move the poses of the one before, each
    from what the grid says around it and in its own frame, instead of anchors in the ego's.
    """

    perception: PerceptionConfig | None = field(default_factory=PerceptionConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    anchors: int = 20
    width: int = 128
    prior_width: int = 256
    layers: int = 2
    deformable: int = 0
    local: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What the planner keeps of a scene while denoising; `prior` is the plan that ego status alone suggests, normalised."""

    ego: Float[Tensor, "scenes width"]
    prior: Float[Tensor, "scenes 24"]
    tokens: Float[Tensor, "scenes tokens token_width"] | None
    grid: Float[Tensor, "scenes channels 32 32"] | None


@dataclass(frozen=True, slots=True)
class Proposals:
    """The planner's output: clean trajectories (normalised) and confidence logits."""

    clean: Float[Tensor, "scenes queries 8 3"]
    confidence: Float[Tensor, "scenes queries"]


class EgoEncoder(nn.Module):
    """Ego history and command to one vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(EGO_SCALE), persistent=False)
        self.layers = nn.Sequential(nn.Linear(4 * 7 + 4, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, ego_history: Float[Tensor, "scenes 4 7"], command: Float[Tensor, "scenes 4"]) -> Float[Tensor, "scenes width"]:
        return self.layers(torch.cat([(ego_history / self.scale).flatten(1), command], dim=1))


class EgoMlp(nn.Module):
    """The control that knows only ego status and command: one hidden layer stack to one trajectory."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.ego = EgoEncoder(width)
        self.out = nn.Sequential(nn.GELU(), nn.Linear(width, 24))
        self.register_buffer("offset", torch.zeros(3))
        self.register_buffer("scale", torch.ones(3))

    def forward(self, ego_history: Float[Tensor, "scenes 4 7"], command: Float[Tensor, "scenes 4"]) -> Float[Tensor, "scenes 8 3"]:
        """Normalised trajectories."""
        return self.out(self.ego(ego_history, command)).unflatten(1, (8, 3))

    def plan(self, ego_history: Float[Tensor, "scenes 4 7"], command: Float[Tensor, "scenes 4"]) -> Float[Tensor, "scenes 8 3"]:
        """The plan to drive, in metres."""
        return self(ego_history, command) * self.scale + self.offset


class PlannerLayer(nn.Module):
    """One round of looking: at the scene's tokens, and at the grid under the trajectory; then a better trajectory.

    The grid is looked up at points of the car's footprint along the trajectory, and at `deformable` further points a pose, which
    each query places itself, up to REACH m ahead or beside.
    """

    def __init__(self, width: int, token_width: int | None, channels: int, deformable: int, local: bool = False) -> None:
        super().__init__()
        self.deformable = deformable if token_width is not None else 0
        self.attention = None if token_width is None else CrossAttention(width, token_width)
        self.lookup = None if token_width is None else nn.Linear(8 * (len(FOOTPRINT) + deformable) * channels, width)
        self.offsets = nn.Linear(width, deformable * 2) if self.deformable else None
        self.trajectory = nn.Linear(48, width)
        self.norm = nn.LayerNorm(width)
        self.mixer = feed_forward(width, 3 * width, width)
        self.out_norm = nn.LayerNorm(width)
        self.residual = nn.Linear(width, 24)
        self.correction = None
        if local and token_width is not None:
            self.around = nn.Linear(len(AROUND) * channels, LOCAL_WIDTH)
            self.wish = nn.Linear(width, 8 * LOCAL_WIDTH)
            self.correction = nn.Sequential(nn.GELU(), *feed_forward(LOCAL_WIDTH, LOCAL_WIDTH, 3))
            nn.init.zeros_(self.correction[-1].weight)
            nn.init.zeros_(self.correction[-1].bias)
        self.confidence = feed_forward(width, width, 1)
        if self.lookup is not None:
            nn.init.zeros_(self.lookup.weight)
        if self.offsets is not None:
            nn.init.zeros_(self.offsets.weight)
            nn.init.uniform_(self.offsets.bias, -0.5, 0.5)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def points(
        self,
        values: Float[Tensor, "scenes queries width"],
        poses: Float[Tensor, "scenes queries 8 3"],
        footprint: Float[Tensor, "offsets 2"],
    ) -> Float[Tensor, "scenes queries points 2"]:
        """Where this layer looks the grid up: around poses in metres, in the ego frame."""
        points = footprints(poses, footprint)
        if self.offsets is None:
            return points
        reach = REACH * torch.tanh(self.offsets(values)).unflatten(2, (1, self.deformable, 2))
        cosine, sine = torch.cos(poses[..., 2])[..., None], torch.sin(poses[..., 2])[..., None]
        x = poses[..., 0:1] + cosine * reach[..., 0] - sine * reach[..., 1]
        y = poses[..., 1:2] + sine * reach[..., 0] + cosine * reach[..., 1]
        return torch.cat([points, torch.stack([x, y], dim=-1).flatten(2, 3)], dim=2)

    def corrections(
        self,
        seen: Float[Tensor, "scenes queries width"],
        poses: Float[Tensor, "scenes queries 8 3"],
        grid: Float[Tensor, "scenes channels 32 32"],
        places: Float[Tensor, "places 2"],
    ) -> Float[Tensor, "scenes queries 8 3"]:
        """How each pose (m, rad) is to move, in the ego frame, from what the grid says about its surroundings.

        One small network for all poses, which thinks in the pose's own frame: ahead, left, turn.
        """
        found = self.around(grid_lookup(grid, footprints(poses, places)).unflatten(2, (8, -1)))
        ahead, left, turn = self.correction(found + self.wish(seen).unflatten(2, (8, -1))).unbind(-1)
        cosine, sine = torch.cos(poses[..., 2]), torch.sin(poses[..., 2])
        return torch.stack([cosine * ahead - sine * left, sine * ahead + cosine * left, LOCAL_TURN * turn], dim=-1)


class Policy(nn.Module):
    """The unified policy; `set_normaliser` must be called (or weights loaded) before it plans.

    `prior` is a separately trained, then frozen plan from ego status alone, given to the planner as a hint.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width, count = config.width, config.anchors
        self.perception = None if config.perception is None else Perception(config.perception)
        token_width = None if config.perception is None else config.perception.birds_eye.width
        channels = 0 if config.perception is None else config.perception.birds_eye.channels
        self.prior = EgoMlp(config.prior_width).requires_grad_(False)
        self.ego = EgoEncoder(width)
        self.from_prior = nn.Linear(config.prior_width + 24, width)
        self.anchor_embedding = nn.Parameter(torch.randn(count, width) * 0.02)
        self.time = feed_forward(9, width, width)
        self.query = feed_forward(24, width, width)
        self.layers = nn.ModuleList(
            PlannerLayer(width, token_width, channels, config.deformable, config.local and place > 0) for place in range(config.layers)
        )
        self.register_buffer("anchors", torch.zeros(count, 8, 3))
        self.register_buffer("start_noise", torch.zeros(count, 8, 3))
        self.register_buffer("offset", torch.zeros(3))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("alphas", alphas_cumprod(config.diffusion), persistent=False)
        self.register_buffer("footprint", torch.tensor(FOOTPRINT), persistent=False)
        self.register_buffer("around", torch.tensor(AROUND), persistent=False)

    def set_normaliser(
        self,
        anchors_in_metres: Float[Tensor, "anchors 8 3"],
        offset: Float[Tensor, "3"],
        scale: Float[Tensor, "3"],
        generator: torch.Generator,
    ) -> None:
        """Sets anchors, the poses' range, and the start noise, which stays fixed for good (EC depends on it)."""
        self.offset.copy_(offset)
        self.scale.copy_(scale)
        self.prior.offset.copy_(offset)
        self.prior.scale.copy_(scale)
        self.anchors.copy_(self.normalised(anchors_in_metres))
        self.start_noise.copy_(torch.randn(self.anchors.shape, generator=generator))

    def normalised(self, poses: Float[Tensor, "*batch 8 3"]) -> Float[Tensor, "*batch 8 3"]:
        """Poses (m, rad) as the planner sees them, in about [-1, 1]."""
        return (poses - self.offset) / self.scale

    def in_metres(self, poses: Float[Tensor, "*batch 8 3"]) -> Float[Tensor, "*batch 8 3"]:
        """Normalised poses in m and rad."""
        return poses * self.scale + self.offset

    def see(
        self,
        sight: Sight,
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
        gain: Tensor | None = None,
        bias: Tensor | None = None,
        reason: bool = True,
    ) -> Seen:
        """What `Perception` makes of some moments."""
        return self.perception(sight, ego_history, command, gain, bias, reason)

    def remember(self, scene: SceneTokens | None, ego_history: Float[Tensor, "scenes 4 7"], command: Float[Tensor, "scenes 4"]) -> Memory:
        """What denoising needs of a scene, computed once for all steps and queries."""
        hidden = self.prior.ego(ego_history, command)
        prior = self.prior.out(hidden)
        ego = self.ego(ego_history, command) + self.from_prior(torch.cat([hidden, prior], dim=1))
        if scene is None or self.perception is None:
            return Memory(ego, prior, None, None)
        return Memory(ego, prior, scene.tokens.float(), squashed(scene.grid))

    def denoise(
        self,
        memory: Memory,
        state: Float[Tensor, "scenes queries 8 3"],
        timestep: Int[Tensor, "scenes queries"],
        anchor: Int[Tensor, "scenes queries"],
    ) -> list[Proposals]:
        """Clean trajectories and confidences of noisy ones, from each layer in turn (the last is the answer)."""
        diffusion = self.config.diffusion
        time = self.time(time_features(timestep, diffusion.truncation))
        values = self.query(state.flatten(2)) + time + memory.ego[:, None]
        if diffusion.kind == "full":
            # Far out on the chain the state is nothing but noise: what is looked at first is the plan of ego status alone.
            clean = base = memory.prior.unflatten(1, (1, 8, 3)).expand_as(state)
        else:
            values, clean, base = values + self.anchor_embedding[anchor], state, self.anchors[anchor]
        outputs = []
        for layer in self.layers:
            values = values + layer.trajectory(torch.cat([clean.flatten(2), clean.flatten(2) - memory.prior[:, None]], dim=2))
            if layer.attention is not None and memory.tokens is not None:
                values = layer.attention(values, memory.tokens)
                points = layer.points(values, self.in_metres(clean), self.footprint)
                values = values + layer.lookup(grid_lookup(memory.grid, points))
            values = values + layer.mixer(layer.norm(values))
            seen = layer.out_norm(values)
            confidence = layer.confidence(seen)[..., 0]
            if diffusion.kind == "full":
                confidence = torch.zeros_like(confidence)  # chains that differ by chance alone: the first is as good as any
            better = layer.residual(seen).unflatten(2, (8, 3))
            if layer.correction is None or memory.grid is None:
                better = base + better
            else:
                better = clean + better + layer.corrections(seen, self.in_metres(clean), memory.grid, self.around) / self.scale
            proposals = Proposals(better, confidence)
            clean = proposals.clean.detach()
            outputs.append(proposals)
        return outputs

    def start(self, anchor: Int[Tensor, "scenes queries"]) -> Float[Tensor, "scenes queries 8 3"]:
        """The deployed chain's first state: anchors with their fixed noise; one of both where the planner knows only one."""
        diffusion = self.config.diffusion
        if diffusion.kind == "regression":
            return self.anchors[anchor]
        clean = torch.zeros_like(self.anchors) if diffusion.kind == "full" else self.anchors
        return noisy(clean, self.start_noise, self.alphas[diffusion.start_timestep])[anchor]

    def step_mean(
        self,
        memory: Memory,
        state: Float[Tensor, "scenes queries 8 3"],
        step: Int[Tensor, "scenes queries"],
        anchor: Int[Tensor, "scenes queries"],
    ) -> tuple[Float[Tensor, "scenes queries 8 3"], Proposals]:
        """One DDIM step of the deployed chain: mean of the next state, and the proposals behind it. Steps may differ by query."""
        timesteps = torch.tensor(self.config.diffusion.timesteps, device=state.device)
        following = torch.cat([self.alphas[timesteps[1:]], torch.ones(1, device=state.device)])
        proposals = self.denoise(memory, state, timesteps[step], anchor)[-1]
        mean = previous_mean(state, proposals.clean, self.alphas[timesteps[step]], following[step])
        return torch.where((step == len(timesteps) - 1)[..., None, None], proposals.clean, mean), proposals

    def deployed(self, memory: Memory) -> Proposals:
        """Every anchor's final trajectory without exploration; confidences are those of the chain's first step."""
        scenes = memory.ego.shape[0]
        anchor = torch.arange(self.config.anchors, device=memory.ego.device).expand(scenes, -1)
        state, confidence = self.start(anchor), None
        for index in range(len(self.config.diffusion.timesteps)):
            state, proposals = self.step_mean(memory, state, torch.full_like(anchor, index), anchor)
            confidence = proposals.confidence if confidence is None else confidence
        return Proposals(state, confidence)

    def plan(self, memory: Memory) -> Float[Tensor, "scenes 8 3"]:
        """The plan to drive, in metres: the most confident anchor's trajectory."""
        proposals = self.deployed(memory)
        best = proposals.confidence.argmax(1)
        return self.in_metres(proposals.clean[torch.arange(len(best), device=best.device), best])


def planner_parameters(policy: Policy) -> list[nn.Parameter]:
    """Freezes perception and prior in place and gives the parameters that are left to learn."""
    policy.requires_grad_(True)
    for part in (policy.perception, policy.prior):
        if part is not None:
            part.requires_grad_(False)
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def time_features(timestep: Int[Tensor, "*batch"], truncation: int) -> Float[Tensor, "*batch 9"]:
    """The timestep as a share of the range that is used, and waves of it."""
    share = timestep.float()[..., None] / truncation
    waves = [function(torch.pi * frequency * share) for frequency in (0.5, 1, 2, 4) for function in (torch.sin, torch.cos)]
    return torch.cat([share, *waves], dim=-1)
