"""`regrnn.tasks.speech.data`: layouts, labels of frames, splits, normalisation, and what is refused."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import soundfile
from tones import segments_of, sound, utterance, write, write_corpus

from regrnn.errors import RegrnnError
from regrnn.tasks.speech import data as module
from regrnn.tasks.speech.alignments import Segment, to_lab, to_textgrid
from regrnn.tasks.speech.audio import FeatureConfig
from regrnn.tasks.speech.data import (
    IGNORED,
    SPLITS,
    UNKNOWN,
    Corpus,
    DataConfig,
    Inventory,
    Normalizer,
    add_deltas,
    frame_phones,
    labels,
    moments,
    read_corpus,
    take_inventory,
)

NAMES = [f"u{k:02}" for k in range(10)]
FEATURES = FeatureConfig(mels=12)


def config(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig(path=str(path), features=FEATURES, **settings)


def names(corpus: Corpus) -> dict[str, list[str]]:
    return {split: [u.name for u in utterances] for split, utterances in corpus.splits.items()}


def by_name(corpus: Corpus) -> dict[str, Any]:
    return {u.name: u for utterances in corpus.splits.values() for u in utterances}


# How a frame gets its label


def by_hand(segments: list[Segment], centres: list[float]) -> list[str]:
    return [next((s.phone for s in segments if s.start <= c < s.end), "") for c in centres]


@pytest.mark.parametrize("snip_edges", [False, True])
def test_a_frame_has_the_label_at_its_centre(snip_edges: bool) -> None:
    features = FeatureConfig(snip_edges=snip_edges)
    segments = [Segment(0.0, 0.1037, "a"), Segment(0.1037, 0.2999, "b"), Segment(0.35, 0.5, "c")]
    first = 0.0125 if snip_edges else 0.005
    found = frame_phones(segments, 60, features)
    assert found == by_hand(segments, [first + 0.01 * t for t in range(60)])
    assert set(found) == {"a", "b", "c", ""}
    # No label in the gap, and none past the last.
    assert found[-5:] == [""] * 5 and found[31] == ""


def test_the_start_belongs_to_a_segment_and_the_end_does_not() -> None:
    centre = 0.105  # of frame 10
    assert frame_phones([Segment(0.0, centre, "a"), Segment(centre, 0.2, "b")], 11, FeatureConfig())[9:] == ["a", "b"]
    # 0.1 + 0.2 is not 0.3 in floating point, but the same instant.
    shift = FeatureConfig(frame_shift_ms=10.0)
    for t in range(200):
        border = (2 * t + 1) * 0.005
        assert frame_phones([Segment(0.0, border, "a"), Segment(border, 9.0, "b")], 201, shift)[t] == "b"


def test_a_phone_shorter_than_a_frame_may_have_none() -> None:
    segments = [Segment(0.0, 0.021, "a"), Segment(0.021, 0.024, "t"), Segment(0.024, 0.05, "b")]
    assert frame_phones(segments, 5, FeatureConfig()) == ["a", "a", "b", "b", "b"]


# Deltas


def test_deltas_are_the_regression_over_two_frames_to_each_side() -> None:
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)

    def plain(x: np.ndarray) -> np.ndarray:
        out = np.zeros_like(x)
        for t in range(len(x)):
            for n in (1, 2):
                out[t] += n * (x[min(t + n, len(x) - 1)] - x[max(t - n, 0)])
        return out / 10

    assert (add_deltas(x, 0) == x).all()
    first = plain(x)
    np.testing.assert_allclose(add_deltas(x, 1), np.concatenate([x, first], 1), atol=1e-6)
    np.testing.assert_allclose(add_deltas(x, 2), np.concatenate([x, first, plain(first)], 1), atol=1e-6)
    assert add_deltas(x[:1], 2)[:, 3:].tolist() == [[0.0] * 6]
    ramp = np.arange(20, dtype=np.float32)[:, None]
    assert add_deltas(ramp, 1)[2:-2, 1] == pytest.approx(1.0)  # a difference of one a frame


# Layouts: each gives the same utterances with the same frames and phones


def beside(folder: Path) -> Path:
    return write_corpus(folder, NAMES)


def own_folders(folder: Path) -> Path:
    write_corpus(folder / "wav", NAMES)
    (folder / "lab").mkdir()
    for name in NAMES:
        (folder / "wav" / f"{name}.lab").rename(folder / "lab" / f"{name}.lab")
    return folder


def flac(folder: Path) -> Path:
    write_corpus(folder, NAMES)
    for name in NAMES:
        samples, rate = soundfile.read(folder / f"{name}.wav", dtype="int16")
        soundfile.write(folder / f"{name}.flac", samples, rate)
        (folder / f"{name}.wav").unlink()
    return folder


def phn(folder: Path) -> Path:
    write_corpus(folder, NAMES)
    for seed, name in enumerate(NAMES):
        rows = [f"{round(s.start * 16000)} {round(s.end * 16000)} {s.phone}" for s in segments_of(utterance(seed))]
        (folder / f"{name}.PHN").write_text("\n".join(rows))
        (folder / f"{name}.lab").unlink()
    return folder


def textgrid(folder: Path) -> Path:
    write_corpus(folder, NAMES)
    for seed, name in enumerate(NAMES):
        segments = segments_of(utterance(seed))
        (folder / f"{name}.TextGrid").write_text(to_textgrid(segments, segments[-1].end))
        (folder / f"{name}.lab").unlink()
    return folder


def manifest(folder: Path) -> Path:
    write_corpus(folder / "audio", NAMES)
    rows = []
    for seed, name in enumerate(NAMES):
        row: dict[str, Any] = {"audio": f"audio/{name}.wav", "name": name}
        if seed % 2:
            row["alignment"] = f"audio/{name}.lab"
        else:
            row["segments"] = [[s.start, s.end, s.phone] for s in segments_of(utterance(seed))]
        rows.append(json.dumps(row))
    (folder / "list.jsonl").write_text("\n".join(rows) + "\n\n")
    return folder / "list.jsonl"


@pytest.mark.parametrize("layout", [own_folders, flac, phn, textgrid, manifest])
def test_layouts(layout: Callable[[Path], Path], tmp_path: Path) -> None:
    expected = by_name(read_corpus(config(beside(tmp_path / "one"))))
    corpus = read_corpus(config(layout(tmp_path / "two")))
    found = by_name(corpus)
    assert sorted(found) == NAMES == sorted(expected)
    for name, one in found.items():
        np.testing.assert_allclose(one.x_TF, expected[name].x_TF, atol=0.05)
        assert one.phones == expected[name].phones and one.sequence == expected[name].sequence
        assert len(one.phones) == len(one.x_TF)
    assert one.sequence[0] == "pau" and one.phones[5] == "pau"


def kaldi(folder: Path, *, ali: str = "txt", mels: int = 5) -> Path:
    """Ten utterances of 30 frames of noise."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    matrices = {name: draw.normal(size=(30, mels)).astype(np.float32) for name in NAMES}
    phones = {name: draw.integers(1, 4, 30).astype(np.int32) for name in NAMES}
    kaldiio.save_ark(str(folder / "feats.ark"), matrices, scp=str(folder / "feats.scp"))
    if ali == "txt":
        rows = [f"{name} {' '.join(map(str, row))}\n" for name, row in phones.items()]
        (folder / "ali.txt").write_text("".join(rows))
    else:
        kaldiio.save_ark(str(folder / "ali.ark"), phones, scp=str(folder / "ali.scp"))
    (folder / "phones.txt").write_text("<eps> 0\nsil 1\na\t2\nb 3\n")
    return folder


