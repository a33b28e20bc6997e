"""TRL's real trainers, training the embedded policy on predicted prompts."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plugins.trl_order import in_order
from helpers.plugins.trl_runs import PROMPTS, Solving, config, dataset, ours, policy, predictive, sampler, selections
from torch import Tensor

from benchmarks.learning import trl as benchmark
from dps_pyro import PromptSampler
from dps_pyro.history.foreign import read_log
from dps_pyro.history.rollouts import prompt_id
from dps_pyro.models import SolvingProgress
from dps_pyro.selection.acquisition import Forecast

pytestmark = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs trl")

IDS = list(PROMPTS)


# What TRL does with a batch: the same batches must come to the same policy, bit for bit.
REUSE = {"num_iterations": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 2, "max_steps": 5}
WAYS: dict[str, dict[str, Any]] = {
    "grpo, rollouts reused": {"loss_type": "grpo", **REUSE},
    "dapo, accumulation": {"loss_type": "dapo", "gradient_accumulation_steps": 3},
    "dr_grpo, generation ahead": {"loss_type": "dr_grpo", "steps_per_generation": 4, "max_steps": 5},
}


@pytest.mark.no_cover
@pytest.mark.parametrize("way", WAYS)
def test_on_repeat_samplers_prompts_training_is_trls_to_the_bit(way: str, tmp_path: Path) -> None:
    settings = {"shuffle_dataset": False, "eval_strategy": "steps", "eval_steps": 2, **WAYS[way]}
    settings["per_device_eval_batch_size"] = 4
    theirs = plain(
        **policy(),
        args=config(tmp_path / "theirs", **settings),
        train_dataset=dataset(),
        eval_dataset=dataset("test"),
        reward_funcs=Solving(),
    )
    theirs.train()  # before the other is made: each sets the seed
    mine = predictive(
        tmp_path / "ours", prompts=sampler(acquisition=in_order), eval_dataset=dataset("test"), **settings
    )
    mine.train()
    assert theirs.reward_funcs[0].calls == mine.reward_funcs[0].calls
    for name, weight in theirs.model.state_dict().items():
        assert torch.equal(weight, mine.model.state_dict()[name]), name
    for their_log, our_log in zip(theirs.state.log_history, mine.state.log_history, strict=True):
        timed = ("runtime", "per_second", "step_time", "profiling")
        expected = {name: value for name, value in their_log.items() if not any(word in name for word in timed)}
        assert {name: our_log[name] for name in expected} == expected


def test_rloo_trains_on_predicted_prompts(tmp_path: Path) -> None:
    trainer = ours().PredictiveRLOOTrainer(
        **policy(),
        args=config(tmp_path, "RLOO"),
        train_dataset=dataset(),
        reward_funcs=Solving(),
        prompt_sampler=sampler(),
    )
    before = trainer.model.state_dict()["model.embed_tokens.weight"].clone()
    trainer.train()
    assert len(selections(trainer)) == 3
    assert trainer.reward_funcs[0].calls == laid_out(selections(trainer), 4)
    assert not torch.equal(trainer.model.state_dict()["model.embed_tokens.weight"], before)


def test_what_is_selected_is_rolled_out_and_observed_at_once(tmp_path: Path) -> None:
    seen: list[int] = []

    def note(forecast: Forecast, generator: torch.Generator) -> Tensor:
        seen.append(int(forecast.visits.sum()))
        return forecast.informative + torch.rand(len(forecast.visits), generator=generator)

    trainer = predictive(tmp_path, prompts=sampler(acquisition=note), max_steps=4, gradient_accumulation_steps=2)
    trainer.train()
    # Every selection knew of every group before it: no lag.
    assert seen == [0, 4, 8, 12]
    judge = trainer.reward_funcs[0]
    assert judge.calls == laid_out(selections(trainer), 4)
    rewards = torch.tensor(judge.rewards, dtype=torch.float64).reshape(-1, 4).sum(-1)
    assert torch.equal(trainer.prompt_sampler.history.events.solved, rewards)
    assert trainer.prompt_sampler.history.events.trials.tolist() == [4] * 16


def test_the_samplers_metrics_are_logged_by_trl(tmp_path: Path) -> None:
    trainer = predictive(
        tmp_path, max_steps=4, logging_steps=2, eval_strategy="steps", eval_steps=4, eval_dataset=dataset("test"),
        per_device_eval_batch_size=4,
    )  # fmt: skip
    trainer.train()
    training = [entry for entry in trainer.state.log_history if "loss" in entry]
    evaluation = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["sampler/rollouts"] for entry in training] == [16, 32]
    # A share of one generation is the mean over the two since the last log, as TRL's own numbers are.
    for entry in training:
        assert entry["sampler/useful"] == pytest.approx(1 - entry["frac_reward_zero_std"])
    assert len(evaluation) == 1
    assert not any("sampler" in name for name in evaluation[0])
    assert len(selections(trainer)) == 4  # evaluation is not observed


def test_trls_completions_are_read_as_the_history_that_made_them(tmp_path: Path) -> None:
    trainer = predictive(tmp_path, log_completions=True, num_completions_to_print=0, num_iterations=2, max_steps=6)
    trainer.train()
    real = trainer.prompt_sampler.history.events
    # Each generation is trained on, and logged, twice; the log counts optimizer steps.
    history = read_log(tmp_path / "completions", every=2)
    names = [prompt_id(prompt.text) for prompt in PROMPTS.values()]
    assert history.ids == list(dict.fromkeys(names[row] for row in real.prompt.tolist()))
    again = read_log(tmp_path / "completions", "trl", reward="solving", every=2, ids=names).events
    for column in ("prompt", "step", "solved", "trials"):
        assert torch.equal(getattr(again, column), getattr(real, column)), column


# ------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.no_cover
@pytest.mark.parametrize("reuse", [{}, REUSE | {"max_steps": 6}], ids=["between generations", "within one"])
def test_a_resumed_run_selects_what_the_uninterrupted_one_selects(reuse: dict[str, Any], tmp_path: Path) -> None:
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, **reuse}
    whole = predictive(tmp_path, **settings)
    whole.train()
    # Steps are pairs of micro-batches where rollouts are reused: four a generation, and step 3 is within the second.
    done = 2 if reuse else 3
    rest = predictive(tmp_path, **settings)
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert selections(rest)[:done] == selections(whole)[:done]
    assert len(selections(rest)) == len(selections(whole)) == (3 if reuse else 6)
    if reuse:
        # TRL rolls the second generation's prompts out again, with the policy that half of it has trained.
        assert rest.reward_funcs[0].calls[0] == whole.reward_funcs[0].calls[1]
        assert selections(rest)[2] == selections(whole)[2]
    else:
        assert selections(rest) == selections(whole)
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, rest.model.state_dict()[name]), name


def test_a_checkpoint_of_plain_trl_can_be_gone_on_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    without = plain(
        **policy(), args=config(tmp_path, save_strategy="steps", save_steps=1, max_steps=1),
        train_dataset=dataset(), reward_funcs=Solving(),
    )  # fmt: skip
    without.train()
    trainer = predictive(tmp_path, max_steps=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert len(selections(trainer)) == 2
    assert "has no dps_pyro folder" in caplog.text


def test_a_resumed_run_knows_its_prompts_by_their_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The data was shuffled, four prompts are gone, and nobody gave ids."""
    first = predictive(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    first.train()
    known = first.prompt_sampler
    texts = dataset()["prompt"]
    fewer = dataset().shuffle(seed=3).select(range(20))
    resumed = predictive(
        tmp_path, prompts=PromptSampler(SolvingProgress(), 20, trials=4), train_dataset=fewer, max_steps=2
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rows = torch.tensor([texts.index(text) for text in fewer["prompt"]])
    history = resumed.prompt_sampler.history
    for step in range(2, resumed.prompt_sampler.tracker.step):  # what the resumed run has seen since
        prompt, _, solved, trials, *_ = history.where(history.events.step == step).events
        known.observe(rows[prompt], solved, trials)
    torch.testing.assert_close(resumed.prompt_sampler.belief, known.belief[rows])
    assert torch.equal(resumed.prompt_sampler.visits, known.visits[rows])
    assert int(known.visits.sum()) > 0
    assert "20 prompts are known by their content or id; 4 are no longer there, and are retired" in caplog.text


def test_another_datasets_checkpoint_is_refused(tmp_path: Path) -> None:
    predictive(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    other = dataset().map(lambda row: {"prompt": row["prompt"] + " again"})
    others = predictive(tmp_path, prompts=PromptSampler(SolvingProgress(), 24, trials=4), train_dataset=other)
    with pytest.raises(ValueError, match="state: expected some of the same prompts, got 24 of which none is there"):
        others.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


KILLED = """
import os, signal, sys
from pathlib import Path
from helpers.plugins.trl_runs import predictive
import transformers

class Kill(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:  # after the checkpoint of step 4, without a word
            os.kill(os.getpid(), signal.SIGKILL)

trainer = predictive(Path(sys.argv[1]), max_steps=7, save_strategy="steps", save_steps=2)
trainer.add_callback(Kill())
trainer.train()
"""


@pytest.mark.slow  # a process of its own imports TRL again
def test_a_killed_run_resumes_where_it_would_have_gone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], env=environment(), check=False)
    assert done.returncode == -9
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 2}
    resumed = predictive(tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=True)  # TRL finds the last checkpoint
    whole = predictive(tmp_path / "whole", **settings)
    whole.train()
    assert len(resumed.reward_funcs[0].calls) == 3
    assert selections(resumed) == selections(whole)


