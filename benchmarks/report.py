"""Writes docs/performance.md and its pictures from the results; `python -m benchmarks.report`."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, Entry, merge, read
from benchmarks.sizes import SIZES
from benchmarks.tables import number, spread
from regrnn.errors import RegrnnError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
ELSEWHERE = sorted(RESULTS.parent.glob(f"{RESULTS.stem}-*.json"))
TEMPLATE = Path(__file__).with_name("performance.template.md")
HEAD = "<!-- Written by `python -m benchmarks.report`; the text is in benchmarks/performance.template.md. -->\n\n"

MASKS = {"step": "the paper's masks", "batch": '`masks="batch"`'}
FACTORS = {"hidden": "hidden units", "batch": "batch", "steps": "steps", "vocabulary": "words", "threads": "threads"}


def render(entries: Sequence[Entry], elsewhere: Sequence[Sequence[Entry]] = ()) -> str:
    """The page, with ratios alone of what was measured on other machines."""
    text = HEAD + TEMPLATE.read_text(encoding="utf-8")
    by_part = {part: _ordered([entry for entry in entries if entry["part"] == part]) for part in TABLES}
    blocks = {"machine": machine(entries), "toy": TOY if any(entry["quick"] for entry in entries) else ""}
    for part, table in TABLES.items():
        found = by_part[part]
        blocks[part] = (
            "\n".join(table(found)) + "\n\n" + source(found)
            if found
            else f"*Not measured yet: `python -m benchmarks {part}`.*"
        )
    others = ["\n".join(other_machine(one)) for one in elsewhere]
    blocks["elsewhere"] = "\n\n".join(others) if others else "*Not measured.*"
    for name, block in blocks.items():
        text = text.replace("{{" + name + "}}", block)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


TOY = "**Toy sizes (`--quick`): the figures below mean nothing.**"


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Sizes and factors in the order of the suite, whatever the order they were measured in."""
    order = [*SIZES, *FACTORS]
    return sorted(entries, key=lambda entry: order.index(entry["case"]) if entry["case"] in order else 0)


def machine(entries: Sequence[Entry]) -> str:
    """On what, with what."""
    said = []
    for entry in entries:
        about, versions = entry["machine"], entry["versions"]
        line = (
            f"**Machine:** {about['processor']}, {about['cores']} cores, {about['system']}; core {versions['core']}; "
            f"torch {versions['torch']}, Python {versions['python']}, regrnn {versions['regrnn']}."
        )
        if line not in said:
            said.append(line)
    return "\n\n".join(said)


def source(entries: Sequence[Entry]) -> str:
    """How to measure a table again, and when, with what code, on what and on how quiet a machine it was measured."""
    taken: dict[tuple[str, str, str, str], list[Entry]] = {}
    for entry in entries:
        commit = entry["commit"] or "unknown"
        code = commit[:10] + (" with changes" if commit.endswith("-dirty") else "")
        key = (entry["command"], entry["date"][:10], code, entry["machine"]["processor"])
        taken.setdefault(key, []).append(entry)
    said = []
    for (command, date, code, processor), group in taken.items():
        runs = [figure["runs"] for entry in group for figure in entry["measurements"]] or [0]
        loads = [entry["machine"]["load"][0] for entry in group]
        about = f"{_span(runs)} runs a side, {sum(entry['seconds'] for entry in group):,.0f} s, load {_span(loads)}"
        said.append(f"`{command}`: {date}, {processor}, commit {code}, {about}.")
    notes = dict.fromkeys(note for entry in entries for note in entry["notes"])
    return f"<sub>{' '.join([*said, *notes])}</sub>"


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _ratio(figure: Mapping[str, Any]) -> str:
    """The median, to be seen, and the range."""
    ratio = figure["ratio"]
    return f"**{ratio['median']:.2f}** ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _percent(share: Mapping[str, float] | None) -> str:
    return "not measured" if share is None else f"{100 * share['median']:.0f} %"


def _model(entry: Entry) -> str:
    about = entry["settings"]
    return f"{entry['case']}, {about['layers']} x {about['hidden']}"


def _figures(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Mapping[str, Any]]]:
    return ((entry, figure) for entry in entries for figure in entry["measurements"])


def _masks(entry: Entry, figure: Mapping[str, Any]) -> str:
    return MASKS[figure["name"]] if entry["settings"]["dropout"] else "no dropout"


