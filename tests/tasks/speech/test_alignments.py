"""`regrnn.tasks.speech.alignments`: .lab, .phn and TextGrid, read, refused and written."""

import json
from pathlib import Path

import pytest

from regrnn.errors import RegrnnError
from regrnn.tasks.speech.alignments import Segment, read_alignment, to_json, to_lab, to_textgrid

SPOKEN = [Segment(0.0, 0.25, "pau"), Segment(0.25, 0.4, "a"), Segment(0.4, 1.0, "o")]

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.0
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.0
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1.0
            text = "a ""quoted"" word 12"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.0
        points: size = 1
        points [1]:
            number = 0.5
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.0
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "pau"
        intervals [2]:
            xmin = 0.25
            xmax = 0.4
            text = "a[1]"
        intervals [3]:
            xmin = 0.4
            xmax = 0.6
            text = ""
        intervals [4]:
            xmin = 0.6
            xmax = 1.0
            text = "o"
"""

SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.0
<exists>
1
"IntervalTier"
"MAU"
0
1.0
2
0
0.25
"pau"
0.25
1e0
"a"
"""


def read(tmp_path: Path, name: str, text: str | bytes, rate: int = 16000) -> list[Segment]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_alignment(path, rate)


def test_lab(tmp_path: Path) -> None:
    expected = [Segment(0.0, 0.25, "pau"), Segment(0.25, 0.4, "a")]
    assert read(tmp_path, "a.lab", "#\n0.25 125 pau\n\n  0.4  26 a\n") == expected
    header = "signal ru_0001\nnfields 1\n#\n"  # Xwaves
    assert read(tmp_path, "b.lab", f"{header}0.25 125 pau\r\n0.4 125 a\r\n") == expected
    assert read(tmp_path, "c.lab", "0.25 125 pau\n0.4 125 a") == expected
    assert read(tmp_path, "d.lab", "\ufeff#\n0.5 125 а\n") == [Segment(0.0, 0.5, "а")]