def test_two_processes_share_one_selection_and_resume_it(tmp_path: Path) -> None:
    # --multi_gpu is the launcher of several processes on one machine (--cpu starts one, or MPI); the trainers' use_cpu
    # has them talk over gloo. Port 0 is any free one.
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines",
        "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        str(Path(__file__).parents[1] / "helpers/plugins/trl_runs.py"), str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    # 2 processes of 6 rollouts: 3 groups of 4, and the second group is split between the processes.
    layout = laid_out(first["selected"], 4)
    assert len(layout) == 4
    assert [ours + theirs for ours, theirs in zip(first["whole"], second["whole"], strict=True)] == layout
    # All rewards were gathered before they were observed, by the main process.
    rewards = [ours + theirs for ours, theirs in zip(first["rewards"], second["rewards"], strict=True)]
    assert first["solved"] == torch.tensor(rewards).reshape(-1, 4).sum(-1).tolist()
    assert second["selected"] == []
    assert "sampler/useful" in first["logged"][0]
    # The second half, in fresh trainers from the checkpoint between.
    assert (first["rest"], second["rest"]) == (first["whole"][2:], second["whole"][2:])


# ------------------------------------------------------------------------------------------------ what is solved


@pytest.mark.slow  # two runs of twelve steps
def test_more_of_what_is_rolled_out_is_useful_than_with_trls_own_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours()
    out = tmp_path / "trl.json"
    monkeypatch.setattr(sys, "argv", f"trl --steps 12 --seeds 7 --runs {tmp_path / 'runs'} --out {out}".split())
    benchmark.main()
    theirs, mine = (json.loads(out.read_text())["arms"][arm]["useful_late"]["mean"] for arm in benchmark.ARMS)
    assert mine > theirs + 0.1


