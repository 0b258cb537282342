"""`regrnn.tasks.captioning.data`: Karpathy's format, images or vectors, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from regrnn.errors import RegrnnError
from regrnn.tasks.captioning import data as module
from regrnn.tasks.captioning.data import DataConfig, Described, build_vocabulary, read_corpus

pytestmark = pytest.mark.usefixtures("colour_encoder")


def edited(pictures: Path, tmp_path: Path, **changes: Any) -> Path:
    """A copy of the pictures whose third image has these keys changed; None takes one away."""
    copy = tmp_path / "copy"
    shutil.copytree(pictures, copy)
    data = json.loads((copy / "dataset.json").read_text())
    for key, value in changes.items():
        if value is None:
            del data["images"][2][key]
        else:
            data["images"][2][key] = value
    (copy / "dataset.json").write_text(json.dumps(data))
    return copy


def test_images_and_captions_by_split(pictures: Path) -> None:
    corpus = read_corpus(DataConfig(path=str(pictures)))
    assert {split: len(images) for split, images in corpus.splits.items()} == {"train": 12, "valid": 3, "test": 3}
    first = corpus.splits["train"][0]
    assert first.name == "0.png"
    assert first.captions == [
        ("a", "red", "square"),
        ("the", "picture", "is", "red"),
        ("all", "of", "it", "is", "red", "here"),
    ]
    assert first.vector == pytest.approx(np.array([200, 30, 30]) / 255, rel=1e-6)
    assert len(corpus.seen) == 9
    assert ("here", "is", "red") not in corpus.seen
    assert "train 12 (36 captions), valid 3 (9 captions), test 3 (9 captions)" in corpus.description
    only = read_corpus(DataConfig(path=str(pictures / "dataset.json")), ("test",))
    assert list(only.splits) == ["test"]
    assert only.seen == corpus.seen


def test_words_below_the_floor_are_unknown() -> None:
    captions = [("a", "dog"), ("a", "cat"), ("the", "dog")]
    train = [Described("1.png", captions, np.zeros(1, np.float32))]
    every = build_vocabulary(train, DataConfig())
    assert sorted(every.tokens(range(len(every)))) == ["<eos>", "<unk>", "a", "cat", "dog", "the"]
    frequent = build_vocabulary(train, DataConfig(min_frequency=2))
    assert frequent.tokens(frequent.encode_line("the dog saw a cat")) == [
        "<unk>",
        "dog",
        "<unk>",
        "a",
        "<unk>",
        "<eos>",
    ]


def test_case_is_kept_where_it_is_asked_for(pictures: Path) -> None:
    corpus = read_corpus(DataConfig(path=str(pictures), lowercase=False))
    assert corpus.splits["train"][0].captions[0] == ("A", "red", "square")


def test_raw_sentences_are_split_into_words(pictures: Path, tmp_path: Path) -> None:
    raw = [{"raw": "A dog's well-known  ball, 2 feet (away)."}, {"raw": " ... "}]
    copy = edited(pictures, tmp_path, sentences=raw, split="restval")
    corpus = read_corpus(DataConfig(path=str(copy)))
    [image] = [image for image in corpus.splits["train"] if image.name == "2.png"]
    assert image.captions == [("a", "dog's", "well-known", "ball", "2", "feet", "away")]


def test_vectors_are_computed_once(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_corpus(DataConfig(path=str(pictures)))
    monkeypatch.setattr(module, "open_image", lambda path: pytest.fail(f"{path} was read again"))
    after = read_corpus(DataConfig(path=str(pictures)))
    assert [i.vector.tolist() for i in after.splits["test"]] == [i.vector.tolist() for i in before.splits["test"]]
    assert after.sums == before.sums


def test_a_changed_image_changes_the_checksum_and_its_vector(pictures: Path, tmp_path: Path) -> None:
    before = read_corpus(DataConfig(path=str(pictures)))
    copy = edited(pictures, tmp_path)
    Image.new("RGB", (4, 4), (0, 0, 0)).save(copy / "images" / "0.png")
    after = read_corpus(DataConfig(path=str(copy)))
    assert after.sums["captions"] != "" and after.sums["images"] != before.sums["images"]
    assert after.splits["train"][0].vector.tolist() == [0, 0, 0]
    assert after.splits["train"][1].vector.tolist() == before.splits["train"][1].vector.tolist()


def test_images_may_lie_elsewhere(pictures: Path, tmp_path: Path) -> None:
    copy = edited(pictures, tmp_path)
    shutil.move(copy / "images", tmp_path / "elsewhere")
    with pytest.raises(RegrnnError, match=r"0\.png: the JSON names this image, and it is not in .*--data\.images"):
        read_corpus(DataConfig(path=str(copy)))
    corpus = read_corpus(DataConfig(path=str(copy), images=str(tmp_path / "elsewhere")))
    assert corpus.sums == read_corpus(DataConfig(path=str(pictures))).sums | {"captions": corpus.sums["captions"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": None}, r'images\[2\] \(2\.png\): "split" is missing'),
        ({"filename": None}, r'images\[2\]: "filename" is missing'),
        ({"filename": "gone.jpg"}, r"gone\.jpg: the JSON names this image, and it is not in"),
        ({"sentences": None}, r'images\[2\] \(2\.png\): "sentences" is missing'),
        ({"sentences": ["a dog"]}, r'\(2\.png\): a sentence has neither "tokens"'),
        ({"sentences": [{"tokens": ["a", 1]}]}, r'\(2\.png\): a sentence has neither "tokens"'),
        ({"sentences": [{"tokens": ["a", "<eos>"]}]}, "<eos>, which is reserved"),
    ],
)
def test_a_fault_in_the_json_is_named(pictures: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RegrnnError, match=message):
        read_corpus(DataConfig(path=str(edited(pictures, tmp_path, **changes))))


def test_a_broken_image_is_named(pictures: Path, tmp_path: Path) -> None:
    copy = edited(pictures, tmp_path)
    (copy / "images" / "4.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(RegrnnError, match=r"4\.png: not a picture that can be read"):
        read_corpus(DataConfig(path=str(copy)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[]", 'has no list "images"'),
        (b'{"images": []}', 'has no list "images"'),
        (b'{"images": [1]}', r"images\[0\]: is no object"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(content)
    with pytest.raises(RegrnnError, match=rf"captions\.json: .*{message}"):
        read_corpus(DataConfig(path=str(path)))


def test_which_file_is_meant_must_be_clear(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match="has no .json"):
        read_corpus(DataConfig(path=str(pictures / "images")))
    copy = edited(pictures, tmp_path)
    (copy / "notes.json").write_text("{}")
    assert read_corpus(DataConfig(path=str(copy))).root == copy / "dataset.json"
    (copy / "dataset.json").rename(copy / "captions.json")
    with pytest.raises(RegrnnError, match=r"several \.json files \(captions\.json, notes\.json\)"):
        read_corpus(DataConfig(path=str(copy)))
    with pytest.raises(RegrnnError, match="no data is named"):
        read_corpus(DataConfig())


def test_every_split_needs_an_image(pictures: Path, tmp_path: Path) -> None:
    copy = edited(pictures, tmp_path)
    text = (copy / "dataset.json").read_text().replace('"val"', '"unused"')
    (copy / "dataset.json").write_text(text)
    with pytest.raises(RegrnnError, match='no image has "split": "valid"'):
        read_corpus(DataConfig(path=str(copy)))


def test_vectors_made_elsewhere(pictures: Path, tmp_path: Path) -> None:
    table = np.random.default_rng(1).normal(size=(18, 5)).astype(np.float32)
    np.save(tmp_path / "v.npy", table)
    save_file({f"{n}.png": row for n, row in enumerate(table)}, tmp_path / "v.safetensors")
    for name in ("v.npy", "v.safetensors"):
        corpus = read_corpus(DataConfig(path=str(pictures), features=str(tmp_path / name)))
        for split, first in (("train", 0), ("valid", 12), ("test", 15)):
            for number, image in enumerate(corpus.splits[split], first):
                assert image.vector.tolist() == table[number].tolist()


def test_vectors_that_do_not_fit_are_refused(pictures: Path, tmp_path: Path) -> None:
    def read(name: str) -> None:
        read_corpus(DataConfig(path=str(pictures), features=str(tmp_path / name)))

    np.save(tmp_path / "short.npy", np.zeros((17, 5), np.float32))
    with pytest.raises(RegrnnError, match=r"short\.npy: is float32 of \[17, 5\]; it needs a row of floats for each"):
        read("short.npy")
    np.save(tmp_path / "nan.npy", np.full((18, 5), np.nan, np.float32))
    with pytest.raises(RegrnnError, match="not finite"):
        read("nan.npy")
    (tmp_path / "text.npy").write_text("text")
    with pytest.raises(RegrnnError, match="not an array of numpy"):
        read("text.npy")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(RegrnnError, match="not a safetensors file"):
        read("text.safetensors")
    save_file({"0.png": np.zeros(3, np.float32)}, tmp_path / "few.safetensors")
    with pytest.raises(RegrnnError, match=r"has no vector called '1\.png'"):
        read("few.safetensors")
    save_file({f"{n}.png": np.zeros(3 + n % 2, np.float32) for n in range(18)}, tmp_path / "uneven.safetensors")
    with pytest.raises(RegrnnError, match="as many numbers"):
        read("uneven.safetensors")
    with pytest.raises(RegrnnError, match="no data at"):
        read("none.npy")
