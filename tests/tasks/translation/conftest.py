"""One thread; and, made once, phrases in two languages and tiny runs trained on them."""

from pathlib import Path

import pytest
from phrases import train, write_phrases


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: copy it first."""
    return write_phrases(tmp_path_factory.mktemp("translation") / "phrases")


def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory, name: str, **settings: str) -> Path:
    out = tmp_path_factory.mktemp("runs") / name
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRNN_CACHE", str(tmp_path_factory.mktemp(f"cache-of-{name}")))
        assert train(texts, out, **settings) == 0
    return out


@pytest.fixture(scope="session")
def attentive_run(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With attention: it translates nearly all."""
    return trained(texts, tmp_path_factory, "attentive")


@pytest.fixture(scope="session")
def plain_run(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As in the paper: without attention, the source read backwards."""
    settings = {"model__attention": "none", "data__reverse_source": "true"}
    return trained(texts, tmp_path_factory, "plain", **settings)
