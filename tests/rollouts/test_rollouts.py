"""The in-process engine with a real, tiny Llama and a word-level tokenizer."""

from typing import Any, cast

import pytest
import torch
from helpers.engines.small import EOS, PROMPTS, SPECIAL, VOCAB, WORDS, make_model, make_tokenizer, warped_logprobs
from PIL import Image
from torch.testing import assert_close

from dps_pyro.lm.logprobs import completion_logprobs
from dps_pyro.lm.losses import count, policy_loss
from dps_pyro.rollouts import Query, Rollouts, Sampling, closing, concatenate
from dps_pyro.rollouts.transformers import TransformersEngine


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(pad_token="<pad>")


@pytest.fixture(scope="module")
def engine(model, tokenizer):
    return TransformersEngine(model, tokenizer)


def assert_same(one, two):
    """Equal but for the rounding of the model's matrix products in batches of another size."""
    for a, b in zip(one[:4], two[:4], strict=True):
        assert_close(a, b, rtol=0, atol=0)
    assert_close(one.logprobs, two.logprobs, rtol=1e-4, atol=1e-5)
    assert one[5:] == two[5:]


# ----------------------------------------------------------------------------------------------------- what comes back


def test_shapes_masks_and_finish(engine):
    rollouts = engine.generate(PROMPTS, 16, Sampling(max_new_tokens=6), seed=1)
    rows, width = rollouts.completion_ids.shape
    assert rows == len(rollouts.finish) == len(rollouts.texts) == 48
    assert width == rollouts.completion_mask.sum(1).max() <= 6
    assert set(rollouts.finish) == {"stop", "length"}
    for ids, mask, finish in zip(rollouts.completion_ids, rollouts.completion_mask, rollouts.finish, strict=True):
        length = int(mask.sum())
        assert mask[:length].all()  # right-padded
        assert EOS not in ids[: length - 1]  # nothing after end-of-sequence
        assert (ids[length - 1] == EOS) == (finish == "stop")
        assert finish == "stop" or length == 6
    assert (rollouts.logprobs[~rollouts.completion_mask] == 0).all()
    assert (rollouts.logprobs[rollouts.completion_mask] < 0).all()


def test_prompts_are_left_padded_with_their_completions_adjacent(engine):
    rollouts = engine.generate(PROMPTS, 2, Sampling(max_new_tokens=2), seed=0)
    begin = VOCAB["<s>"]  # the tokenizer's own template adds it
    expected = [begin] + [VOCAB[word] for word in PROMPTS[0].split()]
    for row in (0, 1):
        assert rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist() == expected
        assert rollouts.prompt_mask[row].tolist() == [False] * 4 + [True] * 5
    assert rollouts.prompt_mask.sum(1).tolist() == [5, 5, 2, 2, 9, 9]


def test_texts_are_the_completions_without_special_tokens(engine):
    rollouts = engine.generate(PROMPTS, 8, Sampling(max_new_tokens=6), seed=2)
    words = SPECIAL + WORDS
    for ids, mask, text in zip(rollouts.completion_ids, rollouts.completion_mask, rollouts.texts, strict=True):
        assert text.split() == [words[i] for i in ids[mask].tolist() if words[i] not in SPECIAL]


def test_select_keeps_rows_in_order(engine):
    rollouts = engine.generate(PROMPTS, 2, Sampling(max_new_tokens=4), seed=0)
    picked = rollouts.select(torch.tensor([4, 1]))
    assert isinstance(picked, Rollouts)
    assert picked.texts == [rollouts.texts[4], rollouts.texts[1]]
    assert_close(picked.completion_ids, rollouts.completion_ids[[4, 1]])
    masked = rollouts.select(torch.tensor([False, True, False, False, True, False]))
    assert masked.finish == [rollouts.finish[1], rollouts.finish[4]]


