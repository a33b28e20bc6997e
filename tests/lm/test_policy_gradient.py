"""Advantages and losses against numbers worked out by hand, and the laws they obey."""

from math import exp, log, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from dps_pyro.lm.logprobs import completion_logprobs, token_logprobs
from dps_pyro.lm.losses import CLIP, Counts, advantages, count, informative_groups, k3, policy_loss

KINDS = ["grpo", "dr_grpo", "dapo", "rloo"]

# Two completions, of 3 and of 2 tokens. Ratios policy / behaviour:
#     1.0  1.5  0.5
#     1.0  0.5  (masked)
# and advantages 2 and -1, so that with clip (0.2, 0.2) the token losses -min(r A, clip(r) A) are
#     -2.0    -min(3.0, 2.4) = -2.4 (clipped)    -min(1.0, 1.6) = -1.0
#      1.0    -min(-0.5, -0.8) = 0.8 (clipped)
MASK = torch.tensor([[True, True, True], [True, True, False]])
RATIO = torch.tensor([[1.0, 1.5, 0.5], [1.0, 0.5, 7.0]], dtype=torch.float64)
BEHAVIOUR = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, -1.5, -9.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([2.0, -1.0], dtype=torch.float64)


def loss_of(kind, clip=(0.2, 0.2), logprobs=None, **options):
    logprobs = BEHAVIOUR + RATIO.log() if logprobs is None else logprobs
    return policy_loss(
        kind, logprobs, BEHAVIOUR, ADVANTAGES, MASK, count(MASK), clip=clip, max_completion_length=4, **options
    )


# ------------------------------------------------------------------------------------------------------- advantages


def test_advantages_of_one_group_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 1.0]], dtype=torch.float64)
    # First group: mean 1/3, centred (2/3, -1/3, -1/3), unbiased variance (4/9 + 1/9 + 1/9) / 2 = 1/3.
    # Second group: mean 1/2, centred (-1/2, 0, 1/2), unbiased variance (1/4 + 0 + 1/4) / 2 = 1/4.
    centred = torch.tensor([[2 / 3, -1 / 3, -1 / 3], [-0.5, 0.0, 0.5]], dtype=torch.float64)
    std = torch.tensor([[sqrt(1 / 3)], [0.5]], dtype=torch.float64)
    assert_close(advantages(rewards, "dr_grpo"), centred)
    assert_close(advantages(rewards, "grpo"), centred / (std + 1e-4))
    assert_close(advantages(rewards, "dapo", eps=0.5), centred / (std + 0.5))
    # Leave one out: 1 - (0 + 0) / 2 and 0 - (1 + 0) / 2; then 0 - 0.75, 0.5 - 0.5, 1 - 0.25.
    assert_close(
        advantages(rewards, "rloo"), torch.tensor([[1.0, -0.5, -0.5], [-0.75, 0.0, 0.75]], dtype=torch.float64)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_equal_rewards_has_exactly_zero_advantage(kind):
    # The mean of three times 0.1 is not 0.1 in float32: without care grpo would make 1e-4-sized noise of it.
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.7, 0.7, 0.7], [0.0, 1.0, 0.0]])
    result = advantages(rewards, kind)
    assert (result[:2] == 0).all()
    assert (result[2] != 0).all()


def test_informative_groups():
    rewards = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.50, 0.51]])
    assert informative_groups(rewards).tolist() == [False, True, True]
    assert informative_groups(rewards, tolerance=0.02).tolist() == [False, True, False]
    a_tolerance_apart = torch.tensor([[0.3, 0.4], [0.6, 0.7], [0.3, 0.41]])
    assert informative_groups(a_tolerance_apart, tolerance=0.1).tolist() == [False, False, True]


groups = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n), min_size=1, max_size=4)
)


@given(groups, st.sampled_from(KINDS), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_advantages_sum_to_zero_and_follow_a_permutation(rewards, kind, random):
    values = torch.tensor(rewards, dtype=torch.float64)
    result = advantages(values, kind)
    assert_close(result.sum(1), torch.zeros(len(values), dtype=torch.float64), atol=1e-9, rtol=0)
    order = random.sample(range(values.shape[1]), values.shape[1])
    assert_close(advantages(values[:, order], kind), result[:, order], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (torch.tensor([1.0, 0.0]), "shape"),
        (torch.tensor([[1.0], [0.0]]), "shape"),
        (torch.tensor([[1, 0]]), "float rewards"),
        (torch.tensor([[1.0, float("nan")]]), "finite"),
    ],
)
def test_rewards_that_cannot_be_compared_are_refused(rewards, message):
    with pytest.raises(ValueError, match=message):
        advantages(rewards, "grpo")


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="grpo, dr_grpo, dapo, rloo; got 'ppo'"):
        advantages(torch.tensor([[1.0, 0.0]]), "ppo")
    with pytest.raises(ValueError, match="got 'ppo'"):
        loss_of("ppo")


