"""One step off: what is drawn ahead, where the sampler puts it, and that a resumed run goes on exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs.tiny import killed, metrics, tiny
from safetensors.torch import load_file
from torch.testing import assert_close

from dps_pyro import RolloutHistory
from dps_pyro.rollouts import Sampling
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy.load import load_policy

RUN = {"steps": 4, "checkpoint_every": 2, "async_rollouts": True, "eval_every": 2}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "step-000004" / "policy" / "model.safetensors")


def test_groups_belong_to_the_step_of_the_policy_they_were_drawn_from(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", **RUN))
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["policy_version"] for line in lines] == [0, 0, 1, 2]
    events = RolloutHistory.from_parquet(tmp_path / "run" / "history.parquet").events
    assert events.step.reshape(4, -1).unique(dim=1).squeeze(1).tolist() == [0, 0, 1, 2]
    drift = [line["engine_kl"] for line in lines if line["engine_kl"] is not None]
    # The first step is on policy; later ones are one update behind, where there was one.
    if lines[0]["engine_kl"] is not None:
        assert lines[0]["engine_kl"] < 1e-9
    assert max(drift) > 1e-7


def test_a_killed_run_goes_on_exactly_with_what_was_drawn_ahead(tmp_path: Path) -> None:
    train(tiny(tmp_path / "whole", **RUN))
    killed(tiny(tmp_path / "cut", **RUN), "os.rename", "step-000004")
    assert not (tmp_path / "cut" / "checkpoints" / "step-000004").exists()
    train(tiny(tmp_path / "cut", **RUN, resume=True))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_images_drawn_ahead_are_taken_from_the_prompts_again(tmp_path: Path) -> None:
    more = {**RUN, "task": "geometry", "eval_every": 0, "batch_size": 8, "group_size": 8}
    train(tiny(tmp_path / "whole", **more))
    killed(tiny(tmp_path / "cut", **more), "os.rename", "step-000004")
    train(tiny(tmp_path / "cut", **more, resume=True))
    lines = metrics(tmp_path / "cut")
    assert lines == metrics(tmp_path / "whole")
    assert lines[3]["engine_kl"] is not None  # the step that was drawn ahead taught something
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_frozen_engine_keeps_the_older_weights_until_it_is_told(tmp_path: Path) -> None:
    policy, tokenizer = load_policy(tiny(tmp_path))
    engine = TransformersEngine(policy, tokenizer, frozen=True)

    def first() -> torch.Tensor:
        return engine.generate(["28 8 6 = 42 : "], 2, Sampling(4), seed=0).logprobs

    before = first()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.2)
    assert_close(first(), before, rtol=0, atol=0)
    engine.sync(policy)
    assert not torch.equal(first(), before)
    assert_close(
        first(), TransformersEngine(policy, tokenizer).generate(["28 8 6 = 42 : "], 2, Sampling(4), seed=0).logprobs
    )
    assert not any(parameter.requires_grad for parameter in engine.model.parameters())


def test_what_goes_wrong_in_the_thread_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third call is the second step's, ahead of its time."""
    generate, calls = TransformersEngine.generate, []

    def failing(self: TransformersEngine, *args: object, **known: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise FloatingPointError("the policy's logits: expected finite numbers, got NaN or infinity")
        return generate(self, *args, **known)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformersEngine, "generate", failing)
    with pytest.raises(FloatingPointError, match="finite"):
        train(tiny(tmp_path / "run", **RUN))


@pytest.mark.parametrize("other", [{"full_log": True}, {"dynamic_sampling": 2}])
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="async_rollouts: expected neither full_log nor dynamic_sampling"):
        tiny(tmp_path, **RUN, **other)
