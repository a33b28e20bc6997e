"""What a run leaves to be read and loaded: completions, the best policy, the last one; and what length costs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from helpers.runs.same_run import assert_same_run
from helpers.runs.tiny import killed, metrics, tiny
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from dps_pyro.lm.losses import advantages
from dps_pyro.rollouts import Rollouts
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.run.folder import RunFolder, forget_completions
from dps_pyro.trainers.step.groups import Groups, pass_at
from dps_pyro.trainers.step.overlong import length_penalty
from dps_pyro.trainers.step.policy_update import advantages_of, update, update_batch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters, so that the folders to load are merged; the first step learns much, the later ones nothing."""
    out = tmp_path_factory.mktemp("completions") / "run"
    train(tiny(out, steps=5, batch_size=8, log_completions=2, eval_every=2, eval_samples=4, lora_rank=2, kl=0.01,
               learning_rate=1e-3))  # fmt: skip
    return out


def test_completions_are_one_table(run: Path) -> None:
    table = pandas.read_parquet(run / "completions")
    assert sorted(set(table.step)) == [0, 2, 4]
    assert list(table.columns) == [
        "step", "prompt_id", "prompt", "completion", "reward", "reason", "advantage", "tokens", "finish",
    ]  # fmt: skip
    lines = {line["step"]: line for line in metrics(run) if line["kind"] == "train"}
    for step, part in table.groupby("step"):
        assert len(part) == 32
        assert part.reward.mean() == pytest.approx(lines[step]["reward"])
        assert (part.finish == "length").mean() == pytest.approx(lines[step]["truncated"])
        assert part.tokens.mean() == pytest.approx(lines[step]["length"])
        assert (part.reward == 1).equals(part.reason == "correct")
        for _, group in part.groupby("prompt_id"):
            expected = advantages(torch.tensor(group.reward.to_numpy(), dtype=torch.float32)[None], "grpo")[0]
            assert group.advantage.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_best_and_last_are_ordinary_folders(run: Path) -> None:
    evaluations = [line for line in metrics(run) if line["kind"] == "eval"]
    best = json.loads((run / "best/evaluation.json").read_text(encoding="utf-8"))
    assert best == max(evaluations, key=lambda line: line["accuracy"])  # the first of several
    prompt = torch.tensor([[3, 17, 5, 40]])
    config = tiny(Path(), lora_rank=2)
    adapted, _ = load_policy(config, run / "checkpoints/step-000005/policy")
    for name in ("best", "policy"):
        model = AutoModelForCausalLM.from_pretrained(run / name)
        AutoTokenizer.from_pretrained(run / name)
        assert not [weight for weight in model.state_dict() if "lora" in weight]
        if name == "policy":
            with torch.no_grad():
                torch.testing.assert_close(model(prompt).logits, adapted(input_ids=prompt).logits, rtol=1e-4, atol=1e-4)
    assert not [file for file in run.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".tmp")]


def test_the_best_is_replaced_by_better_ones_alone(tmp_path: Path) -> None:
    policy, tokenizer = load_policy(tiny(Path()))
    folder = RunFolder(tmp_path / "run")
    weight = next(iter(policy.parameters()))

    def offer(accuracy: float, mark: float) -> bool:
        with torch.no_grad():
            weight.fill_(mark)
        return folder.keep_best({"step": int(mark), "accuracy": accuracy}, policy, tokenizer)

    assert [offer(0.2, 1), offer(0.1, 2), offer(0.3, 3), offer(0.3, 4)] == [True, False, True, False]
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "run/best")
    assert float(next(iter(kept.parameters())).detach().mean()) == 3
    assert json.loads((tmp_path / "run/best/evaluation.json").read_text(encoding="utf-8"))["step"] == 3


def test_killed_while_the_best_is_written_and_resumed(tmp_path: Path) -> None:
    """The second evaluation's, after the first checkpoint; completions of the steps to be done again go."""

    def settings(out: Path) -> Any:
        return tiny(out, steps=4, checkpoint_every=2, eval_every=1, log_completions=1, batch_size=8, learning_rate=1e-3)

    straight, run = tmp_path / "straight", tmp_path / "run"
    train(settings(straight))
    killed(settings(run), "os.rename", ".step-000003.parquet")
    assert len(list((run / "completions").glob("step-*"))) == 3
    train(settings(run).replaced(resume=True))
    assert_same_run(run, straight)
    for name in ("best", "policy"):
        files = [(folder / name / "model.safetensors").read_bytes() for folder in (run, straight)]
        assert files[0] == files[1]
    tables = [pandas.read_parquet(folder / "completions") for folder in (run, straight)]
    pandas.testing.assert_frame_equal(*tables)


def test_completions_of_steps_to_come_are_forgotten(tmp_path: Path) -> None:
    for name in ("step-000000.parquet", "step-000004.parquet", "step-000010.parquet", ".step-000002.parquet.7.tmp"):
        (tmp_path / "completions").mkdir(exist_ok=True)
        (tmp_path / "completions" / name).touch()
    forget_completions(tmp_path, 4)
    assert [file.name for file in (tmp_path / "completions").iterdir()] == ["step-000000.parquet"]


