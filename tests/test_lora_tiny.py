"""The benchmark of adapters from a store to its page, with a tiny model in LLaVA's form."""

import json
import sys
from pathlib import Path

import torch

from irlvla.model.vision_language import VisionLanguageModel, llava

from .model import tiny_hub
from .stand_in import MemoryStore
from .test_proof import benchmark

lora = benchmark("lora")


def tiny_model(config):
    """Its frozen weights are made larger, so that pictures and words matter."""
    inner = llava(tiny_hub.eyes(), tiny_hub.language(), 2, config.picture_height, config.picture_width)
    with torch.no_grad():
        for name, parameter in inner.named_parameters():
            if parameter.ndim > 1 and "vision" not in name:
                parameter.mul_(6.0)
    return VisionLanguageModel(inner, tiny_hub.tokenizer(tiny_hub.TEXT_TEMPLATE), config)


def test_a_model_is_taught_asked_and_written_about(tmp_path, monkeypatch, capsys):
    store = MemoryStore(40)
    store.folder = Path("store")
    monkeypatch.setattr(lora, "Store", lambda path: store)
    monkeypatch.setattr(lora, "vision_language_model", tiny_model)
    out, page = tmp_path / "lora.json", tmp_path / "lora.md"
    options = ["store", "--scenes", 24, "--others", 9, "--steps", 25, "--batch", 8, "--rate", 0.03, "--out", out, "--page", page]
    monkeypatch.setattr(sys, "argv", ["lora.py", *map(str, options)])
    threads = torch.get_num_threads()
    lora.main()
    torch.set_num_threads(threads)
    found, told = json.loads(out.read_text()), page.read_text()
    assert {"commit", "machine", "threads", "command"} <= set(found) and found["memory"] > 50e6
    assert len(found["losses"]) == 25 and found["losses"][-1] < 0.7 * found["losses"][0]
    assert found["found"]["after"]["loss"] < 0.7 * found["found"]["before"]["loss"]
    assert set(found["seconds"]) == {"load", "look", "write before", "learn", "learn, processor", "write after"}
    assert found["view_tokens"] == 4 * 7 and 0 < found["learned"] < found["parameters"]
    assert (
        "25 steps of 8 scenes (8.33 times" in told
        and "28 image tokens each" in told
        and "| every fact right |" in told
        and "step 20" in capsys.readouterr().out
    )
    page.unlink()
    monkeypatch.setattr(sys, "argv", ["lora.py", "--write-only", "--out", str(out), "--page", str(page)])
    lora.main()
    assert page.read_text() == told
