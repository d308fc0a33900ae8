"""All that looks: pictures, calibration, ego status and command to scene tokens.

Image encoder -> bird's-eye view -> detection and map tokens -> a language model that reads all of this and writes what matters. What each
part says becomes tokens, side by side in one array: planner, reward world model and critic see nothing else. Only the image encoder and the
bird's-eye view are always there.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.backbones import image_encoder
from irlvla.model.bev import BirdsEye, BirdsEyeConfig, BirdsEyeView, SceneTokens
from irlvla.model.elements import ElementConfig, ElementDecoder, Found
from irlvla.model.language import LanguageConfig, Semantics, TinyLanguageModel
from irlvla.model.vision import Sight, VisionConfig
from irlvla.rationale import PROMPT_LENGTH, VOCABULARY, encoded, prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceptionConfig:
    """Parts and their sizes; `elements` and `language` may be left out. Their widths are taken from the bird's-eye view."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    birds_eye: BirdsEyeConfig = field(default_factory=BirdsEyeConfig)
    elements: ElementConfig | None = None
    language: LanguageConfig | None = None

    def __post_init__(self) -> None:
        if self.elements is not None and not self.birds_eye.lift:
            raise ValueError("elements are found in the bird's-eye view, and lift is False: there is none")
        if self.birds_eye.lamps and self.vision.frozen:
            raise ValueError(
                "lamps are looked for in pictures, and of a frozen encoder only its features are kept: lamps needs frozen=False"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Scene tokens, and what the parts said on the way, which annotations supervise.

    `found`: of every layer of the element decoder. `read`: the tokens that the language model reads before the `prompt`; `semantics`: what
    it made of them, None where it was not asked.
    """

    scene: SceneTokens
    view: BirdsEyeView
    found: list[Found] | None
    read: Float[Tensor, "scenes tokens width"] | None
    prompt: Int[Tensor, "scenes prompt"] | None
    semantics: Semantics | None


class Perception(nn.Module):
    """Pictures to scene tokens."""

    def __init__(self, config: PerceptionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = image_encoder(config.vision)
        self.birds_eye = BirdsEye(config.birds_eye, config.vision)
        self.elements = None if config.elements is None else ElementDecoder(config.elements)
        self.language = None if config.language is None else TinyLanguageModel(config.language)
        self.kinds = nn.Parameter(0.1 * torch.randn(3, config.birds_eye.width))

    def forward(
        self,
        sight: Sight,
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
        gain: Float[Tensor, "scenes 3"] | None = None,
        bias: Float[Tensor, "scenes 3"] | None = None,
        reason: bool = True,
    ) -> Seen:
        """What is seen at some moments.

        Args:
            sight: pictures and calibration.
            ego_history: as in `Features`; only the language model is told, in words.
            command: likewise.
            gain: changes the colours of a scene's pictures (augmentation), with `bias`.
            bias: likewise.
            reason: ask the language model; without, there are no semantic tokens. It writes word by word, which takes time.
        """
        view = self.birds_eye(self.encoder(sight, gain, bias), sight)
        parts = [functional.layer_norm(torch.cat([view.cells, view.images, view.answers], dim=1), view.cells.shape[-1:])]
        found = read = prompt = semantics = None
        if self.elements is not None:
            found = self.elements(view.cells, view.grid)
            for place, tokens in enumerate((found[-1].detection_tokens, found[-1].map_tokens)):
                parts.append(functional.layer_norm(tokens, tokens.shape[-1:]) + self.kinds[place])
        if self.language is not None:
            read = torch.cat([parts[0][:, view.cells.shape[1] :], *parts[1:2]], dim=1)
            prompt = prompt_ids(ego_history, command)
            if reason:
                semantics = self.language.semantics(read, prompt)
                parts.append(semantics.tokens + self.kinds[2])
        return Seen(
            scene=SceneTokens(torch.cat(parts, dim=1), view.grid), view=view, found=found, read=read, prompt=prompt, semantics=semantics
        )


def prompt_ids(ego_history: Float[Tensor, "scenes 4 7"], command: Float[Tensor, "scenes 4"]) -> Int[Tensor, "scenes prompt"]:
    """The prompts' words of some moments, on their device."""
    texts = prompts(ego_history.detach().cpu().double().numpy(), command.detach().cpu().double().numpy())
    return torch.from_numpy(encoded(texts, VOCABULARY, PROMPT_LENGTH)).to(ego_history.device)