# ------------------------------------------------------------------------------------------------------------ pass@k


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_chance_over_all_choices(samples: int, data: st.DataObject) -> None:
    """1 - C(n - c, k) / C(n, k), counted."""
    solved = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    expected = 1 - math.comb(samples - solved, k) / math.comb(samples, k)
    assert float(pass_at(k, torch.tensor(solved), samples)) == pytest.approx(expected, abs=1e-12)


def test_evaluations_state_every_k(run: Path) -> None:
    for line in (line for line in metrics(run) if line["kind"] == "eval"):
        assert [name for name in line if name.startswith("pass@")] == ["pass@1", "pass@2", "pass@4"]
        assert line["pass@1"] == pytest.approx(line["accuracy"])  # rewards are 0 and 1
        assert line["pass@1"] <= line["pass@2"] <= line["pass@4"] <= 1


# ------------------------------------------------------------------------------------------------------------ overlong


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 80))
def test_the_soft_punishment_is_the_paper_s(limit: int, buffer: int, length: int) -> None:
    """DAPO, eq. 13, case by case."""
    buffer = min(buffer, limit)
    if length <= limit - buffer:
        expected = 0.0
    elif length <= limit:
        expected = ((limit - buffer) - length) / buffer
    else:
        expected = -1.0
    assert float(length_penalty(torch.tensor(length), limit, buffer)) == pytest.approx(expected, abs=1e-6)


def cut_groups() -> Groups:
    """Two useful groups of four; 3 of the 8 completions were cut off at 10 tokens."""
    lengths = torch.tensor([10, 4, 10, 9, 3, 3, 10, 8])
    mask = torch.arange(10) < lengths[:, None]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (8, 10), generator=generator)
    prompt = torch.randint(5, 60, (2, 5), generator=generator).repeat_interleave(4, 0)
    finish = ["length" if length == 10 else "stop" for length in lengths]
    rollouts = Rollouts(prompt, torch.ones(8, 5).bool(), ids, mask, torch.full((8, 10), -1.0), finish, [""] * 8)
    return Groups(rollouts, torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]]), [""] * 8)


def test_masked_completions_count_in_the_baseline_and_nowhere_else() -> None:
    groups = cut_groups()
    ended = torch.tensor([reason == "stop" for reason in groups.rollouts.finish])
    settings: dict[str, Any] = {"batch_size": 2, "max_new_tokens": 10, "loss": "dapo"}
    config = tiny(Path(), overlong="mask", **settings)
    assert torch.equal(advantages_of(groups, config), advantages(groups.rewards, "dapo"))
    gradients = []
    for rewards_known in (True, False):
        policy, _ = load_policy(config)
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
        if rewards_known:
            update(policy, None, optimizer, groups, config, 0)
            gradients.append([weight.grad for weight in policy.parameters()])
            # What the cut-off ones hold does not matter.
            noise = groups.rollouts.completion_ids.clone()
            noise[~ended] = 7
            changed = groups._replace(rollouts=groups.rollouts._replace(completion_ids=noise))
            update(policy, None, optimizer, changed, config, 0)
            gradients.append([weight.grad for weight in policy.parameters()])
        else:
            update(policy, None, optimizer, groups, tiny(Path(), **settings), 0)
            gradients.append([weight.grad for weight in policy.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(gradients[0], gradients[1], strict=True))
    assert any(not torch.allclose(a, b) for a, b in zip(gradients[0], gradients[2], strict=True))
    all_cut = groups._replace(rollouts=groups.rollouts._replace(finish=["length"] * 4 + ["stop"] * 4))
    assert update_batch(all_cut, config, 0).groups.tolist() == [False, True]


def test_punished_lengths_reach_the_advantages_alone() -> None:
    groups = cut_groups()
    config = tiny(Path(), overlong="punish", max_new_tokens=10, overlong_buffer=4, batch_size=2, loss="dr_grpo")
    penalty = torch.tensor([[-1, 0, -1, -0.75], [0, 0, -1, -0.5]])
    expected = advantages(groups.rewards + penalty, "dr_grpo")
    torch.testing.assert_close(advantages_of(groups, config), expected)
    assert groups.rewards.sum().item() == 3  # what the tracker is told
    assert tiny(Path(), max_new_tokens=20).buffer == 4
    with pytest.raises(ValueError, match="overlong_buffer: expected at most max_new_tokens, 10, got 11"):
        _ = tiny(Path(), max_new_tokens=10, overlong_buffer=11).buffer


@pytest.mark.parametrize("overlong", ["mask", "punish"])
def test_runs_with_overlong_completions(overlong: str, tmp_path: Path) -> None:
    summary = train(tiny(tmp_path / "run", overlong=overlong, max_new_tokens=6, steps=2, batch_size=8))
    assert summary["steps"] == 2
    assert any(line["truncated"] > 0 for line in metrics(tmp_path / "run") if line["kind"] == "train")
