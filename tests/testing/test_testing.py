"""The contract test: it lets good models pass, and tells the author of a broken one what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from helpers import broken
from helpers.broken import Plain, Scores, Walk

from dps_pyro import Dynamics
from dps_pyro.cli import main
from dps_pyro.testing import DynamicsError, check_dynamics, check_quickly


@pytest.mark.parametrize("make", [Plain, Walk, Scores], ids=lambda make: make.__name__)
def test_a_good_model_passes_and_nothing_is_left_behind(make: Any) -> None:
    model = make()
    pyro.param("mine", torch.ones(2))
    state = torch.get_rng_state()
    check_dynamics(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(pyro.get_param_store().keys()) == {"mine"}


def test_sizes_and_seeds_are_the_callers() -> None:
    check_dynamics(Plain(9), num_prompts=4, num_steps=3, trials=16, seed=5)
    torch.set_default_dtype(torch.float64)
    check_dynamics(Plain(), num_prompts=5, num_steps=2, trials=(2, 3), seed=6)


TOLD: dict[Any, list[str]] = {
    # states and shapes
    broken.TwoNames: ["initial: expected 2 states, as `states` names them, got 3", "Name the states in order"],
    broken.SameNames: ["states: expected a tuple of at least two distinct names, got ('no', 'perhaps', 'perhaps')"],
    broken.BareMatrix: ["transition: expected a Categorical, got Tensor", "Return `dist.Categorical(probabilities)`"],
    broken.Columns: ["transition: expected rows that sum to 1, got columns that do", "transpose the matrix (`.mT`)"],
    broken.Negative: ["transition: expected a law for step.trials of shape (6,), got ValueError", "see the error"],
    broken.ZeroRow: ["transition: expected probabilities that sum to 1, got a sum of 0", "A row of zeros"],
    broken.PromptsLast: ["emission: expected a batch of [6 prompts or 1, 3 states]", "got [3, 6]"],
    broken.Doubles: ["initial: expected torch.float32, torch's default, got torch.float64", "NumPy's are double"],
    broken.FromTheLeft: [
        "emission: expected a law for step.trials of shape (5, 1, 6)",
    ],
    broken.OneStepOnly: ["emission: expected a law for step.trials of shape (5, 1, 6)", "from the right"],
    # what used to pass, or to break raw
    broken.Unnormalised: ["transition: expected rows that sum to 1, got a sum of 3", "normalises what it is given"],
    broken.Detached: ["expected a gradient of the likelihood in 'gaps', got none", "without `.detach()`"],
    broken.TorchsCategorical: ["expected a Categorical, got torch.distributions.Categorical", "`pyro.distributions`"],
    broken.TorchsDirichlet: ["prior: expected 'gaps' to follow a distribution of Pyro", "`pyro.distributions`"],
    broken.NumpysChances: ["informative: expected a tensor, got ndarray"],
    broken.NoPlate: ["prior: expected to be called as `prior(prompts)`", "Write `def prior(self, prompts)`"],
    broken.NoReturn: ["prior: expected the parameters, got None", "forget the return"],
    broken.NoLaw: ["emission: expected a law, got None", "forget the return"],
    # sites
    broken.DrawsMoves: ["transition: expected to compute only, got the site 'luck'", "Sample in prior"],
    broken.Fickle: ["transition: expected the same for the same theta and step", "what is random is sampled in prior"],
    broken.Param: ["prior: expected sites of pyro.sample, got pyro.param('pace')", "Give it a prior"],
    broken.Kind: ["prior: expected a continuous site 'kind', got Bernoulli", "belongs into its state"],
    broken.Reserved: ["prior: expected site names that torch.nn.Module has no use for, got 'type'", "my_type"],
    broken.Outside: [
        "prior: expected the global site 'ease' to be of a fixed shape, got shape [6], which follows the number of",
        "It is a site of each prompt, declared outside the prompts plate. Sample it inside `with prompts as rows:`",
    ],
    broken.OwnPlate: ["prior: expected 'ease' in the plate 'prompts', got the plate 'people'", "Sample it inside"],
    broken.OneByOne: [
        "prior: expected the same sites for any number of prompts, got 'ease_5' with 6",
        "without a loop",
    ],
    broken.NoEvent: ["prior: expected 'logits' to have the plates' dimensions only, got a batch of [3]", "to_event(1)"],
    broken.Inside: [
        "emission: expected each prompt's laws to depend on its own 'gaps', got those of others to change with",
        "'gaps' is sampled inside `with prompts`, once for each prompt: a global site",
    ],
    broken.FirstRows: ["initial: expected the same law of a prompt whichever rows", "`self.column[rows]`"],
    broken.TooFew: ["prior: expected parameters of 6 prompts", "make it with 6 of each, or pass a smaller num_prompts"],
    broken.SumsToNothing: ["prior: expected mini-batches whose log density is", "on average, got"],
    # what is shown
    broken.Unordered: ["emission: expected success rates that rise from state to state", "`gaps.cumsum(-1)[..., :-1]`"],
    broken.AlwaysEight: [
        "emission: expected probabilities of 0..1 solved of 1 that add up to 1",
        "step.trials rollouts",
    ],
    broken.Unbounded: ["emission: expected probabilities of 0..1 solved of 1 that add up to 1", "no more than those."],
    broken.AllOrNothing: ["emission: expected 1 of 2 solved to be possible in some state", "-inf"],
    broken.DrawsTooMany: ["emission: expected draws within 0..trials, got", "Draw what its log_prob says"],
    broken.AlwaysUseful: ["informative: expected 0 where trials are 0"],
    broken.Doubled: ["informative: expected chances in [0, 1], got 0 to"],
    # steps without rollouts, and numbers
    broken.NoMissing: ["emission: expected", "step.trials is 0 for a prompt that was not rolled out", "clamp_min(1)"],
    broken.Raises: [
        "transition: expected",
        "RuntimeError: no rollouts, no move",
        "It does return where no trials are 0",
    ],
    broken.RootOfNothing: ["finite log density and gradient in", "'stay'", "finite where every prompt is rolled out"],
    broken.RootOfZero: ["finite log density and gradient in 'stay', got NaN", "square root of 0"],
    broken.Locked: ["__init__: expected a model that can be pickled, got TypeError", "locks"],
}


def test_every_broken_model_is_tried() -> None:
    own = {kind for kind in vars(broken).values() if isinstance(kind, type) and kind.__module__ == broken.__name__}
    models = {kind for kind in own if issubclass(kind, Dynamics)}
    assert models == {Plain, Walk, Scores, *TOLD}


@pytest.mark.parametrize("make", TOLD, ids=lambda make: make.__name__)
def test_a_broken_model_is_told_what_to_change(make: Any) -> None:
    with pytest.raises(DynamicsError) as caught:
        check_dynamics(make())
    message = str(caught.value)
    assert message.startswith(f"{make.__name__}.")
    assert [part for part in TOLD[make] if part not in message] == [], message


@pytest.mark.parametrize(
    "wrong",
    [{"num_prompts": 2}, {"num_steps": 1}, {"trials": ()}, {"trials": (0, 3)}, {"trials": 2.5}, {"seed": -1}],
    ids=str,
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        check_dynamics(Plain(), **wrong)


def test_a_class_is_no_model() -> None:
    with pytest.raises(ValueError, match="model: expected an instance of Dynamics, got the class Plain itself"):
        check_dynamics(Plain)  # type: ignore[arg-type]


def test_a_failure_is_an_assertion_and_keeps_its_cause() -> None:
    with pytest.raises(AssertionError) as caught:
        check_dynamics(broken.Raises())
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("make", [broken.Columns, broken.Unnormalised, broken.NoReturn], ids=lambda make: make.__name__)
def test_the_quick_check_finds_what_the_laws_show(make: Any) -> None:
    with pytest.raises(DynamicsError):
        check_quickly(make(), num_prompts=100)
    check_quickly(Plain(), num_prompts=100)
    check_quickly(make(), num_prompts=2)  # too few prompts to tell


def test_the_command_checks_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = "from dps_pyro.models import SolvingProgress\n\nclass Mine(SolvingProgress): ...\n"
    bad = good.replace("...", "\n    def initial(self, theta): ...")
    for source, status, told in ((good, 0, "keeps the contract"), (bad, 1, "forget the return")):
        (tmp_path / "mine.py").write_text(source)
        assert main(["check", f"{tmp_path / 'mine.py'}:Mine", "--quick"]) == status
        assert told in "".join(capsys.readouterr())
