"""The policy's own reading of the prompts, as features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs.tiny import tiny

from dps_pyro.history.log import RolloutHistory
from dps_pyro.lm.inputs import Query
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy import reading as module
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.policy.reading import principal, read_prompts, reading_features

TEXTS = ["28 8 6 = 42 : ", "3 4 = 7 : ", "28 8 6 1 9 = 42 : ", "5 5 = 10 : "]


def test_each_prompt_is_read_as_it_would_be_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain forward pass of one prompt without padding, whatever shares its batch."""
    policy, tokenizer = load_policy(tiny(Path()))
    for tokens in (4096, 30):  # all together, and in several batches
        monkeypatch.setattr(module, "TOKENS", tokens)
        states, logps = read_prompts(policy, tokenizer, TEXTS)
        for row, text in enumerate(TEXTS):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            with torch.no_grad():
                out = policy(input_ids=ids, output_hidden_states=True)
            torch.testing.assert_close(states[row], out.hidden_states[-1][0, -1], atol=1e-4, rtol=1e-4)
            known = out.logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].mean()
            torch.testing.assert_close(logps[row], known, atol=1e-4, rtol=1e-4)


def test_components_are_those_of_the_covariance() -> None:
    """Against numpy's eigenvectors, up to the sign, which is fixed."""
    states = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)).float()
    found = principal(states, 3)
    centred = states.double().numpy() - states.double().numpy().mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / 40)
    for k in range(3):
        expected = centred @ vectors[:, -1 - k] / np.sqrt(values[-1 - k])
        sign = np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(found[:, k].numpy(), sign * expected, atol=1e-8)
    torch.testing.assert_close(found.T @ found / 40, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(principal(-states, 3), found)  # the sign is settled by the numbers
    assert (principal(torch.ones(5, 4), 2) == 0).all()  # nothing varies
    with pytest.raises(ValueError, match="components"):
        principal(states, 8)


def test_what_cannot_be_read_is_refused() -> None:
    policy, tokenizer = load_policy(tiny(Path()))
    with pytest.raises(ValueError, match="empty"):
        read_prompts(policy, lambda texts: {"input_ids": [[] if not text else [1] for text in texts]}, ["", "3"])
    with pytest.raises(ValueError, match="images"):
        read_prompts(policy, tokenizer, [Query("3", images=(None,))])  # type: ignore[arg-type]
    assert set(reading_features(policy, tokenizer, TEXTS, 2)) == {"reading 1", "reading 2", "reading logp"}


def test_a_run_regresses_on_what_its_policy_read(tmp_path: Path) -> None:
    """The features are in the log, and a resumed run goes on with those of the first step."""
    shared = {"dynamics": "Covariate", "read_prompts": 2, "checkpoint_every": 1}
    train(tiny(tmp_path / "run", steps=1, **shared))
    before = RolloutHistory.from_parquet(tmp_path / "run/history.parquet").features
    train(tiny(tmp_path / "run", steps=2, resume=True, **shared))
    after = RolloutHistory.from_parquet(tmp_path / "run/history.parquet").features
    for name in ("reading 1", "reading 2", "reading logp"):
        assert before[name] == after[name]
        assert len(set(after[name])) > 16
