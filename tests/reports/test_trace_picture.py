"""The picture of figure 3: the path it draws and the files it makes."""

from itertools import pairwise

import pytest

from regrnn.errors import RegrnnError
from regrnn.reports.trace import Trace, passes_text, trace_picture

PROFILES = {"paper": [(3, 3)] * 3, "standard": [(3, 3), (3, 4), (3, 5)], "torch.nn": [(1, 1)] * 3}


def make_trace(layers: int = 2, back: int = 1, ahead: int = 1) -> Trace:
    return Trace(
        layers=layers,
        back=back,
        ahead=ahead,
        ends=True,
        between=True,
        recurrent=False,
        least=layers + 1,
        most=layers + 1,
        about="layers",
    )


@pytest.mark.parametrize(("layers", "back", "ahead"), [(1, 0, 0), (1, 2, 3), (3, 2, 3), (5, 0, 2), (2, 4, 0)])
def test_the_path_goes_from_the_input_to_the_output_one_connection_at_a_time(layers, back, ahead):
    trace = make_trace(layers, back, ahead)
    path = trace.path
    assert path[0] == (-back, 0)
    assert path[-1] == (ahead, layers + 1)
    for (t0, l0), (t1, l1) in pairwise(path):
        assert (t1 - t0, l1 - l0) in {(0, 1), (1, 0)}
        assert t0 == t1 or 1 <= l0 <= layers  # only layers have connections from step to step


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_suffix_says_the_format_and_equal_numbers_make_equal_files(tmp_path, suffix, magic):
    files = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for file in files:
        trace_picture(file, make_trace(), PROFILES)
    assert files[0].read_bytes().startswith(magic)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == files


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(RegrnnError, match=r"figure\.gif: pictures are saved as \.svg, \.png, \.pdf"):
        trace_picture(tmp_path / "figure.gif", make_trace(), PROFILES)


def test_counts_in_words():
    texts = [passes_text(*count) for count in [(0, 0), (1, 1), (3, 3), (0, 2)]]
    assert texts == [
        "never passes dropout",
        "passes dropout exactly once",
        "passes dropout exactly 3 times",
        "passes dropout 0 to 2 times",
    ]
