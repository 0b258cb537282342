"""Evaluations that go beyond the trained model: gradient steps on the text, a cache of it, another temperature.

Each sees of the text only what stands before the prediction. Their figures are not those of the static protocol and
are labelled so. Of several models the distributions are averaged, each model with its own steps or cache.

Shapes: T time, H hidden, N entries of the cache, S settings, K models.
"""

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from regrnn.nn.loss import token_log_probabilities
from regrnn.tasks.language.evaluate import running_mean
from regrnn.tasks.language.model import LanguageModel, State

WINDOW = 250
"""Steps read at once; what the figures are does not depend on it."""


class Adaptive(Protocol):
    """One way to evaluate, with its settings."""

    @classmethod
    def grid(cls) -> Sequence[Self]:
        """The settings that are tried on the validation text."""

    one_pass: ClassVar[bool]
    """Whether several settings in one pass cost less than one after the other."""

    @property
    def protocol(self) -> str:
        """What is done, in words."""

    @classmethod
    def log_probabilities(
        cls, hows: Sequence[Self], models: Sequence[LanguageModel], ids: np.ndarray
    ) -> Iterator[Tensor]:
        """By each of the settings `hows` ln p of ids[1], ids[2], ... given all before, (S, T) float64 at a time."""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """The softmax of logits / temperature; above 1 it is less certain."""

    one_pass: ClassVar[bool] = True
    temperature: float = 1.1

    def __post_init__(self) -> None:
        _require_above_zero(self, "temperature")

    @classmethod
    def grid(cls) -> list[Self]:
        """From 0.8 to 1.4 in steps of 0.05."""
        return [cls(temperature=hundredths / 100) for hundredths in range(80, 145, 5)]

    @property
    def protocol(self) -> str:
        """In words."""
        return f"softmax temperature {self.temperature:g}"

    @classmethod
    @torch.no_grad()
    def log_probabilities(
        cls, hows: Sequence[Self], models: Sequence[LanguageModel], ids: np.ndarray
    ) -> Iterator[Tensor]:
        """ln p of each token but the first."""
        biases = [[model.decoder.bias / how.temperature for model in models] for how in hows]
        for h_KTH, y_T in _features(models, ids):
            rows_S = []
            for how, biases_K in zip(hows, biases, strict=True):
                rows = [
                    token_log_probabilities(h_TH / how.temperature, model.decoder.weight, bias, y_T)
                    for h_TH, model, bias in zip(h_KTH, models, biases_K, strict=True)
                ]
                rows_S.append(_mean(rows))
            yield torch.stack(rows_S)


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The neural cache of Grave, Joulin and Usunier (2016).

    p(w) = (1 - weight) p_model(w) + weight p_cache(w), where p_cache(w) is proportional to the sum of
    exp(flatness h_t . h_i) over those of the last `size` steps i that w came after; h is the top layer's output.
    The first token, before which the cache is empty, has the model's probability alone.
    """

    one_pass: ClassVar[bool] = True
    size: int = 2000
    """Steps that the cache remembers."""
    flatness: float = 0.3
    """The paper's theta: 0 counts words; large values trust the most similar states alone."""
    weight: float = 0.1
    """The paper's lambda: the cache's part in the mixture."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 10**9:
            raise ValueError(f"size = {self.size} must be from 1 to 1,000,000,000")
        if not self.flatness >= 0:
            raise ValueError(f"flatness = {self.flatness} must not be negative")
        if not 0 < self.weight < 1:
            raise ValueError(f"weight = {self.weight} must be above 0 and below 1")

    @classmethod
    def grid(cls) -> list[Self]:
        """Flatness 0.1, 0.3, 1 by weight 0.05, 0.1, 0.2, at the default size."""
        return [cls(flatness=f, weight=w) for f, w in itertools.product((0.1, 0.3, 1.0), (0.05, 0.1, 0.2))]

    @property
    def protocol(self) -> str:
        """In words."""
        return f"neural cache of {self.size:,} steps, flatness {self.flatness:g}, weight {self.weight:g}"

    @classmethod
    @torch.no_grad()
    def log_probabilities(
        cls, hows: Sequence[Self], models: Sequence[LanguageModel], ids: np.ndarray
    ) -> Iterator[Tensor]:
        """ln p of each token but the first."""
        most = max(how.size for how in hows)
        kept: list[Tensor] | None = None
        kept_y_N = torch.empty(0, dtype=torch.int64)
        for h_KTH, y_T in _features(models, ids):
            y_N = torch.cat((kept_y_N.to(y_T), y_T))
            pasts = list(h_KTH) if kept is None else [torch.cat(p) for p in zip(kept, h_KTH, strict=True)]
            # Column n is one step of the past; row t may look at the `size` of them before its own.
            n_N = torch.arange(len(y_N), device=y_T.device)
            own_T1 = n_N[len(y_N) - len(y_T) :, None]
            other_TN = y_N != y_T[:, None]
            log_p_KT = [
                token_log_probabilities(h_TH, model.decoder.weight, model.decoder.bias, y_T).double()
                for h_TH, model in zip(h_KTH, models, strict=True)
            ]
            similar_KTN = [(h_TH @ past_NH.T).double() for h_TH, past_NH in zip(h_KTH, pasts, strict=True)]
            found: dict[tuple[int, float], list[tuple[Tensor, Tensor]]] = {}
            rows_S = []
            for how in hows:
                if (how.size, how.flatness) not in found:  # the weight of the mixture costs nothing
                    hidden_TN = (n_N >= own_T1) | (n_N < own_T1 - how.size)
                    found[how.size, how.flatness] = [
                        _cache(how.flatness * similar_TN, hidden_TN, other_TN) for similar_TN in similar_KTN
                    ]
                rows = []
                for log_p_T, (whole_T, cache_T) in zip(log_p_KT, found[how.size, how.flatness], strict=True):
                    mixed_T = torch.logaddexp(log_p_T + math.log1p(-how.weight), cache_T + math.log(how.weight))
                    rows.append(torch.where(whole_T.isinf(), log_p_T, mixed_T))
                rows_S.append(_mean(rows))
            yield torch.stack(rows_S)
            kept, kept_y_N = [past[-most:] for past in pasts], y_N[-most:]


def _cache(scores_TN: Tensor, hidden_TN: Tensor, other_TN: Tensor) -> tuple[Tensor, Tensor]:
    """ln of the sum over all that is remembered (-inf: nothing), and ln p of the target in the cache, both (T,)."""
    whole_T = scores_TN.masked_fill(hidden_TN, -math.inf).logsumexp(1)
    return whole_T, scores_TN.masked_fill(hidden_TN | other_TN, -math.inf).logsumexp(1) - whole_T


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """Dynamic evaluation (Mikolov et al. 2010; with the decay of Krause et al. 2017), by stochastic gradient descent.

    The text is read `steps` tokens at a time. Once these have been scored, each weight w goes to
    w + decay (w_trained - w) - learning_rate g, where g is the gradient of their summed -ln p, back-propagated within
    these steps. The state is carried; masks are off.
    """

    one_pass: ClassVar[bool] = False
    learning_rate: float = 0.03
    decay: float = 0.0001
    steps: int = 5

    def __post_init__(self) -> None:
        _require_above_zero(self, "learning_rate")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay = {self.decay} must be from 0 to 1")
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps} must be at least 1")

    @classmethod
    def grid(cls) -> list[Self]:
        """Learning rate 0.01, 0.03, 0.1 by decay 0, 0.0001, 0.001, at the default steps."""
        pairs = itertools.product((0.01, 0.03, 0.1), (0.0, 0.0001, 0.001))
        return [cls(learning_rate=rate, decay=decay) for rate, decay in pairs]

    @property
    def protocol(self) -> str:
        """In words."""
        return (
            f"dynamic evaluation, a gradient step every {self.steps} tokens, learning rate {self.learning_rate:g}, "
            f"decay {self.decay:g}"
        )

    @classmethod
    def log_probabilities(
        cls, hows: Sequence[Self], models: Sequence[LanguageModel], ids: np.ndarray
    ) -> Iterator[Tensor]:
        """ln p of each token but the first. The models stay as they are: copies of them learn."""
        (how,) = hows
        students = [_Student(model, how.learning_rate, how.decay) for model in models]
        for x_T, y_T in _windows(ids, how.steps, next(models[0].parameters()).device):
            yield _mean([student.learn(x_T, y_T) for student in students])[None]


class _Student:
    """A copy of a model under dynamic evaluation.

    What an update costs is the weights it passes over, so that the softmax's take their gradient, an outer product of
    a few rows, in place, and of an embedding that is not tied only the rows in use are touched: the decay that the
    others have missed they get when they are next read.
    """

    def __init__(self, model: LanguageModel, learning_rate: float, decay: float) -> None:
        self.rate, self.decay = learning_rate, decay
        self.trained = model
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.model.rnn.requires_grad_(True)
        self.state: State = {}
        self.tied = self.model.decoder.weight is self.model.encoder.weight
        self.updates = 0
        self.updates_seen_V = torch.zeros_like(model.encoder.weight[:, 0], dtype=torch.int64)

    @torch.no_grad()
    def learn(self, x_T: Tensor, y_T: Tensor) -> Tensor:
        """ln p (T,) float64 of y, and a gradient step on them."""
        embedding, decoder = self.model.encoder.weight, self.model.decoder
        if not self.tied:
            self._catch_up(x_T)
        e_TE = embedding[x_T].requires_grad_(True)
        rnn_weights = list(self.model.rnn.parameters())
        with torch.enable_grad():
            h_TBH, state = self.model.features_of_embedded(e_TE[:, None], self.state)
        self.state = {name: tensor.detach() for name, tensor in state.items()}
        h_TH = h_TBH.detach()[:, 0]
        log_p_TV: Tensor = decoder(h_TH).log_softmax(-1)
        log_p_T = log_p_TV.gather(1, y_T[:, None])[:, 0].double()
        d_logits_TV = log_p_TV.exp_()
        d_logits_TV[torch.arange(len(y_T)), y_T] -= 1
        d_h_TH = d_logits_TV @ decoder.weight
        d_e_TE, *gradients = torch.autograd.grad(h_TBH, [e_TE, *rnn_weights], d_h_TH[:, None])

        for w, g, trained in zip(rnn_weights, gradients, self.trained.rnn.parameters(), strict=True):
            self._decay(w, trained).sub_(g, alpha=self.rate)
        self._decay(decoder.weight, self.trained.decoder.weight)
        decoder.weight.addmm_(d_logits_TV.t(), h_TH, alpha=-self.rate)
        self._decay(decoder.bias, self.trained.decoder.bias).sub_(d_logits_TV.sum(0), alpha=self.rate)
        self.updates += 1
        if not self.tied:
            self._catch_up(x_T)
        embedding.index_add_(0, x_T, d_e_TE, alpha=-self.rate)
        return log_p_T

    def _decay(self, w: Tensor, trained: Tensor) -> Tensor:
        return w.lerp_(trained, self.decay) if self.decay else w

    def _catch_up(self, rows_T: Tensor) -> None:
        """The decay of all updates so far on these rows of the embedding."""
        if self.decay:
            rows_R = rows_T.unique()
            kept_R = (1 - self.decay) ** (self.updates - self.updates_seen_V[rows_R]).double()
            w, trained = self.model.encoder.weight, self.trained.encoder.weight
            w[rows_R] = trained[rows_R].lerp(w[rows_R], kept_R[:, None].to(w))
            self.updates_seen_V[rows_R] = self.updates


ADAPTIVE: dict[str, type[Adaptive]] = {"dynamic": Dynamic, "cache": Cache, "temperature": Temperature}


def _mean(log_p_KT: Sequence[Tensor]) -> Tensor:
    """ln of the models' mean probability, (T,) float64."""
    return running_mean(torch.stack(list(log_p_KT)).double())[-1]


def _windows(ids: np.ndarray, steps: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets (T,), `steps` at a time."""
    for start in range(0, len(ids) - 1, steps):
        window = torch.from_numpy(ids[start : start + steps + 1].astype(np.int64)).to(device)
        yield window[:-1], window[1:]


def _features(models: Sequence[LanguageModel], ids: np.ndarray) -> Iterator[tuple[list[Tensor], Tensor]]:
    """h (T, H) of each model, and the targets (T,), a window at a time with the state carried."""
    states: list[State] = [{} for _ in models]
    for x_T, y_T in _windows(ids, WINDOW, next(models[0].parameters()).device):
        found = [model.features(x_T[:, None], state) for model, state in zip(models, states, strict=True)]
        states = [state for _, state in found]
        yield [h_TBH[:, 0] for h_TBH, _ in found], y_T


def _require_above_zero(config: object, name: str) -> None:
    value = getattr(config, name)
    if not value > 0:
        raise ValueError(f"{name} = {value} must be above 0")
