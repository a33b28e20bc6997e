"""What a comparison runs: testbeds, arms and seeds, from one YAML file.

    seeds: [0, 1, 2, 3, 4]
    shared: {steps: 400, batch_size: 4, group_size: 8, eval_every: 50}
    testbeds:
      planning: {task: blocks, task_args: {blocks: [5, 6], moves: [5, 10]}}
    arms:
      uniform: {acquisition: uniform}
      dynamic sampling: {acquisition: uniform, dynamic_sampling: 0}
      ours: {dynamics: LogitWalk, acquisition: thompson}
    against: [uniform, dynamic sampling]

All but `seeds` and `against` are settings of a training run, as in its own configuration file. An arm's come before its
testbed's, and those before the shared ones. `against` names the arms whose final accuracy the others are to reach.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from dps_pyro.support.files.yaml_files import load_yaml
from dps_pyro.trainers.config.settings import TrainConfig

__all__ = ["Job", "Plan", "read_plan"]

_OWN = {"report": False, "threads": 1, "keep_best": False, "log_completions": 0, "checkpoint_every": 100}
"""Settings of a comparison's runs where the file does not say otherwise: one core each, and nothing to look at."""
_PARTS = ("seeds", "shared", "testbeds", "arms", "against")
_TAKEN = ("out", "seed", "resume", "compare")


class Job(NamedTuple):
    """One training run."""

    testbed: str
    arm: str
    seed: int
    settings: dict[str, Any]  # of `TrainConfig`, without the folder

    @property
    def slug(self) -> str:
        """A file name of its own: the names as far as they are letters and digits, and a digest of everything."""
        told = json.dumps([self.testbed, self.arm, self.settings], sort_keys=True)
        names = "-".join("".join(c if c.isalnum() else "-" for c in name) for name in (self.testbed, self.arm))
        return f"{names[:80]}-{self.seed}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


class Plan(NamedTuple):
    """A comparison."""

    jobs: tuple[Job, ...]  # by seed, then testbed, then arm: whole rounds end early
    testbeds: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    against: tuple[str, ...]  # arms, whose final accuracies are the targets


def read_plan(path: Path) -> Plan:
    """Read a comparison and check the settings of all its runs.

    Raises:
        ValueError: the file is not as described above, or a run's settings are wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    told = load_yaml(text, str(path), shared=True)
    if not isinstance(told, dict) or (unknown := sorted(str(name) for name in set(told) - set(_PARTS))):
        found = ", ".join(unknown) if isinstance(told, dict) else type(told).__name__
        raise ValueError(f"{path}: expected {', '.join(_PARTS)}, got {found}")
    shared = _settings(path, "shared", told.get("shared") or {})
    testbeds, arms = (_named(path, part, told.get(part)) for part in ("testbeds", "arms"))
    seeds = told.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise ValueError(f"{path}: seeds: expected a list of whole numbers, got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{path}: seeds: expected each once, got {seeds!r}")
    against = told.get("against", [next(iter(arms))])
    if not isinstance(against, list) or not against or any(name not in arms for name in against):
        raise ValueError(f"{path}: against: expected names among {', '.join(arms)}, got {against!r}")
    jobs = []
    for seed in seeds:
        for testbed, there in testbeds.items():
            for arm, own in arms.items():
                settings = {**_OWN, **shared, **there, **own}
                try:
                    TrainConfig.flat(**settings, seed=seed)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}: {testbed}, {arm}: {error}") from error
                jobs.append(Job(testbed, arm, seed, settings))
    return Plan(tuple(jobs), tuple(testbeds), tuple(arms), tuple(seeds), tuple(against))


def _named(path: Path, part: str, found: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path}: {part}: expected settings by name, got {found!r}")
    return {str(name): _settings(path, f"{part}: {name}", own or {}) for name, own in found.items()}


def _settings(path: Path, name: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict) or any(not isinstance(key, str) for key in found):
        raise ValueError(f"{path}: {name}: expected settings, as {{name: value}}, got {found!r}")
    if taken := [key for key in _TAKEN if key in found]:
        raise ValueError(f"{path}: {name}: expected no {', '.join(taken)}, which the comparison sets, got one")
    return found
