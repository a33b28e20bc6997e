"""A killed run, resumed, is the run that was never killed: number for number, weights bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.runs.same_run import assert_same_run, settings
from helpers.runs.tiny import interrupted, killed, killed_within, metrics, tiny

from dps_pyro.cli import main
from dps_pyro.history.log import RolloutHistory
from dps_pyro.trainers.config.config_file import load_config, save_config
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.run.folder import RunFolder

pytestmark = pytest.mark.no_cover


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody killed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(settings(folder))
    return folder


@pytest.mark.parametrize(
    ("event", "path", "count", "checkpoints"),
    [
        ("open", "metrics.jsonl", 5, []),  # before the first checkpoint: a step is done and not yet logged
        ("open", "step-000004.", 2, [2]),  # half a checkpoint is written
        ("os.rename", "step-000006.", 1, [2, 4]),  # a checkpoint is written and has not got its name
        ("shutil.rmtree", "step-000002", 1, [4, 6]),  # an old one is being removed
        ("os.rename", ".history.parquet", 3, [2, 4]),  # the history is written, and the checkpoint is not
        ("os.rename", ".summary.json", 1, [6, 7]),  # all steps are done
    ],
    ids=["first steps", "checkpoint half written", "checkpoint unnamed", "old one going", "history", "summary"],
)
def test_killed_anywhere_and_resumed(
    event: str, path: str, count: int, checkpoints: list[int], tmp_path: Path, straight: Path
) -> None:
    run = tmp_path / "run"
    killed(settings(run), event, path, count)
    assert RunFolder(run, resume=True).checkpoints() == checkpoints
    train(settings(run).replaced(resume=True))
    assert_same_run(run, straight)


@pytest.mark.parametrize(
    ("part", "count"),
    [("rollout", 3), ("rollout", 60), ("backward", 1), ("backward", 8)],
    ids=["first evaluation", "rollouts", "first update", "later"],
)
def test_killed_at_work_and_resumed(part: str, count: int, tmp_path: Path, straight: Path) -> None:
    """Within a decoding step, within a backward pass: in memory half a step is done, on disk it never was."""
    run = tmp_path / "run"
    killed_within(settings(run), part, count)
    assert not (run / "summary.json").exists()
    assert max(RunFolder(run, resume=True).checkpoints(), default=0) < 7
    train(settings(run).replaced(resume=True))
    assert_same_run(run, straight)


def test_killed_while_it_starts(tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    killed(settings(run), "os.rename", ".config.yaml")  # nothing has been written
    assert {entry.name[0] for entry in run.iterdir()} == {"."}
    killed(settings(run).replaced(resume=True), "open", "metrics.jsonl")  # the policy is loaded, nothing is logged
    assert load_config(run / "config.yaml") == settings(run).resolved()
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert f"{run}: there is no checkpoint yet, the run starts at the first step" in capsys.readouterr().out
    assert_same_run(run, straight)


def test_resume_where_nothing_is_starts_the_run(
    tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", tmp_path / "config.yaml"
    file.write_text(save_config(settings(run)), encoding="utf-8")
    assert main(["train", "--config", str(file), "--resume"]) == 0
    assert f"{run}: there is no run yet, the settings given start it at the first step" in capsys.readouterr().out
    assert_same_run(run, straight)


def test_the_history_is_the_checkpoint_s_from_the_start(tmp_path: Path, straight: Path) -> None:
    run = tmp_path / "run"
    killed(settings(run), "os.rename", "step-000006.")  # the history is of six steps, the last checkpoint of four
    assert RolloutHistory.from_parquet(run / "history.parquet").num_steps == 6
    killed(settings(run).replaced(resume=True), "os.rename", ".history.parquet", 2)
    history = RolloutHistory.from_parquet(run / "history.parquet")
    assert (history.num_steps, len(history)) == (4, 16)
    train(settings(run).replaced(resume=True))
    assert_same_run(run, straight)


@pytest.mark.usefixtures("undrawn")
def test_killed_before_the_report_is_drawn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny(run, report=True)
    killed(config, "os.rename", ".report.html")
    assert (run / "summary.json").exists()
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert train(config.replaced(resume=True)) == summary
    page = (run / "report.html").read_bytes()
    train(config.replaced(resume=True))
    assert (run / "report.html").read_bytes() == page  # it is there: left alone


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_a_report_gets_one_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    plain = train(tiny(run, steps=2))
    assert main(["train", "--resume", "--out", str(run), "--report"]) == 0
    assert "Fitting SolvingProgress to the run's 8 groups" in capsys.readouterr().out
    assert "<svg" in (run / "report.html").read_text(encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) - set(plain) == {"initial", "transition", "rates", "posterior_converged"}
    assert {name: summary[name] for name in plain} == plain
    assert (run / "posterior/state.json").is_file()


def test_killed_twice_between_the_same_checkpoints(tmp_path: Path, straight: Path) -> None:
    """And with half a line in the metrics: a kill can come within a write."""
    run = tmp_path / "run"
    killed(settings(run), "open", "metrics.jsonl", 11)
    killed(settings(run).replaced(resume=True), "os.rename", "step-000006.")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "train", "step": 99, "rew')
    train(settings(run).replaced(resume=True))
    assert_same_run(run, straight)


def test_ctrl_c_then_kill_then_resume_on_the_command_line(tmp_path: Path, straight: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "config.yaml"
    file.write_text(save_config(settings(run)), encoding="utf-8")
    errors = interrupted(["train", "--config", str(file)], tmp_path / "errors", "open", "metrics.jsonl", 8)
    assert "dps-pyro train: stopped\n" in errors
    assert f"go on with: dps-pyro train --resume --out {run}" in errors
    assert "Traceback" not in errors
    assert not (run / "summary.json").exists()
    killed(load_config(run / "config.yaml").replaced(resume=True), "os.rename", "step-000006.")
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert_same_run(run, straight)


def test_a_finished_run_is_left_alone(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()}

    before = content()
    assert main(["train", "--resume", "--out", str(straight)]) == 0
    assert f"{straight}: all 7 steps are done; more: --steps" in capsys.readouterr().out
    assert content() == before


def test_a_finished_run_goes_on_for_more_steps(tmp_path: Path, straight: Path) -> None:
    run = tmp_path / "run"
    train(settings(run).replaced(steps=4))
    assert main(["train", "--resume", "--out", str(run), "--steps", "7"]) == 0
    lines = [line for line in metrics(run) if (line["kind"], line["step"]) != ("eval", 4)]  # the end of the first part
    assert lines == metrics(straight)
    weights = "checkpoints/step-000007/policy/model.safetensors"
    assert (run / weights).read_bytes() == (straight / weights).read_bytes()


def test_a_damaged_checkpoint_is_named_and_what_the_message_offers_works(
    tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(straight, tmp_path / "run")
    (run / "summary.json").unlink()  # killed after the last checkpoint
    last = run / "checkpoints/step-000007"
    with (last / "policy/model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"!")
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["train", "--resume", "--out", str(run)]) == 2
    message = capsys.readouterr().err
    assert f"{last} is damaged: policy/model.safetensors is not what was written" in message
    assert f"the one before, {run / 'checkpoints/step-000006'}, then takes its place" in message
    assert message.count("\n") == 1
    assert (run / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(last)
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert_same_run(run, straight)


def test_what_a_checkpoint_depends_on_stays(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change in (["--model", "gpt2"], ["--dynamics", "PaperDPS"], ["--prior", "elsewhere"]):
        assert main(["train", "--resume", "--out", str(straight), "--steps", "9", *change]) == 2
        assert f"{change[0][2:]}: expected the run's own" in capsys.readouterr().err
