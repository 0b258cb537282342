from pathlib import Path

import pytest

from regrnn.data.locate import cache_root, data_root, locate_data
from regrnn.errors import RegrnnError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("REGRNN_CACHE", "REGRNN_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path / "home"


def test_roots(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == home / ".cache" / "regrnn"
    assert data_root() == home / ".cache" / "regrnn" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == home / ".cache" / "regrnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/regrnn")
    monkeypatch.setenv("REGRNN_CACHE", "~/own")
    assert cache_root() == home / "own"
    assert data_root() == home / "own" / "data"
    monkeypatch.setenv("REGRNN_DATA", "/sets")
    assert data_root() == Path("/sets")
    monkeypatch.setenv("REGRNN_DATA", "")
    assert data_root() == home / "own" / "data"


def test_a_path_wins_over_a_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRNN_DATA", str(home))
    (home / "ptb").mkdir(parents=True)
    assert locate_data("ptb") == home / "ptb"
    Path("ptb").mkdir()
    assert locate_data("ptb") == Path("ptb")
    (home / "my.txt").write_text("x")
    assert locate_data("~/my.txt") == home / "my.txt"
    assert locate_data(str(home / "my.txt")) == home / "my.txt"


def test_both_places_and_the_command(home: Path) -> None:
    with pytest.raises(RegrnnError) as caught:
        locate_data("ptb")
    place = home / ".cache" / "regrnn" / "data" / "ptb"
    assert str(caught.value) == f"no data at ptb nor at {place}; get it with: regrnn fetch ptb"


def test_near_names(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRNN_DATA", str(home))
    (home / "my-corpus").mkdir(parents=True)
    with pytest.raises(RegrnnError, match=r"did you mean my-corpus\?"):
        locate_data("my-corpsu")
    with pytest.raises(RegrnnError, match=r"did you mean ptb\?"):
        locate_data("pbt")
    with pytest.raises(RegrnnError, match=r"no data at zzz nor at .*; give an existing path"):
        locate_data("zzz")
    with pytest.raises(RegrnnError, match="no data at ~nobody-of-this-name/x"):
        locate_data("~nobody-of-this-name/x")


@pytest.mark.parametrize("value", ["", "  "])
def test_empty_is_not_the_working_folder(value: str) -> None:
    with pytest.raises(RegrnnError, match="empty"):
        locate_data(value)
