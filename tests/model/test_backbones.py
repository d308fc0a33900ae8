import dataclasses

import pytest
import torch

from irlvla.model import backbones
from irlvla.model.backbones import ENCODERS, Neck, PretrainedEncoder, TransformersBackbone, image_encoder, load_pretrained
from irlvla.model.vision import ImageEncoder, VisionConfig

from ..sights import noise, sight

LITE0 = VisionConfig(encoder="efficientnet-lite0", widths=(8, 16, 24))


@pytest.fixture(scope="module")
def lite0():
    torch.manual_seed(0)
    return image_encoder(LITE0)


class TinyModel(torch.nn.Module):
    """Stands in for a model of the transformers library: 14 x 14 patches, one class token, `extra` further ones."""

    class config:
        patch_size = 14

    def __init__(self, extra=0):
        super().__init__()
        self.project, self.extra, self.sizes = torch.nn.Conv2d(3, 6, 14, 14), extra, []

    def forward(self, pictures, output_hidden_states=False):
        self.sizes.append(tuple(pictures.shape[2:]))
        tokens = self.project(pictures).flatten(2).transpose(1, 2)
        self.last_hidden_state = torch.cat([tokens.new_full((len(tokens), 1 + self.extra, 6), 99.0), tokens], dim=1)
        self.hidden_states = (self.last_hidden_state,)
        return self


def test_the_small_encoder_is_the_default():
    assert isinstance(image_encoder(VisionConfig()), ImageEncoder) and list(ENCODERS)[0] == "small"


def test_a_name_that_nobody_knows_is_an_error_that_lists_those_that_are_known():
    with pytest.raises(ValueError, match="unknown encoder 'resnet'; known: small, efficientnet-lite0, dinov2-s, hf:<model>"):
        image_encoder(VisionConfig(encoder="resnet"))


def test_the_small_encoder_cannot_be_frozen():
    with pytest.raises(ValueError, match="cannot be frozen"):
        image_encoder(VisionConfig(frozen=True))


def test_without_the_transformers_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the transformers library .*pip install 'irlvla\[weights\]'"):
        image_encoder(VisionConfig(encoder="hf:some/model"))


def test_every_encoder_gives_maps_of_the_same_sizes(lite0):
    found, wanted = lite0(sight(noise())), ImageEncoder(VisionConfig(widths=(8, 16, 24)))(sight(noise()))
    assert found.fine.shape == wanted.fine.shape and found.coarse.shape == wanted.coarse.shape


@pytest.mark.parametrize("strides, sizes", [((16,), [(6, 11)]), ((8, 16, 32), [(12, 22), (6, 11), (3, 6)]), ((32,), [(3, 6)])])
def test_a_neck_makes_a_fine_and_a_coarse_map_of_whatever_there_is(strides, sizes):
    maps = [torch.randn(2, 5, *size) for size in sizes]
    fine, coarse = Neck(strides, (5,) * len(sizes), 4, 6)(maps)
    if strides != (32,):
        assert fine.shape == (2, 4, 12, 22) and coarse.shape == (2, 6, 6, 11)
    else:
        assert fine.shape == (2, 4, 12, 24) and coarse.shape == (2, 6, 6, 12)


def test_pictures_that_are_not_valid_change_nothing_and_give_zeros(lite0):
    seen = sight(noise())
    seen.valid[0, 2] = False
    garbage = dataclasses.replace(seen, images=torch.where(seen.valid[..., None, None, None], seen.images, noise(seed=1)))
    model = lite0.eval()
    found, same = model(seen), model(garbage)
    assert torch.equal(found.fine, same.fine) and not found.coarse[0, 2].any() and not found.fine[0, 2].any()
    torch.testing.assert_close(model(dataclasses.replace(seen, raw=model.raw(seen))).fine, found.fine)


def test_the_neck_takes_kept_maps_for_pictures(lite0):
    seen, model = sight(noise()), lite0.eval()
    kept = dataclasses.replace(seen, images=seen.images[:, :, :0], raw=model.raw(seen))
    torch.testing.assert_close(model(kept).coarse, model(seen).coarse)


def test_colours_change_as_they_do_for_the_small_encoder(lite0):
    images, model = noise() % 30 + 30, lite0.eval()
    gain, bias = torch.full((2, 3), 2.0), torch.full((2, 3), 2.0)
    left, right = model.raw(sight(images), gain, bias)[0], model.raw(sight(images * 2))[0]
    torch.testing.assert_close(left, right, rtol=0.1, atol=0.1)


def test_a_frozen_backbone_learns_nothing_and_its_neck_does():
    torch.manual_seed(0)
    model = image_encoder(dataclasses.replace(LITE0, frozen=True)).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model(sight(noise())).fine.sum().backward()
    assert all(value.grad is None for value in model.backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    assert any(value.grad is not None and value.grad.any() for value in model.neck.parameters())


def test_a_backbone_that_is_not_frozen_learns(lite0):
    lite0.train()(sight(noise())).fine.sum().backward()
    assert lite0.backbone.model.conv_stem.weight.grad.any()


def test_loading_is_strict_and_only_for_what_has_been_trained():
    torch.manual_seed(0)
    small, other = image_encoder(VisionConfig(widths=(8, 8, 8))), image_encoder(LITE0)
    load_pretrained(small)
    model = PretrainedEncoder(LITE0, other.backbone, ((0.5,) * 3,) * 2, other.backbone.state_dict)
    load_pretrained(model)
    weights = dict(list(other.backbone.state_dict().items())[1:])
    with pytest.raises(RuntimeError, match="Missing key"):
        load_pretrained(PretrainedEncoder(LITE0, other.backbone, ((0.5,) * 3,) * 2, lambda: weights))


@pytest.mark.parametrize("extra", [0, 4])
def test_a_vision_transformers_patches_stand_for_16_pixels_and_further_tokens_are_left_out(extra):
    torch.manual_seed(0)
    backbone = TransformersBackbone(TinyModel(extra), "tiny")
    maps = backbone(torch.zeros(2, 3, 96, 176))
    assert backbone.model.sizes[-1] == (6 * 14, 11 * 14) and backbone.strides == (16,) and backbone.widths == (6,)
    assert maps[0].shape == (2, 6, 6, 11) and not (maps[0] == 99).any()


def test_a_model_without_one_token_a_patch_is_an_error():
    with pytest.raises(ValueError, match="is not one token for each of 4 x 6 patches"):
        TransformersBackbone(TinyModel(extra=40), "tiny")


def test_a_model_without_maps_of_use_is_an_error():
    class Flat(TinyModel):
        def forward(self, pictures, output_hidden_states=False):
            self.hidden_states = (pictures,)
            return self

    with pytest.raises(ValueError, match="no maps at 1/8, 1/16 or 1/32, only"):
        TransformersBackbone(Flat(), "tiny")


def test_the_necks_resizing_keeps_means():
    maps = torch.randn(1, 2, 8, 8)
    for size in ([4, 4], [8, 8]):
        torch.testing.assert_close(backbones._resized(maps, size).mean(), maps.mean())
