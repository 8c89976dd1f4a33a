import io

import pytest
from rich.console import Console
from rich.table import Table

from gan_core import live
from gan_core.events import Progress
from gan_core.live import LiveView, in_time, plain_console


def plain():
    return Console(file=io.StringIO(), force_terminal=False, soft_wrap=True, highlight=False)


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)


def progress(run, epoch):
    return Progress(run, epoch, 10, 1.234, 0.567, 31_234.0)


def test_without_a_terminal_there_are_lines_now_and_then(monkeypatch):
    clock = iter(range(0, 1000, 10))  # ten seconds between two looks at the clock
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    with LiveView({"sgd_z20_s0": 10, "sgd_z50_s0": 10}, plain()) as view:
        for epoch in range(1, 11):
            view.update(progress("sgd_z20_s0", epoch))
        view.end("sgd_z20_s0", "FINISHED")
        view.end("sgd_z50_s0", "FAILED", "it broke")
    lines = view.console.file.getvalue().splitlines()
    assert 3 <= len(lines) < 12
    assert "sgd_z20_s0 epoch" in lines[0]
    assert "D 1.234 G 0.567 31,234 images/s" in lines[0]
    assert "left" in lines[1]
    assert "sgd_z20_s0 FINISHED · epoch 10/10" in lines[-2]
    assert "1/2 runs done" in lines[-2]
    assert "sgd_z50_s0 FAILED: it broke · 2/2 runs done" in lines[-1]
    assert "\x1b" not in view.console.file.getvalue()


def test_in_a_terminal_there_is_a_row_for_every_running_run():
    view = LiveView({"sgd_z20_s0": 10, "adam_z20_s0": 10, "sgd_z50_s0": 10}, terminal())
    view.update(progress("sgd_z20_s0", 3))
    view.update(progress("adam_z20_s0", 4))
    with view.console.capture() as shown:
        view.console.print(view._table())
    text = shown.get()
    for part in ("0/3 runs done", "3/10", "4/10", "1.234", "0.567", "31,234", "sgd_z20_s0", "adam_z20_s0"):
        assert part in text
    view.end("sgd_z20_s0", "FINISHED")
    with view.console.capture() as shown:
        view.console.print(view._table())
    assert "sgd_z20_s0" not in shown.get()
    assert "1/3 runs done" in shown.get()


def test_where_no_run_is_training_it_is_not_said_to_start():
    view = LiveView({"sgd_z20_s0": 10}, terminal())
    with view.console.capture() as shown:
        view.console.print(view._table())
    assert "starting" in shown.get()
    view.update(progress("sgd_z20_s0", 10))
    view.end("sgd_z20_s0", "FINISHED")
    with view.console.capture() as shown:
        view.console.print(view._table())
    assert "no run is training" in shown.get()
    assert "starting" not in shown.get()


def test_time_left_counts_epochs_since_the_first_and_no_runs_that_ended(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    view = LiveView({"a": 10, "b": 10}, plain())
    now[0] = 100.0  # start-up
    view.update(progress("a", 1))
    assert view._summary() == "0/2 runs done"
    now[0] = 102.0
    view.update(progress("a", 2))
    assert view._summary() == "0/2 runs done, 36 s left"
    view.end("b", "FAILED")
    assert view._summary() == "1/2 runs done, 16 s left"
    view.end("a", "FINISHED")
    assert view._summary() == "2/2 runs done, 0 s left"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3900, "1 h 05 min")])
def test_durations(seconds, words):
    assert in_time(seconds) == words


def test_a_table_in_a_pipe_is_whole(capsys):
    console = plain_console()
    table = Table.grid()
    table.add_row("x" * 70, "y" * 70)
    console.print(table)
    assert capsys.readouterr().out.splitlines() == ["x" * 70 + "y" * 70]
