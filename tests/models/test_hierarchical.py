"""Partial pooling: exact, ordered, and what is learned of a group is believed of its prompts before they are seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from helpers import histories, oracle
from helpers.fits import points, svi
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dps_pyro import Posterior, Progress, PromptSampler, RolloutHistory, Step
from dps_pyro.models import Hierarchical, SolvingProgress

LEVEL = np.arange(3)
TRUTH = {
    "gaps": torch.tensor([0.03, 0.42, 0.5, 0.05]),
    "initial": torch.tensor([0.35, 0.4, 0.25]),
    "transition": torch.tensor([[0.95, 0.045, 0.005], [0.02, 0.95, 0.03], [0.005, 0.045, 0.95]]),
    "group_scale": torch.tensor([2.0, 1.0]),
    "z_group": torch.tensor([[1.0, -1.0], [0.8, -0.8]]),
    "prompt_scale": torch.tensor([0.5, 1.0]),
}
"""An easy group and a hard one."""
POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(5)


def three(groups: Any = None, labels: Any = None, nodes: int | None = None, **settings: Any) -> Hierarchical:
    """Three levels, and each prompt's ease its own."""
    return Hierarchical(groups, labels, levels=3, nodes=nodes, **settings)


def by_hand(values: dict[str, Tensor], group: int | None, ease: float) -> tuple[np.ndarray, np.ndarray]:
    """A prompt's initial distribution and transition matrix, as the docstring has them."""
    at = {name: value.double().numpy() for name, value in values.items()}
    start, drift = at["prompt_scale"] * ease
    if group is not None:
        start, drift = at["group_scale"] * at["z_group"][:, group] + [start, drift]
    initial = at["initial"] * np.exp(LEVEL * start)
    matrix = at["transition"] * np.exp((LEVEL - LEVEL[:, None]) * drift)
    return initial / initial.sum(), matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize("groups", [["easy", "hard", "hard", "easy", "hard"], None])
def test_the_filter_equals_brute_force_over_all_paths(groups: list[str] | None) -> None:
    torch.set_default_dtype(torch.float64)
    solved, trials = oracle.random_groups(5, 4)
    values = exact_values(groups)
    values["z_prompt"] = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.7])
    evidence, beliefs = histories.filtered(three(groups), values, solved, trials)
    rates = values["gaps"].cumsum(-1)[:3]
    for row in range(5):
        group = None if groups is None else ["easy", "hard"].index(groups[row])
        initial, matrix = by_hand(values, group, float(values["z_prompt"][row]))
        seen = [oracle.binomial(y, n, rates) for y, n in zip(solved[row], trials[row], strict=True)]
        exact, path = oracle.brute_force(initial, [matrix] * 4, seen)
        np.testing.assert_allclose(evidence[row], exact, atol=1e-9)
        np.testing.assert_allclose(beliefs[row], path, atol=1e-9)


def exact_values(groups: list[str] | None) -> dict[str, Tensor]:
    values = {name: value.double() for name, value in TRUTH.items() if groups or "group" not in name}
    for name in ("gaps", "initial", "transition"):  # in float32 they did not quite sum to 1
        values[name] = values[name] / values[name].sum(-1, keepdim=True)
    return values


@pytest.mark.parametrize("groups", [["easy", "hard", "hard", "easy", "hard"], None])
def test_with_nodes_the_filter_is_the_mean_of_brute_force_at_each_weighted_by_what_it_has_explained(
    groups: list[str] | None,
) -> None:
    torch.set_default_dtype(torch.float64)
    solved, trials = oracle.random_groups(5, 4)
    values = exact_values(groups)
    model = three(groups, nodes=5)
    evidence, beliefs = histories.filtered(model, values, solved, trials)
    rates = values["gaps"].cumsum(-1)[:3]
    for row in range(5):
        group = None if groups is None else ["easy", "hard"].index(groups[row])
        seen = [oracle.binomial(y, n, rates) for y, n in zip(solved[row], trials[row], strict=True)]
        shares, paths = np.zeros((5, 5)), np.zeros((5, 5, 3))  # nodes x steps: p(y_<t, node), and p(z_t | y_<t, node)
        total = 0.0
        for node, (ease, weight) in enumerate(zip(POINTS, WEIGHTS / WEIGHTS.sum(), strict=True)):
            initial, matrix = by_hand(values, group, ease)
            last, paths[node] = oracle.brute_force(initial, [matrix] * 4, seen)
            sofar = [oracle.brute_force(initial, [matrix] * t, seen[:t])[0] for t in range(1, 5)]
            shares[node] = weight * np.exp([0.0, *sofar])
            total += weight * np.exp(last)
        np.testing.assert_allclose(evidence[row], np.log(total), atol=1e-9)
        together = (shares[..., None] * paths / shares.sum(0)[:, None]).transpose(1, 2, 0)  # [steps, levels, nodes]
        np.testing.assert_allclose(beliefs[row].reshape(5, 3, 5), together, atol=1e-9)
        eases = model.ease_belief(torch.tensor(beliefs[row]))
        np.testing.assert_allclose(eases, (shares / shares.sum(0)).T, atol=1e-9)


