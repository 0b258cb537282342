"""What can be done with a trained caption model from the command line; imports nothing heavy until it runs."""

from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from regrnn.errors import RegrnnError

if TYPE_CHECKING:
    from regrnn.tasks.captioning.trained import TrainedCaptionModel


def caption(
    trained: "TrainedCaptionModel",
    image: Path,
    /,
    *more: Path,
    beam: int | None = None,
    best: int = 1,
    html: Path | None = None,
    average: "Sequence[TrainedCaptionModel]" = (),
    json: bool = False,
) -> None:
    """Describe pictures.

    Parameters
    ----------
    image
        A picture in any format that Pillow reads.
    more
        Further pictures.
    beam
        Hypotheses that are searched side by side; the recipe's unless given.
    best
        Captions to print of each picture, at most `--beam`.
    html
        Write a page with the pictures and their captions here.
    average
        Further runs with the same vocabulary: each word is chosen by the mean of their distributions.
    json
        Print an object a line on standard output.
    """
    if best < 1:
        raise ValueError(f"best must be at least 1, got {best}")
    images = [image, *more]
    found = [captions[:best] for captions in trained.caption_all(images, beam=beam, average=average)]
    if html is not None:
        from regrnn.tasks.captioning.page import write_page

        if any(html.absolute() == path.absolute() for path in images):
            raise RegrnnError(f"--html {html} is one of the pictures; give the page another name")
        write_page(html, list(zip(images, found, strict=True)))
    for path, captions in zip(images, found, strict=True):
        if json:
            print(dumps({"file": str(path), "captions": [asdict(one) for one in captions]}, ensure_ascii=False))
            continue
        for one in captions:
            print(f"{path}\t{one.score:.2f}\t{one.text}")
    if html is not None and not json:
        print(html)


VERBS = (caption,)
