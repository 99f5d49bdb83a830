import os
import resource
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.conftest import FAIR, Plugin, Run, bash, draw, lines, write_lines
from vpctl.errors import RecordFailed, UserError
from vpctl.images.pictures import MAX_PIXELS, Pictures, save

RED, BLUE = (220, 40, 40), (40, 80, 220)


def reason(folder: Path, name: str, *, roots: tuple[Path, ...] = ()) -> str:
    """Why a picture cannot be opened, without its path."""
    path = str(folder / name)
    with pytest.raises(RecordFailed) as raised:
        Pictures(map(str, roots or (folder,))).open(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


def opened(folder: Path, name: str) -> Image.Image:
    picture = Pictures([str(folder)]).open(str(folder / name))
    assert picture.mode == "RGB"
    return picture


def two_halves() -> Image.Image:
    """A picture of 6 × 4 pixels: red on the left, blue on the right."""
    picture = Image.new("RGB", (6, 4), RED)
    picture.paste(BLUE, (3, 0, 6, 4))
    return picture


def test_a_picture_comes_as_it_is(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8))
    noise.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(opened(tmp_path, "a.png")), np.asarray(noise))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, mode: str) -> None:
    layer = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 0))
    layer.putpixel((2, 0), (0, 0, 0, 128))
    form = "TIFF" if mode == "PA" else "PNG"
    (layer if mode == "RGBA" else layer.convert(mode)).save(tmp_path / "a", format=form)
    black, white, grey = (opened(tmp_path, "a").getpixel((x, 0)) for x in range(3))
    assert (black, white) == ((0, 0, 0), (255, 255, 255))
    assert grey == (127, 127, 127)


def test_a_transparent_colour_of_a_palette_lies_on_white_too(tmp_path: Path) -> None:
    flat = two_halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    clear = flat.getpixel((0, 0))
    flat.save(tmp_path / "a.png", transparency=clear)
    picture = opened(tmp_path, "a.png")
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((5, 0)) == BLUE


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_as_its_camera_says(tmp_path: Path, orientation: int) -> None:
    upright = two_halves()
    stored: Image.Image = upright
    for turn in {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    picture = opened(tmp_path, "a.png")
    assert picture.size == (6, 4)
    assert np.array_equal(np.asarray(picture), np.asarray(upright))


def test_grey_bits_and_palettes_become_colours(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 100).save(tmp_path / "grey.png")
    assert opened(tmp_path, "grey.png").getpixel((0, 0)) == (100, 100, 100)
    Image.new("1", (2, 2), 1).save(tmp_path / "bits.png")
    assert opened(tmp_path, "bits.png").getpixel((0, 0)) == (255, 255, 255)
    two_halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=2).save(tmp_path / "palette.png")
    assert opened(tmp_path, "palette.png").getpixel((5, 3)) == BLUE
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red, green, blue = np.asarray(opened(tmp_path, "print.jpg"))[0, 0]
    assert red > 200 > 60 > max(green, blue)


def test_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    """Pillow's own conversion would turn every value above 255 white."""
    shades = np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    assert [pixel[0] for pixel in np.asarray(opened(tmp_path, "deep.png"))[0]] == [0, 0x40, 0x80, 0xFF]


def test_what_is_no_picture_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("a red circle\n")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path, "text.png") == "not a picture"
    assert reason(tmp_path, "empty.png") == "not a picture"
    for other in ("folder.png", "pipe.png"):
        assert reason(tmp_path, other) == "is not a file"
    for missing in ("none.png", "a\0b.png", "x" * 300 + ".png"):
        assert reason(tmp_path, missing) == "there is no such picture"


def test_a_picture_that_may_not_be_read_is_told_as_that(tmp_path: Path, forked: Run, plugin: Plugin) -> None:
    plugin("fair", FAIR)
    (record,) = draw(tmp_path, prompts=1, each=1)
    (tmp_path / record["file_name"]).chmod(0)
    ended = forked("annotate", "metadata.jsonl", "--annotator", "./fair.py", "--aspect", "fidelity", "-q")
    path = tmp_path / record["file_name"]
    assert ended == (3, "", f"vpctl annotate: warning: {record['prompt']!r}: {path}: permission denied\n")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_half_a_picture_is_none(tmp_path: Path, form: str, kept: float) -> None:
    whole = tmp_path / "whole"
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(whole, format=form)
    data = whole.read_bytes()
    (tmp_path / "half").write_bytes(data[: int(kept * len(data))])
    assert reason(tmp_path, "half").startswith(("cannot be decoded: ", "not a picture"))


def test_whatever_the_bytes_are_a_picture_opens_or_fails(tmp_path: Path) -> None:
    """Decoders raise many types of exceptions on a broken file. None of them may end a run."""
    chance = Random(0)
    forms = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TGA", "DDS"]
    whole = []
    for form in forms:
        ImageOps.fit(two_halves(), (24, 18)).save(tmp_path / form, format=form)
        whole.append((tmp_path / form).read_bytes())
    pictures, ends = Pictures([str(tmp_path)]), {"opened": 0, "failed": 0}
    for _ in range(600):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.choice([1, 2, 5, 20])):
            data[chance.randrange(min(len(data), chance.choice([40, 200, 10_000])))] = chance.randrange(256)
        (tmp_path / "a").write_bytes(data)
        try:
            ends["opened" if pictures.open(str(tmp_path / "a")).mode == "RGB" else "wrong"] += 1
        except RecordFailed:
            ends["failed"] += 1
    assert min(ends.values()) > 80, ends


