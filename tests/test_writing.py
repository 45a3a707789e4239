"""Writing a file: whole or not at all, through links, and straight to what is no file."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from vlm_evals import records

from vlm_heads import stored

Write = Callable[[Path, bytes], None]
BOTH = pytest.mark.parametrize("write", [records.write_whole, stored.write_whole], ids=["evals", "heads"])


@BOTH
def test_a_new_file_and_an_old_one(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "report.json"
    write(path, b"one")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"one", 0o644)
    path.chmod(0o600)
    write(path, b"two")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@BOTH
def test_a_link_stays_and_its_file_is_written(tmp_path: Path, write: Write) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    link.symlink_to(Path("there") / "file")
    for content in (b"through a link to nothing", b"through a link to a file"):
        write(link, content)
        assert link.is_symlink()
        assert not target.is_symlink()
        assert target.read_bytes() == content
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]


@BOTH
def test_a_pipe_is_written_to_and_stays(tmp_path: Path, write: Write) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe, b"content")
    reader.join()
    assert read == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@BOTH
def test_an_open_file_by_its_number_is_written_to(tmp_path: Path, write: Write) -> None:
    with (tmp_path / "out").open("wb") as out:
        inode = os.fstat(out.fileno()).st_ino
        write(Path(f"/dev/fd/{out.fileno()}"), b"content")
    assert (tmp_path / "out").read_bytes() == b"content"
    assert (tmp_path / "out").stat().st_ino == inode


@BOTH
def test_a_device_stays_a_device(write: Write) -> None:
    leader, follower = os.openpty()
    try:
        write(Path(os.ttyname(follower)), b"content")
        assert os.read(leader, 100) == b"content"
        assert stat.S_ISCHR(os.stat(os.ttyname(follower)).st_mode)
    finally:
        os.close(leader)
        os.close(follower)


@BOTH
def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, write: Write) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "none" / "file", tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match=r"folder|file|x"):
            write(path, b"content")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="loop"):
        write(loop, b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "loop"]


@BOTH
def test_the_longest_name_there_is(tmp_path: Path, write: Write) -> None:
    path = tmp_path / ("x" * 255)
    write(path, b"content")
    assert path.read_bytes() == b"content"
