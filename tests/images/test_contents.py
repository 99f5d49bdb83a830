"""Small picture files are read whole, and what was read for later is not read again."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from vpctl.api.pictures import Encoder
from vpctl.configs import PictureConfig
from vpctl.images import contents as module
from vpctl.images.contents import AT_ONCE, Contents
from vpctl.images.folders import Folders, PictureFile
from vpctl.images.hashes import ContentHasher
from vpctl.images.pictures import FILE, SMALL, Pictures


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "a.png"
    Image.new("RGB", (30, 20), "red").save(made)
    return made


def found(file: Path) -> PictureFile:
    return Folders([str(file.parent)]).find(str(file))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order."""
    opened: list[str] = []
    read = module._read

    def noted(found: PictureFile) -> bytes | None:
        opened.append(Path(found.path).name)
        return read(found)

    monkeypatch.setattr(module, "_read", noted)
    return opened


def test_a_file_that_is_hashed_and_opened_is_read_once(file: Path, reads: list[str]) -> None:
    pictures = Pictures([str(file.parent)])
    ContentHasher(pictures, opened=True)(str(file))
    assert pictures.open(str(file)).info[FILE] == file.read_bytes()
    assert reads == ["a.png"]
    pictures.open(str(file))
    assert reads == ["a.png", "a.png"], "nothing is kept after its use"


def test_a_file_that_has_changed_is_read_again(file: Path, reads: list[str]) -> None:
    pictures = Pictures([str(file.parent)])
    ContentHasher(pictures, opened=True)(str(file))
    Image.new("RGB", (30, 20), "blue").save(file)
    assert pictures.open(str(file)).getpixel((0, 0)) == (0, 0, 255)
    assert len(reads) == 2


def test_a_file_that_grows_or_shrinks_after_it_was_found_is_read_to_its_end(file: Path) -> None:
    before, content = found(file), file.read_bytes()
    file.write_bytes(content + b"m" * 3000)
    assert Contents()(before, "a.png") == content + b"m" * 3000
    file.write_bytes(content[:10])
    assert Contents()(before, "a.png") == content[:10]
    file.write_bytes(bytes(AT_ONCE + 1))
    assert Contents()(before, "a.png") is None
    file.unlink()
    with pytest.raises(FileNotFoundError):
        Contents()(before, "a.png")


def test_a_large_file_is_not_read_at_once(file: Path) -> None:
    with file.open("ab") as more:
        more.truncate(AT_ONCE + 1)
    assert Contents()(found(file), "a.png") is None
    assert Pictures([str(file.parent)]).open(str(file)).size == (30, 20)


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 250)
    contents, files = Contents(), [tmp_path / name for name in "abc"]
    for one in files:
        one.write_bytes(one.name.encode() * 100)
        contents(found(one), one.name, for_later=True)
    assert [contents(found(one), one.name) for one in reversed(files)] == [b"c" * 100, b"b" * 100, b"a" * 100]
    assert reads == ["a", "b", "c", "a"]


@pytest.mark.parametrize("kind", ["palette", "turned", "large"])
def test_a_picture_that_is_not_shown_as_stored_does_not_carry_its_file(file: Path, kind: str) -> None:
    if kind == "palette":
        Image.new("P", (30, 20)).save(file)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (30, 20)).save(file, exif=exif)
    else:
        with file.open("ab") as more:
            more.truncate(SMALL + 1)
    assert FILE not in Pictures([str(file.parent)]).open(str(file)).info


