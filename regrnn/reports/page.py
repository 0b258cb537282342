"""One self-contained HTML page: no scripts, fonts or pictures from elsewhere; light and dark; on paper and on a phone.

Functions that take text escape it; functions whose arguments are called `html`, `body` or `cells` expect HTML.
"""

import html as _html
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from regrnn.errors import RegrnnError

# The hues keep apart for all common kinds of colour blindness (after Okabe and Ito), darkened or lightened until text
# in them is legible.
LIGHT = {
    "paper": "#ffffff", "panel": "#f5f7f9", "ink": "#1c2127", "soft": "#59636e", "grid": "#e4e8ec",
    "hue-0": "#0067a8", "hue-1": "#b84a00", "hue-2": "#00775a", "hue-3": "#983a80", "hue-4": "#6b5a00",
    "hue-5": "#4a4fb5",
}  # fmt: skip
DARK = {
    "paper": "#15181c", "panel": "#1e2329", "ink": "#e8ebee", "soft": "#9ca6b0", "grid": "#30363d",
    "hue-0": "#62b6f2", "hue-1": "#f4a261", "hue-2": "#46c9a0", "hue-3": "#e394c9", "hue-4": "#d6c15c",
    "hue-5": "#a6aaf5",
}  # fmt: skip
"""The style sheet's variables, on light and on dark screens; on paper the light ones."""


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


_STYLE = (
    f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n"
    """\
* { box-sizing: border-box; }
body {
    margin: 0 auto; padding: 2.5rem 1.25rem 2rem; max-width: 56rem; background: var(--paper); color: var(--ink);
    font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
    overflow-wrap: break-word;
}
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
h3 { margin: 0 0 .4rem; font-size: .95rem; }
p { margin: .5rem 0; }
.lead { font-size: 1.1rem; }
.soft, footer { font-weight: 400; color: var(--soft); font-size: .9rem; }
.state {
    display: inline-block; margin: .75rem 0 .25rem; padding: .15rem .75rem; border: 1px solid currentColor;
    border-radius: 1rem; font-size: .9rem;
}
.finished { color: var(--hue-2); } .running { color: var(--hue-0); } .stopped { color: var(--hue-1); }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; border-bottom: 1px solid var(--grid); text-align: right; vertical-align: baseline; }
th { font-weight: 600; } thead th { color: var(--soft); font-size: .9rem; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
td.words { text-align: left; }
.figures thead td, .figures thead th { width: 21%; } .figures thead tr > :first-child { width: 37%; }
tr.minor > * { color: var(--soft); font-weight: 400; font-size: .9rem; }
tr.main td { font-size: 1.45rem; font-weight: 600; line-height: 1.3; }
.mark { color: var(--hue-0); font-weight: 600; }
.dense th, .dense td { padding: .2rem .5rem; font-size: .85rem; white-space: nowrap; }
.dense thead th { white-space: normal; vertical-align: bottom; }
figure { margin: 1.5rem 0 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.narrow { display: none; }
figcaption { margin-top: .5rem; color: var(--soft); font-size: .9rem; }
details { margin-top: 2rem; }
summary { cursor: pointer; font-weight: 600; font-size: 1.15rem; }
details > div { margin-top: .75rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; }
.card { padding: .9rem 1rem; border-radius: .5rem; background: var(--panel); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.card + .card { margin-top: 1rem; } .cards .card + .card { margin-top: 0; }
.card dl { font-size: .85rem; } .cards dd { text-align: right; }
code, pre { font: .85em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: .75rem 0; padding: .9rem 1rem; border-radius: .5rem; background: var(--panel); white-space: pre-wrap; }
footer { margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--grid); }
@media (max-width: 38rem) {
    body { padding-top: 1.5rem; }
    .narrow { display: block; } .wide { display: none; }
    th, td { padding: .4rem .4rem; }
    .figures thead td, .figures thead th { width: 24%; } .figures thead tr > :first-child { width: 28%; }
    tr.main td { font-size: 1.2rem; }
    .facts { grid-template-columns: minmax(0, 1fr); gap: 0; } .facts dd { margin-bottom: .5rem; }
}
@media print {
    body { max-width: none; padding: 0; font-size: 10pt; }
    h2 { break-after: avoid; } figure, .card, tr { break-inside: avoid; }
    h2 { margin-top: 1.5rem; } .card, pre { border: 1px solid var(--grid); }
    figure svg { width: auto; max-width: 100%; max-height: 9cm; }
    .scroll { overflow: visible; } .dense th, .dense td { padding: .1rem .3rem; font-size: 7.5pt; white-space: normal; }
    details::details-content { display: block; content-visibility: visible; }
}
"""
)


def escape(text: object) -> str:
    """Any text, made safe to stand in a page."""
    return _html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def save(path: Path, content: str | bytes) -> None:
    """Replace the file `path` in one step; RegrnnError when it cannot be written."""
    data = content if isinstance(content, bytes) else content.encode("utf-8")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be written ({error.strerror})") from None


def document(title: str, body: Iterable[str], footer: str) -> str:
    """A whole page. Its policy forbids a browser to load or run anything, whatever should stand in it."""
    parts = "\n".join(part for part in body if part)
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{_STYLE}</style>
</head>
<body>
{parts}
<footer>{escape(footer)}</footer>
</body>
</html>
"""


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, empty without text; `kind` is a class of the style sheet."""
    return f"<p{_kind(kind)}>{escape(text)}</p>" if text else ""


def row(cells: Iterable[str], kind: str = "") -> str:
    """A row of a table's body, the first cell its heading."""
    first, *others = cells
    return f'<tr{_kind(kind)}><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'


def words_row(name: str, text: str, columns: int) -> str:
    """A row with one text across `columns` columns; empty without text."""
    if not text:
        return ""
    return (
        f'<tr class="minor"><th scope="row">{escape(name)}</th>'
        f'<td class="words" colspan="{columns}">{escape(text)}</td></tr>'
    )


def table(header: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    """A table that scrolls by itself where the page is too narrow; `header` is text, `rows` are HTML."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in header)
    body = "\n".join(line for line in rows if line)
    return (
        f'<div class="scroll"><table{_kind(kind)}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]], kind: str = "facts") -> str:
    """Names and their values, without those that are None or empty."""
    lines = [f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in pairs if v is not None and v != ""]
    return f"<dl{_kind(kind)}>\n" + "\n".join(lines) + "\n</dl>" if lines else ""


def card(title: str, html: str) -> str:
    """A small box with a heading."""
    return f'<section class="card"><h3>{escape(title)}</h3>\n{html}</section>'


def collapsed(title: str, html: str) -> str:
    """A part that is opened with a click; a browser that can prints it open."""
    return f"<details><summary>{escape(title)}</summary>\n<div>{html}</div></details>"


def picture(wide: str, narrow: str, caption: str) -> str:
    """One picture in two shapes, for a screen and for a phone; `wide` and `narrow` are HTML."""
    return (
        f'<figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div>\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