@pytest.mark.parametrize("ali", ["txt", "scp"])
def test_kaldi_features(ali: str, tmp_path: Path) -> None:
    folder = kaldi(tmp_path / "kaldi", ali=ali)
    (folder / "utt2spk").write_text("".join(f"{name} s{k % 5}\n" for k, name in enumerate(NAMES)))
    corpus = read_corpus(config(folder, split="speaker"))
    found = by_name(corpus)
    matrices = kaldiio.load_scp(str(folder / "feats.scp"))
    draw = np.random.default_rng(0)
    [draw.normal(size=(30, 5)) for _ in NAMES]
    for k, name in enumerate(NAMES):
        assert (found[name].x_TF == matrices[name]).all()
        assert found[name].phones == [["sil", "a", "b"][v - 1] for v in draw.integers(1, 4, 30)]
        assert found[name].speaker == f"s{k % 5}"
        assert all(a != b for a, b in zip(found[name].sequence, found[name].sequence[1:], strict=False))


def test_kaldi_folders_that_are_refused(tmp_path: Path) -> None:
    def refusal(change: Callable[[Path], None], **settings: Any) -> str:
        folder = tmp_path / "kaldi"
        shutil.rmtree(folder, ignore_errors=True)
        kaldi(folder)
        change(folder)
        with pytest.raises(RegrnnError) as caught:
            read_corpus(config(folder, **settings))
        return str(caught.value)

    def edit(name: str, before: str, after: str) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            text = (folder / name).read_text()
            assert before in text
            (folder / name).write_text(text.replace(before, after, 1))

        return change

    assert "u03 has 30 frames and its alignment 31" in refusal(edit("ali.txt", "u03", "u03 1"))
    assert "u03 has no alignment" in refusal(edit("ali.txt", "u03", "x03"))
    assert "the phone 7, which phones.txt does not name" in refusal(edit("ali.txt", "u03 ", "u03 7 "))
    assert "feats.scp, line 4: 'u02' is there twice" in refusal(edit("feats.scp", "u03", "u02"))
    assert "needs ali.scp or ali.txt" in refusal(lambda folder: (folder / "ali.txt").unlink())
    assert "feats.ark: cannot be read" in refusal(lambda folder: (folder / "feats.ark").unlink())
    assert "damaged" in refusal(lambda f: (f / "feats.ark").write_bytes((f / "feats.ark").read_bytes()[:-40]))

    def command(folder: Path) -> None:
        (folder / "feats.scp").write_text(f"u00 touch {tmp_path}/executed |\n")

    assert "is a command, and nothing is executed" in refusal(command)
    assert not (tmp_path / "executed").exists()

    def pickled(folder: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "executed"),)

        (folder / "evil.npy").write_bytes(b"\x93NUMPY" + pickle.dumps(Evil()))
        rows = [f"{name} {folder}/evil.npy\n" for name in NAMES]
        (folder / "feats.scp").write_text("".join(rows))

    assert "no binary matrix or vector of Kaldi is there" in refusal(pickled)
    assert not (tmp_path / "executed").exists()


