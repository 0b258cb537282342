"""Translating a file by what `regrnn.load` returns, many sentences side by side, against the idiom's loop.

The idiom is the beam search of the textbooks: `torch.nn.LSTM`, one sentence at a time, its hypotheses as the batch.
Both find the same translations. The weights are drawn, so that few hypotheses end before the greatest length: the
work is that of long outputs.

Shapes: S source length, K hypotheses, V vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.options import Options
from benchmarks.results import Entry, entry
from benchmarks.text import draw, words
from benchmarks.timing import Figures, interleaved, rates
from regrnn.data.vocabulary import EOS, UNK, WordVocabulary
from regrnn.tasks.translation.data import DataConfig, Vocabularies
from regrnn.tasks.translation.evaluate import DecodingConfig
from regrnn.tasks.translation.model import ModelConfig, TranslationModel
from regrnn.tasks.translation.trained import TrainedTranslator

BEAMS = (1, 12)


def translation(options: Options) -> Iterator[Entry]:
    """A translator of the size of `multi30k-de-en`, as in the paper, without attention."""
    settings = {"layers": 2, "hidden": 256, "vocabulary": 6000, "sentences": 200, "shortest": 5, "longest": 20}
    if options.quick:
        settings |= {"hidden": 8, "vocabulary": 40, "sentences": 6, "longest": 7}
    lines = sentences(settings["vocabulary"], settings["sentences"], settings["shortest"], settings["longest"])
    figures: list[Figures] = []
    plain = drawn(settings)
    theirs = Idiom(plain.model)
    for beam in BEAMS:
        sides = {
            "idiom": functools.partial(one_by_one, theirs, plain, lines, beam),
            "ours": functools.partial(plain.translate, lines, beam=beam),
        }
        times = interleaved(sides, options.repeats or 5, warm_up=1)
        figure = rates(f"beam {beam}", "sentences", len(lines), times["ours"], times["idiom"])
        figures.append(figure | {"beam": beam})
    yield entry("translation", "plain", options, settings, figures)


def sentences(vocabulary: int, count: int, shortest: int, longest: int) -> list[str]:
    """Texts of as many lengths as there are."""
    draws = np.random.default_rng(1)
    types = words(vocabulary)
    lengths = draws.integers(shortest, longest + 1, count)
    return [" ".join(types[i] for i in draw(vocabulary, length, draws)) for length in lengths]


def drawn(settings: dict[str, int]) -> TrainedTranslator:
    """A translator with fresh weights: what it says is noise, what it costs is not."""
    vocabulary = WordVocabulary([UNK, EOS, *words(settings["vocabulary"])])
    config = ModelConfig(hidden_size=settings["hidden"], num_layers=settings["layers"], init=0.1)
    model = TranslationModel(config, len(vocabulary), len(vocabulary))
    decoding = DecodingConfig(max_length=200, length_normalisation=1.0)
    return TrainedTranslator(model, Vocabularies(vocabulary, vocabulary), DataConfig(), decoding)


class Idiom(nn.Module):
    """The same network of torch.nn's parts, with the weights of `model`."""

    def __init__(self, model: TranslationModel) -> None:
        super().__init__()
        types, E = model.source_embedding.weight.shape
        H = model.config.hidden_size
        self.source_embedding = nn.Embedding(types, E)
        self.target_embedding = nn.Embedding(len(model.decoder.weight), E)
        self.rnn = nn.LSTM(E, H, model.config.num_layers)
        self.decoder = nn.Linear(H, len(model.decoder.weight))
        self.load_state_dict(model.state_dict())
        self.eval()

    @torch.no_grad()
    def translate(self, source: Sequence[int], never: int, end: int, beam: int, limit: int) -> list[int]:
        """The best target by its mean log probability."""
        _, (h, c) = self.rnn(self.source_embedding(torch.tensor(source))[:, None])
        tokens_K = torch.tensor([end])
        scores_K: Tensor = torch.zeros(1)
        texts: list[list[int]] = [[]]
        done: list[tuple[float, list[int]]] = []
        for length in range(1, limit + 1):
            h_1KH, (h, c) = self.rnn(self.target_embedding(tokens_K)[None], (h, c))
            log_p_KV = self.decoder(h_1KH[0]).log_softmax(-1)
            log_p_KV[:, never] = -torch.inf
            total_KV = scores_K[:, None] + log_p_KV
            best_K, place_K = total_KV.flatten().topk(beam - len(done))
            parents, tokens = (place_K // total_KV.size(1)).tolist(), (place_K % total_KV.size(1)).tolist()
            going = []
            found = []
            for k, (parent, token, score) in enumerate(zip(parents, tokens, best_K.tolist(), strict=True)):
                text = [*texts[parent], token]
                if token == end or length == limit:
                    done.append((score / length, text))
                else:
                    going.append(k)
                    found.append(text)
            if not going:
                break
            texts = found
            rows = torch.tensor([parents[k] for k in going])
            tokens_K, scores_K = torch.tensor([tokens[k] for k in going]), best_K[going]
            h, c = h[:, rows], c[:, rows]
        finished = [one for one in done if one[1][-1] == end] or done
        text = max(finished)[1]
        return text[:-1] if text[-1] == end else text


def one_by_one(idiom: Idiom, trained: TrainedTranslator, lines: Sequence[str], beam: int) -> list[str]:
    """The idiom's translations."""
    target = trained.vocabularies.target
    assert target.unk_id is not None
    found = []
    for line in lines:
        source = trained.vocabularies.encode_source(line, trained.data)
        limit = trained.decoding.limit(len(source))
        found.append(target.decode(idiom.translate(source, target.unk_id, target.eos_id, beam, limit)))
    return found
