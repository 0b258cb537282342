"""`regrnn.data.parallel`: the layouts of two aligned texts, and what is unclear or broken in them."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from regrnn.data.parallel import Parallel, find_parallel
from regrnn.errors import RegrnnError

GERMAN, ENGLISH = ["eins", "zwei drei", ""], ["one", "two three", "none"]


def write(folder: Path, files: Mapping[str, list[str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def found(path: Path, source: str = "de", target: str = "en", **names: str) -> dict[str, Parallel]:
    return find_parallel(path, source, target, names)


def sides(pair: Parallel) -> tuple[list[str], list[str]]:
    return list(pair.source), list(pair.target)


def refusal(path: Path, source: str = "de", target: str = "en", **names: str) -> str:
    with pytest.raises(RegrnnError) as caught:
        for pair in found(path, source, target, **names).values():
            sides(pair)
    message = str(caught.value)
    assert "\n" not in message
    return message


def three(valid: str = "valid", suffixes: tuple[str, str] = (".de", ".en")) -> dict[str, list[str]]:
    """Files of three splits whose lines say which they are."""
    return {
        f"{stem}{suffix}": [f"{split} {side}"]
        for split, stem in (("train", "train"), ("valid", valid), ("test", "test"))
        for side, suffix in enumerate(suffixes)
    }


@pytest.mark.parametrize("valid", ["valid", "validation", "val", "dev", "VAL"])
def test_two_files_for_each_split(valid: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", three(valid) | {"README.md": ["about"], "train.fr": ["un"]})
    assert {split: sides(pair) for split, pair in found(folder).items()} == {
        split: ([f"{split} 0"], [f"{split} 1"]) for split in ("train", "valid", "test")
    }
    backwards = found(folder, "en", "de")
    assert sides(backwards["test"]) == (["test 1"], ["test 0"])
    [french] = find_parallel(folder, "fr", "en", {}, ("train",)).values()
    assert sides(french) == (["un"], ["train 1"])


def test_only_the_splits_asked_for_have_to_be_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {"test.de": ["eins"], "test.en": ["one"]})
    assert list(find_parallel(folder, "de", "en", {}, ("test",))) == ["test"]
    message = refusal(folder)
    assert f"{folder}: no train split; looked for train.LANGUAGE twice, train.tsv or train.jsonl" in message
    assert "found test.de, test.en" in message
    assert "--data.train" in message


def test_a_missing_validation_split_may_have_other_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {name: lines for name, lines in three().items() if "valid" not in name})
    assert "(or validation, val, dev in place of valid)" in refusal(folder)
    assert "found no files" in refusal(write(tmp_path / "empty", {}))


def test_a_split_may_be_part_of_a_longer_name(tmp_path: Path) -> None:
    files = {f"{stem}.de-en.{side}": [f"{stem} {side}"] for stem in ("IWSLT.train", "tst.dev") for side in ("de", "en")}
    folder = write(tmp_path / "texts", files | {f"test_2016_flickr.{side}": [side] for side in ("de", "en")})
    assert sides(found(folder)["train"]) == (["IWSLT.train de"], ["IWSLT.train en"])
    assert sides(found(folder)["valid"]) == (["tst.dev de"], ["tst.dev en"])
    assert sides(found(folder)["test"]) == (["de"], ["en"])


def test_files_of_any_name_are_named(tmp_path: Path) -> None:
    more = {
        f"{stem}.{side}": [f"{stem} {side}"] for stem in ("test_2016_flickr", "newstest2014") for side in ("de", "en")
    }
    folder = write(tmp_path / "texts", three() | more)
    assert sides(found(folder)["test"]) == (["test 0"], ["test 1"])  # the one that is called just that
    assert sides(found(folder, test="test_2016_flickr")["test"])[0] == ["test_2016_flickr de"]
    assert sides(found(folder, train="newstest2014")["train"])[1] == ["newstest2014 en"]
    message = refusal(folder, test="newstest")
    assert "no test split; looked for newstest.LANGUAGE;" in message


def test_several_files_that_could_be_a_split_are_named(tmp_path: Path) -> None:
    files = three() | {f"test_{year}.{side}": ["x"] for year in (2016, 2017) for side in ("de", "en")}
    del files["test.de"], files["test.en"]
    message = refusal(write(tmp_path / "texts", files))
    assert "several files could be the test split (test_2016.de, test_2017.de)" in message
    assert "--data.test" in message


def test_a_split_is_one_table(tmp_path: Path) -> None:
    files = {f"{split}.tsv": ["a\tb"] for split in ("train", "valid", "test")} | {"valid.jsonl": ["{}"]}
    message = refusal(write(tmp_path / "texts", files), "", "")
    assert message.endswith("several files could be the valid split (valid.tsv, valid.jsonl); keep one of them")


def test_languages_have_to_be_said_and_to_be_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", three())
    for source, target in (("", ""), ("de", ""), ("", "en")):
        message = refusal(folder, source, target)
        assert "--data.source and --data.target" in message and "has de, en" in message
    assert "the train split has no 'fr' (--data.target); it has de, en" in refusal(folder, "de", "fr")
    assert "the train split has no 'fr' (--data.source); it has de, en" in refusal(folder, "fr", "en")
    (folder / "valid.en").unlink()
    assert "the valid split has no 'en' (--data.target); it has de" in refusal(folder)


def test_one_language_twice_is_refused(tmp_path: Path) -> None:
    message = "--data.source and --data.target are both {}; they should be two"
    assert message.format("'de'") in refusal(write(tmp_path / "two", three()), "de", "de")
    rows = write(tmp_path / "rows", {f"{split}.tsv": ["a\tb"] for split in ("train", "valid", "test")})
    assert message.format("'2'") in refusal(rows, "2", "2")
    assert message.format("'2'") in refusal(rows, "2", "")
    records = write(tmp_path / "records", {f"{split}.jsonl": ['{"de": "a"}'] for split in ("train", "valid", "test")})
    assert message.format("'de'") in refusal(records, "de", "de")


def test_a_table_for_each_split(tmp_path: Path) -> None:
    lines = ["eins\tone\tun", 'zwei "drei\ttwo "three\tdeux', "\tnone\t"]
    folder = write(tmp_path / "texts", {f"{split}.tsv": lines for split in ("train", "dev", "test")})
    for pair in found(folder, "", "").values():
        assert sides(pair) == (["eins", 'zwei "drei', ""], ["one", 'two "three', "none"])
    assert sides(found(folder, "3", "1")["valid"]) == (["un", "deux", ""], ["eins", 'zwei "drei', ""])
    named = write(folder, {"newstest.tsv": ["x\ty"]})
    assert sides(found(named, "", "", test="newstest")["test"]) == (["x"], ["y"])


@pytest.mark.parametrize("column", ["de", "0", "-1", "1.5", "²"])
def test_columns_are_numbers(column: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {f"{split}.tsv": ["a\tb"] for split in ("train", "dev", "test")})
    message = refusal(folder, column, "2")
    assert f"--data.source {column}: {folder / 'train.tsv'} is a TSV, whose columns are given by number" in message
    assert f"--data.target {column}: " in refusal(folder, "1", column)


def test_a_row_with_too_few_columns_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {f"{split}.tsv": ["a\tb", "c"] for split in ("train", "dev", "test")})
    assert refusal(folder, "", "").startswith(
        f"{folder / 'train.tsv'}: line 2, byte 4: has 1 column and should have at"
    )
    with pytest.raises(RegrnnError, match=r"line 1, byte 0: has 2 columns and should have at least 3"):
        list(found(folder, "1", "3")["train"].target)


def test_a_table_is_cut_in_three_at_line_ends(tmp_path: Path) -> None:
    rows = [f"s{number:02}\tt{number:02}" for number in range(100)]
    path = write(tmp_path, {"all.tsv": rows}) / "all.tsv"
    parts = found(path, "", "")
    assert {split: len(list(pair.source)) for split, pair in parts.items()} == {"train": 80, "valid": 10, "test": 10}
    assert [row for pair in parts.values() for row in pair.target] == [f"t{number:02}" for number in range(100)]
    assert list(find_parallel(path, "", "", {}, ("valid",))) == ["valid"]
    path.write_text("\n".join([*rows[:95], "alone", *rows[96:]]))
    with pytest.raises(RegrnnError, match=r"all\.tsv: line 96, byte \d+: has 1 column"):
        list(parts["test"].source)


def test_records_are_cut_in_three_too(tmp_path: Path) -> None:
    records = [json.dumps({"source": f"s {number}", "target": f"t {number}"}) for number in range(50)]
    parts = found(write(tmp_path, {"all.jsonl": records}) / "all.jsonl", "", "")
    assert [line for pair in parts.values() for line in pair.source] == [f"s {number}" for number in range(50)]
    assert len(list(parts["valid"].target)) == 5


@pytest.mark.parametrize("nested", [False, True])
def test_records_by_key(nested: bool, tmp_path: Path) -> None:
    records = [{"id": number, "de": f"ä\n{number}\t", "en": f" a  {number}"} for number in range(2)]
    lines = [json.dumps({"id": 7, "translation": record} if nested else record) for record in records]
    folder = write(tmp_path / "texts", {f"{split}.jsonl": lines for split in ("train", "validation", "test")})
    assert sides(found(folder)["valid"]) == (["ä 0", "ä 1"], ["a 0", "a 1"])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"de": "a", "en": "b"', "not valid JSON ("),
        ('{"de": "a"}', "has no text 'en'; say with --data.source and --data.target what the two sides are called"),
        ('{"de": "a", "en": 3}', "has no text 'en'"),
        ('{"translation": {"de": "a"}}', "has no text 'en'"),
        ('["a", "b"]', "has no text 'de'"),
        ("", "not valid JSON ("),
        ('{"de": "a", "en": "\\ud800"}', "'en' is not text that UTF-8 can write"),
        ("[" * 100_000, "not valid JSON ("),
    ],
)
def test_records_that_are_broken_are_named(line: str, fault: str, tmp_path: Path) -> None:
    good = '{"de": "ü", "en": "u"}'
    folder = write(tmp_path / "texts", {f"{split}.jsonl": [good, line, good] for split in ("train", "dev", "test")})
    message = refusal(folder)
    assert message.startswith(f"{folder / 'train.jsonl'}: line 2, byte 24: {fault}")


def test_line_ends_of_any_kind(tmp_path: Path) -> None:
    expected = (["eins", "zwei"], ["one", "two"])
    for number, raw in enumerate((b"eins\r\nzwei\r\n", b"eins\nzwei", b"\xef\xbb\xbfeins\nzwei\n")):
        folder = write(tmp_path / str(number), three())
        (folder / "train.de").write_bytes(raw)
        (folder / "train.en").write_bytes(raw.replace(b"eins", b"one").replace(b"zwei", b"two"))
        assert sides(found(folder)["train"]) == expected
        rows = raw.replace(b"eins", b"eins\tone").replace(b"zwei", b"zwei\ttwo")
        (folder / "test.tsv").write_bytes(rows)
        assert sides(find_parallel(folder, "", "", {}, ("test",))["test"]) == expected


def test_what_has_no_two_sides(tmp_path: Path) -> None:
    text = write(tmp_path, {"text.txt": ["a"]}) / "text.txt"
    assert "text.txt: has no two sides; give a folder with two aligned text files" in refusal(text)
    assert "nowhere: no such file or folder" in refusal(tmp_path / "nowhere")
    short = write(tmp_path, {"short.tsv": ["a\tb"]}) / "short.tsv"
    assert "too few lines" in refusal(short, "", "")
    empty = write(tmp_path / "empty", three() | {"valid.de": []})
    assert "valid.de: the file is empty" in refusal(empty)
