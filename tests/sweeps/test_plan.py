"""Whatever the command is asked for, it is a plan or one line, and nothing is written."""

import os

import pytest
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
    "--tracking-uri", "--experiment", "--name", "--retries", "--workers", "--axis", "--sweep",
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
