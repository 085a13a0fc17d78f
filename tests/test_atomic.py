"""A file is whole or not there, whatever happens while it is written."""

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from rewire.atomic import atomic_write


def full_disk(file: BinaryIO) -> None:
    file.write(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_writes_a_new_file_and_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    for content in (b"first", b"second"):
        atomic_write(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["model.bin"]


def test_holds_a_checkpoint(tmp_path: Path) -> None:
    state = {"step": 3, "weight": torch.randn(4, 5)}
    atomic_write(tmp_path / "checkpoint.pt", lambda file: torch.save(state, file))
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert loaded["step"] == 3
    assert torch.equal(loaded["weight"], state["weight"])


def test_the_file_can_be_read_by_whom_the_user_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        atomic_write(tmp_path / "model.bin", lambda file: file.write(b"x"))
    finally:
        os.umask(before)
    assert (tmp_path / "model.bin").stat().st_mode & 0o777 == 0o644


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to(tmp_path / "target.bin")
    atomic_write(tmp_path / "link.bin", lambda file: file.write(b"x"))
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "target.bin").read_bytes() == b"x"


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")

    def look(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    with path.open("rb") as old:
        atomic_write(path, look)
        assert old.read() == b"old"  # it was moved away whole, never overwritten
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_passes_and_leaves_the_old_file(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")

    def interrupted(file: BinaryIO) -> None:
        file.write(b"new")
        raise stop

    with pytest.raises(stop):
        atomic_write(path, interrupted)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk is full") as error:
        atomic_write(path, full_disk)
    assert error.value.errno == errno.ENOSPC
    assert error.value.strerror == (
        f"{path} was not written, because the disk is full. The file that was there is untouched. "
        "Free some space, or give a path on another disk."
    )
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_a_disk_that_is_full_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "model.bin"
    with pytest.raises(OSError, match="disk is full") as error:
        atomic_write(path, lambda file: file.write(b"new"))
    assert error.value.strerror == (
        f"{path} was not written, because the disk is full. Free some space, or give a path on another disk."
    )
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "model.bin"
    with pytest.raises(FileNotFoundError) as error:
        atomic_write(path, lambda file: file.write(b"x"))
    assert error.value.strerror == (
        f"{path} was not written, because its folder does not exist. "
        f'Create it with mkdir -p "{tmp_path / "runs"}", or give another path.'
    )


def test_any_other_error_of_the_system_says_which(tmp_path: Path) -> None:
    (tmp_path / "model.bin").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        atomic_write(tmp_path / "model.bin", lambda file: file.write(b"x"))
    assert "was not written, because of this error: [Errno 21] Is a directory" in error.value.strerror
    assert os.listdir(tmp_path) == ["model.bin"]
