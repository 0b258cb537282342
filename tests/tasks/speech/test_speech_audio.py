"""`regrnn.tasks.speech.audio`: features in blocks, sample rates, channels, and files that are none."""

import os
import sys
from pathlib import Path
from typing import Any

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
from tones import sound, utterance

from regrnn.errors import RegrnnError
from regrnn.optional import need
from regrnn.tasks.speech import audio
from regrnn.tasks.speech.audio import FeatureConfig, Heard, Resampler, frames, probe, read_blocks

SAMPLES = sound(utterance(1))


def features(path: Path, config: FeatureConfig, heard: Heard | None = None) -> np.ndarray:
    return np.concatenate(list(frames(path, config, heard or Heard())))


def whole(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """The features in one call of the library, every setting of the config given to it."""
    options = kaldi_native_fbank.FbankOptions() if config.kind == "log-mel" else kaldi_native_fbank.MfccOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.frame_length_ms = config.frame_length_ms
    options.frame_opts.frame_shift_ms = config.frame_shift_ms
    options.frame_opts.snip_edges = config.snip_edges
    options.mel_opts.num_bins = config.mels
    if config.kind == "mfcc":
        options.num_ceps = config.cepstra
        computer = kaldi_native_fbank.OnlineMfcc(options)
    else:
        computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(config.sample_rate, (samples * 32768).tolist())
    computer.input_finished()
    return np.stack([np.array(computer.get_frame(t)) for t in range(computer.num_frames_ready)])


CONFIGS = [
    FeatureConfig(),
    FeatureConfig(snip_edges=True, mels=23),
    FeatureConfig(kind="mfcc", cepstra=13),
    FeatureConfig(frame_length_ms=32.0, frame_shift_ms=16.0, mels=20),
    FeatureConfig(kind="mfcc", snip_edges=True, mels=30, cepstra=20),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.kind}-{c.snip_edges}-{c.size}")
@pytest.mark.parametrize("block", [100, 1237, 1 << 16])
def test_blocks_give_the_features_of_the_whole(
    config: FeatureConfig, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "BLOCK", block)
    path = tmp_path / "a.wav"
    soundfile.write(path, SAMPLES, 16000, subtype="FLOAT")
    heard = Heard()
    found = features(path, config, heard)
    assert found.dtype == np.float32 and found.shape[1] == config.size
    np.testing.assert_allclose(found, whole(SAMPLES, config), rtol=1e-5, atol=1e-5)
    # One every shift; without snip_edges as many as shifts fit, rounded; with it only those that lie within.
    shift, length = config.frame_shift_ms * 16, config.frame_length_ms * 16
    count = 1 + int((len(SAMPLES) - length) // shift) if config.snip_edges else int(len(SAMPLES) / shift + 0.5)
    assert len(found) == count
    assert (heard.samples, heard.rate, heard.clipped) == (len(SAMPLES), 16000, False)
    assert heard.duration == pytest.approx(len(SAMPLES) / 16000)


def test_a_frame_lies_where_its_centre_is_said_to_be(tmp_path: Path) -> None:
    """A click is loudest in the frame whose centre is nearest."""
    for snip_edges in (False, True):
        config = FeatureConfig(snip_edges=snip_edges)
        for frame in (7, 30):
            samples = np.zeros(16000, np.float32)
            samples[round((config.first_centre + frame * config.shift) * 16000)] = 0.9
            soundfile.write(tmp_path / "a.wav", samples, 16000)
            assert features(tmp_path / "a.wav", config).mean(1).argmax() == frame


def test_equal_files_give_equal_features(tmp_path: Path) -> None:
    for name, subtype in (("a.wav", "PCM_16"), ("b.flac", "PCM_16"), ("c.wav", "PCM_24")):
        soundfile.write(tmp_path / name, (SAMPLES * 32767).astype(np.int16), 16000, subtype=subtype)
    first = features(tmp_path / "a.wav", FeatureConfig())
    assert (features(tmp_path / "a.wav", FeatureConfig()) == first).all()
    assert (features(tmp_path / "b.flac", FeatureConfig()) == first).all()
    np.testing.assert_allclose(features(tmp_path / "c.wav", FeatureConfig()), first, atol=1e-4)


def test_channels_are_averaged(tmp_path: Path) -> None:
    other = sound(utterance(2))[: len(SAMPLES)]
    one = SAMPLES[: len(other)]
    soundfile.write(tmp_path / "stereo.wav", np.stack([one, other], 1), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", (one + other) / 2, 16000, subtype="FLOAT")
    np.testing.assert_allclose(
        features(tmp_path / "stereo.wav", FeatureConfig()), features(tmp_path / "mono.wav", FeatureConfig()), atol=1e-4
    )


@pytest.mark.parametrize(
    ("source", "target"),
    [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 11025), (44099, 16000), (15999, 16000)],
)
def test_resampling(source: int, target: int) -> None:
    t = np.arange(source // 2) / source
    limit = min(source, target) / 2
    tones = [0.02 * limit, 0.3 * limit, 0.87 * limit]
    x = sum(np.sin(2 * np.pi * f * t + f) for f in tones).astype(np.float32)
    resampler = Resampler(source, target)
    y = np.concatenate([resampler.push(x), resampler.finish()])
    assert len(y) == -(-len(x) * target // source)
    expected = sum(np.sin(2 * np.pi * f * np.arange(len(y)) / target + f) for f in tones)
    inner = slice(target // 50, -target // 50)
    assert np.abs(y - expected)[inner].max() < 3e-4
    if target < source:  # what the new rate cannot hold is gone instead of folded back
        above = np.sin(2 * np.pi * 1.01 * limit * t).astype(np.float32)
        resampler = Resampler(source, target)
        assert np.abs(np.concatenate([resampler.push(above), resampler.finish()]))[inner].max() < 3e-4
    pieces = Resampler(source, target)
    made = [pieces.push(part) for part in np.split(x, [1, 2, 100, 101, 1500, 1500, 7000])]
    assert (np.concatenate([*made, pieces.finish()]) == y).all()
    constant = Resampler(source, target)
    settled = np.concatenate([constant.push(np.ones(4000, np.float32)), constant.finish()])[300:-300]
    assert np.abs(settled - 1).max() < 1e-5


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 96000])
def test_any_sample_rate(rate: int, tmp_path: Path) -> None:
    """The same speech recorded at another rate has the same features, up to where the lower rate hears."""
    config = FeatureConfig(mels=20)
    spoken = [("pau", 0.2), ("a", 0.3), ("o", 0.3), ("pau", 0.2)]
    soundfile.write(tmp_path / "a.wav", sound(spoken), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", sound(spoken, rate), rate, subtype="FLOAT")
    heard = Heard()
    one, other = features(tmp_path / "a.wav", config), features(tmp_path / "b.wav", config, heard)
    assert len(one) == len(other) == 100
    assert heard.duration == pytest.approx(1.0)
    loud = slice(22, 78)
    assert (one[loud].argmax(1) == other[loud].argmax(1)).all()
    assert np.abs(one[loud].max(1) - other[loud].max(1)).max() < 0.1


def test_clipped_recordings_are_noticed(tmp_path: Path) -> None:
    for name, gain, clipped in (("a.wav", 1.0, False), ("b.wav", 5.0, True)):
        soundfile.write(tmp_path / name, np.clip(SAMPLES * gain, -1, 1), 16000)
        heard = Heard()
        features(tmp_path / name, FeatureConfig(), heard)
        assert heard.clipped is clipped


def test_short_recordings(tmp_path: Path) -> None:
    for samples in (1, 79, 80, 160, 399, 400):
        soundfile.write(tmp_path / "a.wav", SAMPLES[2000 : 2000 + samples], 16000)
        found = features(tmp_path / "a.wav", FeatureConfig())
        assert found.shape == ((samples + 80) // 160, 40) and np.isfinite(found).all()
        found = features(tmp_path / "a.wav", FeatureConfig(snip_edges=True))
        assert len(found) == (samples >= 400)


def test_silence_has_finite_features(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600, np.float32), 16000)
    for config in CONFIGS:
        assert np.isfinite(features(tmp_path / "a.wav", config)).all()


def refusal(path: Path) -> str:
    with pytest.raises(RegrnnError) as caught:
        features(path, FeatureConfig())
    with pytest.raises(RegrnnError):
        probe(path)
    return str(caught.value)


def test_files_that_are_no_recordings(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    assert refusal(path) == f"{path}: no such file"
    path.write_bytes(b"")
    assert refusal(path).startswith(f"{path}: not audio that can be read")
    path.write_bytes(b"#\n0.25 125 pau\n" * 100)
    assert refusal(path).startswith(f"{path}: not audio that can be read")
    soundfile.write(path, SAMPLES[:0], 16000)
    assert refusal(path) == f"{path}: has no samples; leave it out"
    assert refusal(tmp_path).endswith("no such file")
    for rate in (500, 2_000_000_000):
        soundfile.write(path, SAMPLES[:100], 16000)
        content = bytearray(path.read_bytes())
        content[24:28] = rate.to_bytes(4, "little")
        path.write_bytes(content)
        assert "its sample rate is" in refusal(path)
    broken = SAMPLES.copy()
    broken[700] = np.nan
    soundfile.write(path, broken, 16000, subtype="FLOAT")
    with pytest.raises(RegrnnError, match="has samples that are not finite numbers"):
        features(path, FeatureConfig())


def test_probe(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([SAMPLES, SAMPLES], 1), 22050)
    assert probe(tmp_path / "a.flac") == (22050, pytest.approx(len(SAMPLES) / 22050))


def test_a_recording_is_read_in_flat_memory(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(400_000, np.float32), 16000)
    sizes = [len(block) for block in read_blocks(tmp_path / "a.wav", Heard())]
    assert max(sizes) == audio.BLOCK and sum(sizes) == 400_000
    assert max(len(block) for block in frames(tmp_path / "a.wav", FeatureConfig(), Heard())) < 420


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate": 100}, "sample_rate = 100 must be from 2,000"),
        ({"frame_shift_ms": 30.0}, "frame_shift_ms = 30 and frame_length_ms = 25: the shift must"),
        ({"frame_shift_ms": 0.0}, "the shift must be at least 1"),
        ({"mels": 3}, "mels = 3 must be from 4 to 256"),
        ({"kind": "mfcc", "cepstra": 41}, "cepstra = 41 must be from 1 to mels = 40"),
    ],
)
def test_settings_that_make_no_frames(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureConfig(**settings)


@pytest.mark.parametrize("kind", ["log-mel", "mfcc"])
def test_more_mels_than_a_frame_can_tell_apart(kind: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", SAMPLES, 16000)
    with pytest.raises(RegrnnError, match=r"--data\.features\.mels 256 are too many for frames of 25 ms at 16,000 Hz"):
        features(tmp_path / "a.wav", FeatureConfig(kind=kind, mels=256))  # type: ignore[arg-type]


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", SAMPLES, 16000)
    for module in ("soundfile", "kaldi_native_fbank"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(RegrnnError, match=r"^this needs [a-z-]+: pip install 'regrnn\[speech\]'$"):
                features(tmp_path / "a.wav", FeatureConfig())
    monkeypatch.setitem(sys.modules, "kaldiio", None)
    with pytest.raises(RegrnnError, match=r"^this needs kaldiio: pip install 'regrnn\[kaldi\]'$"):
        need("kaldiio", "kaldiio", "kaldi")


@pytest.mark.skipif(
    not (Path(os.environ.get("REGRNN_DATA", "nowhere")) / "speech-sample").is_dir(),
    reason="the sample of recordings is not here: set REGRNN_DATA",
)
def test_real_recordings() -> None:
    sample = Path(os.environ["REGRNN_DATA"]) / "speech-sample"
    paths = sorted(sample.glob("wav/*.wav"))
    assert len(paths) == 12
    for path in paths[:3]:
        rate, duration = probe(path)
        assert rate == 16000
        heard = Heard()
        assert len(features(path, FeatureConfig(), heard)) == pytest.approx(duration * 100, abs=1)
        assert not heard.clipped
