"""Every function of the package is checked against its annotations while tests run, shapes included."""

from jaxtyping import install_import_hook

install_import_hook("irlvla", "beartype.beartype")