def png_of(width: int, height: int) -> bytes:
    """A PNG file that states this size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def within(memory: int, work: Callable[[], object]) -> None:
    """Run `work` with at most `memory` bytes of address space more than the process uses now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, before[1]))
    try:
        work()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (MAX_PIXELS + 1, 1), (1 << 14, (1 << 12) + 1)])
def test_a_huge_picture_is_refused_before_anything_is_set_aside_for_it(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "huge.png").write_bytes(png_of(width, height))

    def refused() -> None:
        said = f"{width} × {height} pixels is too large; the maximum is {MAX_PIXELS} in total"
        assert reason(tmp_path, "huge.png") == said

    within(100 << 20, refused)


def test_a_picture_of_the_largest_size_opens_without_a_word(tmp_path: Path) -> None:
    Image.new("1", (1 << 13, MAX_PIXELS >> 13)).save(tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as large:
        assert large.width * large.height == MAX_PIXELS
    assert opened(tmp_path, "large.png").size == (1 << 13, MAX_PIXELS >> 13)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, beside the folder of the records. The records' folder is the working directory."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own-too").mkdir()
    monkeypatch.chdir(tmp_path / "own")
    two_halves().save(tmp_path / "own-too" / "a.png")
    two_halves().save(tmp_path / "own" / "a.png")
    return tmp_path / "own-too"


def test_no_way_leads_out_of_the_folders_that_are_allowed(tmp_path: Path, outside: Path) -> None:
    own = tmp_path / "own"
    (own / "link.png").symlink_to(outside / "a.png")
    (own / "folder").symlink_to(outside)
    for way in ("../own-too/a.png", str(outside / "a.png"), "link.png", "folder/a.png", "folder/../own-too/a.png"):
        said = reason(own, way)
        assert said == "is outside the allowed folders", way
        Pictures([str(own), str(outside)]).open(str(own / way))
    assert reason(own, "/etc/passwd") == "is outside the allowed folders"


def test_links_within_the_folders_and_links_to_them_are_followed(tmp_path: Path, outside: Path) -> None:
    own = tmp_path / "own"
    (own / "inner.png").symlink_to("a.png")
    (tmp_path / "alias").symlink_to(own)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Pictures([str(elsewhere)]).open(str(own / "inner.png"))  # the working directory is always allowed
    Pictures([str(tmp_path / "alias")]).open(str(tmp_path / "alias" / "a.png"))
    assert reason(elsewhere, str(outside / "a.png")).startswith("is outside")


def test_root_allows_a_folder_on_the_command_line(tmp_path: Path, outside: Path, forked: Run, plugin: Plugin) -> None:
    plugin("fair", FAIR)
    own = tmp_path / "own"
    record = {
        "prompt": "x",
        "prompt_id": "p",
        "image_id": "i",
        "file_name": f"{outside}/a.png",
        "model": "m",
        "seed": 0,
    }
    write_lines(own / "in.jsonl", [record])
    refused = forked("annotate", "in.jsonl", "--annotator", "../fair.py", "--aspect", "fidelity", cwd=own)
    assert (refused.code, refused.out) == (3, "")
    assert f"{outside}/a.png: is outside the allowed folders\n" in refused.err
    assert f"1 picture is outside the allowed folders; add --root {outside}\n" in refused.err
    allowed = forked(
        "annotate", "in.jsonl", "--annotator", "../fair.py", "--aspect", "fidelity", "--root", outside, cwd=own
    )
    assert allowed.code == 0
    assert lines(allowed.out)[0]["file_names"] == ["../own-too/a.png"]


def test_a_picture_is_saved_whole_in_folders_that_need_not_be_there(tmp_path: Path) -> None:
    path = tmp_path / "ab" / "cd" / "a.png"
    save(two_halves(), str(path))
    assert np.array_equal(np.asarray(opened(path.parent, "a.png")), np.asarray(two_halves()))
    assert os.listdir(path.parent) == ["a.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_a_picture_that_could_not_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    path = tmp_path / "a.png"
    save(two_halves(), str(path))
    before = path.read_bytes()

    def half(self: Image.Image, to: str, **_: object) -> None:
        Path(to).write_bytes(b"\x89PNG half")
        raise error

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(error):
        save(two_halves(), str(path))
    assert os.listdir(tmp_path) == ["a.png"]
    assert path.read_bytes() == before


def test_a_picture_that_cannot_be_saved_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as raised:
        save(two_halves(), f"{tmp_path}/file/a.png")
    assert str(raised.value) == f"{tmp_path}/file/a.png: file exists"
    (tmp_path / "plain.py").write_text(
        "from PIL import Image\n\n\ndef load(argument, *, device):\n"
        "    return lambda prompts, seeds, settings: [Image.new('RGB', (200, 200)) for _ in prompts]\n"
    )
    ended = bash("printf 'a red circle' | vpctl generate - -m ./plain.py --folder /dev/full/images", tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "vpctl generate: error: /dev/full/images: not a directory\n"


def test_what_a_killed_run_left_of_a_picture_goes_when_it_is_saved(tmp_path: Path) -> None:
    (tmp_path / "a.png.part").write_bytes(b"half" * 1000)
    save(Image.new("RGB", (2, 2)), str(tmp_path / "a.png"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}
    with Image.open(tmp_path / "a.png") as opened:
        opened.load()


def test_two_that_save_one_picture_wait_for_each_other(tmp_path: Path) -> None:
    pictures = [Image.effect_noise((200, 200), 9).convert("RGB") for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: save(one, str(tmp_path / "a.png")), pictures))
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.tobytes() in [one.tobytes() for one in pictures]