# ------------------------------------------------------------------------------------------------------------ losses


def test_losses_by_hand():
    # Token losses (-2.0, -2.4, -1.0) and (1.0, 0.8), from the table above.
    assert loss_of("grpo").loss.item() == pytest.approx((-5.4 / 3 + 1.8 / 2) / 2)
    assert loss_of("dapo").loss.item() == pytest.approx((-5.4 + 1.8) / 5)
    assert loss_of("dr_grpo").loss.item() == pytest.approx((-5.4 + 1.8) / (2 * 4))
    # Completions' ratios 1 * 1.5 * 0.5 = 0.75 and 1 * 0.5 = 0.5: -min(1.5, 1.6) = -1.5 and -min(-0.5, -0.8) = 0.8.
    assert loss_of("rloo").loss.item() == pytest.approx((-1.5 + 0.8) / 2)


def test_diagnostics_by_hand():
    result = loss_of("grpo", reference_logprobs=BEHAVIOUR)
    assert result.clip_fraction.item() == pytest.approx(2 / 5)
    assert loss_of("rloo").clip_fraction.item() == pytest.approx(1 / 2)
    # k3 of KL(behaviour || policy): r - 1 - log r, over ratios 1, 1.5, 0.5, 1, 0.5.
    assert result.kl.item() == pytest.approx((0.5 - log(1.5) + 2 * (-0.5 - log(0.5))) / 5)
    # k3 of KL(policy || reference) with the behaviour as the reference: 1/r - 1 + log r.
    assert result.reference_kl.item() == pytest.approx((1 / 1.5 - 1 + log(1.5) + 2 * (2 - 1 + log(0.5))) / 5)
    assert result.entropy.item() == pytest.approx((8 - log(1.5) - 2 * log(0.5)) / 5)


def test_kl_penalty_is_aggregated_like_the_tokens():
    reference = BEHAVIOUR + RATIO.log() + log(2.0)  # every token twice as likely: k3 = 2 - 1 - log 2
    penalty = 0.1 * (1 - log(2.0))
    for kind, weight in {"grpo": 1.0, "dapo": 1.0, "dr_grpo": 5 / 8, "rloo": 5 / 2}.items():
        with_kl = loss_of(kind, reference_logprobs=reference, beta=0.1).loss
        assert (with_kl - loss_of(kind).loss).item() == pytest.approx(weight * penalty)


def test_clip_higher_moves_only_the_upper_bound():
    # Token 1 of the first row is bounded at 1.28 instead of 1.2: -2.56. The lower bound is where it was.
    assert CLIP["dapo"] == (0.2, 0.28)
    assert loss_of("dapo", clip=None).loss.item() == pytest.approx((-2.0 - 2.56 - 1.0 + 1.8) / 5)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "dapo"])
def test_gradient_is_zero_exactly_where_clipped_or_masked(kind):
    logprobs = (BEHAVIOUR + RATIO.log()).requires_grad_()
    loss_of(kind, logprobs=logprobs).loss.backward()
    assert (logprobs.grad == 0).tolist() == [[False, True, False], [False, True, True]]


def test_on_policy_gradient_of_rloo_is_reinforce():
    logprobs = BEHAVIOUR.clone().requires_grad_()
    loss_of("rloo", logprobs=logprobs).loss.backward()
    assert_close(logprobs.grad, -(ADVANTAGES[:, None] * MASK) / 2)


def test_masked_entries_may_hold_anything():
    logprobs = BEHAVIOUR.masked_fill(~MASK, float("nan")).requires_grad_()
    result = loss_of("grpo", logprobs=logprobs, reference_logprobs=BEHAVIOUR, beta=0.1)
    result.loss.backward()
    assert all(field.isfinite() for field in result)
    assert logprobs.grad.isfinite().all()


@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.integers(1, 7), st.booleans())
@settings(deadline=None)
def test_micro_batches_add_up_and_rows_may_come_in_any_order(seed, kind, rows, with_reference):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (7,), generator=generator)
    mask = torch.arange(5) < lengths[:, None]
    draw = torch.randn(4, 7, 5, dtype=torch.float64, generator=generator)
    logprobs, behaviour, reference = (-draw[:3].abs()).unbind()
    logprobs = logprobs.requires_grad_()
    scores, counts = draw[3, :, 0], count(mask)
    beta = 0.3 if with_reference else 0.0

    def loss(index):
        ref = reference[index] if with_reference else None
        return policy_loss(
            kind,
            logprobs[index],
            behaviour[index],
            scores[index],
            mask[index],
            counts,
            max_completion_length=5,
            reference_logprobs=ref,
            beta=beta,
        )

    whole = loss(torch.arange(7))
    parts = [loss(index) for index in torch.randperm(7, generator=generator).split(rows)]
    for name in whole._fields:
        total = torch.stack([getattr(part, name) for part in parts]).sum()
        assert_close(total, getattr(whole, name), rtol=1e-12, atol=1e-12)
    (expected,) = torch.autograd.grad(whole.loss, logprobs)
    (found,) = torch.autograd.grad(sum(part.loss for part in parts), logprobs)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_useless_groups_does_not_dilute(kind):
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    alone = torch.tensor([[1.0, 0.0]])
    keep = informative_groups(rewards).repeat_interleave(2)
    behaviour = torch.tensor([-0.5, -1.0, -2.0]).expand(6, 3)

    def loss(rewards, keep):
        chosen = advantages(rewards, kind).flatten()[keep]
        policy = behaviour[: len(keep)][keep] + 0.1 * chosen[:, None]
        mask = torch.ones_like(policy, dtype=torch.bool)
        counts = count(mask)
        rows = behaviour[: len(policy)]
        return policy_loss(kind, policy, rows, chosen, mask, counts, max_completion_length=3).loss

    assert_close(loss(rewards, keep), loss(alone, torch.ones(2, dtype=torch.bool)))


