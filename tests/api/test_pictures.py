"""Encoding pictures for a server."""

import base64
import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image

from vpctl.api.pictures import MAX_UNCHANGED_BYTES, Encoder
from vpctl.configs import PictureConfig
from vpctl.errors import RecordFailed
from vpctl.images.pictures import Pictures

RED = (220, 40, 40)


def encoded(path: Path, **how: Any) -> tuple[str, bytes, tuple[int, int]]:
    """Media type and bytes of the picture that is sent, and the size that is reported for it."""
    found = Encoder(PictureConfig(**how), str(path.parent))(Pictures([str(path.parent)]).open(str(path)), str(path))
    part = orjson.loads(found.part)
    assert part["type"] == "image_url"
    kind, _, content = part["image_url"]["url"].partition(";base64,")
    return kind, base64.b64decode(content), (found.width, found.height)


@pytest.mark.parametrize(("form", "kind"), [("PNG", "png"), ("JPEG", "jpeg")])
def test_a_small_file_of_a_known_format_is_sent_as_it_is(tmp_path: Path, form: str, kind: str) -> None:
    path = tmp_path / "a.img"
    Image.effect_noise((60, 40), 50).convert("RGB").save(path, format=form)
    assert encoded(path) == (f"data:image/{kind}", path.read_bytes(), (60, 40))


def test_a_webp_is_sent_as_a_jpeg(tmp_path: Path) -> None:
    """Some servers drop a WebP without a word."""
    path = tmp_path / "a.webp"
    Image.new("RGB", (60, 40), RED).save(path)
    kind, content, size = encoded(path)
    assert (kind, size) == ("data:image/jpeg", (60, 40))
    assert decoded(content).size == (60, 40)


def decoded(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "JPEG"
    assert picture.mode == "RGB"
    return picture


def near(pixel: object, colour: tuple[int, int, int]) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(one - other) <= 6 for one, other in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM"])
def test_a_small_file_of_another_format_is_made_a_jpeg(tmp_path: Path, form: str) -> None:
    Image.new("RGB", (20, 10), RED).save(tmp_path / "a", format=form)
    kind, content, size = encoded(tmp_path / "a")
    assert (kind, size) == ("data:image/jpeg", (20, 10))
    assert near(decoded(content).getpixel((5, 5)), RED)


def test_what_the_file_says_otherwise_than_the_picture_is_not_sent_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), RED).save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("P", (20, 10)).save(tmp_path / "palette.png")
    Image.new("RGB", (20, 10), RED).save(tmp_path / "transparent.png", transparency=RED)
    Image.new("L", (20, 10)).save(tmp_path / "grey.png")
    Image.new("CMYK", (20, 10)).save(tmp_path / "print.jpg")
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    for path in tmp_path.iterdir():
        kind, content, size = encoded(path)
        assert kind == "data:image/jpeg", path.name
        assert size == decoded(content).size == ((10, 20) if path.name == "turned.png" else (20, 10))
    assert near(decoded(encoded(tmp_path / "clear.png")[1]).getpixel((5, 5)), (255, 255, 255))
    assert near(decoded(encoded(tmp_path / "transparent.png")[1]).getpixel((5, 5)), (255, 255, 255))


def test_a_file_of_many_bytes_is_made_a_jpeg_of_fewer(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((600, 400), 80).convert("RGB").save(path)
    assert path.stat().st_size > MAX_UNCHANGED_BYTES
    kind, content, size = encoded(path)
    assert (kind, size) == ("data:image/jpeg", (600, 400))
    assert len(content) < path.stat().st_size


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((200, 100), 100, (100, 50)),
        ((100, 200), 100, (50, 100)),
        ((101, 10), 100, (100, 10)),
        ((100, 100), 100, (100, 100)),
        ((2000, 3), 100, (100, 1)),
        ((200, 100), 0, (200, 100)),
    ],
)
def test_a_large_picture_is_made_smaller_and_never_larger(
    tmp_path: Path, size: tuple[int, int], most: int, expected: tuple[int, int]
) -> None:
    Image.new("RGB", size, RED).save(tmp_path / "a.png")
    _, content, said = encoded(tmp_path / "a.png", max_side=most)
    assert said == Image.open(io.BytesIO(content)).size == expected
    assert Encoder(PictureConfig(max_side=most), "").size(size) == expected


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("a.png", "https://host/pictures/a.png"),
        ("deep/a b.png", "https://host/pictures/deep/a%20b.png"),
        ("q?x=1#y&z.png", "https://host/pictures/q%3Fx%3D1%23y%26z.png"),
        ("100%.png", "https://host/pictures/100%25.png"),
        ("ü.png", "https://host/pictures/%C3%BC.png"),
    ],
)
def test_a_picture_may_be_named_by_a_url_instead(tmp_path: Path, name: str, url: str) -> None:
    encode = Encoder(PictureConfig(image_url="https://host/pictures/", max_side=8, detail="low"), str(tmp_path))
    found = encode(Image.new("RGB", (90, 30)), str(tmp_path / name))
    assert orjson.loads(found.part)["image_url"] == {"url": url, "detail": "low"}
    assert (found.width, found.height) == encode.size((90, 30)) == (90, 30), "the server gets it as it is"


def test_a_picture_that_no_jpeg_can_hold_is_told(tmp_path: Path) -> None:
    noise = Image.effect_noise((70_000, 10), 90).convert("RGB")
    noise.save(tmp_path / "long.png")
    with pytest.raises(RecordFailed, match="70000 × 10 pixels is too large for JPEG; shrink it with --max-side"):
        encoded(tmp_path / "long.png", max_side=0)


def test_what_a_server_fetches_is_another_picture_than_what_it_is_sent() -> None:
    by_url = Encoder(PictureConfig(image_url="https://a.example/"), "").identity
    assert by_url != Encoder(PictureConfig(), "").identity
    assert by_url == Encoder(PictureConfig(image_url="https://b.example/", max_side=512), "").identity


def test_a_picture_from_elsewhere_has_no_url(tmp_path: Path) -> None:
    encode = Encoder(PictureConfig(image_url="https://host/pictures/"), str(tmp_path / "records"))
    with pytest.raises(RecordFailed, match="has no URL below --image-url"):
        encode(Image.new("RGB", (9, 9)), str(tmp_path / "secret" / "a.png"))
