"""A small language model that looks at a moment, says what matters in it and what to do, and hands its hidden states to the planner.

A decoder over one sequence: the scene's image tokens, a prompt (command and ego status as text), then a rationale with its meta action
(`irlvla.rationale`). Image tokens and prompt attend to each other both ways, the rationale only backwards (a prefix language model, as in
PaliGemma, arXiv 2407.07726). It is taught with the texts of the log's facts, and writes greedily, each word from cached keys and values.

What the planner gets is read from the states of what the model *wrote*, in training too: the log's own meta action follows from the human's
future, which no planner may see.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import feed_forward
from irlvla.rationale import END_ID, FIELDS, LONGEST, PAD_ID, PHRASES, PROMPT_LENGTH, START_ID, VOCABULARY, grammar, stated

LATERAL, LONGITUDINAL = FIELDS.index("lateral"), FIELDS.index("longitudinal")
META_ACTIONS = len(PHRASES["lateral"]) * len(PHRASES["longitudinal"])


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig:
    """The tiny language model.

    `inputs` is the width of the image tokens that it is given, `count` and `token_width` the number and width of the semantic tokens that
    it gives.
    `hidden`: semantic tokens are read from hidden states ("states"), or are an embedding of the written meta action alone ("meta", a
    control). `write`: without it nothing is written when semantic tokens are asked for, and they are read from the prompt's states.
    `constrained`: only words that can lead to a well-formed text are written. `vocabulary` is kept here so that a checkpoint knows its
    words.
    """

    inputs: int = 96
    width: int = 96
    layers: int = 2
    heads: int = 4
    inner: int = 192
    count: int = 8
    token_width: int = 96
    hidden: Literal["states", "meta"] = "states"
    write: bool = True
    constrained: bool = False
    vocabulary: tuple[str, ...] = VOCABULARY

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be shared by {self.heads} heads")
        if self.hidden == "meta" and not self.write:
            raise ValueError("hidden is 'meta' and write is False: without a written text there is no meta action to embed")


@dataclass(frozen=True, slots=True)
class Reading:
    """Last hidden states over prompt and text, and logits of the text's words.

    Position t of `text` has read the words before word t (the first has read START), and `logits[:, t]` are those of word t.
    """

    prompt: Float[Tensor, "scenes prompt width"]
    text: Float[Tensor, "scenes words width"]
    logits: Float[Tensor, "scenes words vocabulary"]


@dataclass(frozen=True, slots=True)
class Semantics:
    """What the language model hands on of each scene.

    `ids` are the written words (padding where nothing was written). `facts` is what they state, a row of -1 where the text is malformed or
    nothing was written; such a text has no part in `tokens`.
    """

    tokens: Float[Tensor, "scenes count token_width"]
    ids: Int[Tensor, "scenes longest"]
    facts: Int[Tensor, "scenes fields"]


class LanguageLayer(nn.Module):
    """Self-attention and a feed-forward block, both residual."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mixer_norm = nn.LayerNorm(width)
        self.mixer = feed_forward(width, inner, width)

    def forward(
        self,
        values: Float[Tensor, "scenes positions width"],
        mask: Bool[Tensor, "positions keys"] | None,
        cache: Float[Tensor, "2 scenes heads longest size"] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "scenes positions width"]:
        """The next layer's values.

        Args:
            values: of positions from `start` on.
            mask: True where a position may look; None: everywhere.
            cache: keys and values of the positions before `start`; those of these positions are added in place.
            start: the first position.
        """
        query, key, value = self.project(self.norm(values)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            stop = start + values.shape[1]
            cache[0, :, :, start:stop], cache[1, :, :, start:stop] = key, value
            key, value = cache[0, :, :, :stop], cache[1, :, :, :stop]
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        values = values + self.out(found.transpose(1, 2).flatten(2))
        return values + self.mixer(self.mixer_norm(values))


class TinyLanguageModel(nn.Module):
    """Image tokens and a prompt to a rationale, its hidden states, and semantic tokens for the planner."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.image = nn.Linear(config.inputs, width)
        self.image_kind = nn.Parameter(0.02 * torch.randn(width))
        self.word = nn.Embedding(len(config.vocabulary), width)
        self.place = nn.Parameter(0.02 * torch.randn(PROMPT_LENGTH + LONGEST, width))
        self.layers = nn.ModuleList(LanguageLayer(width, config.heads, config.inner) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.word.weight, std=0.02)
        self.reader = SemanticReader(config.hidden, width, config.count, config.token_width)
        self.register_buffer("grammar", torch.from_numpy(grammar(config.vocabulary)), persistent=False)

    def forward(
        self,
        image_tokens: Float[Tensor, "scenes images inputs"],
        prompt: Int[Tensor, "scenes prompt"],
        text: Int[Tensor, "scenes longest"] | None,
    ) -> Reading:
        """Teacher forcing: hidden states over a given text, and what the model would have written at each place of it.

        Args:
            image_tokens: of each scene; their places are known to themselves, their order says nothing.
            prompt: ids of the prompts' words.
            text: ids of the texts' words, padded; None reads the prompt alone.
        """
        # Matrices this small are faster in single precision than under autocast.
        with torch.autocast(image_tokens.device.type, enabled=False):
            values, mask = self._prefix(image_tokens, prompt), None
            prefix = values.shape[1]
            if text is not None:
                inputs = torch.cat([torch.full_like(text[:, :1], START_ID), text[:, :-1]], dim=1)
                values = torch.cat([values, self.word(inputs) + self.place[PROMPT_LENGTH:]], dim=1)
                places = torch.arange(values.shape[1], device=values.device)
                mask = (places < prefix) | (places <= places[:, None])
            for layer in self.layers:
                values = layer(values, mask)
            values = self.norm(values[:, image_tokens.shape[1] :])
            said = values[:, prompt.shape[1] :]
            return Reading(values[:, : prompt.shape[1]], said, said @ self.word.weight.T)

    def write(
        self, image_tokens: Float[Tensor, "scenes images inputs"], prompt: Int[Tensor, "scenes prompt"]
    ) -> tuple[Int[Tensor, "scenes longest"], Reading]:
        """The most likely word after the most likely word, until every text has ended or has LONGEST words.

        Returns:
            The ids, and the same reading that `forward` gives for them (without gradients; zeros after the last text's end).
        """
        with torch.no_grad(), torch.autocast(image_tokens.device.type, enabled=False):
            return self._written(self._prefix(image_tokens, prompt), prompt.shape[1])

    def _written(self, values: Float[Tensor, "scenes prefix width"], prompt_length: int) -> tuple[Int[Tensor, "scenes longest"], Reading]:
        scenes, prefix, width = values.shape
        heads = self.config.heads
        cache = values.new_zeros(len(self.layers), 2, scenes, heads, prefix + LONGEST, width // heads)
        for layer, kept in zip(self.layers, cache, strict=True):
            values = layer(values, None, kept)
        read = self.norm(values[:, -prompt_length:])
        ids = torch.full((scenes, LONGEST), PAD_ID, device=values.device)
        text = values.new_zeros(scenes, LONGEST, width)
        logits = values.new_zeros(scenes, LONGEST, len(self.config.vocabulary))
        word, state = torch.full_like(ids[:, 0], START_ID), torch.zeros_like(ids[:, 0])
        open_ended = torch.ones_like(word, dtype=torch.bool)
        for step in range(LONGEST):
            values = self.word(word)[:, None] + self.place[PROMPT_LENGTH + step]
            for layer, kept in zip(self.layers, cache, strict=True):
                values = layer(values, None, kept, prefix + step)
            text[:, step] = self.norm(values[:, 0])
            logits[:, step] = text[:, step] @ self.word.weight.T
            if self.config.constrained:
                chosen = logits[:, step].masked_fill(self.grammar[state] < 0, -torch.inf).argmax(1)
                state = self.grammar[state, chosen]
            else:
                chosen = logits[:, step].argmax(1)
            word = torch.where(open_ended, chosen, PAD_ID)
            ids[:, step] = word
            open_ended = open_ended & (word != END_ID) & (word != PAD_ID)
            if not bool(open_ended.any()):
                break
        return ids, Reading(read, text, logits)

    def semantics(self, image_tokens: Float[Tensor, "scenes images inputs"], prompt: Int[Tensor, "scenes prompt"]) -> Semantics:
        """Semantic tokens of each scene, read from what the model writes about it (or from the prompt alone, where `write` is off).

        Gradients flow into the states that are read, not through the choice of words.
        """
        if not self.config.write:
            ids = torch.full((len(prompt), LONGEST), PAD_ID, device=prompt.device)
            reading = self(image_tokens, prompt, None)
        else:
            ids, reading = self.write(image_tokens, prompt)
            if torch.is_grad_enabled() and self.config.hidden == "states":
                reading = self(image_tokens, prompt, ids)
        facts = torch.from_numpy(stated(ids.cpu().numpy(), self.config.vocabulary)).to(ids.device)
        told = words_read(ids) & (facts[:, :1] >= 0)
        counts = torch.cat([torch.ones_like(prompt, dtype=torch.bool), told[:, : reading.text.shape[1]]], dim=1)
        return Semantics(self.reader(torch.cat([reading.prompt, reading.text], dim=1), counts, facts), ids, facts)

    def _prefix(
        self, image_tokens: Float[Tensor, "scenes images inputs"], prompt: Int[Tensor, "scenes prompt"]
    ) -> Float[Tensor, "scenes prefix width"]:
        return torch.cat([self.image(image_tokens.float()) + self.image_kind, self.word(prompt) + self.place[:PROMPT_LENGTH]], dim=1)


class SemanticReader(nn.Module):
    """A fixed number of tokens from what a language model read and wrote; one reader serves models of every size.

    `hidden` is that of `LanguageConfig`: learned queries attend to the states that count ("states"), or the meta action is embedded ("meta").
    """

    def __init__(
        self, hidden: Literal["states", "meta"], width: int, count: int, token_width: int, inner: int = 96, heads: int = 4
    ) -> None:
        super().__init__()
        self.heads, self.count = heads, count
        if hidden == "meta":
            self.meta = nn.Embedding(META_ACTIONS + 1, count * token_width)
        else:
            self.meta = None
            self.questions = nn.Parameter(torch.randn(count, inner))
            self.project = nn.Linear(width, 2 * inner)
            self.out = nn.Linear(inner, token_width)

    def forward(
        self,
        states: Float[Tensor, "scenes states width"],
        counts: Bool[Tensor, "scenes states"],
        facts: Int[Tensor, "scenes fields"],
    ) -> Float[Tensor, "scenes count token_width"]:
        """Tokens with mean 0 and variance 1.

        Args:
            states: hidden states of prompt and text.
            counts: the states that say something; the others change nothing.
            facts: what the text states, a row of -1 where it states nothing.
        """
        with torch.autocast(states.device.type, enabled=False):
            if self.meta is not None:
                action = facts[:, LATERAL] * len(PHRASES["longitudinal"]) + facts[:, LONGITUDINAL]
                tokens = self.meta(torch.where(facts[:, 0] < 0, META_ACTIONS, action)).unflatten(1, (self.count, -1))
            else:
                key, value = self.project(states.float()).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
                query = self.questions.unflatten(1, (self.heads, -1)).transpose(0, 1).expand(len(states), -1, -1, -1)
                found = functional.scaled_dot_product_attention(query, key, value, attn_mask=counts[:, None, None])
                tokens = self.out(found.transpose(1, 2).flatten(2))
            return functional.layer_norm(tokens, tokens.shape[-1:])


def words_read(ids: Int[Tensor, "scenes longest"]) -> Bool[Tensor, "scenes longest"]:
    """Positions of a reading that have read START or a word, and no end: the states that say something."""
    return torch.cat([torch.ones_like(ids[:, :1], dtype=torch.bool), (ids[:, :-1] != PAD_ID) & (ids[:, :-1] != END_ID)], dim=1)


def rationale_loss(
    logits: Float[Tensor, "scenes longest vocabulary"],
    text: Int[Tensor, "scenes longest"],
    padding: int = PAD_ID,
    weights: Float[Tensor, "vocabulary"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Cross-entropy of the texts' words, averaged over them, END included; scenes without a text (padding alone) have no part in it.

    Args:
        logits: of `TinyLanguageModel.forward` for the same texts.
        text: ids of the words (`irlvla.rationale.rationale_ids`).
        padding: the id that stands where no word is.
        weights: of the words (`irlvla.rationale.word_weights`); None: all weigh alike.

    Returns:
        The loss, 0 where no scene has a text, and the share of words that would have been written right.
    """
    known = text != padding
    counts = known.float() if weights is None else torch.where(known, weights[torch.where(known, text, 0)], 0.0)
    each = functional.cross_entropy(logits.float().flatten(0, 1), text.flatten(), reduction="none").view_as(text)
    right = ((logits.argmax(-1) == text) & known).sum() / known.sum().clamp(min=1)
    return torch.where(known, each * counts, 0.0).sum() / counts.sum().clamp(min=1.0), {"word_accuracy": right.detach()}
