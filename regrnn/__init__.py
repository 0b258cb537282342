"""regrnn: recurrent networks regularised where it helps, after Zaremba, Sutskever and Vinyals (2014).

The layers stand alone: ``from regrnn import LSTM`` in any PyTorch code needs nothing else of the package.
"""

from typing import TYPE_CHECKING

from regrnn._version import __version__
from regrnn.errors import RegrnnError

if TYPE_CHECKING:
    from regrnn.nn import (
        GRU,
        LSTM,
        RNN,
        CorruptionCount,
        GRUCell,
        LSTMCell,
        Regularization,
        RNNCell,
        corruption_count,
    )
    from regrnn.training.load import load

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "CorruptionCount",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "RegrnnError",
    "Regularization",
    "__version__",
    "corruption_count",
    "load",
]


def __getattr__(name: str) -> object:
    # Importing torch takes seconds, so it waits until a layer is asked for: `regrnn --help` never does.
    if name == "load":
        from regrnn.training.load import load

        return load
    if name in __all__:
        import regrnn.nn

        return getattr(regrnn.nn, name)
    raise AttributeError(f"module 'regrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
