"""What a run goes on from: whole, its own, and harmless to read."""

import dataclasses
import hashlib
import json
import resource

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gan_core.checkpoint import (
    VERSION,
    Checkpoint,
    CheckpointFolder,
    DamagedError,
    RecordedEvent,
    TimedEvent,
    decode,
    encode,
)
from gan_core.config import RunConfig, RunOptions
from gan_core.data import ImageSet
from gan_core.errors import UserError
from gan_core.events import EpochEnd, Evaluated, Reached, Samples
from gan_core.run import Job, evaluated_training

CONFIG = RunConfig(dataset="digits", optimizer="adam", z_dim=5, hidden_dim=8, epochs=9, batch_size=64)
READS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def checkpoints(digits, digits_reference):
    """After epochs 1, 2 and 3, as a run makes them."""
    small = ImageSet("digits", digits.images[:200], "0123abcd", "a test")
    so_far, found = [], []
    for at, event in enumerate(
        evaluated_training(Job("a", CONFIG, small, digits_reference, RunOptions(evaluate_every=1)))
    ):
        if isinstance(event, RecordedEvent):
            so_far.append(TimedEvent(event, at))
        elif isinstance(event, Reached):
            found.append(Checkpoint(event.state(), list(so_far)))
        if len(found) == 3:
            return found
    raise AssertionError


@pytest.fixture
def folder(storage):
    return CheckpointFolder(storage / "run", CONFIG)


def same(one, other):
    """Whether two things are equal through and through, arrays and tensors to the bit."""
    if isinstance(one, torch.Tensor | np.ndarray):
        return one.dtype == other.dtype and np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and same(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_what_is_read_is_what_was_written(checkpoints):
    for checkpoint in checkpoints:
        assert same(decode(encode(checkpoint, CONFIG), CONFIG, "it"), checkpoint)
    assert {type(entry.event) for entry in checkpoints[-1].events} >= {EpochEnd, Samples, Evaluated}
    assert not same(checkpoints[0], checkpoints[1])


def test_more_epochs_go_on_from_it(checkpoints):
    longer = dataclasses.replace(CONFIG, epochs=100)
    assert decode(encode(checkpoints[0], CONFIG), longer, "it").state.epoch == 1


def with_digest(body):
    return f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode() + body


def body_of(content):
    return content.partition(b"\n")[2]


def with_metadata(content, **changes):
    """The file with its metadata changed, as another program or version might have written it."""
    body = body_of(content)
    length = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + length])
    header["__metadata__"] |= changes
    text = json.dumps(header).encode()
    return with_digest(len(text).to_bytes(8, "little") + text + body[8 + length :])


def read(content):
    """Nothing but these may come of it."""
    try:
        return decode(content, CONFIG, "epoch_0000002.checkpoint")
    except (DamagedError, UserError):
        return None


@READS
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_no_checkpoint(content, digest):
    assert read(with_digest(content) if digest else content) is None


@st.composite
def damage(draw):
    """A way to damage a file: cut it, overwrite, insert or take out some bytes."""
    at, count = draw(st.floats(0, 1)), draw(st.integers(0, 64))
    new = draw(st.binary(max_size=64))
    early = draw(st.booleans())  # the header is a small part, and the one that is understood

    def change(content):
        place = int(at * min(len(content), 4000 if early else len(content)))
        return content[:place] + new + content[place + count :]

    return change


@READS
@given(damage())
def test_a_damaged_file_is_the_checkpoint_or_none(checkpoints, change):
    content = encode(checkpoints[1], CONFIG)
    found = read(change(content))
    assert found is None or (change(content) == content and same(found, checkpoints[1]))


@READS
@given(damage())
def test_damage_under_a_right_digest_breaks_nothing(checkpoints, change):
    read(with_digest(change(body_of(encode(checkpoints[1], CONFIG)))))


@READS
@given(
    st.sampled_from(["format", "version", "config_hash", "epoch", "images", "events"]),
    st.text(max_size=20) | st.integers().map(str) | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=5)
        | st.sampled_from(["baselines", "samples", "epoch", "evaluated"]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ).map(json.dumps),
)  # fmt: skip
@example("events", json.dumps([["epoch", 1, 0], ["epoch", 2, 0]]))
@example("events", json.dumps([["samples", 0, 0], ["samples", 1, 0], ["samples", 2, 0], ["samples", 3, 0]]))
def test_nonsense_in_the_metadata_breaks_nothing(checkpoints, key, value):
    read(with_metadata(encode(checkpoints[0], CONFIG), **{key: value}))


def test_a_file_that_promises_much_is_given_no_memory(checkpoints):
    content = encode(checkpoints[0], CONFIG)
    deep = "[" * 100_000
    header = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps({**header, "__metadata__": {}}).encode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for hostile in (
        with_digest((2**63).to_bytes(8, "little") + b"{}"),
        with_digest(len(text).to_bytes(8, "little") + text),
        with_digest(len(deep).to_bytes(8, "little") + deep.encode()),
        with_metadata(content, epoch=str(10**15)),
        with_metadata(content, images="9" * 4000),
        with_metadata(content, events=deep),
    ):
        assert read(hostile) is None or hostile == with_metadata(content, images="9" * 4000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_another_configs_is_refused_by_name(folder, checkpoints):
    folder.save(checkpoints[0])
    other = dataclasses.replace(CONFIG, z_dim=6)
    with pytest.raises(UserError, match=r"epoch_0000001.checkpoint is of another config .*\"z_dim\": 5"):
        CheckpointFolder(folder.folder, other).load(print)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (VERSION + 1, "a newer version of this program .format 4, this one reads 3.: update it, or start anew"),
        (1, "an older version of this program .format 1, this one reads 3.: finish the run with that one, or"),
    ],
)
def test_another_versions_is_refused_by_name_and_kept(folder, checkpoints, version, said):
    folder.save(checkpoints[0])
    file = folder.folder / "epoch_0000001.checkpoint"
    # Also where the config is none that this version could have.
    file.write_bytes(with_metadata(file.read_bytes(), version=str(version), config_hash="0"))
    with pytest.raises(UserError, match=f"epoch_0000001.checkpoint was written by {said}"):
        folder.load(print)
    assert file.exists()