def test_concatenated_batches_are_what_one_call_would_have_been_but_for_padding(engine, model):
    one = engine.generate(PROMPTS[:2], 4, Sampling(max_new_tokens=3), seed=0)
    two = engine.generate(PROMPTS[2:], 4, Sampling(max_new_tokens=8), seed=1)
    both = concatenate([one, two])
    assert both.texts == one.texts + two.texts
    assert both.finish == one.finish + two.finish
    assert both.prompt_mask[:, -1].all()  # still left-padded
    assert_close(both.logprobs, completion_logprobs(model, *both[:4]), atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_policys_at_that_temperature(engine, model, temperature):
    rollouts = engine.generate(PROMPTS, 8, Sampling(max_new_tokens=8, temperature=temperature), seed=3)
    policy = completion_logprobs(model, *rollouts[:4], temperature=temperature)
    assert_close(rollouts.logprobs, policy, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_with_top_k_and_top_p_are_of_the_distribution_drawn_from(engine, model, temperature):
    rollouts = engine.generate(PROMPTS, 8, Sampling(max_new_tokens=8, temperature=temperature, top_k=3), seed=4)
    expected = warped_logprobs(model, rollouts, temperature, lambda _: 3)
    assert_close(rollouts.logprobs, expected, atol=1e-4, rtol=0)

    def nucleus(probs):
        return int((probs.cumsum(0) < 0.6).sum()) + 1

    rollouts = engine.generate(PROMPTS, 8, Sampling(max_new_tokens=8, temperature=temperature, top_p=0.6), seed=4)
    assert_close(rollouts.logprobs, warped_logprobs(model, rollouts, temperature, nucleus), atol=1e-4, rtol=0)


def test_draws_follow_the_distribution(engine, model):
    rollouts = engine.generate(["1 + 2 ="], 4000, Sampling(max_new_tokens=1, temperature=0.7), seed=5)
    with torch.no_grad():
        probs = (model(rollouts.prompt_ids[:1]).logits[0, -1] / 0.7).softmax(-1)
    counts = torch.bincount(rollouts.completion_ids[:, 0], minlength=len(VOCAB))
    # Pearson's statistic, 15 degrees of freedom: above 44.3 with probability 1e-4.
    assert ((counts - 4000 * probs) ** 2 / (4000 * probs)).sum() < 44.3


def test_greedy_decoding_is_generates_with_plain_logprobs(engine, model, tokenizer):
    rollouts = engine.generate(PROMPTS, 1, Sampling(max_new_tokens=8, temperature=0.0), seed=0)
    inputs = tokenizer(PROMPTS, padding=True, padding_side="left", return_tensors="pt")
    expected = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=8, do_sample=False
    )[:, inputs["input_ids"].shape[1] :]
    assert_close(rollouts.completion_ids, expected)
    assert_close(rollouts.logprobs, completion_logprobs(model, *rollouts[:4]), atol=1e-4, rtol=0)
    again = engine.generate(PROMPTS, 2, Sampling(max_new_tokens=8, temperature=0.0), seed=9)
    assert_close(again.completion_ids[::2], again.completion_ids[1::2])


# ------------------------------------------------------------------------------------------------------ reproducibility


def test_seeds_decide_and_samples_of_a_group_differ(engine):
    sampling = Sampling(max_new_tokens=8)
    one = engine.generate(PROMPTS, 4, sampling, seed=7)
    assert_same(one, engine.generate(PROMPTS, 4, sampling, seed=7))
    assert one.texts != engine.generate(PROMPTS, 4, sampling, seed=8).texts
    assert all(len(set(one.texts[i : i + 4])) > 1 for i in range(0, 12, 4))


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_the_split_into_batches_changes_nothing(engine, model, tokenizer, batch_size):
    whole = engine.generate(PROMPTS, 4, Sampling(max_new_tokens=8), seed=7)
    split = TransformersEngine(model, tokenizer, batch_size=batch_size)
    assert_same(split.generate(PROMPTS, 4, Sampling(max_new_tokens=8), seed=7), whole)


def test_the_global_rng_is_left_alone(engine):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = engine.generate(PROMPTS, 2, Sampling(max_new_tokens=4), seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert_same(first, engine.generate(PROMPTS, 2, Sampling(max_new_tokens=4), seed=7))


# --------------------------------------------------------------------------------------------------------- the policy


def test_every_submodules_mode_is_restored_even_after_an_error(tokenizer):
    model = make_model()
    engine = TransformersEngine(model, tokenizer)
    model.train()
    model.model.layers[0].eval()  # a frozen part
    modes = [module.training for module in model.modules()]
    engine.generate(PROMPTS, 1, Sampling(max_new_tokens=2), seed=0)
    assert [module.training for module in model.modules()] == modes

    seen = []

    def fail(module, args):
        seen.append(module.training)
        raise RuntimeError("stop here")

    model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        engine.generate(PROMPTS, 1, Sampling(max_new_tokens=2), seed=0)
    assert seen == [False]
    assert [module.training for module in model.modules()] == modes


def test_rollouts_can_be_trained_on_and_the_next_ones_see_the_new_weights(tokenizer):
    model = make_model()
    engine = TransformersEngine(model, tokenizer)
    rollouts = engine.generate(PROMPTS, 4, Sampling(max_new_tokens=6), seed=0)
    logprobs = completion_logprobs(model, *rollouts[:4])
    counts = count(rollouts.completion_mask)
    advantages = torch.tensor([1.0, -1.0]).repeat(6)
    result = policy_loss("grpo", logprobs, rollouts.logprobs, advantages, rollouts.completion_mask, counts)
    result.loss.backward()
    assert result.kl < 1e-8  # the sampler is the policy
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    engine.sync(model)
    after = engine.generate(PROMPTS, 4, Sampling(max_new_tokens=6), seed=0)
    assert_close(after.logprobs, completion_logprobs(model, *after[:4]), atol=1e-4, rtol=0)
    assert after.texts != rollouts.texts


def test_sync_refuses_another_module(engine):
    with pytest.raises(ValueError, match="the module that this engine was built with"):
        engine.sync(make_model())


def test_a_checkpoints_generation_defaults_do_not_reach_the_policy(model, tokenizer, engine):
    expected = engine.generate(PROMPTS, 4, Sampling(max_new_tokens=6), seed=0)
    changed = make_model()
    changed.load_state_dict(model.state_dict())
    changed.generation_config.repetition_penalty = 5.0
    changed.generation_config.top_k = 1
    found = TransformersEngine(changed, tokenizer).generate(PROMPTS, 4, Sampling(max_new_tokens=6), seed=0)
    assert_same(found, expected)


def test_every_end_of_sequence_id_of_the_checkpoint_stops(tokenizer):
    model = make_model()
    model.generation_config.eos_token_id = [EOS, VOCAB["="]]
    rollouts = TransformersEngine(model, tokenizer).generate(PROMPTS, 16, Sampling(max_new_tokens=6), seed=1)
    last = rollouts.completion_ids.gather(1, rollouts.completion_mask.sum(1, keepdim=True) - 1)[:, 0]
    assert {EOS, VOCAB["="]} <= set(last.tolist())
    assert not any("=" in text for text in rollouts.texts)  # it ended the completion, so it is not part of it
    stops = [i in (EOS, VOCAB["="]) for i in last.tolist()]
    assert [finish == "stop" for finish in rollouts.finish] == stops


# ------------------------------------------------------------------------------------------------------------- inputs


def test_a_tokenizer_without_pad_token_is_used_as_it_is(model, engine):
    bare = make_tokenizer()
    assert bare.pad_token_id is None
    found = TransformersEngine(model, bare).generate(PROMPTS, 3, Sampling(max_new_tokens=6), seed=1)
    expected = engine.generate(PROMPTS, 3, Sampling(max_new_tokens=6), seed=1)
    assert bare.pad_token_id is None
    mask = expected.completion_mask
    assert_close(found.completion_mask, mask)
    assert_close(found.completion_ids[mask], expected.completion_ids[mask])
    assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=1e-4)


def test_an_over_long_prompt_is_named(engine):
    prompt = "1 + " * 13 + "2"  # 28 tokens with <s>, in a context of 32
    engine.generate([prompt], 1, Sampling(max_new_tokens=4), seed=0)
    with pytest.raises(ValueError, match=r"at most 27 tokens .* got 28 in prompt 1: '1 \+ 1"):
        engine.generate(["7", prompt], 1, Sampling(max_new_tokens=5), seed=0)


def test_calls_that_make_no_sense_are_refused(engine, model, tokenizer):
    sampling = Sampling(max_new_tokens=2)
    for prompts, n in [([], 1), ("7", 1), (["7"], 0)]:
        with pytest.raises(ValueError, match="at least one prompt"):
            engine.generate(prompts, n, sampling, seed=0)
    with pytest.raises(ValueError, match="batch_size"):
        TransformersEngine(model, tokenizer, batch_size=0)


@pytest.mark.parametrize("bad", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}])
def test_sampling_checks_its_ranges(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**{"max_new_tokens": 4, **bad})


