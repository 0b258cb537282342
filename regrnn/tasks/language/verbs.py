"""What can be done with a trained language model from the command line; imports nothing heavy until it runs."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from regrnn.errors import RegrnnError

if TYPE_CHECKING:
    from regrnn.tasks.language.trained import Scored, ScoredLine, TrainedLanguageModel


def generate(
    trained: "TrainedLanguageModel",
    *,
    prompt: str = "",
    length: int = 100,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | None = None,
    storage: Literal["float32", "int8"] = "float32",
    average: "Sequence[TrainedLanguageModel]" = (),
    json: bool = False,
) -> None:
    """Write text that goes on from a prompt.

    Parameters
    ----------
    prompt
        What comes before; each of its words has to be in the vocabulary.
    length
        Tokens a sample has at most.
    samples
        How many texts; they are drawn side by side.
    temperature
        Below 1 it plays safe, above 1 it dares more; 0 takes the most probable token each time.
    top_k
        Draw among the k most probable tokens.
    top_p
        Draw among the most probable tokens that together reach this probability.
    seed
        The same seed draws the same texts.
    stop
        End a text where this string ends, for example `.` or `\\n`.
    storage
        `int8` holds the weights in a quarter of the memory: faster, and a little less exact.
    average
        Further runs with the same vocabulary: each token is drawn from the average of their distributions.
    json
        Print one JSON list of strings: what follows the prompt.
    """
    texts = trained.generate(
        prompt,
        length=length,
        samples=samples,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop.replace("\\n", "\n") if stop else None,
        storage=storage,
        average=average,
    )
    if json:
        print(dumps(texts, ensure_ascii=False))
        return
    for index, text in enumerate(texts):
        if samples > 1:
            print(f"--- {index + 1}")
        print((prompt + text).rstrip("\n"))


def score(
    trained: "TrainedLanguageModel",
    file: Path,
    *,
    by: Literal["token", "word", "line"] = "word",
    carry: bool = False,
    average: "Sequence[TrainedLanguageModel]" = (),
    json: bool = False,
) -> None:
    """Say how probable each token, word or line of a text is: TSV on standard output.

    Columns: the line's number, the position in it (not for lines), the text, whether it is outside the vocabulary
    (1; scored as `<unk>`), ln p, and the surprisal -log2 p in bits. Lines have a count of such words instead. A line's
    end is a token and a word of its own, `<eos>`.

    Parameters
    ----------
    file
        UTF-8 text, a sentence on each line; `-` reads standard input.
    by
        What each row is about.
    carry
        Read the file as one running text; otherwise every line begins anew.
    average
        Further runs with the same vocabulary: each token has the mean of all probabilities.
    json
        Print a JSON object for each line, with its tokens and its words.
    """
    from regrnn.data.text import read_lines

    lines = read_lines(file)
    if not lines:
        raise RegrnnError(f"{_name(file)}: empty, so there is nothing to score; give it a line of text")
    scored = trained.score(lines, carry=carry, average=average)
    if json:
        for line in scored:
            print(dumps(_line_object(line), ensure_ascii=False))
        return
    if by == "line":
        print("line\ttext\tunknown\tlog_probability\tsurprisal_bits")
        for number, line in enumerate(scored, 1):
            unknown = sum(word.unknown for word in line.words)
            print(f"{number}\t{_cell(line.text)}\t{unknown}\t{line.log_probability:.6f}\t{line.surprisal:.6f}")
        return
    print(f"line\tposition\t{by}\tunknown\tlog_probability\tsurprisal_bits")
    for number, line in enumerate(scored, 1):
        for position, item in enumerate(line.tokens if by == "token" else line.words, 1):
            print(
                f"{number}\t{position}\t{_cell(item.text)}\t{item.unknown:d}\t"
                f"{item.log_probability:.6f}\t{item.surprisal:.6f}"
            )


def _name(file: Path) -> str:
    return "standard input" if str(file) == "-" else str(file)


def _cell(text: str) -> str:
    """`text` with what would break a TSV row written out."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _object(item: "Scored") -> dict[str, object]:
    return {
        "text": item.text,
        "unknown": item.unknown,
        "log_probability": item.log_probability,
        "surprisal_bits": item.surprisal,
    }


def _line_object(line: "ScoredLine") -> dict[str, object]:
    return {
        "text": line.text,
        "log_probability": line.log_probability,
        "surprisal_bits": line.surprisal,
        "tokens": [_object(token) for token in line.tokens],
        "words": [_object(word) for word in line.words],
    }


VERBS = (generate, score)