@given(st.floats(-30, 30))
def test_k3_is_not_negative(log_ratio):
    value = k3(torch.tensor(log_ratio, dtype=torch.float64)).item()
    assert value >= 0
    assert value == pytest.approx(exp(log_ratio) - 1 - log_ratio, rel=1e-6, abs=1e-9)


def test_k3_is_unbiased():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    assert_close((p * k3((q / p).log())).sum(), (p * (p / q).log()).sum())


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="max_completion_length >= the longest completion \\(3 tokens\\), got 2"):
        policy_loss("dr_grpo", BEHAVIOUR, BEHAVIOUR, ADVANTAGES, MASK, count(MASK), max_completion_length=2)
    with pytest.raises(ValueError, match="reference_logprobs where beta > 0"):
        loss_of("grpo", beta=0.1)
    with pytest.raises(ValueError, match=r"advantages \[3\]"):
        policy_loss("grpo", BEHAVIOUR, BEHAVIOUR, torch.zeros(3), MASK, count(MASK))
    with pytest.raises(ValueError, match="skip a step"):
        policy_loss("grpo", BEHAVIOUR, BEHAVIOUR, ADVANTAGES, MASK, Counts(0, 0))
    with pytest.raises(ValueError, match="clip"):
        loss_of("grpo", clip=(-0.2, 0.2))


# --------------------------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_token_logprobs_equal_log_softmax_with_gradient(temperature, monkeypatch):
    monkeypatch.setattr("dps_pyro.lm.logprobs._CHUNK", 2 * 3 * 11)  # pieces of two rows, the last one short
    logits = (30 * torch.randn(5, 3, 11)).requires_grad_()
    tokens = torch.randint(11, (5, 3))
    expected = (logits / temperature).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    found = token_logprobs(logits, tokens, temperature)
    assert_close(found, expected)
    weights = torch.randn(5, 3)
    (want,) = torch.autograd.grad((expected * weights).sum(), logits)
    (got,) = torch.autograd.grad((found * weights).sum(), logits)
    assert_close(got, want)


def test_token_logprobs_of_half_precision_logits_are_computed_in_single():
    logits = torch.randn(2, 3, 50).bfloat16()
    tokens = torch.randint(50, (2, 3))
    found = token_logprobs(logits, tokens)
    assert found.dtype == torch.float32
    assert_close(found, logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0])


def test_a_temperature_of_zero_has_no_logprobs():
    with pytest.raises(ValueError, match="temperature > 0, got 0"):
        token_logprobs(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long), 0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=17, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_completion_logprobs_are_those_of_the_bare_sequence(model):
    prompts, completions = [[5, 6, 7], [8]], [[9, 2], [3, 4, 5, 2]]
    padded = completion_logprobs(
        model,
        torch.tensor([[0, 0, 5, 6, 7], [0, 0, 0, 0, 8]]),
        torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]).bool(),
        torch.tensor([[9, 2, 0, 0, 0], [3, 4, 5, 2, 0]]),
        torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool(),
        temperature=0.7,
    )
    assert padded.shape == (2, 5)
    for row, prompt, completion in zip(padded, prompts, completions, strict=True):
        logits = model(torch.tensor([prompt + completion])).logits[0] / 0.7
        expected = [logits[len(prompt) + t - 1].log_softmax(-1)[token].item() for t, token in enumerate(completion)]
        assert_close(row[: len(completion)], torch.tensor(expected), atol=1e-5, rtol=1e-5)
        assert (row[len(completion) :] == 0).all()


def test_completion_logprobs_do_not_need_logits_to_keep(model):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask, position_ids):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)

    batch = (
        torch.tensor([[0, 5]]),
        torch.tensor([[False, True]]),
        torch.tensor([[6, 7, 2]]),
        torch.ones(1, 3, dtype=torch.bool),
    )
    assert_close(completion_logprobs(Plain(), *batch), completion_logprobs(model, *batch))
