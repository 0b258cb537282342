"""What can be done with a trained translator from the command line; imports nothing heavy until it runs."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from regrnn.errors import RegrnnError

if TYPE_CHECKING:
    from regrnn.tasks.translation.trained import TrainedTranslator


def translate(
    trained: "TrainedTranslator",
    file: Path = Path("-"),
    *,
    beam: int | None = None,
    best: int = 1,
    sample: bool = False,
    temperature: float | None = None,
    seed: int | None = None,
    force: Path | None = None,
    average: "Sequence[TrainedTranslator]" = (),
    json: bool = False,
) -> None:
    """Translate a text, line by line: as many lines come out as go in, in their order, empty ones included.

    Parameters
    ----------
    file
        UTF-8 text, a sentence on each line, in the form that the run was trained on; `-` reads standard input.
    beam
        Hypotheses that are searched side by side, 1 for the greedy choice; the recipe's unless given.
    best
        With more than 1, so many translations of each line, at most `--beam`: `LINE ||| TRANSLATION ||| SCORE`.
    sample
        Draw a translation at random instead of searching the most probable.
    temperature
        Of `--sample`: below 1 it plays safe, above 1 it dares more.
    seed
        Of `--sample`: the same seed draws the same.
    force
        Score the translations in this file, a line each, instead of making some: TSV with ln p, tokens, perplexity.
    average
        Further runs with the same vocabularies: each token is chosen by the average of their distributions.
    json
        Print a JSON object for each line.
    """
    from regrnn.data.text import read_lines

    if best < 1:
        raise ValueError(f"best must be at least 1, got {best}")
    if sample and (beam is not None or best > 1 or force is not None):
        raise RegrnnError("--sample draws one translation; leave --beam, --best and --force out")
    if not sample and (temperature is not None or seed is not None):
        raise RegrnnError("--temperature and --seed are of drawing at random; give --sample too")
    if force is not None and (beam is not None or best > 1):
        raise RegrnnError("--force makes no translations; leave --beam and --best out")
    if str(force) == "-" == str(file):
        raise RegrnnError("--force -: standard input is read for the text already; name a file")
    lines = read_lines(file)
    if force is not None:
        _score(trained, lines, file, force, average, json)
        return
    if sample:
        drawn_at = 1.0 if temperature is None else temperature
        found = [[one] for one in trained.sample(lines, temperature=drawn_at, seed=seed, average=average)]
    else:
        found = [some[:best] for some in trained.translate(lines, beam=beam, average=average)]
    for number, translations in enumerate(found, 1):
        if json:
            print(dumps({"line": number, "translations": [asdict(one) for one in translations]}, ensure_ascii=False))
        elif best == 1:
            print(translations[0].text)
        else:
            for one in translations:
                print(f"{number} ||| {one.text} ||| {one.score:.4f}")


def _score(
    trained: "TrainedTranslator",
    lines: Sequence[str],
    file: Path,
    force: Path,
    average: "Sequence[TrainedTranslator]",
    json: bool,
) -> None:
    from regrnn.data.text import read_lines

    translations = read_lines(force)
    if len(lines) != len(translations):
        raise RegrnnError(f"{file} has {len(lines):,} lines and {force} {len(translations):,}; they should be aligned")
    for number, line in enumerate(lines, 1):
        if not line.split():
            raise RegrnnError(f"{file}: line {number} is empty, so that nothing can be scored given it; leave it out")
    scored = trained.force(lines, translations, average=average)
    if not json:
        print("line\tlog_probability\ttokens\tperplexity")
    for number, one in enumerate(scored, 1):
        if json:
            record = {"line": number, "log_probability": one.log_probability, "tokens": one.predictions}
            perplexity = one.perplexity if math.isfinite(one.perplexity) else None  # JSON has no infinity
            print(dumps(record | {"perplexity": perplexity}))
        else:
            print(f"{number}\t{one.log_probability:.6f}\t{one.predictions}\t{one.perplexity:.4f}")


VERBS = (translate,)
