"""`regrnn.tasks.speech.trained`: transcribing a file block by block gives what its frames give all at once."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tones import sound, utterance

from regrnn.errors import RegrnnError
from regrnn.tasks.speech import audio
from regrnn.tasks.speech.alignments import read_alignment
from regrnn.tasks.speech.audio import FeatureConfig, Heard, frames
from regrnn.tasks.speech.data import add_deltas
from regrnn.tasks.speech.decode import DecodingConfig, decoder, runs, to_segments
from regrnn.tasks.speech.evaluate import log_probabilities
from regrnn.tasks.speech.trained import TrainedAcousticModel

Drawn = Callable[..., TrainedAcousticModel]


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    spoken = [part for seed in range(12) for part in utterance(seed)]
    path = tmp_path / "long.wav"
    soundfile.write(path, sound(spoken, 22050), 22050)  # to be resampled on the way
    return path


def whole(trained: TrainedAcousticModel, path: Path) -> np.ndarray:
    """ln p of each frame from all frames at once, as the evaluation computes it."""
    x = add_deltas(np.concatenate(list(frames(path, trained.data.features, Heard()))), trained.data.deltas)
    if trained.data.normalize == "set":
        mean, deviation = trained.inventory.scale
    else:
        mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    return log_probabilities(trained.model, [np.asarray((x - mean) / deviation, np.float32)])[0]


SETTINGS: list[dict[str, Any]] = [
    {},
    {"context": 3, "deltas": 2},
    {"subsample": 3, "context": 1},
    {"delay": 4},
    {"delay": 5, "subsample": 2, "context": 2, "states": 2, "deltas": 0},
    {"bidirectional": True, "subsample": 2},
    {"normalize": "speaker", "context": 1, "delay": 1},
    {"features": FeatureConfig(kind="mfcc", mels=20, cepstra=9, snip_edges=True), "delay": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s) or "plain")
@pytest.mark.parametrize("block", [1 << 16, 5000, 331])
def test_blocks_give_what_the_whole_file_gives(
    settings: dict[str, Any], block: int, drawn: Drawn, long_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = drawn(**settings)
    expected = whole(trained, long_file)
    monkeypatch.setattr(audio, "BLOCK", block)
    blocks = list(trained._log_probabilities(long_file, Heard()))
    if block < 5001 and not trained.model.config.bidirectional:
        assert len(blocks) > 20
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=5e-4)


def test_several_models_transcribe_by_their_mean_probability(drawn: Drawn, long_file: Path) -> None:
    """Models that look so far ahead, and give their frames in such blocks, that no two of them agree in that."""
    settings = [{"delay": 4}, {"context": 3, "subsample": 2, "seed": 4}, {"bidirectional": True, "seed": 5}]
    members = [drawn(**one) for one in settings]
    log_p = [whole(member, long_file) for member in members]
    mean = np.log(np.mean(np.exp(log_p), axis=0))
    smooth = decoder(members[0].decoding, members[0].inventory.bigram, 1)
    path = np.concatenate((smooth.push(mean), smooth.finish()))
    features, phones = members[0].data.features, members[0].inventory.phones
    found = members[0].transcribe(long_file, average=members[1:])
    assert found.segments == to_segments(runs(path, 1), phones, features, found.duration)
    assert found.segments != members[0].transcribe(long_file).segments
    with pytest.raises(RegrnnError, match="the runs have different phones or states"):
        members[0].transcribe(long_file, average=[drawn(states=2)])


@pytest.mark.parametrize("samples", [1, 100, 240, 241, 500, 1300])
@pytest.mark.parametrize("settings", SETTINGS[:6], ids=lambda s: "-".join(s) or "plain")
def test_files_of_a_few_frames(settings: dict[str, Any], samples: int, drawn: Drawn, tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, sound(utterance(1))[3000 : 3000 + samples], 16000)
    trained = drawn(**settings)
    if samples < 80:
        with pytest.raises(RegrnnError, match=r"short\.wav: too short for a frame \(0\.1 ms\)"):
            trained.transcribe(path)
        return
    found = np.concatenate(list(trained._log_probabilities(path, Heard())))
    np.testing.assert_allclose(found, whole(trained, path), atol=5e-4)
    segments = trained.transcribe(path).segments
    assert segments[0].start == 0 and segments[-1].end == samples / 16000


@pytest.mark.parametrize("smoothing", ["viterbi", "median", "none"])
@pytest.mark.parametrize("states", [1, 3])
def test_phones_and_their_times(smoothing: Any, states: int, drawn: Drawn, long_file: Path) -> None:
    decoding = DecodingConfig(smoothing=smoothing)
    trained = drawn(decoding=decoding, states=states, subsample=2)
    found = trained.transcribe(long_file)
    made = decoder(decoding, trained.inventory.bigram, states)
    path = np.concatenate([made.push(whole(trained, long_file)), made.finish()])
    duration = soundfile.info(long_file).duration
    expected = to_segments(runs(path, states), trained.inventory.phones, trained.data.features, duration)
    assert found.segments == expected and found.duration == duration
    assert found.phones == [segment.phone for segment in expected] and len(found.phones) >= 3
    # One follows the other from the beginning to the end.
    assert found.segments[0].start == 0 and found.segments[-1].end == duration
    for before, after in zip(found.segments, found.segments[1:], strict=False):
        assert before.end == after.start and before.start < before.end
    assert found.clipped is False


def test_written_forms_agree(drawn: Drawn, long_file: Path, tmp_path: Path) -> None:
    found = drawn().transcribe(str(long_file))
    (tmp_path / "a.lab").write_text(found.to_lab())
    (tmp_path / "a.TextGrid").write_text(found.to_textgrid())
    times = [(s.start, s.end, s.phone) for s in found.segments]
    for name in ("a.lab", "a.TextGrid"):
        again = [(s.start, s.end, s.phone) for s in read_alignment(tmp_path / name, 16000)]
        assert again == [(pytest.approx(s, abs=1e-5), pytest.approx(e, abs=1e-5), p) for s, e, p in times]
    assert [row["phone"] for row in json.loads(found.to_json())["segments"]] == found.phones


def test_clipped_recordings_are_marked(drawn: Drawn, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.clip(sound(utterance(1)) * 9, -1, 1), 16000)
    assert drawn().transcribe(tmp_path / "a.wav").clipped is True


def test_memory_does_not_grow_with_the_file(drawn: Drawn, tmp_path: Path) -> None:
    """Five times the file takes hardly more."""
    trained = drawn(decoding=DecodingConfig(smoothing="median"))
    once = sound([part for seed in range(6) for part in utterance(seed)])
    peaks = []
    for times in (2, 10):
        soundfile.write(tmp_path / "a.wav", np.tile(once, times), 16000)
        tracemalloc.start()
        for log_p in trained._log_probabilities(tmp_path / "a.wav", Heard()):
            assert len(log_p) < 500
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_what_cannot_be_transcribed(drawn: Drawn, tmp_path: Path) -> None:
    trained = drawn()
    with pytest.raises(RegrnnError, match=r"nowhere\.wav: no such file"):
        trained.transcribe(tmp_path / "nowhere.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(RegrnnError, match=r"empty\.wav: has no samples"):
        trained.transcribe(tmp_path / "empty.wav")
    trained.recordings = False
    with pytest.raises(RegrnnError, match="trained on Kaldi's features, which cannot be made from a recording here"):
        trained.transcribe(tmp_path / "a.wav")