def test_a_text_in_a_file_is_not_taken_for_its_content(file: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(FILE, "anything")
    Image.new("P", (30, 20)).save(file, pnginfo=text)
    assert FILE not in Pictures([str(file.parent)]).open(str(file)).info
    Image.new("RGB", (30, 20)).save(file, pnginfo=text)
    assert Pictures([str(file.parent)]).open(str(file)).info[FILE] == file.read_bytes()


def test_a_link_or_a_pipe_that_takes_the_place_of_a_file_is_not_read(file: Path) -> None:
    before, secret = found(file), file.with_name("secret")
    secret.write_text("x")
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        Contents()(before, "a.png")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(OSError, match="not a regular file"):  # nobody waits for a writer
        Contents()(before, "a.png")


def test_a_link_that_takes_the_place_of_a_large_file_is_not_read(file: Path) -> None:
    with file.open("ab") as more:
        more.truncate(AT_ONCE + 1)
    before = found(file)
    file.rename(file.with_name("secret"))
    file.symlink_to("secret")
    with pytest.raises(OSError, match="symbolic links"):
        Pictures([str(file.parent)]).stored(before, str(file))


def test_another_file_under_the_same_name_is_read(file: Path, reads: list[str]) -> None:
    """As after a link in its path has changed."""
    other = file.with_name("b.png")
    os.link(file, other)
    contents = Contents()
    contents(found(file), "a.png", for_later=True)
    assert contents(found(other), "a.png") == file.read_bytes()
    assert reads == ["a.png", "b.png"]


def shown(file: Path, max_side: int = 0) -> tuple[Image.Image | None, Image.Image]:
    """The picture as it is at hand after its file was hashed, and as it is opened."""
    pictures = Pictures([str(file.parent)])
    ContentHasher(pictures, opened=True)(str(file))
    return pictures.at_hand(str(file), max_side), pictures.open(str(file))


TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6
NOISE = Image.effect_noise((40, 30), 90)
RGB = NOISE.convert("RGB")


@pytest.mark.parametrize(
    ("picture", "how", "at_hand"),
    [
        (RGB, {"format": "PNG"}, True),
        (RGB, {"format": "JPEG"}, False),
        (RGB, {"format": "PNG", "exif": TURNED}, False),
        (RGB, {"format": "PNG", "transparency": (0, 0, 0)}, False),
        (RGB, {"format": "PNG", "save_all": True, "append_images": [RGB.rotate(90)]}, False),
        (RGB, {"format": "MPO", "save_all": True, "append_images": [RGB.rotate(90)]}, False),
        (RGB, {"format": "WEBP"}, False),
        (NOISE, {"format": "PNG"}, False),
        (NOISE.convert("P"), {"format": "PNG"}, False),
        (NOISE.convert("RGBA"), {"format": "PNG"}, False),
        (NOISE.convert("CMYK"), {"format": "JPEG"}, False),
        (Image.effect_noise((400, 400), 90).convert("RGB"), {"format": "PNG"}, False),
    ],
)
def test_what_is_at_hand_is_what_is_opened_and_sent(
    tmp_path: Path, picture: Image.Image, how: dict[str, Any], at_hand: bool
) -> None:
    file = tmp_path / "a.img"
    picture.save(file, **how)
    found, opened = shown(file)
    assert (found is not None) == at_hand
    if found:
        sent = [Encoder(PictureConfig(), "")(one, str(file)) for one in (found, opened)]
        assert sent[0] == sent[1]
        assert found.tobytes() == opened.tobytes()


def test_a_picture_is_at_hand_without_a_read_or_pixels_and_once(
    file: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures([str(file.parent)])
    assert pictures.at_hand(str(file)) is None, "it was not hashed"
    ContentHasher(pictures, opened=True)(str(file))
    monkeypatch.setattr(Image, "open", None)
    found = pictures.at_hand(str(file))
    assert found
    assert found.size == (30, 20)
    with pytest.raises(TypeError):  # there are no pixels yet
        found.load()
    assert pictures.at_hand(str(file)) is None
    assert reads == ["a.png"]


def test_a_picture_that_is_shrunk_is_not_at_hand(file: Path) -> None:
    assert shown(file, 29)[0] is None
    assert shown(file, 30)[0]


def test_a_picture_is_at_hand_as_it_was_hashed(file: Path) -> None:
    content, pictures = file.read_bytes(), Pictures([str(file.parent)])
    ContentHasher(pictures, opened=True)(str(file))
    Image.new("RGB", (30, 20), "blue").save(file)
    found = pictures.at_hand(str(file))
    assert found
    assert found.info[FILE] == content
    assert found.getpixel((0, 0)) == (255, 0, 0)


def test_only_who_opens_pictures_keeps_them(file: Path, reads: list[str]) -> None:
    pictures = Pictures([str(file.parent)])
    ContentHasher(pictures)(str(file))
    pictures.open(str(file))
    assert len(reads) == 2


def test_a_picture_with_such_a_text_is_encoded_like_any_other(file: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(FILE, "anything")
    Image.new("RGB", (30, 20)).save(file, pnginfo=text)
    with Image.open(file) as opened:
        opened.load()
        part = Encoder(PictureConfig(), "")(opened, str(file)).part
    assert b"data:image/jpeg" in part
