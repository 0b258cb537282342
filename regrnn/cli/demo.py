"""`regrnn demo`."""

import sys
from json import dumps
from pathlib import Path
from typing import Any

WITHOUT, WITH = "without dropout", "with dropout"


def demo(*, out: Path = Path("runs/demo"), seed: int = 1, threads: int | None = None, json: bool = False) -> None:
    """Train one small LSTM with and without dropout on the Python documentation, and compare.

    The text comes with Python itself, so nothing is downloaded. Stopped half-way, the same command goes on.

    Parameters
    ----------
    out
        Where the two runs and `report.html` go.
    seed
        Of the first weights and all masks.
    threads
        Of the processor; torch's choice unless given.
    json
        Print the figures as JSON on standard output.
    """
    from regrnn.cli.train import run_training
    from regrnn.reports.comparison import write_comparison
    from regrnn.reports.curves import curves_picture
    from regrnn.reports.read import read_epochs
    from regrnn.reports.terminal import terminal_curves
    from regrnn.training.load import load
    from regrnn.training.recipe import read_recipe, recipe_from_dict

    recipes = {
        WITHOUT: recipe_from_dict(read_recipe("docs"), "docs", [("--model.dropout", "0")]),
        WITH: recipe_from_dict(read_recipe("docs"), "docs"),
    }
    runs = {label: out / label.replace(" ", "-") for label in recipes}
    print("A small demonstration, on a small text: one LSTM language model, trained twice.", file=sys.stderr)
    results = {}
    for label, recipe in recipes.items():
        print(f"\n{label} (D {recipe.sections['model'].dropout})", file=sys.stderr)
        results[label] = run_training(recipe, runs[label], seed, threads=threads)
    epochs = {label: read_epochs(run) for label, run in runs.items()}
    sentence = verdict(results, epochs)
    samples = load(runs[WITH]).generate(length=120, samples=3, temperature=0.7, seed=seed)
    samples = [" / ".join(text.split("\n")[:2]) for text in samples]
    page = write_comparison(
        out / "report.html",
        "Dropout on the non-recurrent connections",
        sentence,
        runs,
        notes=[
            "A small demonstration: the Python documentation on this machine, a small model, a few minutes.",
            *(f"Written by the model with dropout: {text}" for text in samples),
        ],
    )
    curves_picture(out / "curves.svg", runs, "regrnn demo: one LSTM, with and without dropout")
    if json:
        print(dumps({"runs": results, "sentence": sentence, "report": str(page)}, indent=2))
        return
    print(table(results, epochs))
    curves = {label: [epoch["valid_perplexity"] for epoch in epochs[label]] for label in runs}
    print(terminal_curves(curves, title="validation perplexity"))
    print(f"\n{sentence}\n\nThe model with dropout writes:")
    for text in samples:
        print(f"  {text}")
    print(f"\nThis was a small demonstration. Both curves in colour: {page}")


def table(results: dict[str, dict[str, Any]], epochs: dict[str, list[dict[str, Any]]]) -> str:
    """Perplexities of both runs, at the best epoch and at the last."""
    lines = [f"\n{'perplexity':24}{'train':>9}{'valid':>9}{'test':>9}     at"]
    for label, entry in results.items():
        figures, last = entry["figures"], epochs[label][-1]
        lines.append(
            f"{label:24}{figures['train_perplexity']:9.1f}{figures['valid_perplexity']:9.1f}"
            f"{figures['test_perplexity']:9.1f}     its best epoch, {entry['best_epoch']}"
        )
        lines.append(
            f"{'':24}{last['train_perplexity']:9.1f}{last['valid_perplexity']:9.1f}{'':9}     the last, {last['epoch']}"
        )
    entry = results[WITH]
    lines.append(f"all without masks, every word of the text in order; {entry['predictions']:,} predictions on test\n")
    return "\n".join(lines)


def verdict(results: dict[str, dict[str, Any]], epochs: dict[str, list[dict[str, Any]]]) -> str:
    """What one sees, in one sentence, from the figures themselves."""
    test = {label: entry["figures"]["test_perplexity"] for label, entry in results.items()}
    train = {label: records[-1]["train_perplexity"] for label, records in epochs.items()}
    valid = [record["valid_perplexity"] for record in epochs[WITHOUT]]
    fit = "worse" if train[WITH] > train[WITHOUT] else "better"
    held_out = "lower" if test[WITH] < test[WITHOUT] else "higher"
    return (
        f"With dropout the model fits its training text {fit} (perplexity {train[WITH]:.0f} against "
        f"{train[WITHOUT]:.0f} at the end) and its test perplexity is {abs(1 - test[WITH] / test[WITHOUT]):.0%} "
        f"{held_out} ({test[WITH]:.0f} against {test[WITHOUT]:.0f}, each at its best epoch); without it, validation "
        f"perplexity climbs {valid[-1] / min(valid) - 1:.0%} above its minimum as the model learns its text by heart."
    )
