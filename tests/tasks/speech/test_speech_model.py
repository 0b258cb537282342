"""`regrnn.tasks.speech.model` and `task`: steps, delays, states, batches, streams, and a loss that ignores padding."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tones import write, write_corpus

from regrnn import Regularization, corruption_count
from regrnn.errors import RegrnnError
from regrnn.tasks.speech.audio import FeatureConfig
from regrnn.tasks.speech.data import IGNORED, DataConfig, labels
from regrnn.tasks.speech.decode import DecodingConfig
from regrnn.tasks.speech.evaluate import TRAIN_UTTERANCES, averaged, evaluate, log_probabilities
from regrnn.tasks.speech.model import AcousticModel, ModelConfig, between, centres, delayed, split_states, stack
from regrnn.tasks.speech.task import Batch, SpeechTask

CPU = torch.device("cpu")
LENGTHS = [13, 1, 40, 7, 40, 22]


def frames(sizes: list[int], features: int = 6) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.normal(size=(size, features)).astype(np.float32) for size in sizes]


def make(**settings: Any) -> AcousticModel:
    torch.manual_seed(1)
    return AcousticModel(ModelConfig(**({"hidden_size": 5, "dropout": 0.5} | settings)), 6, 3).eval()


def task(path: Path, *, model: ModelConfig | None = None, decoding: Any = None, **settings: Any) -> SpeechTask:
    data = DataConfig(path=str(path), features=FeatureConfig(mels=12), **({"batch_size": 4} | settings))
    model = model or ModelConfig(hidden_size=6)
    return SpeechTask.prepare({"data": data, "model": model, "decoding": decoding or DecodingConfig()})


# Frames become steps, and steps frames


@pytest.mark.parametrize("context", [0, 1, 3])
@pytest.mark.parametrize("subsample", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_stacking_and_thinning(context: int, subsample: int, count: int) -> None:
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    groups = [list(range(start, min(start + subsample, count))) for start in range(0, count, subsample)]
    rows = []
    for group in groups:
        middle = min(group[0] + subsample // 2, count - 1)
        assert middle in group  # what a step predicts is about its own frames
        rows.append([x[min(max(middle + k, 0), count - 1)] for k in range(-context, context + 1)])
    assert (stack(x, context, subsample) == np.array(rows).reshape(len(groups), -1)).all()
    assert centres(count, subsample).tolist() == [min(g[0] + subsample // 2, count - 1) for g in groups]


def test_a_delay_repeats_the_end() -> None:
    assert delayed(np.array([[1.0], [2.0]]), 3)[:, 0].tolist() == [1, 2, 2, 2, 2]
    assert delayed(np.array([[1.0], [2.0]]), 0)[:, 0].tolist() == [1, 2]


def test_states_are_equal_parts_of_each_phone() -> None:
    truth = np.array([0] * 6 + [2] * 7 + [IGNORED] * 2 + [2] + [-2] * 2 + [1] * 3)
    assert split_states(truth, 1) is truth
    expected = [0, 0, 1, 1, 2, 2, 6, 6, 6, 7, 7, 8, 8, -1, -1, 6, -2, -2, 3, 4, 5]
    assert split_states(truth, 3).tolist() == expected
    assert (split_states(truth, 4)[truth >= 0] // 4 == truth[truth >= 0]).all()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bidirectional": True, "num_layers": 2},
        {"context": 2, "subsample": 3, "delay": 2},
        {"subsample": 2, "states": 3},
        {"bidirectional": True, "context": 1, "subsample": 2, "num_layers": 3},
    ],
)
def test_packed_utterances_equal_one_by_one(settings: dict[str, Any]) -> None:
    """Neither neighbours nor padding are heard, in either direction; the parameters are torch.nn.LSTM's."""
    model = make(**settings)
    config = model.config
    together = log_probabilities(model, frames(LENGTHS))
    plain = torch.nn.LSTM(6 * (2 * config.context + 1), 5, config.num_layers, bidirectional=config.bidirectional)
    plain.load_state_dict(model.rnn.state_dict())
    for x, found in zip(frames(LENGTHS), together, strict=True):
        assert found.shape == (len(x), 3 * config.states)
        steps = delayed(stack(x, config.context, config.subsample), config.delay)
        with torch.no_grad():
            h, _ = plain(torch.from_numpy(steps)[:, None])
            p = torch.softmax(model.decoder(h[:, 0]), 1).numpy()[config.delay :]
        read = centres(len(x), config.subsample)
        expected = [np.interp(range(len(x)), read, of_state) for of_state in p.T]
        np.testing.assert_allclose(np.exp(found).T, expected, atol=2e-5)


