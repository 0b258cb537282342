"""Phones and their times: .lab, .phn and TextGrid, read and written.

Times are in seconds. A segment reaches from its start, included, to its end, excluded.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from regrnn.errors import RegrnnError


@dataclass(frozen=True)
class Segment:
    """One phone and when it is spoken; "" is an interval without a label."""

    start: float
    end: float
    phone: str


SUFFIXES = (".lab", ".phn", ".TextGrid")


def read_alignment(path: Path, sample_rate: int) -> list[Segment]:
    """The segments of a .lab, .phn or .TextGrid file, in order; those of intervals without a label have the phone "".

    `sample_rate` is the recording's own, in Hz: .phn files count its samples. Raises RegrnnError, with the line, for
    a file that cannot be read, has no segment or is not in order of time.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # Praat writes both
        text = content.decode(encoding)
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RegrnnError(f"{path}: not {error.encoding.upper()} at byte {error.start}") from None
    suffix = path.suffix.lower()
    if suffix == ".textgrid":
        rows = _textgrid(path, text)
    elif suffix == ".phn":
        rows = _phn(path, text, sample_rate)
    else:
        rows = _lab(path, text)
    return check_segments(path, rows)


def check_segments(path: Path, rows: Iterable[tuple[int, Segment]]) -> list[Segment]:
    """The segments, which have to follow each other in time and say something; `rows` have their line's number."""
    segments: list[Segment] = []
    last = 0.0
    for line, segment in rows:
        where = f"{path}, line {line}"
        if not (math.isfinite(segment.start) and math.isfinite(segment.end)):
            raise RegrnnError(f"{where}: {segment.phone!r} has a time that is not a finite number")
        if segment.start < last - 1e-6:
            raise RegrnnError(
                f"{where}: {segment.phone!r} begins at {segment.start:g} s, before {last:g} s where the one before it "
                "ends; put the lines in the order of time"
            )
        if segment.end <= segment.start:
            raise RegrnnError(
                f"{where}: {segment.phone!r} ends at {segment.end:g} s, not after {segment.start:g} s where it "
                "begins; put the lines in the order of time"
            )
        last = segment.end
        if segment.phone and len(segment.phone.split()) != 1:
            raise RegrnnError(f"{where}: the phone {segment.phone!r} has white space in it; write it as one word")
        segments.append(segment)
    if not any(segment.phone for segment in segments):
        raise RegrnnError(f"{path}: no phone is in it; leave the utterance out or align it")
    return segments


def _lab(path: Path, text: str) -> Iterable[tuple[int, Segment]]:
    """festvox and Xwaves: a header up to a line `#`, then `END COLOUR PHONE`; each begins where the last ended."""
    lines = text.splitlines()
    header = next((number for number, line in enumerate(lines, 1) if line.strip() == "#"), 0)
    start = 0.0
    for number, line in enumerate(lines[header:], header + 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3:
            raise RegrnnError(f"{path}, line {number}: expected `END_SECONDS 125 PHONE`, found {line.strip()!r}")
        end = _seconds(path, number, fields[0])
        if start == end == 0.0:
            raise RegrnnError(
                f"{path}, line {number}: expected `END_SECONDS 125 PHONE`, found {line.strip()!r}, which ends where "
                "the recording begins; HTK's `START END PHONE` is not read: write .phn (in samples) or .TextGrid"
            )
        yield number, Segment(start, end, fields[2])
        start = end


def _phn(path: Path, text: str, sample_rate: int) -> Iterable[tuple[int, Segment]]:
    """TIMIT: `START END PHONE`, in samples."""
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not all(field.isdecimal() and len(field) <= _DIGITS for field in fields[:2]):
            raise RegrnnError(
                f"{path}, line {number}: expected `START_SAMPLE END_SAMPLE PHONE`, found {line.strip()!r}"
            )
        yield number, Segment(int(fields[0]) / sample_rate, int(fields[1]) / sample_rate, fields[2])


_DIGITS = 15  # of a sample's number: a double holds them all

TIERS = ("phones", "phone", "phonemes", "segments", "mau")
"""Names of the tier with the phones, as the Montreal Forced Aligner, MAUS and others give it."""

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)|![^\n]*')


def _textgrid(path: Path, text: str) -> Iterable[tuple[int, Segment]]:
    """Praat's long and short text format: the interval tier of one of the names `TIERS`, or the only one."""
    # Both formats have the same values in the same order; in the long one there are names between.
    tokens: list[tuple[int, str | float]] = []
    for match in _TOKEN.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match[1] is not None:
            tokens.append((line, match[1].replace('""', '"')))
        elif match[2] is not None:
            tokens.append((line, float(match[2])))
    damaged = RegrnnError(f"{path}: not a TextGrid in one of Praat's text formats; save it as a text file in Praat")
    if [token for _, token in tokens[:2]] not in (["ooTextFile", "TextGrid"], ["ooTextFile short", "TextGrid"]):
        raise damaged
    tiers: list[tuple[str, list[tuple[int, Segment]]]] = []
    at = 5  # behind the two names, xmin, xmax and the number of tiers
    try:
        while at < len(tokens):
            kind, name, count = tokens[at][1], str(tokens[at + 1][1]), int(tokens[at + 4][1])
            if not 0 <= count <= len(tokens):
                raise damaged
            at += 5
            width = 3 if kind == "IntervalTier" else 2
            rows = [tokens[at + width * index : at + width * (index + 1)] for index in range(count)]
            at += width * count
            if kind == "IntervalTier":
                read = [(r[0][0], Segment(float(r[0][1]), float(r[1][1]), str(r[2][1]).strip())) for r in rows]
                tiers.append((name, read))
    except (IndexError, ValueError, OverflowError):
        raise damaged from None
    named = [rows for name, rows in tiers if name.lower().split(" - ")[-1] in TIERS]
    chosen = named if named else [rows for _, rows in tiers]
    if len(chosen) != 1:
        names = ", ".join(repr(name) for name, _ in tiers)
        raise RegrnnError(
            f"{path}: the interval tiers are {names or 'none'}; call the one with the phones, and no other, 'phones'"
        )
    return chosen[0]


def _seconds(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RegrnnError(f"{path}, line {line}: expected a time in seconds, found {text!r}") from None


def to_lab(segments: Sequence[Segment]) -> str:
    """The form of festvox: `#`, then a line `END 125 PHONE` for each."""
    return "".join(["#\n", *(f"{segment.end:.5f} 125 {segment.phone}\n" for segment in segments)])


def to_textgrid(segments: Sequence[Segment], duration: float) -> str:
    """Praat's long text format with one interval tier, `phones`."""
    rows = list(segments) or [Segment(0.0, duration, "")]
    end = max(duration, rows[-1].end)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.5f}"]
    lines += ["tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"']
    lines += ['        name = "phones"', "        xmin = 0", f"        xmax = {end:.5f}"]
    lines.append(f"        intervals: size = {len(rows)}")
    for number, row in enumerate(rows, 1):
        text = row.phone.replace('"', '""')
        last = end if number == len(rows) else row.end  # a tier has to reach its end
        lines += [f"        intervals [{number}]:", f"            xmin = {row.start:.5f}"]
        lines += [f"            xmax = {last:.5f}", f'            text = "{text}"']
    return "\n".join(lines) + "\n"


def to_json(segments: Sequence[Segment], duration: float) -> str:
    """One object: the duration and the segments, in seconds."""
    rows = [{"start": round(s.start, 5), "end": round(s.end, 5), "phone": s.phone} for s in segments]
    return json.dumps({"duration": round(duration, 5), "segments": rows}, ensure_ascii=False) + "\n"
