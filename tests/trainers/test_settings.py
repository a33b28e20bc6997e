"""Every setting, from the command line and from YAML: what works, and how mistakes are told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import MINE, call, metrics, tiny, words

from dps_pyro import RolloutHistory
from dps_pyro.cli import main
from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.selection.acquisition import Forecast, top, variance_scores
from dps_pyro.trainers.config.config_file import load_config, save_config
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.parts import make_acquisition, make_sampler, make_task

ROOT = Path(__file__).parents[2]


def test_options_come_before_the_file_and_the_file_before_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "my.yaml", tmp_path / "run"
    file.write_text(
        f"out: {out}\ntask_args: {{train_size: 16, test_size: 4, operands: {{2: 1, 3: 2}}}}\nsteps: 7\nbatch_size: 4\n"
        "group_size: 4\nlearning_rate: 1e-4\nclip: [0.1, 0.2]\nreport: false\neval_samples: 1\nthreads: 1\n",
        encoding="utf-8",
    )
    assert call(capsys, "train", "--config", str(file), "--steps", "1", "--batch-size=2", "--seed", "3")[0] == 0
    config = load_config(out / "config.yaml")
    assert (config.task.steps, config.rollouts.batch_size, config.machine.seed) == (1, 2, 3)  # options
    assert (config.update.learning_rate, config.update.clip, config.rollouts.group_size) == (
        1e-4,
        (0.1, 0.2),
        4,
    )  # the file
    assert (config.update.kl, config.selection.acquisition) == (0.0, TrainConfig().selection.acquisition)  # defaults
    assert {prompt.features["operands"] for prompt in make_task(config).prompts("train")} == {2, 3}
    assert metrics(out)[1]["rollouts"] == 8


def test_a_configuration_reads_back(tmp_path: Path) -> None:
    config = TrainConfig.flat(
        out=tmp_path / "run", task_args={"numbers": [1, 30]}, dynamics_args={"decay": 0.5}, clip=(0.1, 0.4), threads=2,
        prior=tmp_path / "prior", compare=(tmp_path / "a", tmp_path / "b"), rollout_batch=64, learning_rate=3e-5,
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(save_config(config), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config
    with pytest.raises(ValueError, match="task_args, dynamics_args: expected numbers, strings, lists and mappings"):
        save_config(TrainConfig.flat(dynamics_args={"initial": object()}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", r"expected settings among .*, got stepz|expected settings among .*; got stepz"),
        ("- steps", "expected settings, one per line as `name: value`, got list"),
        ("steps: {", "expected YAML, got while parsing"),
        ("steps: many", "steps: expected a whole number, got 'many'"),
        ("steps: 2.5", "steps: expected a whole number, got 2.5"),
        ("steps: true", "steps: expected a whole number, got True"),
        ("steps: 0", "steps: expected 1 or more, got 0"),
        ("{group_size: 1, baseline: group}", "group_size: expected 2 or more, got 1"),
        ("threads: 0", "threads: expected 1 or more, got 0"),
        ("learning_rate: fast", "learning_rate: expected a finite number, got 'fast'"),
        ("learning_rate: .nan", "learning_rate: expected a finite number, got nan"),
        ("learning_rate: -1", "learning_rate: expected 0 or more, got -1"),
        ("temperature: 0", "temperature: expected more than 0, got 0"),
        ("report: maybe", "report: expected true or false, got 'maybe'"),
        ("loss: ppo", "loss: expected one of grpo, dr_grpo, dapo, rloo; got 'ppo'"),
        ("clip: 0.2", "clip: expected a list of the right length, got 0.2"),
        ("clip: [0.2]", r"clip: expected a list of the right length, got \[0.2\]"),
        ("clip: [2, 0.2]", r"clip: expected lower in \[0, 1\] and upper of at least 0, got \[2.0, 0.2\]"),
        ("model: 7", "model: expected a string, got 7"),
        ("prior: 7", "prior: expected a path, got 7"),
        ("task_args: 7", "task_args: expected settings, as {name: value}, got 7"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text, encoding="utf-8")
    status, out, err = call(capsys, "train", "--config", str(file))
    assert (status, out) == (2, "")
    assert re.fullmatch(f"dps-pyro train: {re.escape(str(file))}: (?:{message}).*\n", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "many"], "invalid literal for int() with base 10: 'many'"),
        (["--steps", "0"], "steps: expected 1 or more, got 0"),
        (["--loss", "ppo"], "invalid choice 'ppo' for argument '--loss'. Expected one of ('grpo',"),
        (["--stepz", "3"], "Unrecognized options: --stepz"),
        (["--config"], "config: expected a path after --config, got nothing"),
        (["--config", "no.yaml"], "config: expected a YAML file, got no.yaml"),
        (["--resume"], "resume: expected --out, the folder of the run to go on with"),
        (["--resume", "--out", ".."], "resume: expected a run folder with a config.yaml, got .."),
        (["--acquisition", "best"], "uniform, or path/to/file.py:function, got 'best'"),
        (["--acquisition", "no.py:best"], "acquisition: expected a Python file before the colon, got 'no.py'"),
        (["--acquisition", f"{__file__}:ROOT"], "acquisition: expected a function, path/to/file.py:function, got"),
        (["--acquisition", f"{__file__}:nothing"], "acquisition: expected one of "),
        (["--sharpness", "-1"], "sharpness: expected 0 or more, got -1.0"),
        (["--batch-size", "2000"], "batch_size: expected at most 1024, the number of prompts, got 2000"),
        (
            ["--dynamics", "Guess"],
            "SolvingProgress, Trained, or path/to/file.py:Name, got 'Guess'",
        ),
        (["--dynamics", "no.py:Guess"], "dynamics: expected a Python file before the colon, got 'no.py'"),
        (
            ["--model", "./nowhere"],
            f"model: expected {', '.join(EMBEDDED)}, or the folder or hub id of a causal or vision-language model",
        ),
        (["--device", "gpu"], "device: expected auto, cpu or a GPU such as cuda, got 'gpu'"),
        (["--prior", "nowhere"], "nowhere/state.json: expected a whole saved state"),
    ],
)
def test_wrong_options_are_told_and_leave_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = call(capsys, "train", *arguments)
    assert status == 2
    assert message in words(out + err)
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "task_args: {train_sise: 3}",
            "task_args: expected operands, numbers, targets, train_size, test_size, seed, style",
        ),
        ("task_args: {3: 4}", "task_args: expected settings, as {name: value}, got {3: 4}"),
        ("task_args: {train_size: 2.5}", "task_args: expected train_size to be a whole number of at least 0, got 2.5"),
        ("task_args: {operands: {unknown: 1}}", "task_args: expected operands to be counts from 2 to 8, or a mapping"),
        ("task_args: {operands: [3, many]}", "task_args: expected operands to be counts from 2 to 8, or a mapping"),
        ("task_args: {numbers: 7}", "task_args: expected numbers to be a range [low, high] within 1..999999, got 7"),
        ("task_args: {train_size: 8}", "batch_size: expected at most 8, the number of prompts, got 32"),
        ("dynamics: LogitWalk\ndynamics_args: {rungs: many}", "dynamics_args: "),
        ("dynamics: LogitWalk\ndynamics_args: {rungs: 7.5}", "dynamics_args: "),
        ("dynamics: LogitWalk\ndynamics_args: {moves: [a, b, c]}", "dynamics_args: "),
        ("dynamics: LogitWalk\ndynamics_args: {population: {a: 1}}", "dynamics_args: "),
        ("dynamics: SolvingProgress\ndynamics_args: {initial: 3}", "dynamics_args: initial: expected"),
        (
            "dynamics: SolvingProgress\ndynamics_args: {rate: 3}",
            "dynamics_args: expected rate_gaps, initial, transition",
        ),
        ("dynamics: PaperDPS\ndynamics_args: {decay: much}", "dynamics_args: "),
        ("dynamics: PaperDPS\ndynamics_args: {prior_alpha: much}", "dynamics_args: "),
        ("dynamics: PaperDPS\ndynamics_args: {rate: 3}", "dynamics_args: expected prior_alpha, decay, initial"),
        ("dynamics: PaperDPS\ndynamics_args: {decay: 3}", "decay: expected a number in [0, 1], got 3"),
        ("task_args: {test_size: 0}", "task_args: expected at least 1 test prompt, to evaluate on, got none"),
    ],
)
def test_wrong_arguments_of_task_and_model_are_told(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text, encoding="utf-8")
    status, _, err = call(capsys, "train", "--config", str(file), "--out", str(tmp_path / "run"))
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_library_s_error_keeps_its_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ValueError that we did not raise is a bug, or another program's message: it would mislead without its place."""
    mine = tmp_path / "mine.py"
    mine.write_text("int('a bug in a model of my own')\n", encoding="utf-8")
    with pytest.raises(ValueError, match="a bug in a model of my own"):
        main(["train", "--dynamics", f"{mine}:Mine", "--out", str(tmp_path / "run")])


