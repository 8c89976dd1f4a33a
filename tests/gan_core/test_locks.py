"""Locks in both kinds of storage: one holder, freed when it ends, however it ends; tags lead nowhere else."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from filelock import Timeout

from gan_core import locks
from gan_core.locks import hold, is_free, liveness, lock_in, lock_tag, was_released

LOCK = "0123456789abcdef" * 2 + "/lock"
# A lease's times, shorter than in use: the tests that are marked slow have the real ones.
SHORT = {"RENEWED": 0.3, "LOST": 3.0, "SETTLED": 0.3, "WATCHED": 0.15}

HOLDER = """
import sys, time
from gan_core import locks
from gan_core.storage import storage_path
for name, value in {times!r}.items():
    setattr(locks, name, value)
with locks.hold(storage_path(sys.argv[1]), patience=0):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def times(request, monkeypatch):
    """Seconds of a lease."""
    short = {} if request.node.get_closest_marker("slow") else SHORT
    for name, value in short.items():
        monkeypatch.setattr(locks, name, value)
    return short


@pytest.fixture
def lock(storage, times):
    return storage / LOCK


@pytest.fixture
def holder(lock, times):
    """A process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(times=times), str(lock)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_is_held_by_one_and_free_when_let_go(storage, lock):
    tag = lock_tag(storage, LOCK)
    assert is_free(lock)
    assert was_released(lock)
    assert liveness(storage, tag) == "dead"
    with hold(lock, patience=0):
        assert not was_released(lock)
        assert not is_free(lock)
        assert liveness(storage, tag) == "alive"
    assert was_released(lock)
    assert is_free(lock)
    with hold(lock, patience=0):
        pass


def test_an_error_in_the_block_lets_it_go(lock):
    with pytest.raises(ZeroDivisionError), hold(lock, patience=0):
        _ = 1 / 0
    assert was_released(lock)


def test_the_living_keep_it_and_the_dead_lose_it(storage, lock, holder):
    tag = lock_tag(storage, LOCK)
    assert liveness(storage, tag) == "alive"
    with pytest.raises(Timeout), hold(lock, patience=0.5):
        pass
    holder.kill()
    holder.wait()
    assert liveness(storage, tag) == "dead"
    with hold(lock, patience=0):
        assert not is_free(lock)


def test_who_waits_gets_it_once_it_is_free(lock, holder):
    subprocess.Popen(["sh", "-c", f"sleep 1; kill {holder.pid}"])
    with hold(lock, patience=60):
        assert holder.wait() == -signal.SIGTERM


@pytest.mark.parametrize("storage", ["object store"], indirect=True)
def test_an_owner_that_was_stopped_and_has_lost_its_lease_ends(lock, holder):
    holder.send_signal(signal.SIGSTOP)
    with hold(lock, patience=60):
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(timeout=60) == -signal.SIGKILL
        assert "was taken over by another process" in holder.stderr.read()
        assert not is_free(lock)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["object store"], indirect=True)
def test_a_lease_of_the_dead_is_taken_after_its_time(lock, holder):
    holder.kill()
    began = time.monotonic()
    with hold(lock, patience=0):
        waited = time.monotonic() - began
        assert locks.LOST <= waited < locks.LOST + locks.RENEWED + locks.SETTLED + 10


@pytest.mark.slow
def test_of_many_that_want_it_at_once_one_gets_it(at_once, lock, tmp_path):
    won = tmp_path / "won"
    won.mkdir()
    setup = (
        "import time\nfrom pathlib import Path\nfrom filelock import Timeout\n"
        "from gan_core.locks import hold\nfrom gan_core.storage import storage_path\n"
        f"lock, won = storage_path({str(lock)!r}), Path({str(won)!r})"
    )
    body = (
        "\n            try:"
        "\n                with hold(lock, patience=0):"
        "\n                    (won / str(number)).touch(); time.sleep(45)"
        "\n            except Timeout: pass"
    )
    at_once(4, setup, body)
    assert len(list(won.iterdir())) == 1


def test_a_tag_names_a_lock_of_this_storage_alone(storage, lock):
    tag = lock_tag(storage, LOCK)
    assert lock_in(storage, tag) == LOCK
    assert lock_tag(storage, LOCK) == tag
    assert lock_tag(storage / "other", LOCK) != tag
    assert lock_in(storage / "other", tag) is None
    assert liveness(storage / "other", tag) == "unknown"
    assert liveness(storage, None) == liveness(storage, "") == liveness(storage, "x") == "unknown"


def test_a_folder_keeps_its_identity_when_it_is_moved(tmp_path):
    tag = lock_tag(tmp_path / "a", LOCK)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert lock_in(tmp_path / "b", tag) == LOCK
    (tmp_path / "b" / "identity").write_bytes(b"\x00")  # a power cut's, say
    assert lock_in(tmp_path / "b", tag) is None
    assert lock_tag(tmp_path / "b", LOCK) == lock_tag(tmp_path / "b", LOCK) != tag


def test_a_folder_is_given_one_identity_by_many(at_once, tmp_path):
    setup = f"from pathlib import Path\nfrom gan_core.locks import lock_tag\nhere = Path({str(tmp_path)!r})"
    at_once(12, setup, "(here / str(number)).write_text(lock_tag(here / 'new', 'x'))")
    assert len({(tmp_path / str(number)).read_text() for number in range(12)}) == 1