def test_frames_between_two_that_are_read() -> None:
    """Probabilities change evenly, a certain one too, and stay at the ends."""
    with np.errstate(divide="ignore"):
        log_p = np.log(np.array([[1.0, 0.0], [0.2, 0.8], [0.0, 1.0]], np.float32))
    found = np.exp(between(log_p, np.array([1, 4, 5]), range(7)))
    np.testing.assert_allclose(found[:, 1], [0, 0, 0.8 / 3, 1.6 / 3, 0.8, 1, 1], atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    whole = np.log(np.array([[1e-30, 1.0], [0.5, 0.5]], np.float32))
    assert (between(whole, np.arange(2), range(2)) == whole).all()  # nothing is between


def test_a_delay_hears_so_many_steps_ahead() -> None:
    x = frames([30])[0]
    for delay in (0, 3):
        model = make(delay=delay)
        before = log_probabilities(model, [x])[0]
        changed = x.copy()
        changed[20] += 1
        moved = np.flatnonzero(np.abs(log_probabilities(model, [changed])[0] - before).max(1) > 1e-7)
        assert moved[0] == 20 - delay


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_dropout_strikes_every_connection_but_the_recurrent_ones(bidirectional: bool, layers: int) -> None:
    model = make(num_layers=layers, bidirectional=bidirectional).train()
    counted = corruption_count(model.rnn)
    assert (counted.least, counted.most) == (layers + 1, layers + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size = 0 must be from 1 to 1,000,000"),
        ({"context": -1}, "context = -1 must be from 0 to 1,000"),
        ({"states": 0}, "states = 0"),
        ({"bidirectional": True, "delay": 2}, "delay = 2 is for forward models"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_that_make_no_model(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


# Batches and the loss


def reference_loss(made: SpeechTask, model: AcousticModel, indices: list[int]) -> tuple[float, int]:
    """Cross-entropy of these utterances one by one, each labelled frame that is read once."""
    total, count = 0.0, 0
    config = made.config
    for index in indices:
        u = made.corpus.splits["train"][index]
        log_p = log_probabilities(model, [made.normalize(u)])[0]
        truth = split_states(labels(u, made.inventory), config.states)
        for t in centres(len(truth), config.subsample):
            if truth[t] >= 0:
                total -= log_p[t, truth[t]]
                count += 1
    return total, count


MODELS = [
    ModelConfig(hidden_size=6, num_layers=1),
    ModelConfig(hidden_size=6, bidirectional=True, states=2),
    ModelConfig(hidden_size=6, context=1, subsample=2, delay=3),
]


@pytest.mark.parametrize("config", MODELS, ids=["forward", "bidirectional", "delayed"])
def test_the_loss_is_of_labelled_frames_alone(config: ModelConfig, tones: Path) -> None:
    made = task(tones, model=config)
    model = made.build_model().eval()
    seen: list[int] = []
    for position in range(made.batches):
        indices = made.padded.batch(1, position)
        seen += indices
        batch = made.batch(1, position, CPU)
        assert batch.x_TBI.shape[1] == len(indices)
        loss = made.loss(model, batch, {})
        total, count = reference_loss(made, model, indices)
        assert loss.normaliser == loss.predictions == count
        assert loss.total.item() == pytest.approx(total, rel=1e-5)
        assert loss.state == {}
        # What stands in the padding changes nothing.
        for row, length in enumerate(batch.lengths or []):
            batch.x_TBI[length:, row] = 1e6
            assert (batch.y_TB[length:, row] == IGNORED).all()
        assert made.loss(model, batch, {}).total.item() == loss.total.item()
    assert sorted(seen) == list(range(16))


def test_gradients_are_those_of_the_reference(tones: Path) -> None:
    made = task(tones, model=ModelConfig(hidden_size=6, num_layers=2))
    model = made.build_model().eval()
    batch = made.batch(2, 1, CPU)
    made.loss(model, batch, {}).total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    plain = torch.nn.LSTM(24, 6, 2)
    plain.load_state_dict(model.rnn.state_dict())
    total = torch.zeros(())
    for index in made.padded.batch(2, 1):
        u = made.corpus.splits["train"][index]
        h, _ = plain(torch.from_numpy(made.normalize(u))[:, None])
        logits = torch.nn.functional.linear(h[:, 0], model.decoder.weight, model.decoder.bias)
        truth = torch.from_numpy(labels(u, made.inventory))
        total = total + torch.nn.functional.cross_entropy(logits, truth, ignore_index=IGNORED, reduction="sum")
    total.backward()
    expected = {f"rnn.{name}": p.grad for name, p in plain.named_parameters()}
    expected |= {f"decoder.{name}": p.grad for name, p in model.decoder.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        assert (found[name] - gradient).abs().max() <= 2e-5 * gradient.abs().max(), name


@pytest.mark.parametrize("config", [MODELS[0], MODELS[2]], ids=["forward", "delayed"])
@pytest.mark.parametrize("steps", [7, 30])
def test_streams_carry_the_state_and_reset_it_row_by_row(config: ModelConfig, steps: int, tones: Path) -> None:
    """In eval mode the windows of an epoch have, all together, the loss of the utterances one by one."""
    made = task(tones, model=config, batches="streams", batch_size=3, steps=steps)
    model = made.build_model().eval()
    total, count, state = 0.0, 0, {}
    resets = carries = 0
    for position in range(made.batches):
        batch = made.batch(1, position, CPU)
        assert batch.fresh_B is not None
        assert batch.x_TBI.shape[:2] == (steps, 3)
        resets += int(batch.fresh_B.sum())
        carries += int((~batch.fresh_B).sum())
        loss = made.loss(model, batch, state)
        state = {name: s.detach() for name, s in loss.state.items()}
        total += loss.total.item()
        count += int((batch.y_TB >= 0).sum())
    expected, frames_ = reference_loss(made, model, list(range(16)))
    assert count == frames_
    assert total == pytest.approx(expected, rel=1e-5)
    assert resets >= 16 and carries > 10


def test_batches_are_the_same_whenever_they_are_asked_for(tones: Path) -> None:
    for batches in ("padded", "streams"):
        made, again = (task(tones, batches=batches, steps=20) for _ in range(2))
        for position in reversed(range(made.batches)):
            one, other = again.batch(3, position, CPU), made.batch(3, position, CPU)
            assert torch.equal(one.x_TBI, other.x_TBI) and torch.equal(one.y_TB, other.y_TB)


def test_a_window_without_labels_has_no_loss(tones: Path) -> None:
    made = task(tones, batches="streams", steps=5)
    model = made.build_model()
    y = torch.full((5, 4), IGNORED)
    loss = made.loss(model, Batch(torch.randn(5, 4, 24), y, None, torch.ones(4, dtype=torch.bool)), {})
    assert loss.total.item() == 0 and loss.normaliser == 1
    loss.total.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_settings_that_do_not_go_together(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(RegrnnError, match="--model.bidirectional true needs whole utterances; set --data.batches"):
        task(tones, model=ModelConfig(bidirectional=True), batches="streams")
    with pytest.raises(RegrnnError, match="--data.steps 4 must be above --model.delay 4"):
        task(tones, model=ModelConfig(delay=4), batches="streams", steps=4)


# Evaluation


def test_figures_by_hand(tmp_path: Path) -> None:
    """Frame accuracy counts labelled frames, an unknown phone's as mistakes; the errors of phones are edits."""
    folder = write_corpus(tmp_path, [f"u{k:02}" for k in range(20)])
    corpus = task(folder).corpus
    rare = corpus.splits["test"][0].name
    lab = folder / f"{rare}.lab"
    lab.write_text(lab.read_text().replace("125 pau", "125 zh", 1))
    for states in (1, 2):
        decoding = DecodingConfig(smoothing="none")
        made = task(folder, model=ModelConfig(hidden_size=6, states=states, dropout=0.5), decoding=decoding)
        model = made.build_model()
        found = made.evaluate(model, "test")
        right = right_states = count = errors = spoken = 0
        for u in made.corpus.splits["test"]:
            p = np.exp(log_probabilities(model, [made.normalize(u)])[0])
            guess = p.reshape(len(p), -1, states).sum(2).argmax(1)
            truth = labels(u, made.inventory)
            right += int((guess == truth).sum())
            right_states += int((p.argmax(1) == split_states(truth, states))[truth >= 0].sum())
            count += int((truth != IGNORED).sum())
            path = p.argmax(1)
            heard = [
                made.inventory.phones[path[t] // states]
                for t in range(len(path))
                if t == 0 or path[t] // states != path[t - 1] // states or path[t] < path[t - 1]
            ]
            errors += edits(u.sequence, heard)
            spoken += len(u.sequence)
        assert found.predictions == count
        assert found.figures["frame_accuracy"] == pytest.approx(100 * right / count)
        assert found.figures["phone_error_rate"] == pytest.approx(100 * errors / spoken)
        assert ("state_accuracy" in found.figures) == (states > 1)
        if states > 1:
            assert found.figures["state_accuracy"] == pytest.approx(100 * right_states / count)
        assert "no smoothing" in found.protocol


def edits(truth: list[str], heard: list[str]) -> int:
    """Levenshtein's distance."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(truth, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            before, row[j] = row[j], min(before + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def test_train_figures_are_of_a_fixed_part_in_eval_mode(tones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(tones, model=ModelConfig(hidden_size=6, dropout=0.9))
    model = made.build_model().train()
    first = made.evaluate(model, "train")
    assert made.evaluate(model.train(), "train") == first
    assert first.protocol.endswith(", the first 16 utterances") and TRAIN_UTTERANCES == 64
    monkeypatch.setattr("regrnn.tasks.speech.task.TRAIN_UTTERANCES", 2)
    assert made.evaluate(model, "train").predictions == sum(
        sum(map(bool, u.phones)) for u in made.corpus.splits["train"][:2]
    )


def test_members_are_averaged_at_each_frame(tones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(tones)
    torch.manual_seed(1)
    models = [made.build_model().eval() for _ in range(3)]
    utterances = made.corpus.splits["train"]
    members = [(model, made.normalize, utterances) for model in models]
    expected = [
        np.mean([np.exp(log_probabilities(model, [made.normalize(u)])[0]) for model in models], axis=0)
        for u in utterances
    ]
    for at_once in (16, 3):
        monkeypatch.setattr("regrnn.tasks.speech.evaluate.AT_ONCE", at_once)
        found = [pair for some, means in averaged(members) for pair in zip(some, means, strict=True)]
        assert [u.name for u, _ in found] == [u.name for u in utterances]
        for (_, log_p), p in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.exp(log_p), p, atol=1e-6)
    both = evaluate(members, made.inventory, made.decoding)
    one = evaluate(members[:1], made.inventory, made.decoding)
    assert both.predictions == one.predictions
    assert evaluate([members[0]] * 2, made.inventory, made.decoding).figures == pytest.approx(one.figures)


def test_what_the_result_files_call_the_dropout(tones: Path) -> None:
    made = task(tones)
    for dropout, name in ((0.0, "none"), (0.4, "paper"), (Regularization(between=0.5), "custom")):
        made.config = replace(made.config, dropout=dropout)
        assert made.regularization == name


def test_utterances_of_any_length_train(tmp_path: Path) -> None:
    """From a single frame on, with a delay beyond the whole utterance."""
    for k, seconds in enumerate([0.011, 0.02, 0.3, 1.0, 0.05]):
        write(tmp_path / f"u{k}.wav", [("a", seconds / 2), ("o", seconds / 2)])
    for settings in ({"batches": "padded"}, {"batches": "streams", "steps": 50}):
        made = task(tmp_path, model=ModelConfig(hidden_size=4, delay=20, subsample=2, context=3), **settings)
        model = made.build_model()
        state: dict[str, torch.Tensor] = {}
        for position in range(made.batches):
            loss = made.loss(model, made.batch(1, position, CPU), state)
            state = loss.state
            assert torch.isfinite(loss.total)
        for split in ("train", "valid", "test"):
            assert made.evaluate(model, split).predictions > 0
