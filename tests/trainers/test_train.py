"""The loop with its real parts: the embedded policy, the Countdown task, the sampler, the optimizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.tiny import metrics, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

import dps_pyro
from dps_pyro import PromptSampler, RolloutHistory
from dps_pyro.lm.losses import informative_groups
from dps_pyro.models.by_name import make
from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.trainers.config.config_file import load_config
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.parts import make_task
from dps_pyro.trainers.policy.load import autocast, device_of, load_policy, quiet
from dps_pyro.trainers.run.folder import RunFolder
from dps_pyro.trainers.step.bookkeeping import Clock
from dps_pyro.trainers.step.groups import Groups, Source, evaluate, roll_out
from dps_pyro.trainers.step.policy_update import update

SECONDS = {f"seconds/{part}" for part in ("select", "rollout", "reward", "observe", "update", "sync")}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return tiny(tmp_path_factory.mktemp("run") / "run", steps=4, eval_every=2, checkpoint_every=3, report=True)


@pytest.fixture(scope="module")
def summary(config: TrainConfig) -> dict[str, Any]:
    """One run from end to end; its folder is `config.task.out`."""
    return train(config)


@pytest.fixture
def run(config: TrainConfig, summary: dict[str, Any]) -> Path:
    assert config.task.out is not None
    return config.task.out


@pytest.fixture(scope="module")
def groups() -> Groups:
    """Six rolled-out prompts, the rewards arranged: useful, all wrong, useful, useful, all right, useful."""
    config = tiny(Path(), batch_size=6)
    policy, tokenizer = load_policy(config)
    task = make_task(config)
    prompts = task.prompts("train")[:6]
    source = Source(TransformersEngine(policy, tokenizer), tokenizer, task, config)
    rolled = roll_out(source, prompts, 0, Clock())
    rewards = torch.tensor([[1, 0, 0, 1], [0] * 4, [0, 0, 0, 1], [0, 1, 0, 0], [1] * 4, [1, 1, 0, 1]]).float()
    return rolled._replace(rewards=rewards)


# ---------------------------------------------------------------------------------------------------- the run folder


def test_a_run_leaves_everything_in_its_folder(run: Path) -> None:
    names = {entry.name for entry in run.iterdir()}
    assert names == {
        "config.yaml", "metrics.jsonl", "history.parquet", "checkpoints", "tensorboard", "posterior", "summary.json",
        "report.html", "figures", "best", "policy", "completions", "run_id", "checksums.json", ".lock",
    }  # fmt: skip
    assert "<svg" in (run / "report.html").read_text(encoding="utf-8")
    assert not [file for file in run.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".pth", ".tmp")]


def test_the_configuration_reads_back(run: Path, config: TrainConfig) -> None:
    assert load_config(run / "config.yaml") == config.resolved()
    assert "max_new_tokens: 24\n" in (run / "config.yaml").read_text(encoding="utf-8")


def test_metrics_and_history_tell_the_same_story(run: Path) -> None:
    lines = metrics(run, timings=True)
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("eval", 0), ("train", 0), ("train", 1), ("eval", 2), ("train", 2), ("train", 3), ("eval", 4),
    ]  # fmt: skip
    history = RolloutHistory.from_parquet(run / "history.parquet")
    assert (history.num_prompts, history.num_steps, len(history)) == (32, 4, 16)
    seen: set[int] = set()
    evidence = PromptSampler(make("SolvingProgress"), 32, trials=4)
    for step, line in enumerate(line for line in lines if line["kind"] == "train"):
        prompt, _, solved, trials, predicted, *_ = (column[history.events.step == step] for column in history.events)
        assert len(set(prompt.tolist())) == 4
        assert trials.tolist() == [4] * 4
        seen |= set(prompt.tolist())
        assert line["rollouts"] == 16 * (step + 1)
        assert line["reward"] == pytest.approx(solved.sum().item() / 16)
        assert line["useful"] == pytest.approx(((solved > 0) & (solved < 4)).double().mean().item())
        assert line["visited"] == pytest.approx(len(seen) / 32)
        # A sampler that is shown the history believes what the run's believed, before each step and after it.
        chance = evidence.informative(4)
        assert line["useful_pool"] == pytest.approx(chance.mean().item(), rel=1e-5)
        torch.testing.assert_close(predicted, chance[prompt], rtol=1e-5, atol=1e-6)
        assert line["useful_predicted"] == pytest.approx(predicted.mean().item(), rel=1e-5)
        evidence.observe(prompt, solved, trials)
        assert line["belief"] == pytest.approx(evidence.belief.mean(0).tolist(), rel=1e-5)
        assert set(line) >= SECONDS
        assert (line["loss"] is None) == (line["useful"] == 0)
        assert 1 <= line["length"] <= 24
        assert 0 <= line["truncated"] <= 1
        reasons = {name: share for name, share in line.items() if name.startswith("reason/")}
        assert reasons.get("reason/correct", 0) == pytest.approx(line["reward"])
        assert sum(reasons.values()) == pytest.approx(1)
        assert " " not in "".join(reasons)
    assert all(line["prompts"] == 8 and line["samples"] == 1 for line in lines if line["kind"] == "eval")


def test_the_summary_sums_up(run: Path, summary: dict[str, Any]) -> None:
    assert json.loads((run / "summary.json").read_text(encoding="utf-8")) == summary
    lines = metrics(run, timings=True)
    steps = [line for line in lines if line["kind"] == "train"]
    accuracy = [line["accuracy"] for line in lines if line["kind"] == "eval"]
    seconds = {name: sum(line[name] for line in steps) for name in SECONDS}
    assert (summary["accuracy_before"], summary["accuracy_after"]) == (accuracy[0], accuracy[-1])
    assert (summary["steps"], summary["rollouts"], summary["saved"]) == (4, 64, steps[-1]["saved"])
    assert summary["useful_share"] == pytest.approx(sum(line["useful"] for line in steps) / 4)
    assert summary["seconds"] == pytest.approx(sum(seconds.values()))  # evaluations are not in it
    share = (seconds["seconds/select"] + seconds["seconds/observe"]) / sum(seconds.values())
    assert summary["selection_share"] == pytest.approx(share)
    assert summary["states"] == ["unsolved", "partially solved", "solved"]
    assert sum(summary["initial"]) == pytest.approx(1, abs=1e-4)
    assert [sum(row) for row in summary["transition"]] == pytest.approx([1] * 3, abs=1e-4)
    assert summary["rates"] == sorted(summary["rates"])
    posterior = dps_pyro.Posterior.load(run / "posterior")
    assert summary["posterior_converged"] == posterior.converged
    assert 0 < len(posterior.losses) <= 300
    assert summary["uniform"] is None


def test_tensorboard_can_read_the_events(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    steps = [line for line in metrics(run) if line["kind"] == "train"]
    drawn = [(event.step, event.value) for event in board.Scalars("train/reward")]
    assert drawn == [(line["step"], pytest.approx(line["reward"])) for line in steps]
    assert [event.step for event in board.Scalars("eval/accuracy")] == [0, 2, 4]
    assert set(board.Tags()["scalars"]) >= SECONDS


def test_checkpoints_are_ordinary_transformers_folders(run: Path) -> None:
    assert RunFolder(run, resume=True).checkpoints() == [3, 4]
    folder = run / "checkpoints/step-000004/policy"
    policy = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = AutoModelForCausalLM.from_pretrained(EMBEDDED["countdown"])
    changed = [not torch.equal(a, b) for a, b in zip(policy.parameters(), start.parameters(), strict=True)]
    assert any(changed)
    config = tiny(Path())
    source = Source(TransformersEngine(policy, tokenizer), tokenizer, make_task(config), config)
    assert evaluate(source)["accuracy"] == metrics(run)[-1]["accuracy"]


def test_a_run_s_posterior_is_the_next_run_s_prior(run: Path, tmp_path: Path) -> None:
    plain, informed = tmp_path / "plain", tmp_path / "informed"
    train(tiny(plain))
    train(tiny(informed, prior=run / "posterior"))
    shares = [metrics(folder)[1]["useful_pool"] for folder in (plain, informed)]
    posterior = dps_pyro.Posterior.load(run / "posterior")
    sampler = PromptSampler(make("SolvingProgress"), 32, trials=4, posterior=posterior)
    assert shares[1] == pytest.approx(sampler.informative(4).mean().item())
    assert shares[0] != pytest.approx(shares[1], rel=1e-3)


# ------------------------------------------------------------------------------------------------------ the settings


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "dr_grpo", "mini_batches": 2, "epochs": 2},
        {"loss": "dapo", "dynamic_sampling": 3, "acquisition": "top"},
        {"loss": "rloo", "kl": 0.1, "mini_batches": 3, "clip": [0.1, 0.3]},
        {"loss": "grpo", "precision": "bfloat16", "rollout_batch": 7, "weight_decay": 0.1},
        {"dynamics": "PaperDPS", "dynamics_args": {"decay": 0.5}, "acquisition": "top", "report": True},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_every_way_to_train(settings: dict[str, Any], tmp_path: Path) -> None:
    summary = train(tiny(tmp_path / "run", batch_size=8, **settings))
    line = metrics(tmp_path / "run")[1]
    assert line["loss"] is not None
    assert line["grad_norm"] > 0
    assert line["entropy"] > 0
    batches = line["rollouts"] / 32
    useful = round(line["useful"] * 8 * batches)
    assert batches in range(1, settings.get("dynamic_sampling", 1) + 1)
    assert batches == settings.get("dynamic_sampling", 1) or useful >= 8
    # Several optimizer steps a step move the policy away from the one that was sampled from, and the initial one.
    moved = settings.get("mini_batches", 1) > 1
    # In one step, the probabilities are those of the rollouts, in bfloat16 too; but processors without AVX-512 round
    # products in bfloat16 otherwise where shapes differ, and those of rollouts and updates do (rollout_batch).
    rounds = settings.get("precision") == "bfloat16" and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    assert (line["kl"] > (1e-6 if rounds else 1e-9)) == moved
    assert (line["reference_kl"] > 0) == (settings.get("kl", 0) > 0)
    assert summary["model"] == settings.get("dynamics", "SolvingProgress")
    assert not (tmp_path / "run/posterior").exists()  # the paper's model counts online: nothing is left to fit


def test_more_candidates_are_rolled_out_only_while_useful_groups_are_missing(tmp_path: Path) -> None:
    """Easy enough that the first of three batches does: with two operands, most groups are mixed."""
    args = {"train_size": 32, "test_size": 8, "operands": {2: 1.0}}
    config = tiny(tmp_path / "run", task_args=args, batch_size=1, dynamic_sampling=20, group_size=16)
    train(config)
    line = metrics(tmp_path / "run")[1]
    assert line["rollouts"] % 16 == 0
    assert line["rollouts"] < 20 * 16
    events = RolloutHistory.from_parquet(tmp_path / "run/history.parquet").events
    useful = (events.solved > 0) & (events.solved < 16)
    assert useful.tolist() == [False] * (len(useful) - 1) + [True]  # it stopped at the first
    assert line["useful_predicted"] == pytest.approx(events.predicted.mean().item())  # of those rolled out
    # The rewards are those of the prompts they are booked for: roll these out again.
    policy, tokenizer = load_policy(config)
    task = make_task(config)
    prompts = [task.prompts("train")[row] for row in events.prompt.tolist()]
    source = Source(TransformersEngine(policy, tokenizer), tokenizer, task, config)
    again = roll_out(source, prompts, 0, Clock())
    assert again.rewards.sum(1).tolist() == events.solved.tolist()


# -------------------------------------------------------------------------------------------------------- the update


def test_micro_batches_change_nothing_but_memory(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"steps": 2, "batch_size": 8, "kl": 0.1, "mini_batches": 2}
    for micro in (3, 256):
        train(tiny(tmp_path / str(micro), micro_batch=micro, **shared))
    for one, other in zip(metrics(tmp_path / "3"), metrics(tmp_path / "256"), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert other[name] == expected, name


def test_groups_without_signal_do_not_dilute_the_update(groups: Groups) -> None:
    """The step is the one that would have been taken had they never been rolled out."""
    config = tiny(Path(), batch_size=6)
    useful = informative_groups(groups.rewards)
    assert useful.tolist() == [True, False, True, True, False, True]
    kept = Groups(groups.rollouts.select(useful.repeat_interleave(4)), groups.rewards[useful], [])
    results = []
    for part in (groups, kept):
        policy, _ = load_policy(config)
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
        learned = update(policy, None, optimizer, part, config, seed=0)
        results.append((learned, [parameter.detach().clone() for parameter in policy.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_a_batch_of_useful_groups_is_enough(groups: Groups) -> None:
    """Dynamic sampling may find more: they are left out, as in DAPO."""
    learned = []
    for config, part in (
        (tiny(Path(), batch_size=2), groups),  # the first two useful ones of four
        (tiny(Path(), batch_size=6), Groups(groups.rollouts.select(torch.arange(12)), groups.rewards[:3], [])),
    ):
        policy, _ = load_policy(config)
        learned.append(update(policy, None, torch.optim.SGD(policy.parameters(), lr=0.1), part, config, seed=0))
    assert learned[0] == learned[1]


def test_a_step_without_a_useful_group_updates_nothing(tmp_path: Path) -> None:
    """Numbers that the policy has no tokens for are hopeless."""
    hopeless = {"train_size": 8, "test_size": 1, "operands": {3: 1.0}, "numbers": [500, 999], "targets": [500, 999]}
    train(tiny(tmp_path / "run", task_args=hopeless, steps=2, weight_decay=0.5, learning_rate=0.1))
    for line in metrics(tmp_path / "run"):
        if line["kind"] == "train":
            assert (line["reward"], line["useful"]) == (0, 0)
            names = ("loss", "grad_norm", "clip_fraction", "kl", "reference_kl", "entropy")
            assert [line[name] for name in names] == [None] * 6
        else:
            assert (line["accuracy"], line["stderr"]) == (0, None)  # one prompt has no standard error
    policies = [EMBEDDED["countdown"], tmp_path / "run/checkpoints/step-000002/policy"]
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in policies)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_learns_nothing_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hopeless = {"train_size": 8, "test_size": 1, "operands": {3: 1.0}, "numbers": [500, 999], "targets": [500, 999]}
    train(tiny(tmp_path / "run", task_args=hopeless, steps=22, eval_every=0))
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("Nothing to learn from: in the last 10 steps no group was useful") == 1
    assert "Why they earned what they did: wrong numbers" in out


def test_a_gradient_that_is_not_finite_updates_nothing(groups: Groups) -> None:
    config = tiny(Path(), batch_size=6)
    policy, _ = load_policy(config)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
    broken = groups.rollouts.logprobs.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="gradient norm: expected a finite number, got nan"):
        update(policy, None, optimizer, groups._replace(rollouts=groups.rollouts._replace(logprobs=broken)), config, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert not optimizer.state


def test_a_policy_that_breaks_down_stops_the_run_and_leaves_its_checkpoint(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", steps=9, learning_rate=1e30, checkpoint_every=1, batch_size=8)
    with pytest.raises(FloatingPointError, match="expected finite numbers") as caught:
        train(config)
    assert "The last checkpoint is of step 1; go on with: dps-pyro train --resume" in caught.value.__notes__[0]
    checkpoint = RunFolder(tmp_path / "run", resume=True).load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.state["ledger"]["step"] == 1


# ----------------------------------------------------------------------------------------------------- the other parts


def test_evaluation_draws_the_same_every_time_and_states_its_error() -> None:
    config = tiny(Path(), eval_samples=3)
    policy, tokenizer = load_policy(config)
    source = Source(TransformersEngine(policy, tokenizer), tokenizer, make_task(config), config)
    state = torch.get_rng_state()
    first = evaluate(source)
    assert evaluate(source) == first
    assert any(evaluate(replace(source, config=config.replaced(seed=seed))) != first for seed in (1, 2, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert (first["prompts"], first["samples"]) == (8, 3)
    assert first["accuracy"] is not None
    assert first["stderr"] is not None
    assert (first["accuracy"] * 24) % 1 == pytest.approx(0, abs=1e-9)
    assert 0 < first["stderr"] < 0.5 / 7**0.5


def test_precision_and_device() -> None:
    assert device_of(tiny(Path(), device="cpu")) == torch.device("cpu")
    with autocast(tiny(Path(), device="cpu", precision="bfloat16")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    for precision in ("auto", "float32"):
        with autocast(tiny(Path(), device="cpu", precision=precision)):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with pytest.raises(ValueError, match="device: expected auto, cpu or a GPU such as cuda, got 'gpu'"):
        device_of(tiny(Path(), device="gpu"))


def test_the_library_s_progress_bars_are_silent_only_meanwhile(capfd: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils import logging

    shown, downloads = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    with quiet():
        assert not logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled() == downloads
    assert logging.is_progress_bar_enabled() == shown
    assert are_progress_bars_disabled() == downloads
    load_policy(tiny(Path()))
    assert capfd.readouterr().err == ""
