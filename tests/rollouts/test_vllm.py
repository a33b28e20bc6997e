"""The vLLM engine with real vLLM on the CPU: a tiny model with tied weights, one with chosen answers, LoRA."""

from __future__ import annotations

import importlib.util
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from helpers.engines.small import EOS, PROMPTS, warped_logprobs
from helpers.engines.vllm_models import SMALL, TOKENIZER, assert_in_step, disturb, make_model
from torch import nn
from torch.testing import assert_close
from transformers import Qwen2ForCausalLM

from dps_pyro.lm.logprobs import completion_logprobs
from dps_pyro.rollouts import EngineError, Query, Rollouts, Sampling
from dps_pyro.rollouts.seeds import request_seeds
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.rollouts.vllm import VllmEngine

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


@pytest.fixture(scope="module")
def policy() -> Qwen2ForCausalLM:
    return make_model()


@pytest.fixture(scope="module")
def engine(policy: Qwen2ForCausalLM) -> Iterator[VllmEngine]:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    threads = torch.set_num_threads
    made = VllmEngine(policy, TOKENIZER, **SMALL)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after, "vLLM's start left a trace in the global generators"
    assert torch.set_num_threads is threads
    yield made
    made.close()


@pytest.fixture
def fresh(engine: VllmEngine, policy: Qwen2ForCausalLM) -> VllmEngine:
    """The engine in step with the policy, whatever an earlier test gave it."""
    engine.sync(policy)
    return engine


# ----------------------------------------------------------------------------------------------------------- in step


def test_the_engine_begins_as_the_policy_and_stays_in_step_over_three_updates(engine: VllmEngine) -> None:
    student = make_model()
    engine.sync(student)
    assert_in_step(engine, student)
    for _ in range(3):
        before = engine.generate(PROMPTS, 8, Sampling(12), seed=1)
        disturb(student)
        with torch.no_grad():  # what a forgotten sync would look like: far off
            assert (completion_logprobs(student, *before[:4]) - before.logprobs).abs().max() > 0.05
        engine.sync(student)
        assert_in_step(engine, student, temperature=0.7)


def test_tied_weights_stay_tied(policy: Qwen2ForCausalLM, fresh: VllmEngine) -> None:
    """The trap: on a CPU the output layer is packed once, and would go on with the first embedding."""
    student = make_model()
    with torch.no_grad():
        student.get_input_embeddings().weight.mul_(-1.5)
    fresh.sync(student)
    assert_in_step(fresh, student)


def test_the_cache_of_prompts_is_forgotten_with_the_weights(fresh: VllmEngine) -> None:
    long = ["1 + 2 - 3 + 4 - 5 + 6 - 7 + 8 - 9 + 1 - 2 + 3 - 4 + 5 - 6 + 7 - 8 ="]  # more than one block of the cache
    student = make_model()
    for _ in range(2):
        drawn = fresh.generate(long, 4, Sampling(8), seed=1)
        again = fresh.generate(long, 4, Sampling(8), seed=1)  # from the cache
        assert_close(again.logprobs, drawn.logprobs, atol=1e-4, rtol=0)
        disturb(student, 0.1)
        fresh.sync(student)
        drawn = fresh.generate(long, 4, Sampling(8), seed=1)
        with torch.no_grad():
            assert_close(drawn.logprobs, completion_logprobs(student, *drawn[:4]), atol=2e-4, rtol=0)


def test_lora_is_merged_on_the_way_and_the_policy_left_alone(fresh: VllmEngine) -> None:
    peft = pytest.importorskip("peft")
    student = peft.get_peft_model(make_model(), peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    disturb(student, 0.05)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    fresh.sync(student)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert_in_step(fresh, student)


# ----------------------------------------------------------------------------------------------------- what comes back


def test_rows_masks_and_reasons(fresh: VllmEngine) -> None:
    rollouts = fresh.generate(PROMPTS, 16, Sampling(6), seed=1)
    assert isinstance(rollouts, Rollouts)
    assert len(rollouts.texts) == 48
    assert set(rollouts.finish) == {"stop", "length"}
    for ids, mask, finish in zip(rollouts.completion_ids, rollouts.completion_mask, rollouts.finish, strict=True):
        size = int(mask.sum())
        assert mask[:size].all()
        assert EOS not in ids[: size - 1]
        assert (ids[size - 1] == EOS) == (finish == "stop")
        assert finish == "stop" or size == 6
    assert (rollouts.logprobs[~rollouts.completion_mask] == 0).all()
    mine = TransformersEngine(make_model(), TOKENIZER).generate(PROMPTS, 16, Sampling(6), seed=1)
    assert_close(rollouts.prompt_ids, mine.prompt_ids)
    assert_close(rollouts.prompt_mask, mine.prompt_mask)


def test_a_completion_of_end_of_sequence_alone_is_an_empty_text(fresh: VllmEngine) -> None:
    rollouts = fresh.generate(PROMPTS, 32, Sampling(6), seed=1)
    empty = [row for row, ids in enumerate(rollouts.completion_ids) if ids[0] == EOS]
    assert empty
    for row in empty:
        assert rollouts.texts[row] == ""
        assert rollouts.finish[row] == "stop"
        assert rollouts.completion_mask[row].sum() == 1


@pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.6}])
def test_logprobs_are_those_of_the_distribution_drawn_from(
    fresh: VllmEngine, policy: Qwen2ForCausalLM, cut: dict[str, Any]
) -> None:
    rollouts = fresh.generate(PROMPTS, 16, Sampling(6, temperature=0.8, **cut), seed=4)

    def keep(probs: torch.Tensor) -> int:
        return cut.get("top_k") or int((probs.cumsum(0) < cut["top_p"]).sum()) + 1

    expected = warped_logprobs(policy, rollouts, 0.8, keep)
    assert_close(rollouts.logprobs, expected, atol=2e-4, rtol=0)