def test_the_last_two_are_kept_and_nothing_else(folder, checkpoints):
    assert folder.load(print) is None
    for checkpoint in checkpoints:
        folder.save(checkpoint)
        (folder.folder / ".epoch_0000009.checkpoint.4711").write_bytes(b"left by a kill in a write")
    assert same(folder.load(print), checkpoints[2])
    folder.prune(2)
    names = ["epoch_0000002.checkpoint", "epoch_0000003.checkpoint"]
    assert sorted(path.name for path in folder.folder.glob("*")) == names


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_the_one_before_a_damaged_one_is_used_and_that_is_said(folder, checkpoints, keep):
    folder.save(checkpoints[0])
    folder.save(checkpoints[1])
    newest = folder.folder / "epoch_0000002.checkpoint"
    newest.write_bytes(newest.read_bytes()[:keep])
    said = []
    assert same(folder.load(said.append), checkpoints[0])
    assert said == [
        "the checkpoint epoch_0000002.checkpoint cannot be used (it is not whole): going back to the one before it"
    ]
    folder.save(checkpoints[1])
    folder.prune(1)
    assert same(folder.load(said.append), checkpoints[1])
    assert len(said) == 1


def test_junk_does_not_push_out_what_is_good(folder, checkpoints):
    folder.save(checkpoints[0])
    (folder.folder / "zzz.checkpoint").write_bytes(b"")
    assert same(folder.load(lambda text: None), checkpoints[0])
    folder.prune(1)
    assert same(folder.load(lambda text: None), checkpoints[0])


def test_one_of_more_epochs_than_are_wanted_is_passed_over(folder, checkpoints):
    folder.save(checkpoints[1])
    folder.save(checkpoints[2])
    shorter = CheckpointFolder(folder.folder, dataclasses.replace(CONFIG, epochs=2))
    assert same(shorter.load(print), checkpoints[1])


def test_a_longer_run_takes_over_unless_it_has_its_own(folder, storage, checkpoints):
    for checkpoint in checkpoints:
        folder.save(checkpoint)
    longer = CheckpointFolder(storage / "longer", dataclasses.replace(CONFIG, epochs=20))
    longer.take_over(storage / "none")
    assert longer.load(print) is None
    longer.take_over(folder.folder)
    assert same(longer.load(print), checkpoints[2])
    folder.prune(0)
    folder.save(checkpoints[0])
    longer.take_over(folder.folder)
    assert same(longer.load(print), checkpoints[2])


KILLS = """
import os, random, resource, signal, sys
from pathlib import Path
import numpy as np
import torch
from gan_core.checkpoint import Checkpoint, CheckpointFolder, TimedEvent, encode
from gan_core.config import RunConfig
from gan_core.events import EpochEnd, TrainState

torch.set_num_threads(1)  # others would not be there after a fork
config = RunConfig(dataset="digits")
folder = CheckpointFolder(Path(sys.argv[1]), config)
one = np.ones(1000, np.float32)
random.seed(0)

def next_one(so_far):
    epoch = len(so_far) + 1
    events = [*so_far, TimedEvent(EpochEnd(epoch, one, one, one, one, 1, 1.0), epoch)]
    return Checkpoint(TrainState(epoch, {"G.w": torch.full((1 << 21,), float(epoch))}, {}), events)

def write(so_far, whole, size):
    for _ in range(whole):
        checkpoint = next_one(so_far)
        folder.save(checkpoint)
        so_far = checkpoint.events
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    folder.save(next_one(so_far))

so_far = []
for kill in range(20):
    size = random.randrange(len(encode(next_one(so_far), config)))
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills whoever writes on at that size
        write(so_far, kill % 4, size)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGXFSZ
    (half,) = folder.folder.glob(".*")
    assert half.stat().st_size == size
    said = []
    found = folder.load(said.append)
    written = len(so_far) + kill % 4
    assert not said and (found.state.epoch if found else 0) == written, (said, written)
    assert found is None or (found.state.weights["G.w"] == written).all()
    so_far = found.events if found else []
    folder.prune(2)
    assert len(list(folder.folder.iterdir())) == min(written, 2)
print(written)
"""


def test_a_kill_in_the_middle_of_a_write_costs_nothing_that_was_there(command, tmp_path):
    done = command("-c", KILLS, tmp_path / "run")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "30\n")


def test_one_process_trains_a_run(tmp_path):
    folder = CheckpointFolder(tmp_path / "run", CONFIG)
    another = pytest.raises(UserError, match=r"another process trains this run: .*lock is held")
    with folder.locked(), another, folder.locked(patience=0):
        pass
    with folder.locked(patience=0):
        pass


def test_a_checkpoint_of_other_images_of_a_folder_is_refused(tmp_path, checkpoints):
    CheckpointFolder(tmp_path, CONFIG, "0123").save(checkpoints[0])
    assert CheckpointFolder(tmp_path, CONFIG, "0123").load(print).state.epoch == 1
    for digest in ("4567", ""):
        with pytest.raises(UserError, match=r"trained on other images than are in digits now: .*--again"):
            CheckpointFolder(tmp_path, CONFIG, digest).load(print)
