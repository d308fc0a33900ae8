import pytest
import torch
from torch.nn import functional

from irlvla.model.lite0 import EfficientNetLite0, SameConv, lite0_state, norm, normed


@pytest.mark.parametrize("size, kernel, stride", [(8, 3, 2), (8, 5, 2), (11, 5, 2), (7, 3, 1)])
def test_convolutions_are_padded_as_tensorflow_pads_them(size, kernel, stride):
    # TensorFlow, "SAME": ceil(size / stride) outputs, the odd pixel of padding after the picture
    torch.manual_seed(0)
    convolution, picture = SameConv(1, 1, kernel, stride), torch.randn(1, 1, size, size)
    found = convolution(picture)
    outputs = -(-size // stride)
    before = ((outputs - 1) * stride + kernel - size) // 2
    wide = functional.pad(picture, (before, 9, before, 9))
    slow = functional.conv2d(wide, convolution.weight, convolution.bias, stride)[:, :, :outputs, :outputs]
    torch.testing.assert_close(found, slow)


def test_the_network_has_the_size_that_its_paper_gives():
    # 4.7 million with the classifier
    assert round(sum(value.numel() for value in EfficientNetLite0(head=True).parameters()) / 1e5) == 47
    assert sum(value.numel() for value in EfficientNetLite0().parameters()) == 2_958_848


def test_maps_are_at_an_eighth_a_sixteenth_and_a_thirty_second():
    maps = EfficientNetLite0().eval()(torch.zeros(2, 3, 64, 96))
    assert [tuple(values.shape) for values in maps] == [(2, 40, 8, 12), (2, 112, 4, 6), (2, 320, 2, 3)]


def test_weights_are_named_as_in_the_file_less_underscores_and_the_classifier_can_be_left_out():
    whole = EfficientNetLite0(head=True)
    file = {"_" + name.replace(".", "._"): value for name, value in whole.state_dict().items()}
    file = {name.replace("._weight", ".weight").replace("._bias", ".bias").replace("._running", ".running"): v for name, v in file.items()}
    file = {name.replace("._num", ".num"): value for name, value in file.items()}
    assert lite0_state(file, head=True).keys() == whole.state_dict().keys()
    assert lite0_state(file).keys() == EfficientNetLite0().state_dict().keys()
    assert whole.eval().classes(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


def test_a_fixed_norm_folded_into_its_convolution_changes_nothing():
    torch.manual_seed(0)
    convolution, fixed, values = SameConv(4, 6, 3, 2, bias=False), norm(6), torch.randn(2, 4, 8, 11)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(fixed, name).data = torch.rand(6) + 0.5
    torch.testing.assert_close(normed(convolution, fixed.eval(), values), fixed(convolution(values)))
    torch.testing.assert_close(normed(convolution, fixed.train(), values).mean((0, 2, 3)), fixed.bias)