# -------------------------------------------------------------------------------------------------------------- images


def test_a_model_of_text_refuses_images(engine):
    shown = Query("1 + 2 =", (Image.new("RGB", (4, 4)),))
    with pytest.raises(ValueError, match=r"prompts without images.*got 1 with prompt 1"):
        engine.generate(["1", shown], 2, Sampling(max_new_tokens=2), seed=0)


def test_a_query_without_images_is_its_text(engine):
    asked = engine.generate([Query(text) for text in PROMPTS], 2, Sampling(max_new_tokens=3), seed=0)
    assert asked.texts == engine.generate(PROMPTS, 2, Sampling(max_new_tokens=3), seed=0).texts
    assert asked.vision is None


@pytest.mark.parametrize("prompts", [Query("1"), [1], [("1", ())]])
def test_what_is_no_prompt_is_refused(engine, prompts):
    with pytest.raises(ValueError, match="expected"):
        engine.generate(prompts, 2, Sampling(max_new_tokens=2), seed=0)


def test_what_the_images_became_stays_with_its_rows(engine):
    text = engine.generate(PROMPTS[:1], 2, Sampling(max_new_tokens=3), seed=0)
    seen = text._replace(vision=({"pixel_values": torch.ones(1)}, {"pixel_values": torch.zeros(1)}))
    both = concatenate([text, seen])
    assert both.vision == ({}, {}, *seen.vision)
    assert both.select(torch.tensor([3, 0])).vision == (seen.vision[1], {})
    assert concatenate([text, text]).vision is None


def test_an_engine_is_closed_however_its_block_ends() -> None:
    class Closable:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    engine: Any = Closable()
    with closing(engine) as same:
        assert same is engine and engine.closed == 0
    with pytest.raises(KeyError), closing(engine):
        raise KeyError
    assert engine.closed == 2
    with closing(cast("Any", object())):  # nothing to close
        pass
