"""Tell damaged files of a run from undamaged ones, by checksums beside the files or inside a file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from dps_pyro.storage import atomic_path, checksums, not_as_written, parse_json, strict_json

__all__ = ["SEAL", "broken_seal", "check_text", "seal", "seal_run", "sealed_text"]

SEAL = "checksums.json"
"""The file with the checksums of the others beside it."""

_NOT_SEALED = ("tensorboard", "wandb", "figures", "config.yaml", SEAL)
"""What a run's seal leaves out: what others write, what is drawn again for a report, and the configuration, which has a
checksum of its own."""

_LINE = re.compile(r"# sha256 of the lines above: ([0-9a-f]{64})\n?\Z")


def seal(folder: Path, *files: Path) -> None:
    """Write the checksums of these files of `folder`, or of all its files, to its `checksums.json`, atomically."""
    found = files or tuple(file for file in folder.rglob("*") if file.is_file() and file.name != SEAL)
    with atomic_path(folder / SEAL) as aside:
        aside.write_text(strict_json(checksums(folder, found), indent=1) + "\n", encoding="utf-8")


def seal_run(folder: Path) -> None:
    """Write the checksums of a finished run: the last thing that the run does, so that a run with a whole seal is
    complete."""
    files = (file for file in folder.rglob("*") if file.is_file())
    kept = (file for file in files if file.relative_to(folder).parts[0] not in _NOT_SEALED)
    seal(folder, *(file for file in kept if not file.name.startswith(".")))


def broken_seal(folder: Path, *drawn: str) -> str | None:
    """Return the name of a file in `folder` that has changed since the folder was sealed. It may be the seal itself.
    The result is None if every file is undamaged. Files that are `drawn` again are not checked.

    Raises:
        PermissionError: a file may not be read, so that it cannot be checked.
    """
    try:
        sums = parse_json((folder / SEAL).read_text(encoding="utf-8"))
    except PermissionError:
        raise
    except (OSError, ValueError):
        return SEAL
    if not isinstance(sums, dict) or not sums:
        return SEAL
    return not_as_written(folder, {name: known for name, known in sums.items() if name not in drawn})


def sealed_text(text: str) -> str:
    """Append a line to the text, a comment with the checksum of the lines above it."""
    body = text if text.endswith("\n") or not text else text + "\n"
    return f"{body}# sha256 of the lines above: {hashlib.sha256(body.encode()).hexdigest()}\n"


def check_text(path: Path) -> None:
    """Check a file that was written with `sealed_text`.

    Raises:
        ValueError: the file has changed since it was written: it is damaged, or was edited by hand.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    text = content.decode("utf-8", errors="replace")
    found = _LINE.search(text)
    body = text[: found.start()] if found else ""
    if found is None or hashlib.sha256(body.encode()).hexdigest() != found[1]:
        raise ValueError(
            f"{path} is not what the run wrote: it is damaged, or was changed by hand. Give the settings that are "
            f"meant as options, or, where the file is right as it is, with --config {path}"
        )
