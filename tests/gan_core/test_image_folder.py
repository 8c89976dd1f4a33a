"""Folders of real image files, made by Pillow: what is read, in what order, what is kept, and what is refused."""

import hashlib
import io
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gan_core import waiting
from gan_core.data import ImageFolder, ImageKey, image_set, load_images
from gan_core.errors import UserError
from gan_core.image_folder import list_images, pixels_of, read_images

CHANCE = np.random.default_rng(0)


def file_of(image, kind="png", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def noise(*shape):
    return Image.fromarray(CHANCE.integers(0, 256, shape, np.uint8))


def read(image, size=28, channels=3, kind="png", **options):
    return pixels_of(file_of(image, kind, **options), size, channels)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 60 images each, of many sizes: dark ones and bright ones."""
    for name, low in ("dark", 0), ("bright", 150):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(60):
            height, width = CHANCE.integers(5, 60, 2)
            pixels = CHANCE.integers(low, low + 100, (height, width, 3), np.uint8)
            kind = ("png", "jpeg", "JPG")[number % 3]
            content = file_of(Image.fromarray(pixels), "png" if kind == "png" else "jpeg")
            (tmp_path / "pictures" / name / f"{number}.{kind}").write_bytes(content)
    return tmp_path / "pictures"


def images_of(folder, tmp_path, size=28, channels=3):
    return read_images(list_images(folder), size, channels, tmp_path / "cache")


def refusal(folder, tmp_path):
    with pytest.raises(UserError) as refused:
        images_of(folder, tmp_path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32])
def test_an_image_of_the_right_size_is_left_as_it_is(size, channels):
    pixels = CHANCE.integers(0, 256, (channels, size, size), np.uint8)
    image = Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
    assert (read(image, size, channels) == pixels).all()


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([28, 32]), st.sampled_from([1, 3]))
def test_of_any_image_the_middle_square_is_taken(height, width, size, channels):
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[top : top + side, left : left + side] = (40, 80, 120)
    found = read(Image.fromarray(pixels), size, channels)
    assert found.shape == (channels, size, size)
    assert found.dtype == np.uint8
    gray = round(0.299 * 40 + 0.587 * 80 + 0.114 * 120)
    expected = (40, 80, 120) if channels == 3 else (gray,)
    assert (abs(found.astype(int) - np.reshape(expected, (-1, 1, 1))) <= 1).all()


def test_a_large_image_is_antialiased():
    stripes = np.zeros((280, 280), np.uint8)
    stripes[:, ::2] = 255  # a pixel wide: to take every tenth pixel would give all or nothing
    assert abs(read(Image.fromarray(stripes), 28, 1).astype(int) - 127).max() <= 8
    jpeg = read(noise(448, 448, 3), 28, 3, "jpeg")
    assert abs(jpeg.astype(int) - 127).max() < 60


def test_16_bit_gray_is_scaled():
    ramp = np.linspace(0, 65535, 28 * 28).reshape(28, 28).astype(np.uint16)
    found = read(Image.fromarray(ramp), 28, 1)
    assert (found[0] == (ramp / 257).round()).all()
    assert (read(Image.fromarray(ramp), 28, 3) == found).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_black(channels):
    pixels = np.full((28, 28, 4), 200, np.uint8)
    pixels[:14, :, 3], pixels[14:, :, 3] = 0, 255
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("LA")):
        found = read(image, 28, channels)
        assert found[:, :14].max() == 0
        assert found[:, 14:].min() == 200
    gray = Image.fromarray(pixels[..., 3])  # 0 and 255
    assert read(gray, 28, channels, transparency=255).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_every_kind_of_colours_is_read(mode):
    image = Image.new("RGB", (40, 28), (255, 255, 255)).convert(mode)
    kind = "jpeg" if mode in ("CMYK", "YCbCr") else "png"
    for channels in (1, 3):
        assert read(image, 28, channels, kind).min() >= 250


def test_a_palette_is_looked_up():
    image = Image.new("P", (28, 28), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert read(image)[:, 5, 5].tolist() == [10, 20, 30]
    assert read(image, transparency=1).max() == 0


def test_an_image_is_turned_as_its_camera_was():
    pixels = np.zeros((56, 56), np.uint8)
    pixels[:28, :28] = 255  # at the top left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right: the top left becomes the top right
    found = read(Image.fromarray(pixels), 28, 1, "jpeg", exif=exif)[0]
    assert found[:12, 16:].min() > 240
    assert found[:12, :12].max() < 15


def test_of_an_animation_the_first_picture_is_taken():
    frames = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")]
    assert read(frames[0], save_all=True, append_images=frames[1:])[:, 0, 0].tolist() == [255, 0, 0]


def test_classes_and_files_are_in_sorted_order_and_nested_folders_belong_to_their_class(folder, tmp_path):
    (folder / "dark" / "more" / "deeper").mkdir(parents=True)
    (folder / "dark" / "more" / "deeper" / "x.PNG").write_bytes(file_of(Image.new("L", (9, 9), 77)))
    for name in ("Thumbs.db", "notes.txt", "png", ".hidden.png", "more/.DS_Store"):
        (folder / "dark" / name).write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    (folder / ".git").mkdir()
    (folder / "empty").mkdir()
    listing = list_images(folder)
    assert listing.classes == ["bright", "dark"]
    assert listing.files == sorted(listing.files)
    assert listing.labels == [int(file.startswith("dark")) for file in listing.files]
    found = images_of(folder, tmp_path)
    assert found.images.shape == (121, 3, 28, 28)
    assert found.images[listing.files.index("dark/more/deeper/x.PNG")].unique().tolist() == [77]
    means = found.images.double().mean((1, 2, 3))
    assert means[found.labels == 0].min() > 140
    assert means[found.labels == 1].max() < 110


def test_an_image_stays_on_its_side_when_others_come_and_go_and_under_another_name(folder, tmp_path):
    def sides():
        listing, found = list_images(folder), images_of(folder, tmp_path)
        contents = [hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in listing.files]
        return dict(zip(contents, found.is_test.tolist(), strict=True))

    before = sides()
    (folder / "dark" / "0.png").rename(folder / "dark" / "zzz.png")
    (folder / "bright" / "1.jpeg").unlink()
    (folder / "bright" / "new.png").write_bytes(file_of(noise(9, 9, 3)))
    (folder / "bright" / "twice.png").write_bytes((folder / "bright" / "3.png").read_bytes())
    after = sides()
    assert len(before.keys() & after.keys()) == 119
    assert all(before[content] == after[content] for content in before.keys() & after.keys())
    assert 5 < sum(before.values()) < 40  # of 120, 20 are expected


def test_a_folder_is_read_once_until_it_changes(folder, tmp_path):
    first = images_of(folder, tmp_path)
    (cached,) = (tmp_path / "cache").glob("*.safetensors")
    written = cached.stat().st_mtime_ns
    again = images_of(folder, tmp_path)
    assert cached.stat().st_mtime_ns == written
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    images_of(folder, tmp_path, 32)
    images_of(folder, tmp_path, 28, 1)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    (folder / "dark" / "0.png").write_bytes(file_of(Image.new("RGB", (30, 30), "red")))
    changed = images_of(folder, tmp_path)
    assert (changed.images != first.images).any((1, 2, 3)).sum() == 1
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3  # none is left over
    cached.write_bytes(cached.read_bytes()[:-7])
    assert torch.equal(images_of(folder, tmp_path).images, changed.images)


def test_several_processes_at_once_read_once(folder, tmp_path, at_once):
    setup = "from pathlib import Path\nfrom gan_core.image_folder import list_images, read_images"
    call = f"read_images(list_images(Path({str(folder)!r})), 28, 1, Path({str(tmp_path / 'cache')!r}))"
    at_once(3, setup, f"assert len({call}.images) == 120")
    assert [path.suffix for path in sorted((tmp_path / "cache").iterdir())] == [".lock", ".safetensors"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot identify image file"),
        (b"no image", "cannot identify image file"),
        (file_of(noise(60, 60, 3))[:-600], "truncated"),
        (file_of(noise(60, 60, 3), "jpeg")[:-600], "truncated"),
        (file_of(noise(60, 60, 3), "gif"), "cannot identify image file"),
        (file_of(Image.new("1", (20_000, 9_000))), "decompression bomb"),
        (file_of(Image.new("1", (10_000, 9_000))), "decompression bomb"),
    ],
    ids=["empty", "text", "cut-png", "cut-jpeg", "gif", "bomb", "half-a-bomb"],
)
def test_files_that_cannot_be_read_are_named_and_counted(folder, tmp_path, content, why):
    for number in range(5):
        (folder / "dark" / f"bad {number} 猫.png").write_bytes(content)
    said = refusal(folder, tmp_path)
    assert said.startswith(f"5 of the 125 files of {folder} cannot be read as PNG or JPEG: dark/bad 0 猫.png (")
    assert why in said
    assert "bad 2" in said
    assert "bad 3" not in said
    assert not list((tmp_path / "cache").glob("*.safetensors"))


@given(st.data())
def test_a_file_that_is_cut_off_is_read_whole_or_refused(data):
    kind = data.draw(st.sampled_from(["png", "jpeg"]))
    content = file_of(Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)), kind)
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    try:
        found = pixels_of(cut, 32, 3)
    except Exception:
        return
    # Nothing of the picture stood in what is missing: only a mark of its end.
    assert (found == pixels_of(content, 32, 3)).all()
    assert len(content) - len(cut) <= 24


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "No such file or directory"),
        (lambda folder: (folder.rename(folder.with_name("elsewhere")), folder.write_text("")), "Not a directory"),
        (lambda folder: (folder / "dark").rename(folder.with_name("dark")), "two class folders or more .* it has 1"),
        (lambda folder: (folder / "x.png").write_bytes(b""), "x.png lies beside the class folders"),
        (lambda folder: (folder / "dark" / "x.webp").write_bytes(b""), "x.webp is neither PNG nor JPEG"),
        (lambda folder: (folder / "dark" / "x.png").symlink_to("gone.png"), "No such file or directory.*x.png"),
        (lambda folder: (folder / "class").symlink_to("gone"), "No such file or directory.*class"),
        (lambda folder: (folder / "dark" / "x").symlink_to(folder), "x is a link to a folder"),
        (lambda folder: os.mkfifo(folder / "dark" / "x.png"), "is called an image and is no file"),
        (lambda folder: (folder / "dark" / "x.png").mkdir(), None),
    ],
)
def test_what_is_no_folder_of_classes_is_refused_in_one_line(folder, tmp_path, spoil, why):
    spoil(folder)
    if why is None:
        assert len(list_images(folder).files) == 120  # a folder of that name is a folder
        return
    with pytest.raises(UserError, match=why):
        list_images(folder)
    assert str(folder) in refusal(folder, tmp_path)


def test_a_file_that_cannot_be_read_and_a_data_folder_that_is_a_file_are_refused(folder, tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(UserError, match=r"cannot use the data folder .*data/folders"):
        ImageFolder(f"folder:{folder}").load(tmp_path / "data")
    (folder / "dark" / "0.png").unlink()
    (folder / "dark" / "0.png").symlink_to("/proc/self/mem")  # nobody can read it, root neither
    assert "dark/0.png" in refusal(folder, tmp_path)


def test_links_to_files_and_to_class_folders_are_followed(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "dark ones").symlink_to(folder / "dark")
    (other / "猫 and 犬").mkdir()
    (other / "猫 and 犬" / "a b.png").symlink_to(folder / "bright" / "0.png")
    assert list_images(other).classes == ["dark ones", "猫 and 犬"]
    found = images_of(other, tmp_path)
    assert torch.equal(
        found.images[-1], images_of(folder, tmp_path).images[list_images(folder).files.index("bright/0.png")]
    )


def test_as_an_image_set_it_has_its_training_images_and_two_splits(folder, tmp_path):
    found = load_images(ImageKey(f"folder:{folder}", 32, 1), tmp_path)
    train, test = found.splits["train"], found.splits["test"]
    assert found.images.shape == (len(train.labels), 1, 32, 32)
    assert torch.equal(found.images, train.images)
    assert len(train.labels) + len(test.labels) == 120
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == {0, 1}
    assert (found.name, found.source) == (f"folder:{folder}", str(folder))
    assert (
        found.digest == found.folder_digest == hashlib.sha256(bytes(found.images.flatten().tolist())).hexdigest()[:32]
    )
    assert load_images(f"folder:{folder}", tmp_path).images.shape[1:] == (3, 28, 28)  # as usual
    assert image_set(f"folder:{folder}").where(tmp_path / "nowhere") == "120 images of 2 classes, 28×28, in colour"
    assert not (tmp_path / "nowhere").exists()


def test_a_class_without_a_test_image_is_refused(folder, tmp_path):
    listing, found = list_images(folder), images_of(folder, tmp_path)
    for file, label, is_test in zip(listing.files, listing.labels, found.is_test.tolist(), strict=True):
        if is_test and label:
            (folder / file).unlink()
    with pytest.raises(UserError, match="has no test image of the class 'dark'"):
        load_images(f"folder:{folder}", tmp_path)


def test_a_batch_that_cannot_fit_is_refused_before_anything_is_read(folder):
    for file in folder.rglob("*.png"):
        file.write_bytes(b"not read")
    ImageFolder(f"folder:{folder}").check(120)
    with pytest.raises(UserError, match=f"batch_size should be at most 120, the images of folder:{folder}, got 121"):
        ImageFolder(f"folder:{folder}").check(121)


def test_a_batch_of_more_than_the_training_images_is_refused(folder, tmp_path):
    data = load_images(f"folder:{folder}", tmp_path)
    count = len(data.images)
    data.check_batch(count)
    with pytest.raises(UserError, match=f"at most {count}, the training images of folder:{folder}, got {count + 1}"):
        data.check_batch(count + 1)


def test_a_long_reading_is_told(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "TELL_EVERY", 0.0)
    images_of(folder, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"reading {folder}: 1 of 120, about ")
    assert lines[-1].startswith(f"reading {folder}: 119 of 120, about ")
    assert images_of(folder, tmp_path)
    assert not capsys.readouterr().err


def test_nothing_is_warned_of(folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images_of(folder, tmp_path)