def brief(completions: list[str], **_: Any) -> list[float]:
    return [1.0 if len(text) < 12 else 0.25 for text in completions]


def sometimes(completions: list[str], id: list[str], **_: Any) -> list[float | None]:  # noqa: A002 - the column's
    return [None if name == id[0] else 1.0 for name in id]


def test_which_reward_tells_what_is_solved(tmp_path: Path) -> None:
    def told(**settings: Any) -> list[float]:
        trainer = predictive(tmp_path, max_steps=2, reward_funcs=[Solving(), brief], **settings)
        trainer.train()
        events = trainer.prompt_sampler.history.events
        judged = torch.tensor(trainer.reward_funcs[0].rewards, dtype=torch.float64).reshape(-1, 4)
        assert torch.equal(events.trials, torch.full_like(events.prompt, 4))
        solved: list[float] = events.solved.tolist()
        if settings.get("solved_by") == "solving":
            assert solved == judged.sum(-1).tolist()
        return solved

    told(solved_by="solving")
    either = told(solved_by=lambda rewards: torch.maximum(rewards["solving"], rewards["brief"]))
    assert either == told(solved_by=ours().WEIGHTED_SUM, solved_at=1.0)
    weighted = told(solved_by=ours().WEIGHTED_SUM, solved_at=0.5, reward_weights=[0.0, 2.0])
    assert weighted == [4.0] * 4  # twice 0.25 is 0.5


