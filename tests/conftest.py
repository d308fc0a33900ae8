"""Every function of the package is checked against its annotations while tests run, shapes included; a GPU is left alone."""

import os

from jaxtyping import install_import_hook

os.environ["CUDA_VISIBLE_DEVICES"] = ""
install_import_hook("irlvla", "beartype.beartype")