def test_more_nodes_come_to_the_integral_over_a_normal_ease() -> None:
    torch.set_default_dtype(torch.float64)
    solved, trials = oracle.random_groups(4, 5)
    values = exact_values(None)
    grid = torch.linspace(-8, 8, 1601)
    own = three()
    terms = torch.stack(
        [
            Progress(own, own.parameters(4, {**values, "z_prompt": z.expand(4)}), Step(trials)).log_prob(solved)
            for z in grid
        ]
    )
    exact = (terms + torch.log_softmax(-0.5 * grid.square(), 0).unsqueeze(-1)).logsumexp(0)
    off = []
    for nodes in (2, 3, 5, 12):
        model = three(nodes=nodes)
        off.append((Progress(model, model.parameters(4, values), Step(trials)).log_prob(solved) - exact).abs().max())
    assert float(off[1]) < 0.05, off
    assert float(off[2]) < 0.01, off
    assert float(off[3]) < 1e-4, off


def test_a_prompt_never_rolled_out_is_believed_to_be_like_its_population_and_not_like_its_centre() -> None:
    """Where prompts differ much the two are far apart, from the first step on and more so later."""
    values = {name: value for name, value in TRUTH.items() if "group" not in name}
    values["prompt_scale"] = torch.tensor([2.0, 1.5])
    posterior = Posterior({}, values, torch.zeros(0), True)
    model = Hierarchical(levels=3, nodes=9)
    sampler = PromptSampler(model, 2, posterior=posterior)
    torch.manual_seed(0)
    crowd = {**values, "z_prompt": torch.randn(20_000)}
    many = PromptSampler(three(), 20_000, posterior=Posterior({}, crowd, torch.zeros(0), True))
    centre = PromptSampler(three(), 2, posterior=posterior)
    for step in range(30):
        levels = sampler.belief[1].reshape(3, 9).sum(-1)
        torch.testing.assert_close(levels, many.belief.mean(0), atol=0.02, rtol=0)
        torch.testing.assert_close(sampler.informative(8)[1], many.informative(8).mean(), atol=0.02, rtol=0)
        for one in (sampler, many, centre):
            one.observe([0], [0], 8)
        if step in (0, 29):
            assert float((levels - centre.belief[1]).abs().max()) > 0.1
    # And of the one that was never solved it is learned that it is a hard one.
    ease = model.ease_belief(sampler.belief) @ torch.as_tensor(model.nodes)
    assert float(ease[0]) < -0.5
    torch.testing.assert_close(ease[1], torch.tensor(0.0), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 20))
@settings(max_examples=25)
def test_states_are_ordered_and_easier_prompts_are_ahead_whatever_is_drawn(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    model = three(["a", "b"] * 4, group_scale=(scale, scale), prompt_scale=(scale, scale))
    theta = model.prior(pyro.plate("prompts", 7, dim=-1))
    one = Step(torch.ones(1, dtype=torch.long))
    rates = model.emission(theta, one).mean
    assert bool((rates.diff(dim=-1) >= 0).all() and (rates > 0).all() and (rates <= 1).all())
    matrix = model.transition(theta, one).probs
    torch.testing.assert_close(matrix.sum(-1), torch.ones(7, 3))
    eased = three(prompt_scale=(scale, scale)).parameters(5, {"z_prompt": torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])})
    for law in (model.initial(eased).probs, model.transition(eased, one).probs):
        assert bool((law.cumsum(-1).diff(dim=0) <= 1e-6).all())  # ever less mass up to any state