def test_partial_rewards_are_summed_and_unscored_rollouts_left_out(tmp_path: Path) -> None:
    trainer = predictive(tmp_path, max_steps=2, reward_funcs=brief, solved_at=None)
    trainer.train()
    assert set(trainer.prompt_sampler.history.events.solved.tolist()) <= {1.0, 1.75, 2.5, 3.25, 4.0}

    trainer = predictive(tmp_path, max_steps=2, reward_funcs=[brief, sometimes], solved_by="sometimes")
    trainer.train()
    events = trainer.prompt_sampler.history.events
    assert events.trials.tolist() == [0, 4, 0, 4]
    assert events.solved.tolist() == [0, 4, 0, 4]


def test_prompts_are_found_by_their_ids(tmp_path: Path) -> None:
    shuffled = dataset().shuffle(seed=3)
    prompts = PromptSampler(SolvingProgress(), IDS, trials=4, seed=5)
    trainer = predictive(tmp_path, prompts=prompts, train_dataset=shuffled, prompt_id="id")
    trainer.train()
    assert trainer.reward_funcs[0].calls == laid_out(selections(trainer), 4)


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": PromptSampler(SolvingProgress(), 7, trials=4)}, "expected 24 prompts, one per row"),
        ({"prompts": PromptSampler(SolvingProgress(), 24, trials=8)}, "expected trials=4, as num_generations, got 8"),
        ({"prompts": "a sampler"}, "prompt_sampler: expected an instance of PromptSampler"),
        ({"reward_funcs": [brief, sometimes]}, "solved_by: expected the reward function .* one of brief, sometimes"),
        ({"solved_by": "accuracy"}, "solved_by: expected 'weighted sum' or one of solving, got 'accuracy'"),
        ({"prompt_id": "uid"}, "prompt_id: expected one of prompt, id, got 'uid'"),
        ({"prompt_id": "id"}, "prompt_id: expected a sampler with ids"),
        (
            {"prompts": PromptSampler(SolvingProgress(), [*IDS[1:], "new"], trials=4), "prompt_id": "id"},
            "expected the same ids in both, got 'countdown:.*' in train_dataset only",
        ),
        ({"per_device_train_batch_size": 128}, "expected at least the 32 prompts of a generation, got 24"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        predictive(tmp_path, **settings)


def test_a_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a Dataset, whose rows can be chosen, got IterableDataset"):
        predictive(tmp_path, train_dataset=dataset().to_iterable_dataset())


@pytest.mark.parametrize("version", ["0.29.1", "2.0.0"])
def test_a_version_of_trl_out_of_range_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ours()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "trl" else real(name))
    with pytest.raises(ImportError, match=f"expected trl{module.SUPPORTED}, got trl {version}: pip install 'dps_pyro"):
        importlib.reload(module)


def test_without_trl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dps_pyro.support.versions import require

    with pytest.raises(ImportError, match=r"expected no-such-package>=1, got none: pip install 'dps_pyro\[trl\]'"):
        require("no-such-package", ">=1", extra="trl")


def test_a_trl_that_lacks_what_is_overridden_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ours().GRPOTrainer, "_calculate_rewards")
    with pytest.raises(RuntimeError, match="expected a trainer with _calculate_rewards, which trl"):
        predictive(tmp_path)


def test_a_trl_that_no_longer_calls_what_is_overridden_is_refused(tmp_path: Path) -> None:
    class Other(ours().PredictiveGRPOTrainer):  # type: ignore[misc]
        def _calculate_rewards(self, *args: Any) -> Tensor:
            return ours().GRPOTrainer._calculate_rewards(self, *args)

    trainer = Other(
        **policy(), args=config(tmp_path), train_dataset=dataset(), reward_funcs=brief, prompt_sampler=sampler()
    )
    with pytest.raises(RuntimeError, match="expected TRL to call _calculate_rewards"):
        trainer.train()


def plain(**settings: Any) -> Any:
    """TRL's own trainer."""
    ours()
    import trl

    return trl.GRPOTrainer(**settings)


def laid_out(rows: list[list[int]], repeats: int) -> list[list[str]]:
    """The ids that reward functions should see, a list a generation."""
    return [[IDS[row] for row in batch for _ in range(repeats)] for batch in rows]


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root / "tests"), str(root), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
