from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny import metrics, tiny

import dps_pyro
from dps_pyro import Posterior, RolloutHistory
from dps_pyro.cli import main
from dps_pyro.trainers.config import TrainConfig, load_config, make_dynamics, make_task, save_config
from dps_pyro.trainers.demo import DemoOptions, _free, demo
from dps_pyro.trainers.grpo import train

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run, three steps, without a report."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    train(tiny(folder, steps=3))
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    try:
        status: Any = main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return int(status or 0), captured.out, captured.err


def words(text: str) -> str:
    """Without frames and line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def settings(file: str, name: str) -> dict[str, str]:
    """Every setting of an options class, and its docstring."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    documented: dict[str, str] = {}
    for field, text in zip(found.body, found.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant), (
                f"{field.target.id} has no docstring"
            )
            documented[field.target.id] = words(str(text.value.value))
    return documented


# --------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    ("command", "file", "name"),
    [
        ("train", "trainers/config.py", "TrainConfig"),
        ("demo", "trainers/demo.py", "DemoOptions"),
        ("fit", "dps_pyro/cli.py", "_FitOptions"),
        ("report", "dps_pyro/cli.py", "_ReportOptions"),
    ],
)
def test_help_explains_every_setting(command: str, file: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, command, "--help")
    text = words(out)
    assert status == 0
    documented = settings(file, name)
    assert len(documented) >= 2
    for setting, meaning in documented.items():
        if setting in ("task_args", "dynamics_args"):  # of the file, as the help says
            assert f"{setting}" in text
        else:
            assert meaning in text, setting
    if command == "train":
        assert "--config FILE (YAML" in text


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        status, out, err = call(capsys, *arguments)
        assert (status, err) == (0, "")
        assert all(f"dps-pyro {command}" in out for command in ("demo", "train", "fit", "report"))
    status, out, err = call(capsys, "trian")
    assert (status, out) == (2, "")
    assert err.startswith("dps-pyro: expected a command, got 'trian'\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == (0, f"{dps_pyro.__version__}\n", "")


# ------------------------------------------------------------------------------------------------------ configuration


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
    assert (config.steps, config.batch_size, config.seed) == (1, 2, 3)  # options
    assert (config.learning_rate, config.clip, config.group_size) == (1e-4, (0.1, 0.2), 4)  # the file
    assert (config.kl, config.acquisition) == (0.0, TrainConfig().acquisition)  # defaults
    assert {prompt.features["operands"] for prompt in make_task(config).prompts("train")} == {2, 3}
    assert metrics(out)[1]["rollouts"] == 8


def test_a_configuration_reads_back(tmp_path: Path) -> None:
    config = TrainConfig(
        out=tmp_path / "run", task_args={"numbers": [1, 30]}, dynamics_args={"decay": 0.5}, clip=(0.1, 0.4), threads=2,
        prior=tmp_path / "prior", compare=(tmp_path / "a", tmp_path / "b"), rollout_batch=64, learning_rate=3e-5,
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(save_config(config), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config
    with pytest.raises(ValueError, match="task_args, dynamics_args: expected numbers, strings, lists and mappings"):
        save_config(TrainConfig(dynamics_args={"initial": object()}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", r"expected settings among .*, got stepz|expected settings among .*; got stepz"),
        ("- steps", "expected settings, one a line as `name: value`, got list"),
        ("steps: {", "expected YAML, got while parsing"),
        ("steps: many", "steps: expected a whole number, got 'many'"),
        ("steps: 2.5", "steps: expected a whole number, got 2.5"),
        ("steps: true", "steps: expected a whole number, got True"),
        ("steps: 0", "steps: expected 1 or more, got 0"),
        ("group_size: 1", "group_size: expected 2 or more, got 1"),
        ("threads: 0", "threads: expected 1 or more, got 0"),
        ("learning_rate: fast", "learning_rate: expected a finite number, got 'fast'"),
        ("learning_rate: .nan", "learning_rate: expected a finite number, got nan"),
        ("learning_rate: -1", "learning_rate: expected 0 or more, got -1.0"),
        ("temperature: 0", "temperature: expected more than 0, got 0.0"),
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
        (["--resume", "--out", "nowhere"], "resume: expected a run folder with a config.yaml, got nowhere"),
        (
            ["--dynamics", "Guess"],
            "SolvingProgress, or path/to/file.py:Name, got 'Guess'",
        ),
        (["--dynamics", "no.py:Guess"], "dynamics: expected a Python file before the colon, got 'no.py'"),
        (["--model", "./nowhere"], "model: expected countdown, or a causal LM's folder or hub id, got './nowhere'"),
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
        ("dynamics: PaperDPS\ndynamics_args: {rate: 3}", "dynamics_args: expected prior_alpha, decay, initial"),
        ("dynamics: PaperDPS\ndynamics_args: {decay: 3}", "decay: expected a number in [0, 1], got 3"),
        ("task_args: {test_size: 0}", "expected a sequence of at least one prompt"),
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


def test_a_library_s_error_keeps_its_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ValueError that we did not raise is a bug, or another program's message: it would mislead without its place."""
    mine = tmp_path / "mine.py"
    mine.write_text("int('a bug in a model of my own')\n", encoding="utf-8")
    with pytest.raises(ValueError, match="a bug in a model of my own"):
        main(["train", "--dynamics", f"{mine}:Mine", "--out", str(tmp_path / "run")])


def test_numbers_that_break_down_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "my.yaml"
    file.write_text(save_config(tiny(run, steps=9, batch_size=8, checkpoint_every=1)), encoding="utf-8")
    status, _, err = call(capsys, "train", "--config", str(file), "--learning-rate", "1e30")
    assert status == 1
    assert err == (
        "dps-pyro train: the policy's logits: expected finite numbers, got NaN or infinity\n"
        "Resumed as it is, it would end here again: try a lower --learning-rate.\n"
        f"The last checkpoint is of step 1; go on with: dps-pyro train --resume --out {run}\n"
    )


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import builtins

    real = builtins.__import__

    def interrupted(name: str, *rest: Any) -> Any:
        if name == "dps_pyro.report":
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert call(capsys, "report", "anything") == (130, "", "dps-pyro report: stopped\n")


# --------------------------------------------------------------------------------------------------- models and priors


def test_fit_makes_a_prior_for_train(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = tmp_path / "prior"
    history = run / "history.parquet"
    status, out, _ = call(
        capsys, "fit", "--history", str(history), "--out", str(prior), "--steps", "40", "--draws", "20"
    )
    assert status == 0
    assert "SolvingProgress on 12 groups" in out
    assert f"{prior}: 40 steps" in words(out)
    assert "the ELBO was still moving: try more --steps" in words(out)
    posterior = Posterior.load(prior)
    assert all(site in out for site in posterior.draws)
    train(tiny(tmp_path / "next", prior=prior))
    assert (metrics(tmp_path / "next")[1]["useful_pool"]) != metrics(run)[1]["useful_pool"]


def test_fit_by_sampling(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "nuts", "--steps", "3", "--draws", "3"]
    status, out, _ = call(
        capsys, "fit", "--history", str(run / "history.parquet"), "--out", str(tmp_path / "p"), *options
    )
    assert status == 0
    assert "; sampled." in words(out)


def test_fit_wants_a_history(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for history, message in (
        (run / "config.yaml", "history: expected a Parquet file"),
        (run / "nothing.parquet", "No such file or directory|nothing.parquet"),
    ):
        status, _, err = call(capsys, "fit", "--history", str(history), "--out", str(tmp_path / "p"))
        assert status == 2
        assert re.search(message, err)
    assert call(capsys, "fit")[0] == 2


MINE = '''
from __future__ import annotations

from dataclasses import dataclass

from dps_pyro.models import SolvingProgress


@dataclass
class Taste:
    sharpness: float = 1.0


class Mine(SolvingProgress):
    """A model of one's own."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.taste = Taste(sharpness)


number = 3
'''


def test_a_model_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, file = tmp_path / "mine.py", tmp_path / "my.yaml"
    mine.write_text(MINE, encoding="utf-8")
    run = tmp_path / "run"
    config = tiny(run, dynamics=f"{mine}:Mine", dynamics_args={"sharpness": 2.0}, report=True)
    file.write_text(save_config(config), encoding="utf-8")
    assert call(capsys, "train", "--config", str(file))[0] == 0
    assert (run / "posterior/state.json").is_file()
    assert call(capsys, "train", "--resume", "--out", str(run), "--steps", "2", "--no-report")[0] == 0
    assert metrics(run)[-1]["step"] == 2
    with pytest.raises(ValueError, match=r"dynamics: expected one of .*, or path/to/file.py:Name"):
        make_dynamics(f"{mine}:number")


# -------------------------------------------------------------------------------------------------- report and demo


def test_the_report_of_an_unfinished_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    going = tmp_path / "going"
    going.mkdir()
    (going / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:-30])  # killed within a line
    assert call(capsys, "report", str(going), str(run)) == (0, f"{going / 'report.html'}\n", "")
    page = (going / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    status, _, err = call(capsys, "report", str(tmp_path / "nothing"))
    assert (status, err.count("\n")) == (2, 1)
    assert "expected a run folder with a metrics.jsonl" in err


def test_the_closing_table_says_where_to_look_and_how_to_go_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dps_pyro.live import LiveView

    with LiveView(steps=3, folder=run) as view:
        view.close({"steps": 3})
    text = words(capsys.readouterr().out).replace(" ", "")
    assert f"dps-pyroreport{run}" in text
    assert f"dps-pyrotrain--resume--out{run}--steps6" in text


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(DemoOptions(out=tmp_path / "demo", steps=2, uniform_steps=1)) == 0
    out = words(capsys.readouterr().out)
    assert "Held-out accuracy went from" in out
    assert "1 of 2: uniform selection" in out
    page = tmp_path / "demo/predicted/report.html"
    assert str(page) in out.replace(" ", "")
    assert "uniform" in page.read_text(encoding="utf-8")
    summary, uniform = (
        json.loads((tmp_path / "demo" / arm / "summary.json").read_text(encoding="utf-8"))
        for arm in ("predicted", "uniform")
    )
    assert summary["uniform"]["useful_share"] == uniform["useful_share"]
    assert summary["uniform"]["steps"] == uniform["steps"] == 1
    assert summary["accuracy_before"] == uniform["accuracy_before"]  # one policy, one test set, one seed
    assert RolloutHistory.from_parquet(tmp_path / "demo/predicted/history.parquet").num_steps == 2


def test_demos_do_not_overwrite_one_another(tmp_path: Path) -> None:
    assert _free(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert _free(tmp_path / "demo") == tmp_path / "demo-3"
