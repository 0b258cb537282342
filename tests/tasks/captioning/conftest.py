"""One thread; and, made once, coloured pictures and a tiny run trained on them."""

from pathlib import Path

import pytest
from colours import train, use_mean_colour, write_pictures


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture
def colour_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    use_mean_colour(monkeypatch)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: copy it first."""
    return write_pictures(tmp_path_factory.mktemp("captions") / "colours")


@pytest.fixture(scope="session")
def caption_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on `pictures`, so that it tells the colours apart."""
    out = tmp_path_factory.mktemp("runs") / "colours"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRNN_CACHE", str(tmp_path_factory.mktemp("cache-of-caption-run")))
        use_mean_colour(patch)
        assert train(pictures, out) == 0
    return out
