"""Reading run directories: whole ones, cut ones, and what is none."""

import math
import subprocess
import sys

import pytest

from regrnn.errors import RegrnnError
from regrnn.reports.read import number, read_epochs, read_result, read_run


def test_epochs_and_result_of_a_finished_run(make_run):
    run = make_run()
    assert [record["epoch"] for record in read_epochs(run)] == [1, 2, 3, 4]
    assert read_result(run)["figures"]["test_perplexity"] == 116.5


def test_a_run_that_has_just_begun_has_no_epochs_and_no_result(make_run):
    run = make_run(valid=[], finished=False)
    (run / "metrics.jsonl").unlink()
    (run / "timings.jsonl").unlink()
    assert read_epochs(run) == []
    assert read_result(run) is None


def test_a_last_line_cut_in_half_is_left_out(make_run):
    run = make_run()
    metrics = run / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-30])
    assert [record["epoch"] for record in read_epochs(run)] == [1, 2, 3]


def test_a_last_line_cut_within_a_character_is_left_out(make_run):
    run = make_run()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write('{"event": "é'.encode()[:-1])
    assert len(read_epochs(run)) == 4


def test_a_damaged_line_in_the_middle_is_named(make_run):
    run = make_run()
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    lines[2] = "[1, 2]"
    metrics.write_text("\n".join(lines))
    with pytest.raises(RegrnnError, match=r"metrics\.jsonl, line 3: damaged"):
        read_epochs(run)


def test_a_cut_line_that_a_resumed_run_left_behind_in_timings_is_left_out(make_run):
    run = make_run()
    with (run / "timings.jsonl").open("a") as file:
        file.write('{"epoch": 5, "pred{"epoch": 5, "seconds": 1}\n{"epoch": 6, "seconds": 2}\n')
    assert [timing["epoch"] for timing in read_run(run).timings] == [1, 2, 3, 4, 6]


def test_folders_that_are_no_runs(tmp_path, make_run):
    with pytest.raises(RegrnnError, match="not a run"):
        read_epochs(tmp_path)
    with pytest.raises(RegrnnError, match="not a run"):
        read_result(tmp_path / "missing")
    run = make_run()
    (run / "recipe.json").write_text('{"format": 1}')
    with pytest.raises(RegrnnError, match=r"recipe\.json.*\"recipe\" is missing"):
        read_epochs(run)
    (run / "recipe.json").write_text('{"format"')
    with pytest.raises(RegrnnError, match=r"recipe\.json: damaged"):
        read_epochs(run)


def test_a_damaged_result_is_named(make_run):
    run = make_run()
    (run / "result.json").write_text("{")
    with pytest.raises(RegrnnError, match=r"result\.json: damaged"):
        read_result(run)


def test_figures_are_what_both_splits_have_and_the_first_decides(make_run):
    run = make_run()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"event": "epoch", "train_perplexity": 1, "valid_perplexity": 2, "train_bleu": 3, "valid_bleu": 4,'
            ' "train_only": 5, "train_<b>": 6, "valid_<b>": 7}\n'
        )
    assert read_run(run).figures == ["perplexity", "bleu"]


def test_the_best_epoch_is_the_last_that_was_called_so(make_run):
    assert read_run(make_run()).best["epoch"] == 3
    assert read_run(make_run("infinite", valid=[math.inf] * 3, finished=False)).best is None


@pytest.mark.parametrize(
    ("values", "higher", "lower_is_better"),
    [
        ([180.0, 140.0, 150.0], False, True),
        ([140.0, 180.0], False, True),
        ([math.inf, 140.0, 130.0], False, True),
        ([50.0, 62.0, 61.0], True, False),
        ([62.0, 50.0], True, False),
        ([5.0], False, None),
        ([5.0, 5.0], False, None),
        ([math.inf], False, None),
    ],
)
def test_the_direction_is_read_from_the_best_epochs(make_run, values, higher, lower_is_better):
    run = make_run(valid=values, train=values, higher=higher, finished=False)
    assert read_run(run).lower_is_better is lower_is_better


def test_number_takes_numbers_only():
    record = {"a": 1, "b": 2.5, "c": "3", "d": None, "e": True, "f": 10**400, "g": -(10**400)}
    assert [number(record, key) for key in "abcdefgh"] == [1.0, 2.5, None, None, None, math.inf, -math.inf, None]


def test_reports_import_no_torch():
    modules = "run, comparison, terminal, read, tensorboard, curves"
    code = f"import sys; from regrnn.reports import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