def test_where_nothing_differs_it_is_solving_progress() -> None:
    solved, trials = oracle.random_groups(6, 5)
    shared = {name: TRUTH[name] for name in ("gaps", "initial", "transition")}
    plain = SolvingProgress()
    expected = Progress(plain, plain.parameters(6, shared), Step(trials)).log_prob(solved.float())
    for model in (three(), three([3, 1, 3, 1, 1, 2])):
        unfitted = model.parameters(6, shared)  # all z at their means
        torch.testing.assert_close(Progress(model, unfitted, Step(trials)).log_prob(solved.float()), expected)
        belief = PromptSampler(model, 6).belief
        torch.testing.assert_close(belief, PromptSampler(plain, 6).belief)


@pytest.mark.parametrize("nodes", [None, 3])
@pytest.mark.parametrize("groups", [None, ["a", "b", "c"]])
def test_draws_with_a_sample_dimension_filter_like_each_alone(groups: list[str] | None, nodes: int | None) -> None:
    histories.draws_with_a_sample_dimension_filter_like_each_alone(three(groups, nodes=nodes), 3)


# --------------------------------------------------------------------------------------------------------- fitting


def easy_and_hard(num_prompts: int, num_steps: int) -> tuple[list[str], RolloutHistory, dict[str, Tensor]]:
    """Prompts of two groups; the first tenth of them are never rolled out."""
    groups = ["easy", "hard"] * (num_prompts // 2)
    trials = histories.some_trials(num_prompts, num_steps, share=0.6)
    trials[: num_prompts // 10] = 0
    return groups, *histories.simulated(three(groups), trials, TRUTH)


def found(num_prompts: int, num_steps: int, seeds: range) -> list[dict[str, Tensor]]:
    """The points that fits from several seeds find, for one history."""
    groups, history, _ = easy_and_hard(num_prompts, num_steps)
    return points(three(groups), history, seeds, steps=120)


def test_a_fit_finds_the_groups() -> None:
    for point in found(200, 25, range(2)):
        torch.testing.assert_close(point["gaps"], TRUTH["gaps"], atol=0.02, rtol=0)
        centres = {name: value for name, value in point.items() if name != "z_prompt"}
        for group in (0, 1):  # a group's own laws, whatever share of them the population has
            for ours, true in zip(by_hand(centres, group, 0), by_hand(TRUTH, group, 0), strict=True):
                np.testing.assert_allclose(ours, true, atol=0.1)
        assert 0.5 < float(point["prompt_scale"][1]) < 1.5  # how much prompts drift apart: 1


@pytest.mark.slow
def test_no_seed_permutes_the_groups() -> None:
    first, *others = ({**point, "z_prompt": point["z_prompt"][:0]} for point in found(100, 20, histories.MORE_SEEDS))
    for point in others:
        torch.testing.assert_close(point["gaps"], first["gaps"], atol=0.02, rtol=0)
        for group in (0, 1):
            for ours, theirs in zip(by_hand(point, group, 0), by_hand(first, group, 0), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=0.15)


@pytest.fixture(scope="module")
def fitted() -> tuple[list[str], RolloutHistory, dict[str, Tensor], Posterior]:
    """Fitted in mini-batches, to a history whose prompts 0..39 were never rolled out."""
    groups, history, drawn = easy_and_hard(400, 25)
    options = {"steps": 200, "learning_rate": 0.1, "batch_size": 100, "draws": 100, "progress": False}
    return groups, history, drawn, svi(three(groups), history, **options)  # type: ignore[arg-type]


def test_prompts_never_rolled_out_start_where_their_group_does(
    fitted: tuple[list[str], RolloutHistory, dict[str, Tensor], Posterior],
) -> None:
    groups, _, drawn, posterior = fitted
    belief = PromptSampler(three(groups), 400, posterior=posterior).belief
    truth = three(groups)
    own = truth.initial(truth.parameters(400, drawn)).probs
    for group in (0, 1):
        centre, _ = by_hand(TRUTH, group, 0)
        unseen = belief[group:40:2]
        np.testing.assert_allclose(unseen.mean(0), centre, atol=0.1)
        np.testing.assert_allclose(unseen.mean(0), own[group::2].mean(0), atol=0.1)
        assert float(unseen.std(0).max()) < 0.05
    easy, hard = belief[0:40:2].mean(0), belief[1:40:2].mean(0)
    assert float(easy[2] - hard[2]) > 0.5
    assert float(hard[0] - easy[0]) > 0.5


def test_a_prompts_own_ease_is_learned_from_mini_batches(
    fitted: tuple[list[str], RolloutHistory, dict[str, Tensor], Posterior],
) -> None:
    groups, history, drawn, posterior = fitted
    assert posterior.draws["z_prompt"].shape == (100, 400)
    assert posterior.draws["gaps"].shape == (100, 4)
    assert posterior.draws["z_group"].shape == (100, 2, 2)
    seen = slice(40, None)
    together = torch.stack([posterior.point["z_prompt"][seen], drawn["z_prompt"][seen]])
    assert float(together.corrcoef()[0, 1]) > 0.5
    unseen = posterior.draws["z_prompt"][:, :40]
    torch.testing.assert_close(unseen.mean(), torch.tensor(0.0), atol=0.1, rtol=0)
    torch.testing.assert_close(unseen.std(), torch.tensor(1.0), atol=0.15, rtol=0)
    sampler = PromptSampler(three(groups), 400, posterior=posterior)
    solved, trials, *_ = history.dense()
    assert solved is not None
    for step in range(25):
        rows = trials[:, step].nonzero().squeeze(-1)
        sampler.observe(rows, solved[rows, step], trials[rows, step])
    torch.testing.assert_close(sampler.belief.sum(-1), torch.ones(400))


def test_what_was_learned_of_groups_holds_for_other_prompts_of_theirs(
    fitted: tuple[list[str], RolloutHistory, dict[str, Tensor], Posterior],
) -> None:
    *_, posterior = fitted
    shared = {name: value for name, value in posterior.point.items() if name != "z_prompt"}
    kept = Posterior({}, shared, torch.zeros(0), True)
    model = three(["hard", "easy", "hard", "hard"])  # one label more than there are prompts
    hard, easy, again = PromptSampler(model, 3, posterior=kept).belief
    assert torch.equal(hard, again)
    np.testing.assert_allclose(hard, by_hand(shared, 1, 0)[0], atol=1e-6)
    np.testing.assert_allclose(easy, by_hand(shared, 0, 0)[0], atol=1e-6)
    with pytest.raises(ValueError, match=r"'z_group' of shape \(2, 1\), got shape \(2, 2\)"):
        PromptSampler(three(["hard"]), 1, posterior=kept)
    alone = three(["hard"], labels=("easy", "hard"))
    assert torch.equal(PromptSampler(alone, 1, posterior=kept).belief[0], hard)


# ------------------------------------------------------------------------------------------- saying what is wrong


def test_prompts_without_a_label_are_refused() -> None:
    model = three(["a", "b", "a"])
    with pytest.raises(ValueError, match="groups: expected a label for each of 4 prompts, got 3"):
        PromptSampler(model, 4)
    with pytest.raises(ValueError, match="groups: expected a label for each of 4 prompts, got 3"):
        svi(model, RolloutHistory.from_dense(torch.ones(4, 2), 2), progress=False)
    sampler = PromptSampler(model, 2)
    sampler.add(1)
    assert sampler.belief.shape == (3, 3)
    with pytest.raises(ValueError, match="groups: expected a label for each of 4 prompts, got 3"):
        sampler.add(1)
    assert sampler.belief.shape == (3, 3)


def test_labels_are_in_order() -> None:
    assert three([2, 10, 2]).labels == (2, 10)


@pytest.mark.parametrize("name", ["rate_gaps", "initial", "transition", "group_scale", "prompt_scale"])
@pytest.mark.parametrize("value", [(1.0,), (0.0, 1.0), (-1.0, 1.0, 1.0), (float("nan"),) * 4])
def test_arguments_out_of_range_are_refused(name: str, value: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected positive numbers of shape"):
        three(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"levels": 2}, {"nodes": 1}, {"nodes": 2.5}])
def test_too_few_levels_or_nodes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        Hierarchical(**wrong)
