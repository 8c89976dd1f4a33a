"""Whatever the command is asked for, it is a plan or one line, and nothing is written."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gan_core.cli import exit_code
from sweeps.run_grid import main

VALUES = [
    "", " ", "-", "--", "-1", "0", "1", "3", "1e3", "1e400", "nan", "-0.0", "0x10", "1_0", "٣", "9" * 5000,
    "../../x", "/", "/etc/passwd", "/proc/self/mem", "~", "~nobody-of-this-name/x.db", "x" * 300, "x" * 5000,
    "x.db", "x" * 300 + ".db", "sqlite:///", "sqlite:///" + "y" * 5000, "sqlite:///~nobody-of-this-name/x.db",
    "sqlite:///x.db?mode=ro", "sqlite:////dev/null", "sqlite:////dev/full", "sqlite:///:memory:",
    "file:///etc/passwd", "file:x.db", "http://[", "http://127.0.0.1:9", "http://u:p%00@127.0.0.1:9/",
    "http://127.0.0.1:99999", "http://", "postgresql://u:s3cret@127.0.0.1:9/x", "mysql://", "a:1", "a:b:c",
    "💥", "\udcff", "\udcff.db", "two\nlines", "{}", "%s %(prog)s", "$(id)", "'; DROP TABLE runs; --",
    "sgd", "adam", "digits", "mnist", "cuda", "sgd=0.1", "sgd=", "=0.1", "batch_size=1,2", "z_dim=3", "seed=1", "epochs=1,1", "device=cpu", "x=1", "sgd=0.1,x", "adam=nan",
]  # fmt: skip
# As the system hands words over: any bytes but 0, and what is no UTF-8 as surrogates. None has a colon, for a
# name could be looked up in the network.
WORDS = st.sampled_from(VALUES) | st.binary(max_size=300).map(
    lambda word: os.fsdecode(word.replace(b"\0", b"").replace(b":", b""))
)
ADDRESSES = [
    "127.0.0.1:9", "127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:" + "9" * 5000, "127.0.0.1:٣", "127.0.0.1",
    ":", ":9", "..:9", "a" * 70 + ":9", "\udcff:9",
]  # fmt: skip
FLAGS = [
    "--optimizers", "--z-dims", "--seeds", "--learning-rates", "--epochs", "--batch-size", "--hidden-dim",
    "--dataset", "--device", "--evaluate-every", "--checkpoint-every", "--checkpoint-dir", "--data-dir",
    "--until", "--margin", "--max-seeds", "--tracking-uri", "--experiment", "--name", "--retries", "--workers", "--axis", "--sweep",
]  # fmt: skip
GIVEN = (
    st.tuples(st.sampled_from(FLAGS), WORDS)
    | st.tuples(st.sampled_from(FLAGS), WORDS, WORDS)
    | st.tuples(st.just("--address"), st.sampled_from(ADDRESSES))
    | st.tuples(st.sampled_from(["--again", "--stop-dead", "--help"]))
    | st.tuples(WORDS)
)


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """The command's answer to words, nothing trained: its exit code and its lines of mistakes."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOME": str(tmp_path), "GAN_DATA_DIR": str(tmp_path / "data"), "MLFLOW_TRACKING_URI": "own.db",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    def answer(words):
        code = exit_code("run_grid.py", lambda: main(["--dataset", "digits", "--dry-run", *words]))
        said = capsys.readouterr()
        assert not list(tmp_path.iterdir())
        return code, said.err.splitlines()

    return answer


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(GIVEN, max_size=4))
@example([("--tracking-uri", "~nobody-of-this-name/x.db")])
@example([("--tracking-uri", "x" * 5000 + ".db")])
@example([("--tracking-uri", "sqlite:///" + "y" * 5000)])
@example([("--checkpoint-dir", "~nobody-of-this-name")])
@example([("--checkpoint-dir", "\udcff")])
@example([("--data-dir", "~nobody-of-this-name"), ("--dataset", "mnist")])
@example([("--address", "127.0.0.1:" + "9" * 5000)])
@example([("--address", "a" * 70 + ":9")])
@example([("--address", "\udcff:9")])
def test_any_words_give_a_plan_or_one_line(ask, given_words):
    code, mistakes = ask([word for words in given_words for word in words])
    assert code in (0, 2)
    assert len(mistakes) == (code == 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optimizers", "sdg"], "optimizer should be one of sgd, adam"),
        (["--dataset", "minst"], "dataset should be one of mnist"),
        (["--z-dims", "0"], "z_dim should be greater than or equal to 1, got 0"),
        (["--z-dims", "20", "-5"], "z_dim should be greater than or equal to 1, got -5"),
        (["--z-dims", "many"], "invalid int value: 'many'"),
        (["--z-dims"], "expected at least one argument"),
        (["--learning-rates", "0"], "learning_rate should be greater than 0, got 0.0"),
        (["--learning-rates", "nan"], "learning_rate should be a finite number, got nan"),
        (["--epochs", "0"], "epochs should be greater than or equal to 1, got 0"),
        (["--dataset", "digits", "--batch-size", "1798"], "batch_size should be at most 1797"),
        (["--evaluate-every", "-1"], "--evaluate-every should be greater than or equal to 0, got -1"),
        (["--workers", "0"], "--workers should be greater than or equal to 1, got 0"),
        (["--name", "two\nlines"], "--name should be 1 to 200 printable characters"),
        (["--name", "x" * 300], "--name should be 1 to 200 printable characters"),
        (["--experiment", "two\nlines"], "run_grid.py: --experiment should be 1 to 200 printable characters"),
        (["--register", "a b"], "run_grid.py: --register should be 1 to 200 letters, digits, '.', '_' or '-', not"),
        ([f"--register={'-' * 70}"], f"got '{'-' * 60}'"),
        (["--name", "../../x"], ""),
        (["--name", "'; DROP TABLE runs; --"], ""),
        (["--retries", "-1"], "--retries should be greater than or equal to 0, got -1"),
        (["--checkpoint-every", "0"], "--checkpoint-every should be greater than or equal to 1, got 0"),
        (["--tracking-uri", "http://["], "the store's address is not valid"),
        (
            ["--tracking-uri", "postgres://me:s3cret@host/x.db"],
            "the store postgres://me:***@host/x.db is of no",
        ),
        (["--name", ""], ""),
        (["--name", "[/red] :boom:"], ""),
        (["--tracking-uri", "http://127.0.0.1:9"], "cannot use the store http://127.0.0.1:9"),
        (
            ["--tracking-uri", __file__],
            "is a folder" if not Path(__file__).suffix else "cannot be read as an MLflow",
        ),
        (["--data-dir", __file__], "cannot use the data folder"),
        (["--address", "127.0.0.1:9"], "no Ray cluster answers at 127.0.0.1:9"),
        (["--address", "head"], "--address should be HOST:PORT, got 'head'"),
        (["--epoch", "3"], "unrecognized arguments: --epoch"),
        (["--learning-rates", "sgd=0.1", "0.3"], "'0.3' stands among the latter"),
        (["--learning-rates", "sgd=0.1", "sgd=0.3"], "has sgd twice"),
        (["--learning-rates", "sgd=0.1,x"], "learning_rate should be a valid number"),
        (["--learning-rates", "rmsprop=0.1"], "given for optimizer rmsprop, which is not among sgd, adam"),
        (["--until", "1"], "--until should be less than 1, got 1.0"),
        (["--margin", "0"], "--margin should be greater than 0, got 0.0"),
        (["--max-seeds", "1"], "--max-seeds should be greater than or equal to 2, got 1"),
        (["--seeds", "0", "--until", "0.9"], "seeds are for a fixed grid, until, margin and max_seeds for a race"),
        (["--margin", "0.2", "--axis", "z_dim=1"], "a race cannot be run: there is one setting only. --seeds 0 1 2"),
        (["--until", "0.9", "--axis", "epochs=1,2"], "a race cannot be run: epochs is an axis"),
        (["--axis", "nope=1"], "there is no setting nope"),
        (["--axis", "z_dim=1", "--axis", "z_dim=2"], "z_dim is given twice as an axis"),
        (["--axis", "batch_size=1", "--batch-size", "2"], "batch_size is given twice"),
        (["--sweep", "none.toml"], "cannot read the sweep file none.toml"),
        (["--sweep", "none.toml", "--z-dims", "3"], "--sweep FILE has the axes"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "--tracking-uri" not in words:
        words = [*words, "--tracking-uri", "new.db"]
    if "--data-dir" not in words:
        words = [*words, "--data-dir", "data"]
    code = exit_code("run_grid.py", lambda: main([*words, "--dry-run"] if not said else words))
    assert code == (2 if said else 0)
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == bool(said)
    assert not list(tmp_path.iterdir())


def test_the_help_shows_every_flag_of_the_contract(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for flag in (
        "--optimizers", "--z-dims", "--seeds", "--learning-rates", "--epochs", "--batch-size", "--dataset",
        "--data-dir", "--tracking-uri", "--experiment", "--name", "--workers", "--address", "--dry-run",
        "--evaluate-every", "--stop-dead", "--axis", "--sweep", "--register", "--retries",
    ):  # fmt: skip
        assert flag in shown
    assert "default: sgd adam" in shown
    assert "where it runs" in shown
    assert shown.count("python sweeps/run_grid.py --") == 3
    assert json.dumps(100) in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there_is_missed_before_any_work(ask):
    code, (mistake,) = ask(["--device", "cuda"])
    assert code == 2
    assert "cuda" in mistake
