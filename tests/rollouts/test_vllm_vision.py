"""Prompts with images through real vLLM on the CPU: a tiny Idefics3, the embedded geometry policy, real problems."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engines.vision_prompts import PROMPTS
from helpers.engines.vlms import save_checkpoint
from helpers.problems.geometry3k import GEOMETRY3K
from helpers.runs.tiny import metrics, tiny
from torch import nn
from torch.testing import assert_close

from dps_pyro.lm.logprobs import completion_logprobs
from dps_pyro.rollouts import Query, Sampling
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.rollouts.vllm import VllmEngine
from dps_pyro.tasks.geometry.task import Geometry
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy.chat import query
from dps_pyro.trainers.policy.load import load_policy

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

SMALL: dict[str, Any] = {"kv_cache_gib": 0.1, "args": {"max_num_seqs": 32}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}  # of 32 numbers, the least that vLLM takes on a CPU
    folder = save_checkpoint("idefics3", tmp_path_factory.mktemp("idefics3"), **heads)
    return load_policy(TrainConfig.flat(model=str(folder), device="cpu"))


@pytest.fixture(scope="module")
def engine(loaded: tuple[Any, Any]) -> Iterator[VllmEngine]:
    made = VllmEngine(*loaded, **SMALL)
    yield made
    made.close()


@pytest.fixture
def asked(loaded: tuple[Any, Any]) -> list[str | Query]:
    """One image, two, none, a wide one."""
    return [query(loaded[1], prompt) for prompt in PROMPTS]


@pytest.fixture
def policy(loaded: tuple[Any, Any], engine: VllmEngine) -> Iterator[Any]:
    """The engine in step with the policy, and the policy afterwards as it was."""
    model = loaded[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine.sync(model)
    yield model
    model.load_state_dict(before)


def assert_in_step(engine: VllmEngine, policy: Any, reader: Any, asked: list[str | Query], **sampling: Any) -> None:
    greedy = Sampling(8, temperature=0)
    mine, theirs = (each.generate(asked, 1, greedy, seed=0) for each in (TransformersEngine(policy, reader), engine))
    assert theirs.texts == mine.texts
    assert_close(theirs.prompt_ids, mine.prompt_ids)
    assert_close(theirs.prompt_mask, mine.prompt_mask)
    assert theirs.vision is not None and mine.vision is not None
    for one, other in zip(theirs.vision, mine.vision, strict=True):
        assert_close(dict(one), dict(other))
    assert_close(theirs.completion_ids[theirs.completion_mask], mine.completion_ids[mine.completion_mask])
    assert_close(theirs.logprobs, mine.logprobs, atol=1e-3, rtol=0)
    drawn = engine.generate(asked, 4, Sampling(8, **sampling), seed=1)
    assert len(set(drawn.texts[:4])) > 1
    with torch.no_grad():
        own = completion_logprobs(policy, *drawn[:4], temperature=sampling.get("temperature", 1.0), vision=drawn.vision)
    assert_close(drawn.logprobs, own, atol=1e-3, rtol=0)


def disturb(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def test_the_engine_sees_what_the_policy_sees_and_stays_in_step(
    engine: VllmEngine, policy: Any, loaded: tuple[Any, Any], asked: list[str | Query]
) -> None:
    assert_in_step(engine, policy, loaded[1], asked)
    disturb(policy)
    engine.sync(policy)
    assert_in_step(engine, policy, loaded[1], asked, temperature=0.7)


def test_what_the_old_weights_saw_is_forgotten(
    engine: VllmEngine, policy: Any, loaded: tuple[Any, Any], asked: list[str | Query]
) -> None:
    """Only the eyes change: cached images would be those of the old ones, and the text's weights would not tell."""
    before = engine.generate(asked, 1, Sampling(1, temperature=0), seed=0)
    disturb(policy.model.vision_model)
    engine.sync(policy)
    after = engine.generate(asked, 1, Sampling(1, temperature=0), seed=0)
    pictured = torch.tensor([bool(PROMPTS[row].images) for row in range(4)])
    assert ((after.logprobs - before.logprobs).abs()[pictured] > 1e-3).any()
    assert_in_step(engine, policy, loaded[1], asked)


def test_no_completion_holds_an_image(
    engine: VllmEngine, policy: Any, loaded: tuple[Any, Any], asked: list[str | Query]
) -> None:
    token = policy.config.image_token_id
    with torch.no_grad():  # it would be drawn half the time
        policy.lm_head.weight[token] = policy.lm_head.weight[40]
    engine.sync(policy)
    drawn = engine.generate(asked, 32, Sampling(8, temperature=2.0), seed=0)
    assert (drawn.completion_ids == 40).any()
    assert not (drawn.completion_ids == token).any()
    assert_in_step(engine, policy, loaded[1], asked, temperature=2.0)


@pytest.mark.skipif(not GEOMETRY3K.exists(), reason="the sample of Geometry3k is not here")
def test_ten_real_problems(engine: VllmEngine, policy: Any, loaded: tuple[Any, Any]) -> None:
    (source,) = GEOMETRY3K.glob("*.jsonl")
    task = Geometry.geometry3k(source)
    asked = [query(loaded[1], prompt) for split in ("train", "test") for prompt in task.prompts(split)][:10]
    assert len(asked) == 10
    assert all(isinstance(one, Query) and one.images for one in asked)
    assert_in_step(engine, policy, loaded[1], asked)


def test_the_embedded_policy_learns_in_step(tmp_path: Path) -> None:
    settings = {"kv_cache_gib": 0.1, "vllm_args": {"max_num_seqs": 32}, "batch_size": 8, "group_size": 8}
    train(tiny(tmp_path / "run", task="geometry", engine="vllm", steps=3, **settings))
    lines = [line for line in metrics(tmp_path / "run", timings=True) if line["kind"] == "train"]
    drift = [line["engine_kl"] for line in lines if line["engine_kl"] is not None]
    assert len(drift) > 1
    assert max(drift) < 1e-6
