"""Files: written whole or not at all, their bytes a function of their contents."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from d2e.ir import UsageError
from d2e.ir.nodes import Array

MANIFEST = "manifest.json"
MADE = ("target", "transfer")
"""What a manifest of d2e has one of: where a program runs, or how a student was made."""


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """An ``.npz`` whose bytes depend on nothing but the arrays (numpy's own carries the time of day)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(arrays):
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as file:
                array = np.asarray(arrays[key], order="C")
                np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)


def write_whole(path: Path, arrays: Mapping[str, Array]) -> None:
    """`write_npz`, whole or not at all.

    Raises:
        UsageError: D2E-FILE-011 where the file cannot be written.
    """
    with _whole(path) as partial:
        write_npz(partial, arrays)


def write_text(path: Path, text: str) -> None:
    """A text in UTF-8, whole or not at all.

    Raises:
        UsageError: D2E-FILE-011 where the file cannot be written.
    """
    with _whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well, and else is gone."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}.", delete=False) as file:
            partial = Path(file.name)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_folder(target: Path) -> None:
    """Raise unless a program may be written to ``target``.

    Raises:
        UsageError: D2E-FILE-010 where something is there that d2e did not make, D2E-FILE-011 where nothing can be
            written.
    """
    try:
        taken = target.exists() and not _ours(target)
        above = target.absolute().parent
        while not above.exists():
            above = above.parent
    except OSError as error:
        raise _unwritable(target, error) from None
    if taken:
        raise UsageError("D2E-FILE-010", f"{target} is there already and was not made by d2e",
                         hint="Choose another folder with -o.")
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise _unwritable(above)


def check_file(target: Path, suffix: str) -> None:
    """Raise unless a file may be written to ``target``, whose folder need not be there; leaves nothing behind.

    Raises:
        UsageError: D2E-FILE-001 for another suffix, D2E-FILE-011 where nothing can be written.
    """
    if target.suffix != suffix:
        raise UsageError("D2E-FILE-001", f"cannot write {str(target)!r}: it is a {suffix} file",
                         hint=f"Give -o a name that ends in {suffix}.")
    made: list[Path] = []
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        folder = target.absolute().parent
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(prefix=f".{target.name}.", suffix=".tmp", dir=folder).close()
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()


def _unwritable(path: Path, error: OSError | None = None) -> UsageError:
    why = f": {error.strerror or error}" if error else ""
    return UsageError("D2E-FILE-011", f"nothing can be written to {path}{why}",
                      hint="Choose another place, or make room there.")


def _ours(target: Path) -> bool:
    """Whether a folder is empty or d2e made it, told by its manifest (other tools have a manifest.json too)."""
    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"d2e", "files"} <= manifest.keys() and not manifest.keys().isdisjoint(MADE)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place when the block ends well, and else is gone.

    Raises:
        UsageError: D2E-FILE-010, -011, see `check_folder`.
    """
    check_folder(target)
    final = target.absolute()
    made = [p for p in (final.parent, *final.parent.parents) if not p.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    except OSError as error:
        raise _unwritable(final.parent, error) from None
    try:
        temporary.chmod(0o755)
        yield temporary
        if final.exists():
            _exchange(temporary, final)
        else:
            temporary.rename(final)
    except OSError as error:
        raise _unwritable(final, error) from None
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _exchange(new: Path, final: Path) -> None:
    """Put ``new`` in the place of ``final``, which then is gone; where that fails, it is back."""
    old = Path(tempfile.mkdtemp(prefix=f".{final.name}.old.", dir=final.parent))
    try:
        final.rename(old / "it")
        try:
            new.rename(final)
        except OSError:
            (old / "it").rename(final)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
