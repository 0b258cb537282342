"""Confusions: how many predictions of each kind (row) were taken for each (column), and their picture.

Here, since both a task's verbs and the reports draw it.
"""

import html
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regrnn.errors import RegrnnError

CELL = 14
MARGIN = 46


def to_json(table: NDArray[np.int64], names: Sequence[str]) -> str:
    """What `from_json` takes back."""
    return json.dumps({"names": list(names), "counts": table.tolist()}, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[NDArray[np.int64], list[str]]:
    """Counts and names. Raises ValueError for what `to_json` did not write."""
    try:
        found = json.loads(text)
        names = [str(name) for name in found["names"]]
        table = np.array(found["counts"], np.int64)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if table.shape != (len(names), len(names)) or not names or table.min() < 0:
        raise ValueError("names and counts do not fit together")
    return table, names


def worst(table: NDArray[np.int64], names: Sequence[str], count: int) -> list[tuple[str, str, float]]:
    """The `count` most frequent mistakes: the kind, what it is taken for, and which share of its predictions."""
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    found = []
    for place in order:
        truth, guess = divmod(int(place), len(names))
        if wrong[truth, guess]:
            found.append((names[truth], names[guess], float(wrong[truth, guess] / table[truth].sum())))
    return found


def svg(table: NDArray[np.int64], names: Sequence[str]) -> str:
    """A square for each pair, the stronger the greater the share of its row; rows are the truth."""
    size = MARGIN + CELL * len(names) + 4
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}" '
        f'style="max-width: {size}px" '
        'font-family="sans-serif" font-size="10" role="img" aria-label="Confusions">',
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{CELL * len(names)}" height="{CELL * len(names)}" '
        'style="fill: var(--panel, #f5f7f9)"/>',
    ]
    for k, text in enumerate(names):
        name, at = html.escape(text), MARGIN + CELL * k
        parts.append(f'<text x="{MARGIN - 4}" y="{at + 11}" text-anchor="end" fill="currentColor">{name}</text>')
        parts.append(
            f'<text transform="translate({at + 11} {MARGIN - 4}) rotate(-90)" fill="currentColor">{name}</text>'
        )
    for truth, guess in np.argwhere(shares >= 0.005):
        share = shares[truth, guess]
        colour = "var(--hue-0, #0067a8)" if truth == guess else "var(--hue-1, #b84a00)"
        pair = f"{html.escape(names[truth])} taken for {html.escape(names[guess])}"
        says = f"{pair}: {share:.1%} of {table[truth].sum():,}"
        parts.append(
            f'<rect x="{MARGIN + CELL * guess}" y="{MARGIN + CELL * truth}" width="{CELL - 1}" height="{CELL - 1}" '
            f'style="fill: {colour}" fill-opacity="{share**0.5:.3f}"><title>{says}</title></rect>'
        )
    return "\n".join([*parts, "</svg>"])


def write_page(path: Path, table: NDArray[np.int64], phones: Sequence[str], of: str) -> None:
    """Write the picture with the recall of each phone; RegrnnError when it cannot be written."""
    total = table.sum(1)
    rows = "\n".join(
        f"<tr><td>{html.escape(phones[k])}</td><td>{total[k]:,}</td><td>{100 * table[k, k] / total[k]:.1f}</td></tr>"
        for k in np.argsort(-total, kind="stable")
        if total[k]
    )
    accuracy = 100 * np.trace(table) / max(1, total.sum())
    page = f"""\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Confusions</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body {{ margin: 2rem; font-family: sans-serif; }} td, th {{ padding: .1rem .6rem; text-align: right; }}
svg {{ max-width: 100%; height: auto; }}</style></head>
<body><h1>Which phones are taken for which</h1>
<p>{html.escape(of)}: {total.sum():,} frames of known phones, {accuracy:.2f} % right.
A row is what was spoken, a column what the model found; blue is right, orange wrong, and the strength
of the colour the square root of the share of the row.</p>
{svg(table, phones)}
<table><thead><tr><th>phone</th><th>frames</th><th>found, %</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be written ({error.strerror})") from None