def roofline(entries: Sequence[Entry]) -> Iterator[str]:
    names = {"fma": "fused multiply-add peak", "sgemm": "torch.mm, 2048 x 2048"}
    rows = []
    for _, figure in _figures(entries):
        kind, threads = figure["name"].split(", ")
        rows.append([f"{names[kind]}, {threads}", spread(figure["ours"])])
    yield from _table(["roof", "GFLOP/s, float32"], rows)


def step(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            _model(entry),
            _masks(entry, figure),
            f"{number(figure['idiom']['median'])} / {number(figure['ours']['median'])}",
            f"{number(1000 * figure['idiom_seconds']['median'])} / {number(1000 * figure['ours_seconds']['median'])}",
            _ratio(figure),
            f"{number(figure['idiom_gflops']['median'])} / {number(figure['ours_gflops']['median'])}",
            f"{_percent(figure.get('idiom_share'))} / {_percent(figure.get('ours_share'))}",
            _percent(figure.get("ours_whole_share")),
        ]
        for entry, figure in _figures(entries)
    ]
    shares = ["of the ceiling", "as if all were done"]
    yield from _table(["", "", "words/s, idiom / regrnn", "ms a step", "ratio", "GFLOP/s in products", *shares], rows)
    yield ""
    yield (
        "The idiom's setting: " + "; ".join(f"{entry['case']}: {entry['settings']['idiom']}" for entry in entries) + "."
    )


def bfloat16(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            _model(entry),
            *(
                f"{number(figure[f'{side}_in_float32']['median'])} / {number(figure[side]['median'])}"
                for side in ("idiom", "ours")
            ),
            _ratio(figure),
            f"{figure['gain']['median']:.2f} ({figure['gain']['low']:.2f}-{figure['gain']['high']:.2f})",
        ]
        for entry, figure in _figures(entries)
    ]
    head = ["", "words/s, idiom, float32 / bfloat16", "regrnn, float32 / bfloat16", "ratio, both in bfloat16",
            "regrnn, bfloat16 over float32"]  # fmt: skip
    yield from _table(head, rows)


def layer(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            _model(entry),
            f"{number(1000 * figure['idiom_seconds']['median'])} / {number(1000 * figure['ours_seconds']['median'])}",
            _ratio(figure),
            f"{number(figure['idiom_gflops']['median'])} / {number(figure['ours_gflops']['median'])}",
        ]
        for entry, figure in _figures(entries)
    ]
    yield from _table(["", "ms, torch.nn / regrnn", "ratio", "GFLOP/s in products"], rows)


def inference(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            _model(entry),
            f"{figure['verb']}, {figure['batch']} side by side",
            figure["storage"],
            f"{number(figure['idiom']['median'])} / {number(figure['ours']['median'])}",
            _ratio(figure),
            entry["settings"][f"idiom_{figure['verb']}_{figure['batch']}"],
        ]
        for entry, figure in _figures(entries)
    ]
    yield from _table(["", "", "weights", "words/s, idiom / regrnn", "ratio", "the idiom's setting"], rows)


def translation(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            f"{entry['settings']['layers']} x {entry['settings']['hidden']}, beam {figure['beam']}",
            f"{number(figure['idiom']['median'])} / {number(figure['ours']['median'])}",
            _ratio(figure),
        ]
        for entry, figure in _figures(entries)
    ]
    yield from _table(["", "sentences/s, idiom / regrnn", "ratio"], rows)


def memory(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            _model(entry),
            _masks(entry, figure),
            f"{number(figure['idiom']['median'])} / {number(figure['ours']['median'])}",
            _ratio(figure),
        ]
        for entry, figure in _figures(entries)
    ]
    yield from _table(["", "", "MiB, idiom / regrnn", "share of the idiom's"], rows)


def members(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            _model(entry),
            str(entry["settings"]["members"]),
            f"{number(figure['idiom']['median'])} / {number(figure['ours']['median'])}",
            _ratio(figure),
        ]
        for entry, figure in _figures(entries)
    ]
    yield from _table(["", "members", "words/s, idiom / all members", "ratio"], rows)