def test_phn_counts_the_samples_of_the_recording(tmp_path: Path) -> None:
    text = "0 4000 h#\n4000 8000 sh\n"
    assert read(tmp_path, "a.phn", text) == [Segment(0.0, 0.25, "h#"), Segment(0.25, 0.5, "sh")]
    assert read(tmp_path, "a.PHN", text, rate=8000)[1] == Segment(0.5, 1.0, "sh")
    assert read(tmp_path, "b.phn", "1600 3200 a\n4800 6400 b\n") == [Segment(0.1, 0.2, "a"), Segment(0.3, 0.4, "b")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_textgrids(tmp_path: Path, encoding: str) -> None:
    found = read(tmp_path, "a.TextGrid", LONG.encode(encoding))
    # An interval may have no label; the brackets of a label are part of it.
    labelled = [Segment(0.0, 0.25, "pau"), Segment(0.25, 0.4, "a[1]"), Segment(0.4, 0.6, ""), Segment(0.6, 1.0, "o")]
    assert found == labelled
    found = read(tmp_path, "b.textgrid", SHORT.encode(encoding))
    assert found == [Segment(0.0, 0.25, "pau"), Segment(0.25, 1.0, "a")]


def test_older_textgrids_and_comments(tmp_path: Path) -> None:
    older = SHORT.replace('"ooTextFile"', '"ooTextFile short"').replace('"MAU"', '"MAU" ! 3 "tiers" were here')
    assert read(tmp_path, "a.TextGrid", older) == read(tmp_path, "b.TextGrid", SHORT)
    marked = SHORT.replace('"pau"', '"!"')
    assert read(tmp_path, "c.TextGrid", marked)[0].phone == "!"


def test_which_tier_has_the_phones(tmp_path: Path) -> None:
    for name in ("speaker - phones", "Segments", "anything at all"):
        one = SHORT.replace("MAU", name)
        assert len(read(tmp_path, "a.TextGrid", one)) == 2
    with pytest.raises(RegrnnError, match="tiers are 'words', 'other'; call the one with the phones, and no other,"):
        read(tmp_path, "b.TextGrid", LONG.replace('"phones"', '"other"'))
    with pytest.raises(RegrnnError, match="interval tiers are 'phones', 'phones'; call the one"):
        read(tmp_path, "b.TextGrid", LONG.replace('"words"', '"phones"'))
    with pytest.raises(RegrnnError, match="interval tiers are none"):
        read(tmp_path, "c.TextGrid", SHORT.split('"IntervalTier"')[0].replace("\n1\n", "\n0\n"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.lab", "#\n0.4 125 a\n0.25 125 pau\n", r"a\.lab, line 3: 'pau' ends at 0.25 s, not after 0.4 s .* order of"),
        ("a.lab", "#\n0.4 125 a\n0.4 125 b\n", "line 3: 'b' ends at 0.4 s, not after 0.4 s"),
        ("a.lab", "#\n0.4 125\n", "line 2: expected `END_SECONDS 125 PHONE`, found '0.4 125'"),
        ("a.lab", "0 2500000 sil\n", "line 1: expected `END_SECONDS 125 PHONE`, found '0 2500000 sil', .* HTK's"),
        ("a.phn", f"0 {'9' * 400} a\n", "line 1: expected `START_SAMPLE END_SAMPLE PHONE`"),
        ("a.lab", "#\nx 125 a\n", "line 2: expected a time in seconds, found 'x'"),
        ("a.lab", "#\nnan 125 a\n", "line 2: 'a' has a time that is not a finite number"),
        ("a.lab", "#\n-1 125 a\n", "line 2: 'a' ends at -1 s, not after 0 s"),
        ("a.lab", "#\n", r"a\.lab: no phone is in it"),
        ("a.lab", "", r"a\.lab: no phone is in it"),
        ("a.lab", b"\xff\x00\xfa", r"a\.lab: not UTF-8 at byte 0"),
        ("a.phn", "4000 8000 b\n0 4000 a\n", "line 2: 'a' begins at 0 s, before 0.5 s where the one before it ends"),
        ("a.phn", "0 4000 a\n2000 8000 b\n", "line 2: 'b' begins at 0.125 s, before 0.25 s"),
        ("a.phn", "0 0.25 a\n", "line 1: expected `START_SAMPLE END_SAMPLE PHONE`"),
        ("a.phn", "-5 10 a\n", "line 1: expected `START_SAMPLE END_SAMPLE PHONE`"),
        ("a.TextGrid", LONG.replace('"TextGrid"', '"Sound"'), "not a TextGrid in one of Praat's text formats"),
        ("a.TextGrid", LONG[:-30], "not a TextGrid in one of Praat's text formats"),
        ("a.TextGrid", SHORT.replace("\n2\n", "\n999999999999\n"), "not a TextGrid"),
        ("a.TextGrid", SHORT.replace("\n2\n", "\n-6\n"), "not a TextGrid"),
        ("a.TextGrid", SHORT.replace("\n2\n", "\n1e999\n"), "not a TextGrid"),
        ("a.TextGrid", b"ooBinaryFile\x08TextGrid", "not a TextGrid"),
        ("a.TextGrid", SHORT.replace('"a"', '""').replace('"pau"', '" "'), r"a\.TextGrid: no phone is in it"),
        ("a.TextGrid", SHORT.replace('"a"', '"a b"'), "the phone 'a b' has white space in it"),
        ("a.TextGrid", SHORT.replace("0.25\n1e0", "0.2\n1e0"), "'a' begins at 0.2 s, before 0.25 s"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(RegrnnError, match=message):
        read(tmp_path, name, text)
    with pytest.raises(RegrnnError, match=r"nowhere\.lab: cannot be read \(No such file"):
        read_alignment(tmp_path / "nowhere.lab", 16000)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert to_lab(SPOKEN).splitlines()[:2] == ["#", "0.25000 125 pau"]
    assert read(tmp_path, "a.lab", to_lab(SPOKEN)) == SPOKEN
    odd = [Segment(0.0, 0.5, 'a"b'), Segment(0.5, 0.75, "ы[2]")]
    for segments, duration in ((SPOKEN, 1.0), (odd, 0.75)):
        assert read(tmp_path, "a.TextGrid", to_textgrid(segments, duration)) == segments
    # Praat refuses a tier that does not reach its end.
    assert read(tmp_path, "a.TextGrid", to_textgrid(SPOKEN, 1.2))[-1].end == 1.2
    assert json.loads(to_json(SPOKEN[:2], 0.4)) == {
        "duration": 0.4,
        "segments": [
            {"start": 0.0, "end": 0.25, "phone": "pau"},
            {"start": 0.25, "end": 0.4, "phone": "a"},
        ],
    }
