"""Every function of the package is checked against its annotations while tests run, shapes included; a GPU is left alone."""

import os
from importlib.util import find_spec

from jaxtyping import install_import_hook

os.environ["CUDA_VISIBLE_DEVICES"] = ""
install_import_hook("irlvla", "beartype.beartype")
# What is about large models is collected where the `weights` extra is installed.
collect_ignore = [] if find_spec("transformers") else ["model/test_pretrained.py", "model/test_vision_language.py"]
