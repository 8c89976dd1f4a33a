"""Replay a recorded sweep as if its settings had raced: which decisions, when, at what cost. Trains nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gan_core.cli import OK, OneLineParser, add_fields, add_store, given, run_command
from gan_core.config import make_record
from gan_core.errors import UserError
from gan_core.live import plain_console
from sweeps.grid import RaceOptions
from sweeps.race import Race, Rules, Scores, decide
from sweeps.report import open_sweep

if TYPE_CHECKING:
    from sweeps.comparison.records import SweepRecord

PROGRAM = "rehearse.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and show the rehearsal; the exit code."""
    args = _parser().parse_args(argv)
    options = given(args, RaceOptions)
    checked = make_record(RaceOptions, options, prefix="--")
    _, record = open_sweep(args)
    from sweeps.comparison.compare import compare, scores_of_runs
    from sweeps.plan import render

    epochs, seeds = _epochs_and_seeds(record)
    rules = replace(
        record.rules or Rules(epochs),  # drawn settings are raced from their first seed on here, too
        epochs=epochs,
        confidence=checked.until,
        margin=checked.margin,
        max_seeds=min(options.get("max_seeds", seeds), seeds),
    )
    recorded = _as_in_a_race(scores_of_runs(record, rules), rules)
    races = rehearse(record.settings, recorded, rules)
    whole = sum(max((epoch for epoch in its if epoch <= rules.epochs), default=0) for its in recorded.values())
    values = {"record": record, "c": compare(record), "races": races, "whole": whole / rules.epochs, "rules": rules}
    plain_console().print(render("rehearsal", **values))
    return OK


def rehearse(settings: Sequence[str], recorded: Scores, rules: Rules) -> list[Race]:
    """The race after each batch of runs; the last one asks for nothing, or for what is not recorded."""
    known: dict[tuple[str, int], Mapping[int, float]] = {}
    races = [decide(settings, known, rules)]
    while races[-1].asked:
        for setting, seed, until in races[-1].asked:
            its = recorded.get((setting, seed), {})
            if until not in its:
                return races
            known[setting, seed] = {epoch: score for epoch, score in its.items() if epoch <= until}
        races.append(decide(settings, known, rules))
    return races


def _epochs_and_seeds(record: "SweepRecord") -> tuple[int, int]:
    """The length of the finished runs, and how many seeds they have. Raises UserError if they cannot be raced."""
    from sweeps.comparison.render import counted

    finished = [run for run in record.runs if run.finished]
    lengths, seeds = sorted({run.length for run in finished}), len({run.seed for run in finished})
    if len(lengths) != 1:
        raise UserError(f"the runs of {record.name} should have one length to be raced, got {lengths or 'none'}")
    if seeds < 2 or len(record.settings) < 2:
        settings = counted(len(record.settings), "setting")
        raise UserError(f"{record.name} has {settings} and {counted(seeds, 'seed')}: a race takes two of each")
    return lengths[0], seeds


def _as_in_a_race(scores: Scores, rules: Rules) -> Scores:
    """The scores as a race has them: seeds count from 0, and a run with none at a rung has its next one there."""
    seeds = sorted({seed for _, seed in scores})
    found = {}
    for (setting, seed), its in scores.items():
        later = {rung: [epoch for epoch in its if rung <= epoch < rules.epochs] for rung in rules.rungs}
        at_rungs = {rung: its[min(epochs)] for rung, epochs in later.items() if epochs}
        found[setting, seeds.index(seed)] = {**its, **at_rungs}
    return found


def _parser() -> OneLineParser:
    parser = OneLineParser(PROGRAM, __doc__, ("python sweeps/rehearse.py --sweep study --margin 0.05",))
    parser.add_argument("--sweep", metavar="NAME", help="a sweep's name or run id (default: the latest)")
    add_fields(parser, RaceOptions)
    add_store(parser)
    return parser


def command() -> None:
    """Run the command to the process's end; the console script gan-grid-rehearse calls it."""
    run_command(PROGRAM, main)


if __name__ == "__main__":
    command()
