import os
from pathlib import Path

import pytest

from vpctl import progress
from vpctl.errors import RecordFailed, UserError
from vpctl.images.folders import Folders, mark, may_be_root


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "own")
    progress.begin("vpctl test", quiet=False)
    return tmp_path / "own"


def test_the_hint_comes_once_and_helps_all(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own.parent / "a").mkdir()
    folders = Folders([str(own)])
    for name in ("a/b/1.png", "a/c/2.png"):
        with pytest.raises(RecordFailed, match="is outside the allowed folders"):
            folders.find(str(own.parent / name))
    progress.flush_warnings()
    progress.flush_warnings()
    assert capsys.readouterr().err == (
        f"vpctl test: warning: 2 pictures are outside the allowed folders; add --root {own.parent}/a\n"
    )


def test_a_folder_that_does_not_exist_is_not_suggested(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = Folders([str(own)])
    with pytest.raises(RecordFailed, match=r"is outside the allowed folders$"):
        folders.find(f"{own.parent}/gone/1.png")
    progress.flush_warnings()
    assert capsys.readouterr().err == (
        f"vpctl test: warning: 1 picture is outside the allowed folders; there is no folder {own.parent}/gone; "
        "correct the file names in the records\n"
    )


@pytest.mark.parametrize("name", ["none.png", "../none.png"])
def test_the_first_missing_picture_of_a_pipe_tells_what_names_are_relative_to(own: Path, name: str) -> None:
    way_out = "; file names on a pipe are relative to the working directory; name the file instead of -"
    piped = Folders([str(own)], piped=True)
    for end in (way_out, ""):
        with pytest.raises(RecordFailed, match=rf"(no such picture|allowed folders){end}$"):
            piped.find(str(own / name))
    with pytest.raises(UserError, match=f"{way_out}$"):
        Folders([str(own)], piped=True).check([str(own / name)])
    with pytest.raises(UserError) as raised:
        Folders([str(own)]).check([str(own / name)])
    assert "pipe" not in str(raised.value)


def test_a_missing_picture_after_one_that_was_found_says_nothing_of_pipes(own: Path) -> None:
    (own / "there.png").touch()
    folders = Folders([str(own)], piped=True)
    folders.find(str(own / "there.png"))
    with pytest.raises(RecordFailed, match=r"there is no such picture$"):
        folders.find(str(own / "none.png"))


def test_all_faults_are_known_before_anything_is_loaded(own: Path) -> None:
    with pytest.raises(UserError) as raised:
        Folders([str(own)]).check([str(own / "none.png"), "/etc/passwd", "/etc/passwd", "/etc/group"])
    assert str(raised.value).startswith(f"{own}/none.png: there is no such picture, and 2 more cannot be read; move ")


@pytest.mark.parametrize("folder", ["/", "/etc", "/etc/ssl", "/root", "/home", "/home/u", "/tmp", "/usr/share", "/var"])
def test_no_hint_opens_the_system_or_a_home(folder: str) -> None:
    assert not may_be_root(folder)
    assert not may_be_root(os.path.join(folder, ".ssh"))


@pytest.mark.parametrize("folder", ["/data", "/home/u/pictures", "/tmp/run", "/mnt/disk/images"])
def test_a_hint_may_name_a_folder_of_a_user(folder: str) -> None:
    assert may_be_root(folder)


def test_pictures_of_generate_are_read_wherever_they_lie_and_nothing_else_there(own: Path) -> None:
    drawn = own.parent / "drawn"
    picture = drawn / "ab" / f"ab{'0' * 14}.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("")
    (drawn / "ab" / "mine.png").write_text("")
    (own / "images").symlink_to(drawn)
    folders = Folders([str(own)])
    linked = own / "images" / "ab" / picture.name
    with pytest.raises(RecordFailed):
        folders.find(str(linked))
    mark(str(drawn))
    assert folders.find(str(linked)).path == folders.find(str(picture)).path == str(picture)
    with pytest.raises(RecordFailed):
        folders.find(str(drawn / "ab" / "mine.png"))
    picture.unlink()
    picture.symlink_to("/etc/passwd")
    with pytest.raises(RecordFailed):
        folders.find(str(linked))


def test_ten_warnings_of_a_kind_then_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    progress.begin("vpctl test", quiet=True)
    for number in range(12):
        progress.warn_each("pictures", f"{number}")
    progress.warn_each("others", "one")
    progress.flush_warnings()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 12
    assert said[-1] == "vpctl test: warning: … and 2 more pictures"


def test_a_link_that_takes_the_place_of_a_folder_during_the_run_is_soon_seen(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("vpctl.images.folders.time.monotonic", lambda: now)
    for folder in (own / "pictures", own.parent / "others"):
        folder.mkdir()
        (folder / "a.png").write_text("")
    folders = Folders([str(own)])
    assert folders.find(str(own / "pictures" / "a.png")).path == str(own / "pictures" / "a.png")
    (own / "pictures").rename(own / "moved")
    (own / "pictures").symlink_to(own.parent / "others")
    now += 1.5
    with pytest.raises(RecordFailed, match="is outside the allowed folders"):
        folders.find(str(own / "pictures" / "a.png"))
