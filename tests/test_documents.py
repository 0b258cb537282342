"""The code blocks of the README and the docs run as they stand, in the order of the page."""

import random
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from regrnn.cli.main import run

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(python|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's own text and recordings in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGRNN_CACHE", str(tmp_path / "cache"))
    draw = random.Random(1)
    nouns, verbs = ["cat", "dog", "bird", "horse"], ["sees", "hears", "follows"]
    lines = [f"the {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)} ." for _ in range(200)]
    Path("my.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("sentences.txt").write_text("the cat sees the dog .\nthe dog sleeps .\n", encoding="utf-8")
    Path("recordings").mkdir()
    for number in range(10):
        tones = draw.choices([("a", 400.0), ("o", 900.0), ("i", 2500.0)], k=4)
        samples = [0.3 * np.sin(2 * np.pi * hertz * np.arange(1600) / 16000) for _, hertz in tones]
        soundfile.write(f"recordings/u{number}.wav", np.concatenate(samples), 16000)
        lines = [f"{(k + 1) / 10} 125 {phone}\n" for k, (phone, _) in enumerate(tones)]
        Path(f"recordings/u{number}.lab").write_text("#\n" + "".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, f"{page.name} (code block)", "exec"), names)
            continue
        for line in text.splitlines():
            command = line.split("#")[0].strip()
            if command.startswith("regrnn "):
                assert run(shlex.split(command)[1:]) == 0, f"{page.name}: {command}: {capsys.readouterr().err}"


def test_readme_has_blocks_to_run() -> None:
    found = [text for _, text in blocks(ROOT / "README.md")]
    assert sum("regrnn train" in text for text in found) == 1
    assert sum("regrnn.load" in text for text in found) == 1