# Splits


def test_utterances_are_split_by_the_sum_of_their_names(tmp_path: Path) -> None:
    found = [f"u{k:02}" for k in range(23)]
    corpus = read_corpus(config(write_corpus(tmp_path, found)))
    order = sorted(found, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert names(corpus) == {"train": order[4:], "valid": order[2:4], "test": order[:2]}
    assert "split by utterance" in corpus.rule


def test_a_few_utterances_have_one_for_each_part(tmp_path: Path) -> None:
    corpus = read_corpus(config(write_corpus(tmp_path / "three", ["a", "b", "c"])))
    assert sorted(map(len, names(corpus).values())) == [1, 1, 1]
    with pytest.raises(RegrnnError, match="2 utterances cannot be split by utterance into train, valid and test"):
        read_corpus(config(write_corpus(tmp_path / "two", ["a", "b"])))


def test_no_speaker_is_in_two_parts(tmp_path: Path) -> None:
    found = [f"speaker{s}/u{k}" for s in range(7) for k in range(1 + s % 3)]
    folder = write_corpus(tmp_path, found)
    corpus = read_corpus(config(folder, split="speaker"))
    speakers = {split: {u.speaker for u in us} for split, us in corpus.splits.items()}
    assert set.union(*speakers.values()) == {f"speaker{s}" for s in range(7)}
    assert sum(map(len, speakers.values())) == 7 and all(speakers.values())
    assert sorted(by_name(corpus)) == sorted(found)
    one = read_corpus(config(folder, split="utterance"))
    assert {u.speaker for u in one.splits["test"]} <= {u.speaker for u in one.splits["train"]}
    with pytest.raises(RegrnnError, match="1 speakers cannot be split by speaker .* set --data.split utterance"):
        read_corpus(config(write_corpus(tmp_path / "flat", NAMES), split="speaker"))


def test_parts_that_are_given_are_kept_and_must_not_leak(tmp_path: Path) -> None:
    given = [f"{split}/{speaker}/{split}{k}" for split in SPLITS for speaker in ("wav", "ann") for k in range(2)]
    folder = write_corpus(tmp_path / "a", given)
    corpus = read_corpus(config(folder))
    assert corpus.rule == "split as given"
    assert {split: sorted(found) for split, found in names(corpus).items()} == {
        split: sorted([f"{split}0", f"{split}1", f"ann/{split}0", f"ann/{split}1"]) for split in SPLITS
    }
    with pytest.raises(RegrnnError, match=r"the speaker '(ann)?' is in train and in valid; what is tested must not"):
        read_corpus(config(folder, split="speaker"))
    write(folder / "test" / "train0.wav", utterance(1))
    with pytest.raises(RegrnnError, match="the utterance 'train0' is in train and in test; what is tested must not"):
        read_corpus(config(folder))
    shutil.rmtree(folder / "valid")
    (folder / "test" / "train0.wav").unlink()
    with pytest.raises(RegrnnError, match="no utterance for valid; give more utterances, or a part called valid"):
        read_corpus(config(folder))
    assert set(read_corpus(config(folder), ("test",)).splits) == {"test"}


def test_parts_may_have_the_names_that_others_give_them(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, [f"{part}/u{k}{part}" for part in ("TRAIN", "dev", "Test") for k in range(2)])
    assert {split: sorted(found) for split, found in names(read_corpus(config(folder))).items()} == {
        "train": ["u0TRAIN", "u1TRAIN"],
        "valid": ["u0dev", "u1dev"],
        "test": ["u0Test", "u1Test"],
    }


def test_a_recording_must_not_be_in_two_parts_under_two_names(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "a", [f"{split}/{split}{k}" for split in SPLITS for k in range(2)])
    for suffix in (".wav", ".lab"):
        shutil.copy(folder / "train" / f"train1{suffix}", folder / "test" / f"other{suffix}")
    assert "'train1' in train and 'other' in test are the same recording" in refusal(folder)
    shutil.move(folder / "test" / "other.wav", folder / "train" / "other.wav")
    read_corpus(config(folder))  # twice in one part is a matter of taste


# Normalisation and the inventory


def speakers(tmp_path: Path) -> Corpus:
    """Two speakers, one of them ten times as loud, and a third only in the test part."""
    for seed in range(12):
        split = "train" if seed < 8 else "valid" if seed < 10 else "test"
        speaker = "new" if split == "test" and seed % 2 else "loud" if seed % 2 else "soft"
        path = write(tmp_path / split / speaker / f"u{seed:02}.wav", utterance(seed), seed=seed)
        if speaker != "loud":
            samples, rate = soundfile.read(path)
            soundfile.write(path, samples / 10, rate)
    return read_corpus(config(tmp_path))


@pytest.mark.parametrize("deltas", [0, 1])
def test_normalisation_by_the_training_part(deltas: int, tmp_path: Path) -> None:
    corpus = speakers(tmp_path)
    settings = config(tmp_path, normalize="set", deltas=deltas)
    normalize = Normalizer(corpus, take_inventory(corpus.splits["train"], settings), settings)
    x = np.concatenate([normalize(u) for u in corpus.splits["train"]])
    assert x.shape[1] == 12 * (deltas + 1)
    assert np.abs(x.mean(0)).max() < 1e-3 and np.abs(x.std(0) - 1).max() < 1e-3
    # The test part does not move what it is normalised by.
    mean, deviation = moments(corpus.splits["train"], deltas)
    one = corpus.splits["test"][0]
    np.testing.assert_allclose(normalize(one), (add_deltas(one.x_TF, deltas) - mean) / deviation, atol=1e-4)


def test_normalisation_by_speaker(tmp_path: Path) -> None:
    corpus = speakers(tmp_path)
    settings = config(tmp_path, normalize="speaker")
    normalize = Normalizer(corpus, take_inventory(corpus.splits["train"], settings), settings)
    for speaker in ("loud", "soft"):
        own = [u for u in corpus.splits["train"] if u.speaker == speaker]
        x = np.concatenate([normalize(u) for u in own])
        assert np.abs(x.mean(0)).max() < 1e-3 and np.abs(x.std(0) - 1).max() < 1e-3
        # In the other parts a known speaker is normalised by the training part alone.
        mean, deviation = moments(own, 1)
        for split in ("valid", "test"):
            for u in corpus.splits[split]:
                if u.speaker == speaker:
                    np.testing.assert_allclose(normalize(u), (add_deltas(u.x_TF, 1) - mean) / deviation, atol=1e-4)
    new = [u for u in corpus.splits["test"] if u.speaker == "new"]
    assert len(new) == 1
    assert np.abs(normalize(new[0]).mean(0)).max() < 1e-3  # by its own frames


def test_a_constant_feature_is_no_division_by_zero(tmp_path: Path) -> None:
    corpus = read_corpus(config(beside(tmp_path)))
    flat = [replace(u, x_TF=np.full_like(u.x_TF, 3.0)) for u in corpus.splits["train"]]
    _, deviation = moments(flat, 1)
    assert (deviation == 1).all()


def test_the_inventory_is_of_the_training_part_alone(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "c", NAMES)
    rare = names(read_corpus(config(folder)))["test"][0]
    lab = folder / f"{rare}.lab"
    lab.write_text(lab.read_text().replace("125 pau", "125 zh", 1))
    corpus = read_corpus(config(folder))
    inventory = take_inventory(corpus.splits["train"], config(folder))
    assert inventory.phones == ["a", "i", "o", "pau"]
    found = labels(corpus.splits["test"][0], inventory)
    assert (found[:10] == UNKNOWN).all()
    assert (found[10:15] >= 0).all()
    assert "phones that the training part lacks, counted as mistakes: zh" in corpus.description(inventory)
    # The bigram counts every pair, and beginnings in the last row.
    counts = np.zeros((5, 4), int)
    for u in corpus.splits["train"]:
        ids = [inventory.index[p] for p in u.sequence]
        for before, after in zip([4, *ids], ids, strict=False):
            counts[before, after] += 1
    assert inventory.bigram == counts.tolist()
    assert Inventory.from_json(inventory.to_json()) == inventory


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("mean"),
        lambda found: found["mean"].pop(),
        lambda found: found["bigram"].pop(),
        lambda found: found["phones"].append("x"),
        lambda found: found.update(size=7),
        lambda found: found.update(size=0),
        lambda found: found.update(more=1),
    ],
)
def test_a_damaged_inventory_is_refused(change: Callable[[Any], Any]) -> None:
    found = json.loads(Inventory(["a", "b"], [[1, 2], [3, 4], [5, 6]], 2, [0.0] * 4, [1.0] * 4).to_json())
    change(found)
    with pytest.raises(RegrnnError, match=r"^phones\.json: damaged"):
        Inventory.from_json(json.dumps(found))