def test_first_tokens_are_drawn_as_the_policy_has_them(fresh: VllmEngine, policy: Qwen2ForCausalLM) -> None:
    count = 2000
    drawn = fresh.generate(PROMPTS[:1], count, Sampling(1), seed=9)
    ids = drawn.prompt_ids[:1]
    with torch.no_grad():
        probs = policy(ids).logits[0, -1].softmax(-1)
    seen = torch.bincount(drawn.completion_ids[:, 0], minlength=len(probs)) / count
    error = (probs * (1 - probs) / count).sqrt()
    assert ((seen - probs).abs() < 5 * error + 1e-3).all()


# ------------------------------------------------------------------------------------------------------------- seeds


def test_a_seed_decides_the_draws_and_the_global_generators_are_left_alone(fresh: VllmEngine) -> None:
    states = torch.get_rng_state().clone(), random.getstate()
    one, two, other = (fresh.generate(PROMPTS, 8, Sampling(12), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.completion_ids, two.completion_ids)
    assert one.texts != other.texts
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_completions_differ_within_a_group_and_between_equal_prompts(fresh: VllmEngine) -> None:
    rollouts = fresh.generate([PROMPTS[0]] * 2, 16, Sampling(12), seed=5)
    assert len(set(rollouts.texts[:16])) > 8
    assert rollouts.texts[:16] != rollouts.texts[16:]


def test_the_seeds_of_requests_are_far_apart() -> None:
    seeds = sorted(request_seeds(3, 1000))
    assert min(b - a for a, b in itertools.pairwise(seeds)) > 10_000
    assert seeds[0] >= 0
    assert seeds[-1] + 10_000 < 2**63


def test_any_thread_may_draw(fresh: VllmEngine) -> None:
    """A new thread begins with OpenMP's own number of threads, and takes torch's in the midst of a forward pass: vLLM's
    attention on a CPU counts them twice, and stops where the two numbers differ."""
    expected = fresh.generate(PROMPTS, 8, Sampling(12), seed=5)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with ThreadPoolExecutor(1) as other:
            drawn = other.submit(fresh.generate, PROMPTS, 8, Sampling(12), seed=5).result()
    finally:
        torch.set_num_threads(threads)
    assert_close(drawn.logprobs[:, 0], expected.logprobs[:, 0], atol=1e-4, rtol=0)


# ----------------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_asked_is_refused_and_does_no_harm(fresh: VllmEngine) -> None:
    with pytest.raises(ValueError, match=r"at most 58 tokens .* got 61 in prompt 1"):
        fresh.generate(["1", " ".join("1" * 60)], 1, Sampling(6), seed=0)
    for wrong in ("1", [], [Query("1", (object(),))]):  # type: ignore[list-item]
        with pytest.raises(ValueError, match="expected"):
            fresh.generate(wrong, 1, Sampling(6), seed=0)
    assert len(fresh.generate(["1"], 2, Sampling(6), seed=0).texts) == 2


def test_weights_that_are_not_finite_are_noticed_and_the_engine_is_not_used_again() -> None:
    student = make_model()
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.fill_(float("nan"))
    broken = VllmEngine(student, TOKENIZER, **SMALL)
    try:
        with pytest.raises(FloatingPointError, match="expected finite"):
            broken.generate(PROMPTS, 2, Sampling(6), seed=0)
        for use in (lambda: broken.generate(PROMPTS, 2, Sampling(6), seed=0), lambda: broken.sync(student)):
            with pytest.raises(EngineError, match=r"not to be used any more: .*expected finite"):
                use()
    finally:
        broken.close()


def test_weights_that_do_not_fit_break_the_engine_and_are_said_to() -> None:
    engine = VllmEngine(make_model(), TOKENIZER, **SMALL)
    try:
        other = make_model()
        other.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(5, 5))
        with pytest.raises(EngineError, match="failed while taking the policy's weights"):
            engine.sync(other)
        with pytest.raises(EngineError, match="not to be used"):
            engine.generate(PROMPTS, 1, Sampling(2), seed=0)
    finally:
        engine.close()


def test_arguments_that_vllm_refuses_are_an_error_of_one_line() -> None:
    with pytest.raises(EngineError, match="vLLM did not start"):
        VllmEngine(make_model(), TOKENIZER, kv_cache_gib=0.1, args={"max_model_len": 10**9})
