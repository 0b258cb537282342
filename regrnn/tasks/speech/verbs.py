"""What can be done with a trained acoustic model from the command line; imports nothing heavy until it runs."""

import sys
from collections.abc import Sequence
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from regrnn.errors import RegrnnError

if TYPE_CHECKING:
    from regrnn.tasks.speech.trained import TrainedAcousticModel

SUFFIX = {"lab": ".lab", "textgrid": ".TextGrid", "json": ".json"}


def transcribe(
    trained: "TrainedAcousticModel",
    file: Path,
    /,
    *more: Path,
    format: Literal["lab", "textgrid", "json"] = "lab",
    out: Path | None = None,
    average: "Sequence[TrainedAcousticModel]" = (),
    json: bool = False,
) -> None:
    """Write the phones of recordings and their times.

    Parameters
    ----------
    file
        A wav or flac file of any sample rate; the channels of a stereo file are averaged.
    more
        Further files; they need `--out` or `--json`.
    format
        `lab` (END 125 PHONE, as festvox), `textgrid` (Praat) or `json`.
    out
        A folder for the files NAME.lab, NAME.TextGrid or NAME.json; standard output unless given.
    average
        Further runs with the same phones: their distributions are averaged at each frame.
    json
        Print an object a line, for each file, on standard output.
    """
    files = [file, *more]
    if more and out is None and not json and format != "json":
        raise RegrnnError("several files on standard output would run together; give --out FOLDER or --json")
    targets = [(out or Path()) / f"{path.stem}{SUFFIX[format]}" for path in files]
    if out is not None and len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise RegrnnError(f"two of the files would both be written to {twice}; transcribe them into different folders")
    for path, target in zip(files, targets, strict=True):
        if out is not None and target.exists() and path.resolve().parent == target.resolve().parent:
            raise RegrnnError(
                f"{target} is there, beside the recording, and may be its alignment; give another --out, or move it"
            )
    for path, target in zip(files, targets, strict=True):
        found = trained.transcribe(path, average=average)
        if found.clipped:
            print(f"regrnn: note: {path} is clipped; its phones may suffer", file=sys.stderr)
        record = dumps({"file": str(path), **loads(found.to_json())}, ensure_ascii=False) + "\n"
        if format == "json":
            text = record
        else:
            text = found.to_lab() if format == "lab" else found.to_textgrid()
        if json or out is None:
            sys.stdout.write(record if json else text)
        if out is None:
            continue
        try:
            out.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RegrnnError(f"{target}: cannot be written ({error.strerror})") from None
        if not json:
            print(target)


def confusion(
    trained: "TrainedAcousticModel",
    *,
    data: str | None = None,
    split: Literal["train", "valid", "test"] = "test",
    out: Path = Path("confusion.html"),
    json: bool = False,
) -> None:
    """Draw which phones are taken for which, frame by frame, on a page of its own.

    Parameters
    ----------
    data
        Recordings with alignments, or the name of a data set; the run's own unless given.
    split
        Which part of it.
    out
        The page to write.
    json
        Print phones, counts (a row is what was spoken) and the page's name as one JSON object.
    """
    from regrnn.confusion import from_json, worst, write_page
    from regrnn.tasks.speech.evaluate import CONFUSION, evaluate
    from regrnn.tasks.speech.task import member_parts

    of = data if data is not None else trained.data.path
    evaluation = evaluate(member_parts([trained], of, split)[0], trained.inventory, trained.decoding)
    table, phones = from_json(evaluation.files[CONFUSION])
    write_page(out, table, phones, f"{split} of {of}")
    if json:
        record = {"page": str(out), "split": split, "phones": phones, "counts": table.tolist()}
        print(dumps(record, ensure_ascii=False))
        return
    for truth, guess, share in worst(table, phones, 10):
        print(f"{share:6.1%} of the frames of {truth} are taken for {guess}")
    print(out)


VERBS = (transcribe, confusion)
