"""Runs as TensorBoard's event files."""

import math
import sys

import pytest

from regrnn.errors import RegrnnError
from regrnn.reports.tensorboard import write_tensorboard


def read(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(folder)
    )
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


@pytest.fixture
def events():
    pytest.importorskip("tensorboard")


def test_tensorboard_reads_what_was_measured(tmp_path, make_run, events):
    run = make_run(valid=[180.0, math.inf], train=[200.0, 1e300], finished=False)
    write_tensorboard(run, tmp_path / "deep" / "events")
    assert read(tmp_path / "deep" / "events") == {
        "training/loss": [(500, 5.5), (1000, 5.0), (1500, 4.5), (2000, 4.0)],
        "training/learning_rate": [(1000, 0.5), (2000, 0.25)],
        "perplexity/train": [(1000, 200.0), (2000, math.inf)],
        "perplexity/valid": [(1000, 180.0), (2000, math.inf)],
    }


def test_a_second_call_changes_nothing_and_a_longer_run_makes_the_same_file_longer(tmp_path, make_run, events):
    run, folder = make_run(), tmp_path / "events"
    metrics, timings = run / "metrics.jsonl", run / "timings.jsonl"
    whole = metrics.read_text().splitlines(keepends=True), timings.read_text().splitlines(keepends=True)
    seen = b""
    for epochs in (0, 1, 2, 2, 4):
        metrics.write_text("".join(whole[0][: 2 * epochs]))
        timings.write_text("".join(whole[1][:epochs]))
        write_tensorboard(run, folder)
        (file,) = folder.iterdir()
        data = file.read_bytes()
        assert data.startswith(seen)
        seen = data
    assert len(read(folder)["perplexity/valid"]) == 4


def test_a_run_taken_up_from_an_earlier_point_replaces_the_file(tmp_path, make_run, events):
    run, folder = make_run(), tmp_path / "events"
    write_tensorboard(run, folder)
    (first,) = folder.iterdir()
    other = folder / "events.out.tfevents.1.elsewhere"
    other.write_bytes(b"")
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:4]))
    write_tensorboard(run, folder)
    (second,) = set(folder.iterdir()) - {other}
    assert second.name > first.name  # a TensorBoard that is watching goes on to the next name
    other.unlink()
    assert [step for step, _ in read(folder)["perplexity/valid"]] == [1000, 2000]


def test_a_half_written_file_is_completed(tmp_path, make_run, events):
    run, folder = make_run(), tmp_path / "events"
    write_tensorboard(run, folder)
    (file,) = folder.iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-7])
    write_tensorboard(run, folder)
    assert file.read_bytes() == data


def test_without_tensorboard_one_line_says_what_to_install(tmp_path, make_run, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RegrnnError, match=r"pip install 'regrnn\[tensorboard\]'"):
        write_tensorboard(make_run(), tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_folders_that_cannot_be_used(tmp_path, make_run, events):
    with pytest.raises(RegrnnError, match="not a run"):
        write_tensorboard(tmp_path, tmp_path / "events")
    (tmp_path / "file").write_text("")
    with pytest.raises(RegrnnError, match="file: cannot be written"):
        write_tensorboard(make_run(), tmp_path / "file")