# The cache and the fingerprint


def test_features_are_computed_once(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = beside(tmp_path)
    first = by_name(read_corpus(config(folder)))
    assert (empty_cache / "features").is_dir()
    made: list[str] = []
    real = module.frames

    def counted(path: Path, *rest: Any) -> Any:
        made.append(path.stem)
        return real(path, *rest)

    monkeypatch.setattr(module, "frames", counted)
    again = by_name(read_corpus(config(folder)))
    assert made == []
    assert all((again[name].x_TF == first[name].x_TF).all() for name in NAMES)
    # Deltas and normalisation are not part of what is kept; the features' settings and the recording are.
    read_corpus(config(folder, deltas=2, normalize="speaker"))
    assert made == []
    write(folder / "u03.wav", utterance(3), seed=99)
    assert not (by_name(read_corpus(config(folder)))["u03"].x_TF == first["u03"].x_TF).all()
    assert made == ["u03"]
    read_corpus(DataConfig(path=str(folder), features=FeatureConfig(mels=13)))
    assert sorted(made) == sorted(["u03", *NAMES])


def test_the_fingerprint_is_of_recordings_and_labels(tmp_path: Path) -> None:
    folder = beside(tmp_path / "a")
    first = read_corpus(config(folder)).fingerprint
    folder.rename(tmp_path / "b")
    assert read_corpus(config(tmp_path / "b")).fingerprint == first
    corpus = read_corpus(config(tmp_path / "b"))
    lab = tmp_path / "b" / f"{corpus.splits['valid'][0].name}.lab"
    lab.write_text(lab.read_text().replace("125 pau", "125 sil"))
    changed = read_corpus(config(tmp_path / "b")).fingerprint
    assert changed["valid"] != first["valid"]
    assert changed["train"] == first["train"] and changed["test"] == first["test"]


# Bad input


def refusal(path: Path | str, **settings: Any) -> str:
    with pytest.raises(RegrnnError) as caught:
        read_corpus(config(path, **settings))
    return str(caught.value)


def test_recording_and_labels_of_different_length(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    lab = folder / "u03.lab"
    rows = lab.read_text()
    lab.write_text(rows + "1.9 125 a\n")
    message = refusal(folder)
    assert message.startswith(f"{lab}: the labels end at 1.900 s and u03.wav at ")
    assert "they may differ by 0.1 s: check that they belong together and that the rate is right" in message
    lab.write_text("\n".join(rows.splitlines()[:-2]) + "\n")
    assert "the labels end at" in refusal(folder)
    # Within the tolerance frames past the last label are not predicted.
    lab.write_text("\n".join(rows.splitlines()[:-1]) + "\n")
    one = by_name(read_corpus(config(folder)))["u03"]
    assert one.phones[-9:] == [""] * 9 and one.phones[-12] != ""
    inventory = take_inventory([one], config(folder))
    assert (labels(one, inventory)[-9:] == IGNORED).all()


def test_intervals_without_a_label_are_not_predicted(tmp_path: Path) -> None:
    """As aligners write silence: at the end it is no difference in length."""
    folder = beside(tmp_path)
    segments = segments_of([("pau", 0.1), ("a", 0.3), ("o", 0.2), ("pau", 0.4)])
    write(folder / "u03.wav", [(s.phone, s.end - s.start) for s in segments], lab=False)
    (folder / "u03.lab").unlink()
    silent = [replace(s, phone="" if s.phone == "pau" else s.phone) for s in segments]
    (folder / "u03.TextGrid").write_text(to_textgrid(silent, 1.0))
    one = by_name(read_corpus(config(folder)))["u03"]
    assert one.phones == [""] * 10 + ["a"] * 30 + ["o"] * 20 + [""] * 40
    assert one.sequence == ["a", "o"]


def test_a_header_with_the_wrong_rate_is_found_by_its_labels(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    soundfile.write(folder / "u03.wav", sound(utterance(3)), 8000)  # 16 kHz samples that say 8 kHz
    assert "check that they belong together and that the rate is right" in refusal(folder)


def test_rates_and_channels_may_differ_from_file_to_file(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    before = by_name(read_corpus(config(folder)))
    write(folder / "u03.wav", utterance(3), rate=44100, seed=3)
    soundfile.write(folder / "u04.wav", np.stack([sound(utterance(4), seed=4)] * 2, 1), 16000)
    after = by_name(read_corpus(config(folder)))
    for name in ("u03", "u04"):
        assert after[name].phones == before[name].phones
    np.testing.assert_allclose(after["u04"].x_TF, before["u04"].x_TF, atol=0.05)


def test_clipped_recordings_are_used_and_named(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    soundfile.write(folder / "u03.wav", np.clip(sound(utterance(3)) * 9, -1, 1), 16000)
    for _ in range(2):  # computed, and from the cache
        corpus = read_corpus(config(folder))
        text = corpus.description(take_inventory(corpus.splits["train"], config(folder)))
        assert f"clipped, but used as they are: 1 recordings, the first {folder / 'u03.wav'}" in text


def test_bad_recordings_are_refused_by_name(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    path = folder / "u03.wav"
    soundfile.write(path, np.zeros(0, np.float32), 16000)
    assert refusal(folder) == f"{path}: has no samples; leave it out"
    soundfile.write(path, np.zeros(60, np.float32), 16000)
    (folder / "u03.lab").write_text("0.003 125 a\n")
    assert refusal(folder) == f"{path}: too short for a frame (3.8 ms); leave it out"
    path.write_bytes(b"no audio")
    assert refusal(folder).startswith(f"{path}: not audio that can be read")
    soundfile.write(path, np.zeros(400, np.float32), 16000)
    (folder / "u03.lab").write_text("0.004 125 a\n")
    assert "no frame has its centre in a labelled segment" in refusal(folder)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    folder = beside(tmp_path / "a")
    (folder / "u03.lab").rename(tmp_path / "kept.lab")
    assert refusal(folder) == f"{folder / 'u03.wav'}: no u03.lab, .phn or .TextGrid is there; align it or leave it out"
    for other in ("x", "y"):
        (folder / other).mkdir()
        shutil.copy(tmp_path / "kept.lab", folder / other / "u03.lab")
    assert "both have its name; keep one, or list them in a .jsonl manifest" in refusal(folder)
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").endswith("no utterances in it; a folder needs .wav or .flac files")
    (tmp_path / "text.txt").write_text("")
    assert refusal(tmp_path / "text.txt").endswith("neither a folder nor a .jsonl manifest")
    assert "no data is named; give --data" in refusal("")
    assert "get it with: regrnn fetch speech-ru" in refusal("speech-ru")
    shutil.rmtree(folder / "x")
    (folder / "wav").mkdir()
    shutil.copy(folder / "u03.wav", folder / "wav" / "u03.wav")
    assert "have one name; rename one of them" in refusal(folder)


def test_a_label_file_in_the_wrong_order_is_refused(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    rows = (folder / "u03.lab").read_text().splitlines()
    rows[2], rows[3] = rows[3], rows[2]
    (folder / "u03.lab").write_text("\n".join(rows) + "\n")
    assert "u03.lab, line 4" in refusal(folder) and "put the lines in the order of time" in refusal(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "line 2: expected an object with the keys alignment, audio, name, segments, speaker, split"),
        ({"audios": "u00.wav"}, "line 2: expected an object with the keys"),
        ({"segments": []}, 'line 2: "audio" is needed'),
        ({"audio": "u00.wav", "speaker": 3, "alignment": "u00.lab"}, "line 2: .* are strings"),
        ({"audio": "u00.wav"}, 'line 2: give either "alignment", a file, or "segments"'),
        ({"audio": "u00.wav", "alignment": "u00.lab", "segments": []}, "line 2: give either"),
        ({"audio": "u00.wav", "segments": [[0, 1]]}, r'line 2: "segments" must be a list of \[start, end, "phone"\]'),
        ({"audio": "u00.wav", "segments": 3}, '"segments" must be a list'),
        ({"audio": "u00.wav", "segments": []}, "no phone is in it"),
        ({"audio": "u00.wav", "segments": [[0.5, 0.2, "a"]]}, "line 2: 'a' ends at 0.2 s, not after 0.5 s"),
        ({"audio": "u01.wav", "alignment": "u01.lab"}, "line 2: the utterance 'u01' is there twice"),
        ({"audio": "u99.wav", "alignment": "u01.lab"}, r"u99\.wav: no such file"),
        ({"audio": "u00.wav", "alignment": "u99.lab"}, r"u99\.lab: cannot be read"),
        ({"audio": "u00.wav", "alignment": "u00.lab", "split": "eval"}, "'u00' has the part 'eval'; give each train"),
        ({"audio": "u00.wav", "alignment": "u00.lab", "split": ""}, "'u00' has no part, and others have one; give"),
        ({"audio": "u00.wav", "segments": [[0, 1, None]]}, '"segments" must be a list'),
        ({"audio": "u00.wav", "segments": [[0, 10**400, "a"]]}, '"segments" must be a list'),
        ("[" * 100_000, "line 2: not valid JSON"),
        ({"audio": "\udce9.wav", "alignment": "u00.lab"}, r"the name \\udce9 is not UTF-8; rename the file"),
    ],
)
def test_bad_manifests_are_refused(row: Any, message: str, tmp_path: Path) -> None:
    write_corpus(tmp_path, NAMES)
    rows = [json.dumps({"audio": f"{name}.wav", "alignment": f"{name}.lab"}) for name in NAMES[1:]]
    if isinstance(row, dict) and "split" in row:
        rows = [json.dumps({**json.loads(text), "split": "train"}) for text in rows]
    rows.insert(1, row if isinstance(row, str) else json.dumps(row))
    (tmp_path / "list.jsonl").write_text("\n".join(rows), encoding="utf-8-sig")
    with pytest.raises(RegrnnError, match=message):
        read_corpus(config(tmp_path / "list.jsonl"))


def test_a_manifest_gives_speakers_and_parts(tmp_path: Path) -> None:
    write_corpus(tmp_path, NAMES)
    rows = [
        {
            "audio": f"{name}.wav",
            "alignment": f"{name}.lab",
            "speaker": f"s{k % 3}",
            "split": ["train", "valid", "test"][k % 3],
        }
        for k, name in enumerate(NAMES)
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = read_corpus(config(tmp_path / "list.jsonl", split="speaker"))
    assert {split: {u.speaker for u in us} for split, us in corpus.splits.items()} == {
        "train": {"s0"},
        "valid": {"s1"},
        "test": {"s2"},
    }


def test_one_phone_is_nothing_to_learn(tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path / f"u{seed}.wav", [("a", 0.4)], seed=seed)
    corpus = read_corpus(config(tmp_path))
    with pytest.raises(RegrnnError, match="the training part has 1 phones; there must be at least two"):
        take_inventory(corpus.splits["train"], config(tmp_path))


@pytest.mark.skipif(
    not (Path(os.environ.get("REGRNN_DATA", "nowhere")) / "speech-sample").is_dir(),
    reason="the sample of recordings is not here: set REGRNN_DATA",
)
def test_real_recordings() -> None:
    corpus = read_corpus(DataConfig(path="speech-sample"))
    assert {split: len(us) for split, us in corpus.splits.items()} == {"train": 10, "valid": 1, "test": 1}
    inventory = take_inventory(corpus.splits["train"], DataConfig())
    assert 35 <= len(inventory.phones) <= 51 and "pau" in inventory.phones
    for u in by_name(corpus).values():
        assert sum(phone == "" for phone in u.phones) <= 10  # the labels reach to the end
        assert u.phones[3] == "pau"
        assert to_lab([Segment(0, 1, u.sequence[0])]).endswith("pau\n")
