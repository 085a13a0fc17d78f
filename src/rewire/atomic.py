"""Files that are whole or not there: whoever is interrupted while writing leaves the old file behind."""

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_REASONS = {
    errno.ENOSPC: ("the disk is full", "Free some space, or give a path on another disk."),
    errno.EDQUOT: ("your disk quota is used up", "Free some space, or give a path on another disk."),
    errno.ENOENT: ("its folder does not exist", 'Create it with mkdir -p "{folder}", or give another path.'),
    errno.EACCES: ("you may not write to its folder", "Give a path in a folder of your own."),
}


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes the file at `path` with what `write` puts into the binary file that it is given.

    The content goes to a temporary file in the same folder, down to the disk, and takes the place of the old
    file in one move. After a crash, a kill or an error there is the old file or the new one, never a part of
    either. An error of the system becomes an OSError with the same `errno` that says what to do; any other is
    passed on. In both cases the temporary file is removed.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.bin"
    >>> atomic_write(path, lambda file: print(file.write(b"1 2 3")))
    5
    >>> path.read_bytes()
    b'1 2 3'
    """
    path = Path(os.path.realpath(path))  # a link stays a link, and the file that it leads to is replaced
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason, advice = _REASONS.get(error.errno or 0, (f"of this error: {error}", "Give another path."))
        kept = "The file that was there is untouched. " if path.exists() else ""
        raise OSError(
            error.errno,
            f"{path} was not written, because {reason}. {kept}{advice.format(folder=path.parent)}",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