def process(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            _model(entry),
            f"{number(figure['bare_words_per_second']['median'])} / {number(figure['ours']['median'])}",
            *(f"{figure[f'{what}_percent']['median']:.2f} %" for what in ("batch", "checkpoint", "epoch")),
            f"**{figure['loss_percent']['median']:.2f} %** "
            f"({figure['loss_percent']['low']:.2f}-{figure['loss_percent']['high']:.2f})",
        ]
        for entry, figure in _figures(entries)
    ]
    head = ["", "words/s, updates alone / whole", "data, log, progress", "checkpoints", "epoch's end", "loses"]
    yield from _table(head, rows)


def growth(entries: Sequence[Entry]) -> Iterator[str]:
    yield "![Words a second and the ratio to the idiom as sizes grow](images/growth.svg)"
    for entry in entries:
        case = entry["case"]
        values = list(dict.fromkeys(figure[case] for figure in entry["measurements"]))
        rows = []
        for value in values:
            by_masks = {figure["name"]: figure for figure in entry["measurements"] if figure[case] == value}
            paper = by_masks["step"]
            rows.append(
                [
                    f"{value:,}",
                    number(1000 * paper["idiom_seconds"]["median"]),
                    *(
                        cell
                        for masks in MASKS
                        for cell in (
                            number(1000 * by_masks[masks]["ours_seconds"]["median"]),
                            _ratio(by_masks[masks]),
                        )
                    ),
                ]
            )
        yield ""
        yield from _table(
            [FACTORS[case], "ms a step, idiom", "the paper's masks", "ratio", MASKS["batch"], "ratio"], rows
        )


def corpus(entries: Sequence[Entry]) -> Iterator[str]:
    rows = [
        [
            figure["name"],
            f"{figure['tokens']:,}",
            number(figure["ours"]["median"]),
            number(figure["stream_bytes"] / 2**20),
            number(figure["beyond_idle_MiB"]),
            number(figure["prepare_seconds"]),
            number(figure["epoch_seconds"]),
        ]
        for _, figure in _figures(entries)
    ]
    head = ["text", "tokens", "own memory, MiB", "token file, MiB", "peak with mapped pages, MiB", "s to prepare, once",
            "s for an epoch's batches"]  # fmt: skip
    yield from _table(head, rows)


def other_machine(entries: Sequence[Entry]) -> Iterator[str]:
    """Ratios, and what they are of: enough to see what changes with the processor."""
    what = {"step": "a step of training", "layer": "the layer alone", "translation": "translating", "memory": "memory"}
    parts = ("step", "layer", "inference", "translation", "memory")
    shown = [entry for entry in entries if entry["part"] in parts]
    yield machine(shown)
    yield ""
    rows = []
    for part in parts:
        for entry, figure in _figures(_ordered([entry for entry in shown if entry["part"] == part])):
            about = _masks(entry, figure) if part in ("step", "memory") else figure["name"]
            unit = {"memory": "MiB", "translation": "sentences/s"}.get(part, "words/s")
            values = f"{number(figure['idiom']['median'])} / {number(figure['ours']['median'])} {unit}"
            rows.append([what.get(part, "scoring and generating"), _model(entry), about, values, _ratio(figure)])
    yield from _table(["", "", "", "idiom / regrnn", "ratio"], rows)
    yield ""
    yield source(shown)


TABLES: dict[str, Callable[[Sequence[Entry]], Iterator[str]]] = {
    "roofline": roofline,
    "step": step,
    "bfloat16": bfloat16,
    "layer": layer,
    "inference": inference,
    "translation": translation,
    "memory": memory,
    "members": members,
    "process": process,
    "growth": growth,
    "corpus": corpus,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write page and pictures; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, default=[RESULTS], help=f"files to read (default: {RESULTS})")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default: {PAGE})")
    parser.add_argument(
        "--elsewhere",
        nargs="*",
        type=Path,
        default=ELSEWHERE,
        help=f"results of other machines (default: {RESULTS.stem}-*.json)",
    )
    flags = parser.parse_args(arguments)
    from benchmarks.pictures import core_picture, growth_picture

    entries: list[Entry] = []
    try:
        for path in flags.results:
            for entry in read(path):
                entries = merge(entries, entry)
        elsewhere = [found for path in flags.elsewhere if (found := read(path))]
    except RegrnnError as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 1
    images = flags.out.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(render(entries, elsewhere), encoding="utf-8")
    core_picture(images / "core.svg")
    if grown := _ordered([entry for entry in entries if entry["part"] == "growth"]):
        growth_picture(images / "growth.svg", grown)
    print(f"wrote {flags.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
