"""`regrnn.tasks.translation.model`: against one LSTM over both sentences, and attention place by place."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regrnn.data.buckets import teacher_forced
from regrnn.nn import LSTM, Regularization
from regrnn.tasks.translation.evaluate import log_probabilities, to_sources
from regrnn.tasks.translation.model import Attention, ModelConfig, TranslationModel, select
from regrnn.tasks.translation.task import Batch, TranslationTask

END, SOURCE_TYPES, TARGET_TYPES = 1, 8, 7
CPU = torch.device("cpu")
SOURCES = [[4, 2, 7, 3, 2], [5], [6, 6, 0], [3, 4]]
TARGETS = [[2, 3, END], [4, 5, 6, 2, 0, END], [END], [3, END]]


def drawn(seed: int = 1, **settings: object) -> TranslationModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 12, "embedding_size": 7, "dropout": 0.5, "init": 0.7}
    config = ModelConfig(**(sizes | settings))  # type: ignore[arg-type]
    return TranslationModel(config, SOURCE_TYPES, TARGET_TYPES).eval()


def written(model: TranslationModel, sources: Sequence[list[int]], targets: Sequence[list[int]]) -> list[Tensor]:
    """What the softmax reads at each place of each target, (T, H) each, all side by side."""
    read = to_sources(sources, CPU)
    x_TB = torch.from_numpy(teacher_forced(targets, END)[0])
    h_TBH = model.features(read.source_SB, read.lengths_B, x_TB)
    return [h_TBH[: len(target), row] for row, target in enumerate(targets)]


def chained(model: TranslationModel, source: list[int], target: list[int]) -> tuple[Tensor, Tensor]:
    """One LSTM over source, `<eos>`, target: its output (S, H) in the source, and (T, H) at what follows."""
    x_TE = torch.cat(
        (model.source_embedding(torch.tensor(source)), model.target_embedding(torch.tensor([END, *target])))
    )
    h_TH, _ = model.rnn(x_TE[:, None])
    return h_TH[: len(source), 0], h_TH[len(source) : len(source) + len(target), 0]


def batch_of(sources: Sequence[list[int]], targets: Sequence[list[int]]) -> Batch:
    read = to_sources(sources, CPU)
    return Batch(read.source_SB, read.lengths_B, *map(torch.from_numpy, teacher_forced(targets, END)))


@pytest.mark.parametrize("layers", [1, 3])
@torch.no_grad()
def test_reading_and_writing_is_one_lstm_over_both_sentences(layers: int) -> None:
    model = drawn(num_layers=layers)
    assert model.reader is None and model.attention is None
    for h_TH, source, target in zip(written(model, SOURCES, TARGETS), SOURCES, TARGETS, strict=True):
        torch.testing.assert_close(h_TH, chained(model, source, target)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_attention_place_by_place(layers: int) -> None:
    model = drawn(num_layers=layers, attention="luong")
    assert model.attention is not None
    key, combine = model.attention.key.weight, model.attention.combine.weight
    for h_TH, source, target in zip(written(model, SOURCES, TARGETS), SOURCES, TARGETS, strict=True):
        memory_SH, plain_TH = chained(model, source, target)
        for place, h_H in enumerate(plain_TH):
            scores = torch.stack([h_H @ key @ memory_H for memory_H in memory_SH])
            weights = scores.exp() / scores.exp().sum()
            context_H = sum(weight * memory_H for weight, memory_H in zip(weights, memory_SH, strict=True))
            expected_H = torch.tanh(combine @ torch.cat((context_H, h_H)))
            torch.testing.assert_close(h_TH[place], expected_H, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_weights_are_a_distribution_over_the_source_alone() -> None:
    model = drawn(attention="luong")
    read = to_sources(SOURCES, CPU)
    x_TB = torch.from_numpy(teacher_forced(TARGETS, END)[0])
    _, weights_BTS, _ = model.write(x_TB, model.read(read.source_SB, read.lengths_B))
    assert weights_BTS is not None
    assert weights_BTS.shape == (len(SOURCES), len(x_TB), 5)
    torch.testing.assert_close(weights_BTS.sum(-1), torch.ones(weights_BTS.shape[:2]))
    for weights_TS, source in zip(weights_BTS, SOURCES, strict=True):
        assert (weights_TS[:, : len(source)] > 0).all()
        assert (weights_TS[:, len(source) :] == 0).all()


@pytest.mark.parametrize("attention", ["none", "luong"])
@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_padding_and_company_have_no_influence(attention: str, shared: bool) -> None:
    model = drawn(attention=attention, shared=shared, num_layers=2)
    together = written(model, SOURCES, TARGETS)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        [alone] = written(model, [source], [target])
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-6)
    read = to_sources(SOURCES, CPU)
    there_SB = torch.arange(5)[:, None] < read.lengths_B
    filled_SB = torch.where(there_SB, read.source_SB, torch.tensor(5))
    x_TB = torch.from_numpy(teacher_forced(TARGETS, END)[0])
    other_TBH = model.features(filled_SB, read.lengths_B, x_TB)
    assert torch.equal(other_TBH, model.features(read.source_SB, read.lengths_B, x_TB))


@pytest.mark.parametrize("attention", ["none", "luong"])
@torch.no_grad()
def test_steps_are_what_reading_the_whole_gives(attention: str) -> None:
    model = drawn(attention=attention, num_layers=2)
    [h_TH] = written(model, SOURCES[:1], TARGETS[1:2])
    expected_TV = model.decoder(h_TH).log_softmax(-1)
    read = to_sources(SOURCES, CPU)
    state = select(model.read(read.source_SB, read.lengths_B), torch.tensor([2, 0, 0]))
    for place, token in enumerate([END, *TARGETS[1][:-1]]):
        log_p_BV, state = model.step(torch.tensor([END, token, token]), state)
        torch.testing.assert_close(log_p_BV[1], expected_TV[place], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_p_BV[2], log_p_BV[1])
        state = select(state, torch.tensor([0, 2, 1]))


@torch.no_grad()
def test_two_lstms_have_weights_of_their_own() -> None:
    model = drawn(shared=False)
    assert isinstance(model.reader, LSTM)
    names = [name for name, _ in model.named_parameters()]
    assert [name.replace("reader", "rnn") for name in names if "reader" in name] == [n for n in names if "rnn" in n]
    assert not any(torch.equal(a, b) for a, b in zip(model.reader.parameters(), model.rnn.parameters(), strict=True))
    [expected] = written(model, SOURCES[:1], TARGETS[:1])
    # By hand: the state at the source's end begins the target.
    _, state = model.reader(model.source_embedding(torch.tensor(SOURCES[0]))[:, None])
    h_TBH, _ = model.rnn(model.target_embedding(torch.tensor([END, *TARGETS[0][:-1]]))[:, None], state)
    torch.testing.assert_close(h_TBH[:, 0], expected)
    assert sum(p.numel() for p in drawn(shared=True).parameters()) < sum(p.numel() for p in model.parameters())


@torch.no_grad()
def test_attention_looks_at_what_the_reader_wrote() -> None:
    model = drawn(shared=False, attention="luong")
    read = to_sources(SOURCES[:1], CPU)
    assert model.reader is not None and model.attention is not None
    expected_SBH, _ = model.reader(model.source_embedding(read.source_SB))
    state = model.read(read.source_SB, read.lengths_B)
    torch.testing.assert_close(state["memory"], expected_SBH)
    torch.testing.assert_close(state["keys"], expected_SBH @ model.attention.key.weight.T)


def test_tied_weights_are_one() -> None:
    model = drawn(tied=True, embedding_size=None)
    assert model.decoder.weight is model.target_embedding.weight
    assert model.source_embedding.weight.shape == (SOURCE_TYPES, 12)
    with pytest.raises(ValueError, match="tied = true needs embedding_size = hidden_size"):
        ModelConfig(hidden_size=8, embedding_size=4, tied=True)


@pytest.mark.parametrize("settings", [{"hidden_size": 0}, {"num_layers": 0}, {"init": 0.0}, {"dropout": 1.0}])
def test_sizes_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ModelConfig(**settings)  # type: ignore[arg-type]


def test_parameters_start_within_init() -> None:
    model = drawn(init=0.05, attention="luong", shared=False)
    largest = [parameter.abs().max().item() for parameter in model.parameters()]
    assert max(largest) <= 0.05 and min(largest) > 0.02


@pytest.mark.parametrize("attention", ["none", "luong"])
def test_dropout_strikes_in_training_and_not_in_evaluation(attention: str) -> None:
    model = drawn(attention=attention, hidden_size=64)
    assert torch.equal(*(torch.cat(written(model, SOURCES, TARGETS)) for _ in range(2)))
    model.train()
    struck = torch.cat(written(model, SOURCES, TARGETS))
    assert 0.3 < (struck == 0).float().mean() < 0.7
    assert not torch.equal(struck, torch.cat(written(model, SOURCES, TARGETS)))


def state_for(attention: Attention, memory_SBH: Tensor) -> dict[str, Tensor]:
    padding = torch.zeros(memory_SBH.shape[:2], dtype=torch.bool)
    return {"memory": memory_SBH, "keys": attention.key(memory_SBH), "padding": padding}


@pytest.mark.parametrize(
    ("scheme", "constant"),
    [
        (Regularization(output=0.4), ()),
        (Regularization(output=0.4, masks="sequence"), (0,)),
        (Regularization(output=0.4, masks="batch"), (1,)),
        (Regularization(output=0.4, masks="batch", every=9), (0, 1)),
    ],
    ids=["step", "sequence", "batch", "batch for all steps"],
)
@torch.no_grad()
def test_the_mask_behind_attention_is_of_the_kind_asked_for(scheme: Regularization, constant: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    attention = Attention(40, scheme)
    h_TBH, memory_SBH = torch.randn(9, 5, 40), torch.randn(4, 5, 40)
    state = state_for(attention, memory_SBH)
    expected, weights = attention.eval()(h_TBH, state)
    found, same = attention.train()(h_TBH, state)
    assert torch.equal(weights, same)
    kept = found != 0
    torch.testing.assert_close(found[kept], expected[kept] / 0.6)
    assert 0.3 < 1 - kept.float().mean() < 0.5
    for axis in (0, 1):
        assert torch.equal(kept, kept.narrow(axis, 0, 1).expand_as(kept)) == (axis in constant)


@torch.no_grad()
def test_a_mask_of_the_batch_lives_as_many_steps_as_it_should() -> None:
    torch.manual_seed(4)
    attention = Attention(40, Regularization(output=0.5, masks="batch", every=3))
    kept = attention.train()(torch.randn(8, 2, 40), state_for(attention, torch.randn(4, 2, 40)))[0] != 0
    same = [torch.equal(a, b) for a, b in itertools.pairwise(kept)]
    assert same == [True, True, False, True, True, False, True]


@torch.no_grad()
def test_no_output_rate_leaves_attention_alone() -> None:
    model = drawn(attention="luong", dropout=Regularization(recurrent=0.5))
    assert model.attention is not None
    state = state_for(model.attention, torch.randn(4, 2, 12))
    h_TBH = torch.randn(3, 2, 12)
    assert torch.equal(model.attention.train()(h_TBH, state)[0], model.attention.eval()(h_TBH, state)[0])


@pytest.mark.parametrize("attention", ["none", "luong"])
@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_is_the_mean_over_target_tokens_and_ends(attention: str, shared: bool) -> None:
    model = drawn(attention=attention, shared=shared, num_layers=2)
    loss = TranslationTask.loss(None, model, batch_of(SOURCES, TARGETS), {})  # type: ignore[arg-type]
    total = 0.0
    with torch.no_grad():
        for source, target in zip(SOURCES, TARGETS, strict=True):
            [h_TH] = written(model, [source], [target])
            total += F.cross_entropy(model.decoder(h_TH), torch.tensor(target), reduction="sum").item()
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    assert loss.normaliser == loss.predictions == sum(map(len, TARGETS)) == 12
    loss.total.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["none", "luong"])
@pytest.mark.parametrize(
    "scheme",
    [
        Regularization.paper(0.3),
        Regularization.standard(0.3),
        Regularization.variational(0.3),
        Regularization.batch(0.3),
        Regularization.batch(0.3, every=4),
    ],
    ids=["paper", "standard", "variational", "batch", "batch for 4 steps"],
)
def test_every_kind_of_dropout_trains(scheme: Regularization, attention: str) -> None:
    model = drawn(attention=attention, dropout=scheme, num_layers=2, init=0.3, hidden_size=24)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    batch = batch_of(SOURCES, TARGETS)

    def nats() -> Tensor:
        return TranslationTask.loss(None, model, batch, {}).total  # type: ignore[arg-type]

    before = nats().item()
    model.train()
    for _ in range(30):
        optimiser.zero_grad()
        nats().backward()
        optimiser.step()
    model.eval()
    assert nats().item() < 0.7 * before


@pytest.mark.parametrize("attention", ["none", "luong"])
@torch.no_grad()
def test_probabilities_of_translations_side_by_side_are_each_its_own(attention: str) -> None:
    models = [drawn(seed, attention=attention) for seed in (1, 2)]
    found = log_probabilities(models, SOURCES, TARGETS, END)
    for log_p, source, target in zip(found, SOURCES, TARGETS, strict=True):
        of_each = [model.decoder(written(model, [source], [target])[0]).softmax(-1).double() for model in models]
        mean_TV = sum(of_each) / 2
        expected = [mean_TV[place, token].log().item() for place, token in enumerate(target)]
        assert log_p.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("attention", ["none", "luong"])
@pytest.mark.parametrize("tied", [False, True])
def test_steps_of_a_search_are_those_of_the_whole(attention: str, tied: bool) -> None:
    """Laid out for single steps or not, also after an update, and with dropout on while training."""
    model = drawn(attention=attention, tied=tied, embedding_size=12, num_layers=2)
    read = to_sources(SOURCES, CPU)
    tokens_TB = torch.tensor([[END] * 4, [3, 2, 0, 5]])
    for _ in range(2):
        with torch.no_grad():
            state = model.read(read.source_SB, read.lengths_B)
            whole_TBH = model.write(tokens_TB, state)[0]
            for tokens_B, h_BH in zip(tokens_TB, whole_TBH, strict=True):
                log_p_BV, state = model.step(tokens_B, state)
                torch.testing.assert_close(log_p_BV, model.decoder(h_BH).log_softmax(-1), rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
    log_p_BV, _ = model.step(tokens_TB[0], model.read(read.source_SB, read.lengths_B))
    assert log_p_BV.requires_grad
    model.train()
    with torch.no_grad():
        state = model.read(read.source_SB, read.lengths_B)
        assert not torch.equal(model.step(tokens_TB[0], state)[0], model.step(tokens_TB[0], state)[0])