def test_a_bug_in_a_model_of_one_s_own_keeps_its_traceback(tmp_path: Path) -> None:
    mine, file = tmp_path / "mine.py", tmp_path / "my.yaml"
    mine.write_text(MINE.replace("Taste(sharpness)", "Taste(sharpness, 3)"), encoding="utf-8")
    file.write_text(f"dynamics: {mine}:Mine\ndynamics_args: {{sharpness: 2.0}}\n", encoding="utf-8")
    with pytest.raises(TypeError, match="positional arguments"):
        main(["train", "--config", str(file), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_an_acquisition_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, file, run = tmp_path / "mine.py", tmp_path / "my.yaml", tmp_path / "run"
    mine.write_text(
        "import torch\n\n\ndef first(forecast, generator):\n    return -torch.arange(len(forecast.informative))\n",
        encoding="utf-8",
    )
    file.write_text(save_config(tiny(run)), encoding="utf-8")
    assert call(capsys, "train", "--config", str(file), "--acquisition", f"{mine}:first")[0] == 0
    assert sorted(RolloutHistory.from_parquet(run / "history.parquet").events.prompt.tolist()) == [0, 1, 2, 3]
    assert load_config(run / "config.yaml").selection.acquisition == f"{mine}:first"


def test_the_sharpness_of_soft() -> None:
    informative = torch.linspace(0.01, 1, 100)
    visits = torch.zeros(100, dtype=torch.long)
    forecast = Forecast(torch.ones(100, 3) / 3, informative, visits, lambda _: informative)

    def usefulness(sharpness: float) -> float:
        acquire = make_acquisition(TrainConfig.flat(acquisition="soft", sharpness=sharpness, worth="useful"))
        assert callable(acquire)
        rows = acquire(forecast, torch.Generator().manual_seed(0)).topk(10).indices
        return float(informative[rows].mean())

    assert usefulness(0.0) < usefulness(4.0) < usefulness(1000.0) == pytest.approx(float(informative[-10:].mean()))
    assert make_acquisition(TrainConfig.flat(acquisition="top")) is top


def test_soft_goes_by_the_variance_and_the_others_by_the_useful_group() -> None:
    for worth, soft_too, others_too in ((None, True, False), ("variance", True, True), ("useful", False, False)):
        for name, expected in (("soft", soft_too), ("thompson", others_too), ("top", others_too)):
            made = make_acquisition(TrainConfig.flat(acquisition=name, worth=worth))
            assert (getattr(made, "func", None) is variance_scores) == expected, (worth, name)


@pytest.mark.parametrize("known", [{}, {"level": 1}])
def test_the_task_s_own_groups_are_used_where_the_data_have_them(known: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {n}+1?", "answer": f"#### {n + 1}", **known} for n in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = TrainConfig.flat(data=str(file), model=str(EMBEDDED["math"]), task_args={"test_size": 4}, batch_size=4)
    model: Any = make_sampler(config, make_task(config)).dynamics
    assert (model.groups is not None) == bool(known)
