from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dps_pyro.history.log import RolloutHistory
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.run.folder import RunFolder, forget_completions
from dps_pyro.trainers.run.lock import claimed
from dps_pyro.trainers.run.seals import broken_seal, check_text, seal_run, sealed_text


def checkpointed(path: Path, *steps: int, keep: int = 9) -> RunFolder:
    """A run folder with real checkpoints of the embedded policy, one optimizer step apart."""
    policy, tokenizer = load_policy(TrainConfig.flat(device="cpu"))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.5)
    folder = RunFolder(path)
    folder.begin("seed: 0\n", 0)
    with folder:
        folder.log({"kind": "eval", "step": 0, "accuracy": 0.5})
        for step in steps:
            for parameter in policy.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            state = {"ledger": {"step": step}, "sampler": {"belief": torch.full((2, 3), float(step))}}
            folder.save_checkpoint(step, state, policy, optimizer, tokenizer, keep=keep)
    return RunFolder(path, resume=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 and 2. Copy before changing."""
    return checkpointed(tmp_path_factory.mktemp("pair") / "run", 1, 2).path


def test_a_checkpoint_holds_what_was_saved(pair: Path) -> None:
    checkpoint = RunFolder(pair, resume=True).load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.path == pair / "checkpoints" / "step-000002"
    assert checkpoint.state["ledger"] == {"step": 2}
    assert torch.equal(checkpoint.state["sampler"]["belief"], torch.full((2, 3), 2.0))


def test_the_optimizer_goes_on_with_its_moments_and_the_settings_of_now(pair: Path) -> None:
    checkpoint = RunFolder(pair, resume=True).load_checkpoint()
    assert checkpoint is not None
    policy, _ = load_policy(TrainConfig.flat(device="cpu"), checkpoint.path / "policy")
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.125, weight_decay=0.25)
    checkpoint.restore_optimizer(optimizer)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.125, 0.25)
    for parameter in policy.parameters():
        moments = optimizer.state[parameter]
        assert float(moments["step"]) == 2
        # Two gradients of 1: 1 - 0.9^2 and 1 - 0.999^2.
        torch.testing.assert_close(moments["exp_avg"], torch.full_like(parameter, 0.19))
        torch.testing.assert_close(moments["exp_avg_sq"], torch.full_like(parameter, 0.001999))


def test_the_global_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.gauss()  # noqa: NPY002

    random.gauss()  # the second of a pair is kept for the next call: part of the state
    folder = checkpointed(tmp_path / "run", 1)
    expected = [draws() for _ in range(3)]
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    checkpoint.restore_rng()
    assert [draws() for _ in range(3)] == expected


def test_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    folder = checkpointed(tmp_path / "run", 1, 2, 3, 10, keep=2)
    assert folder.checkpoints() == [3, 10]
    names = sorted(entry.name for entry in (folder.path / "checkpoints").iterdir())
    assert names == ["step-000003", "step-000010"]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize(
    "name",
    ["policy/model.safetensors", "policy/tokenizer.json", "state.safetensors", "state.json", "checksums.json"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(
    pair: Path, tmp_path: Path, damage: Any, name: str
) -> None:
    folder = RunFolder(shutil.copytree(pair, tmp_path / "run"), resume=True)
    last, before = (folder.path / "checkpoints" / f"step-00000{step}" for step in (2, 1))
    damage(last / name)
    with pytest.raises(ValueError, match="is damaged") as caught:
        folder.load_checkpoint()
    message = str(caught.value)
    assert message.startswith(str(last))
    assert name in message or (name == "checksums.json" and damage is flip)  # a checksum of another file
    assert f"Remove it and resume again: the one before, {before}, then takes its place" in message
    shutil.rmtree(last)  # what it offers
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.path == before
    assert checkpoint.state["ledger"] == {"step": 1}


def test_a_damaged_only_checkpoint_has_none_to_offer(tmp_path: Path) -> None:
    folder = checkpointed(tmp_path / "run", 1)
    cut(folder.path / "checkpoints/step-000001/state.json")
    with pytest.raises(ValueError, match="there is none before it, and the run starts anew"):
        folder.load_checkpoint()
    shutil.rmtree(folder.path / "checkpoints/step-000001")
    assert folder.load_checkpoint() is None


def test_half_a_checkpoint_is_none(tmp_path: Path, pair: Path) -> None:
    run = shutil.copytree(pair, tmp_path / "run")
    (run / "checkpoints/step-000002").rename(run / "checkpoints/.step-000003.4711.tmp")  # what a killed run leaves
    folder = RunFolder(run, resume=True)
    assert folder.checkpoints() == [1]
    folder.begin("", 1)
    with folder:
        assert [entry.name for entry in (run / "checkpoints").iterdir()] == ["step-000001"]


def test_begin_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin("seed: 0\n", 0)
    with folder:
        folder.log({"kind": "eval", "step": 0, "accuracy": 0.1})
        for step in range(4):
            folder.log({"kind": "train", "step": step, "reward": step / 10})
            folder.log({"kind": "eval", "step": step + 1, "accuracy": 0.2})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    assert len(folder.metrics()) == 9
    (folder.path / "summary.json").write_text('{"steps": 4}')
    seal_run(folder.path)

    said: list[str] = []
    again = RunFolder(folder.path, resume=True)
    assert again.finished(4, said.append) == {"steps": 4}
    assert again.finished(5, said.append) is None
    again.begin("seed: 0\n", 2, metrics=again.metrics()[:5])
    with again:
        kept = [(line["kind"], line["step"]) for line in again.metrics()]
    assert kept == [("eval", 0), ("train", 0), ("eval", 1), ("train", 1), ("eval", 2)]
    assert again.finished(1, said.append) is None  # a summary of steps that are being done again is none
    assert said == []

    anew = RunFolder(folder.path, resume=True)
    anew.begin("seed: 0\n", 0)
    with anew:
        assert anew.metrics() == []


def test_tensorboard_shows_every_step_once_after_resuming(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(tmp_path / "run")
    folder.begin("", 0)
    with folder:
        for step in range(3):
            folder.log(
                {"kind": "train", "step": step, "reward": 0.5, "note": "text", "loss": None, "seconds/update": 1.0}
            )
            folder.log({"kind": "eval", "step": step + 1, "accuracy": 0.25})
    again = RunFolder(folder.path, resume=True)
    again.begin("", 2, metrics=again.metrics()[:4])
    with again:
        again.log({"kind": "train", "step": 2, "reward": 0.75})
    board = EventAccumulator(str(folder.path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/reward")] == [(0, 0.5), (1, 0.5), (2, 0.75)]
    assert [event.step for event in board.Scalars("eval/accuracy")] == [1, 2]
    assert set(board.Tags()["scalars"]) == {"train/reward", "eval/accuracy", "seconds/update"}


def test_a_line_that_is_no_json_is_shown(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin("", 0)
    with folder:
        (folder.path / "metrics.jsonl").write_text("step 3: all well\n")
        with pytest.raises(ValueError, match="expected one JSON object a line, got 'step 3: all well'"):
            folder.metrics()


def test_the_configuration_comes_first_and_goes_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with pytest.raises(FileExistsError), claimed(path), RunFolder(path).starting("seed: 0\n"):
        (path / "config.yaml").touch(exist_ok=False)  # it is there already
    assert list(tmp_path.iterdir()) == []

    with pytest.raises(KeyboardInterrupt) as caught, claimed(path), RunFolder(path).starting("seed: 0\n"):
        raise KeyboardInterrupt
    assert caught.value.__notes__ == [f"There is no checkpoint yet; go on with: dps-pyro train --resume --out {path}"]
    again = RunFolder(path, resume=True)
    with pytest.raises(ValueError, match="a wrong setting"), again.starting("seed: 1\n"):
        raise ValueError("a wrong setting")
    assert (path / "config.yaml").read_text() == sealed_text("seed: 0\n")  # of the run that is there
    check_text(path / "config.yaml")


@pytest.mark.parametrize(
    "damage", [flip, cut, lambda file: file.write_bytes(b""), lambda file: file.write_text("a: 1")]
)
def test_a_configuration_that_is_not_the_run_s_is_named(tmp_path: Path, damage: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(sealed_text("seed: 0\nsteps: 7\n"))
    check_text(file)
    damage(file)
    with pytest.raises(ValueError, match=f"{file} is not what the run wrote"):
        check_text(file)


def test_begin_forgets_what_the_run_came_to_before_and_later_groups(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    history = RolloutHistory(4)
    for step in range(3):
        history.append([0, 1], step=step, solved=[1, 2], trials=4)
    folder.begin("", 0, history)
    with folder:
        (folder.path / "posterior").mkdir()
        for name in ("summary.json", "report.html", "posterior/state.json"):
            (folder.path / name).touch()
    kept = RolloutHistory(4)
    kept.append([0, 1], step=0, solved=[1, 2], trials=4)
    for now in (kept, RolloutHistory(4)):
        again = RunFolder(folder.path, resume=True)
        again.begin("", len(now) // 2, now)
        with again:
            assert not [name for name in ("summary.json", "report.html", "posterior") if (again.path / name).exists()]
            file = again.path / "history.parquet"
            assert (len(RolloutHistory.from_parquet(file)) if file.exists() else 0) == len(now)


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "my run"
    folder = checkpointed(path, 3)
    folder.begin("", 3)
    with pytest.raises(KeyboardInterrupt) as caught, folder:
        raise KeyboardInterrupt
    assert caught.value.__notes__ == [
        f"The last checkpoint is of step 3; go on with: dps-pyro train --resume --out '{path}'"
    ]
    fresh = RunFolder(tmp_path / "fresh")
    fresh.begin("", 0)
    with pytest.raises(FloatingPointError) as early, fresh:
        raise FloatingPointError
    assert early.value.__notes__[0].startswith("There is no checkpoint yet; go on with: dps-pyro train --resume")


def test_runs_are_numbered_and_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with claimed(None) as first, claimed(None) as second:
        assert (first, second) == (Path("runs/001"), Path("runs/002"))
    assert not (tmp_path / "runs").exists()  # a run that fails before it begins leaves nothing
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "runs/041").mkdir()
    with claimed(None) as path:
        assert path == Path("runs/042")
    (tmp_path / "runs/041/config.yaml").touch()
    with pytest.raises(ValueError, match=r"out: expected a new folder, but runs/041 holds a run; --resume goes on"):
        RunFolder(Path("runs/041"))
    (tmp_path / "runs/7").mkdir()
    (tmp_path / "runs/7/notes.txt").touch()
    with pytest.raises(ValueError, match=r"resume: expected a run folder with a config.yaml, got runs/7"):
        RunFolder(Path("runs/7"), resume=True)
    (tmp_path / "runs/7/notes.txt").rename(tmp_path / "runs/7/.config.yaml.4711.tmp")  # a killed write's
    assert RunFolder(Path("runs/7"), resume=True).blank
    assert RunFolder(Path("runs/8"), resume=True).blank
    assert not RunFolder(Path("runs/041"), resume=True).blank
    with pytest.raises(ValueError, match="resume: expected --out"), claimed(None, resume=True):
        pass


def test_a_checkpoint_of_another_run_or_step_is_refused(tmp_path: Path, pair: Path) -> None:
    other = checkpointed(tmp_path / "other", 1).path
    run = shutil.copytree(pair, tmp_path / "run") / "checkpoints"
    shutil.copytree(other / "checkpoints/step-000001", run / "step-000003")
    with pytest.raises(
        ValueError, match=r"step-000003 is damaged: .* expected a checkpoint of this run, .* got one of"
    ):
        RunFolder(run.parent, resume=True).load_checkpoint()
    shutil.rmtree(run / "step-000003")
    (run / "step-000001").rename(run / "step-000009")
    with pytest.raises(ValueError, match="expected a checkpoint of step 9, as its name says, got step 1"):
        RunFolder(run.parent, resume=True).load_checkpoint()
    moved = shutil.copytree(pair, tmp_path / "elsewhere")  # a whole run may be copied and continued
    assert RunFolder(moved, resume=True).load_checkpoint() is not None


@pytest.mark.parametrize("text", ["", "0123", "not an id of a run\n"])
def test_an_id_of_a_run_that_is_damaged_is_named(tmp_path: Path, pair: Path, text: str) -> None:
    run = shutil.copytree(pair, tmp_path / "run")
    own = (run / "run_id").read_text()
    (run / "run_id").write_text(text)
    with pytest.raises(
        ValueError, match=r"run_id: expected the 16 digits .* that stands in .*checksums.json, as `run`"
    ):
        RunFolder(run, resume=True).load_checkpoint()
    assert own.strip() == json.loads((run / "checkpoints/step-000002/checksums.json").read_text())["run"]


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"files": {}}', '{"run": "x", "step": 2, "files": {}}'])
def test_checksums_of_nothing_are_refused(tmp_path: Path, pair: Path, text: str) -> None:
    run = shutil.copytree(pair, tmp_path / "run")
    own = (run / "run_id").read_text().strip()
    (run / "checkpoints/step-000002/checksums.json").write_text(text.replace('"x"', f'"{own}"'))
    with pytest.raises(ValueError, match=r"step-000002 is damaged: .*checksums.json"):
        RunFolder(run, resume=True).load_checkpoint()


def test_a_file_that_nobody_vouches_for_is_refused(tmp_path: Path, pair: Path) -> None:
    run = shutil.copytree(pair, tmp_path / "run")
    (run / "checkpoints/step-000002/policy/adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"policy/adapter_config.json is not among the files of checksums.json"):
        RunFolder(run, resume=True).load_checkpoint()


def test_metrics_come_from_the_checkpoint_whatever_happened_to_the_file(pair: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(pair, tmp_path / "run"), resume=True)
    (folder.path / "metrics.jsonl").write_text("")
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.metrics == [{"kind": "eval", "step": 0, "accuracy": 0.5}]
    folder.begin("", 2, metrics=checkpoint.metrics)
    with folder:
        assert folder.metrics() == checkpoint.metrics


def test_a_damaged_best_policy_is_named(tmp_path: Path) -> None:
    policy, tokenizer = load_policy(TrainConfig.flat(device="cpu"))
    folder = RunFolder(tmp_path / "run")
    folder.keep_best({"step": 0, "accuracy": 0.25}, policy, tokenizer)
    evaluation = folder.path / "best/evaluation.json"
    evaluation.write_text(evaluation.read_text().replace("0.25", "0.75"))
    with pytest.raises(ValueError, match=rf"{evaluation} is not what was written. Remove {folder.path / 'best'} and"):
        folder.begin("", 2)


def test_strange_files_among_the_completions_stay(tmp_path: Path) -> None:
    folder = tmp_path / "completions"
    folder.mkdir()
    for name in ("notes.txt", "step-x.parquet", "step-000003.parquet", ".step-000003.parquet.7.tmp", ".DS_Store"):
        (folder / name).touch()
    forget_completions(tmp_path, 2)
    assert {file.name for file in folder.iterdir()} == {"notes.txt", "step-x.parquet", ".DS_Store"}


def test_a_full_disk_is_said_with_the_file_and_the_way_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin("", 0)
    (folder.path / "metrics.jsonl").unlink()
    (folder.path / "metrics.jsonl").symlink_to("/dev/full")
    with (
        folder,
        pytest.raises(OSError, match=r"No space left on device; free some space, then resume: .*metrics.jsonl"),
    ):
        folder.log({"kind": "eval", "step": 0})


def test_a_seal_is_whole_while_only_what_is_drawn_again_changes(tmp_path: Path) -> None:
    for name in ("report.html", "summary.json"):
        (tmp_path / name).write_text("{}")
    seal_run(tmp_path)
    (tmp_path / "report.html").write_text("another")
    assert broken_seal(tmp_path) == "report.html"
    assert broken_seal(tmp_path, "report.html") is None
    (tmp_path / "summary.json").write_text("{")
    assert broken_seal(tmp_path, "report.html") == "summary.json"
