"""Every file of a run folder, damaged in five ways before the run is resumed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.torture.runs import begin, command, differences, finish, make_config, text_of

__all__ = ["WAYS", "damage_files"]


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(file.read_bytes() or b"\0")
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Remove the second half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    """Remove everything."""
    file.write_bytes(b"")


def replace(file: Path) -> None:
    """Put something else there."""
    file.write_bytes(b'{"a": [1, 2, 3]}\n')


WAYS: tuple[Callable[[Path], None], ...] = (flip, cut, empty, Path.unlink, replace)


def damage_files(
    folder: Path,
    say: Callable[[str], None],
    only: Iterable[str] | None = None,
    ways: Sequence[Callable[[Path], None]] = WAYS,
) -> dict[str, Any]:
    """Damage every file of a run that was killed, and of one that had ended, in five ways each, and resume.

    Left out is `tensorboard/`: a run writes its pictures and never reads them.

    The damage is *named* where the run is refused with one sentence that has the file's name or its folder's, or goes
    on and says it; it is *healed* where the run comes out as the one that nobody damaged.

    Args:
        folder: an empty folder to work in.
        say: is told of each file whose damage was neither.
        only: names of files, relative to the run; all of them if left out.
        ways: the ways of damage.

    Returns:
        How many cases were named and healed, by state of the run, and those that were neither.
    """
    folder.mkdir(parents=True)
    config = make_config(folder / "config.yaml", full_log=True, steps=4, checkpoint_every=1, report=False)
    straight, killed = folder / "straight", folder / "killed"
    if finish(begin(command(straight, config), folder / "straight.log")) != 0:
        raise RuntimeError(f"the run that nobody touched failed: {text_of(folder / 'straight.log')[-500:]}")
    process = begin(command(killed, config), folder / "killed.log")
    while not (killed / "checkpoints/step-000003").exists():
        pass
    process.kill()
    process.join()
    found: dict[str, Any] = {}
    for state, whole in (("killed", killed), ("ended", straight)):
        outcomes, wrong = Counter[str](), []
        for file in sorted(file for file in whole.rglob("[!.]*") if file.is_file()):
            name = str(file.relative_to(whole))
            if name.startswith("tensorboard/") or (only is not None and name not in only):
                continue
            for way in ways:
                outcome = _case(folder, whole, name, way, straight)
                outcomes[outcome.partition(":")[0]] += 1
                if not outcome.startswith(("named", "healed")):
                    wrong.append({"file": name, "way": way.__name__, "outcome": outcome})
                    say(f"{state}, {name}, {way.__name__}: {outcome}")
        found[state] = {"outcomes": dict(outcomes), "wrong": wrong}
    return found


def _case(folder: Path, whole: Path, name: str, way: Callable[[Path], None], straight: Path) -> str:
    run, log = folder / "run", folder / "run.log"
    shutil.copytree(whole, run)
    way(run / name)
    damaged = (run / name).read_bytes() if (run / name).exists() else None
    status = finish(begin(["train", "--resume", "--out", str(run)], log))
    still = damaged is not None and (run / name).exists() and (run / name).read_bytes() == damaged
    said = text_of(log)
    apart = differences(run, straight) if status == 0 else []
    mine = [part for part in apart if name not in part]
    shutil.rmtree(run)
    log.unlink()
    known = Path(name).name in said or str(Path(name).parent.name or name) in said.rpartition(str(run))[2]
    if "Traceback" in said:
        return f"traceback: {said[-300:]}"
    if status == 0 and not apart and not still:
        return "healed"
    if status == 0 and Path(name).name in said and not mine:
        return "named"
    if status == 2 and known and said.count("\n") <= 4:
        return "named"
    return f"silent: exit status {status}, apart in {apart[:3]}, said {said[-200:]!r}"
