"""A model under test: its prior and its methods are called with known arguments, and every result is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest import mock

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.laws import together, unchecked
from dps_pyro.dynamics.step import Step, steps_of
from dps_pyro.history.log import Features, RolloutHistory

__all__ = ["Case", "Drawn", "DynamicsError", "Laws", "differ"]

BROADCAST = (
    "Theta may carry leading sample dimensions, and step leading time dimensions: count dimensions from the right, as "
    "in `theta[..., k]`, `.cumsum(-1)` and `step.trials.unsqueeze(-1)`"
)
MISSING = (
    "step.trials is 0 for a prompt that was not rolled out: give such a group any finite law, for instance that of "
    "`step.trials.clamp_min(1)`; its outcome is ignored"
)


class DynamicsError(AssertionError):
    """A model breaks the contract of `Dynamics`. The message names the place, what was expected and found, and what to
    change."""


class Drawn(NamedTuple):
    """A run of the prior."""

    theta: Any
    sites: dict[str, Any]  # Pyro's records of the latent sites
    params: list[str]  # the names of `pyro.param` statements


class Laws(NamedTuple):
    """The results of a model's methods as tensors; [...] are steps and samples."""

    initial: Tensor  # [..., N, K]
    transition: Tensor  # [..., N, K, K]
    emission: Tensor  # [3, ..., N, K], log p(y | z) of groups with none, half and all of the rollouts solved
    informative: Tensor  # [..., N, K]


class Case:
    """One model and the sizes at which it is tested. Every call checks that a method returns the right kind of result
    and samples nothing.

    Args:
        model: the model.
        num_prompts: N.
        num_steps: T.
        sizes: the group sizes to try.
        columns: the names of the steps' own columns that the model asks for.
        features: the prompts' own columns that the model asks for, name -> N numbers.
    """

    def __init__(
        self,
        model: Dynamics[Any],
        num_prompts: int,
        num_steps: int,
        sizes: Sequence[int],
        columns: Sequence[str] = (),
        features: Features | None = None,
    ) -> None:
        self.model, self.num_prompts, self.num_steps, self.sizes = model, num_prompts, num_steps, sizes
        self.num_states = len(model.states)
        shape = (num_prompts, num_steps)
        trials = torch.tensor(sizes)[torch.randint(len(sizes), shape)] * (torch.rand(shape) > 0.3)
        trials[0], trials[1], trials[2, 0] = (
            0,
            max(sizes),
            0,
        )  # never, always, and from the second step on
        self.trained = (trials > 0) & (torch.rand(shape) > 0.4)
        self.trials, self.levels = trials, {"progress": torch.linspace(0.1, 0.7, num_steps).double()}
        self.levels |= {name: torch.rand(num_steps).double() for name in columns}
        self.features: dict[str, Any] = {name: list(column)[:num_prompts] for name, column in (features or {}).items()}
        unknown = self.history()
        self.steps = steps_of(unknown, unknown.dense())
        """What is known of the steps; fields [N or 1, T]."""

    def error(self, where: str, expected: str, got: str, mend: str) -> DynamicsError:
        """Make the error with this message."""
        return DynamicsError(f"{type(self.model).__name__}.{where}: expected {expected}, got {got}. {mend}.")

    # ------------------------------------------------------------------------------------------------- the prior

    def draw(
        self,
        value: Callable[[Any], Tensor] | None = None,
        *,
        num_prompts: int | None = None,
        samples: int | None = None,
    ) -> Drawn:
        """Run the prior. Each site is drawn, or has the value that `value` gives for it. With `samples`, so many are
        drawn at once, as with vectorised particles."""
        size = self.num_prompts if num_prompts is None else num_prompts
        many = nullcontext() if samples is None else pyro.plate("samples", samples, dim=-2)
        try:
            with poutine.block(), poutine.trace() as tracer, InitMessenger(value or init_to_sample), many, _Pyros(self):
                theta = self.model.prior(pyro.plate("prompts", size, dim=-1))
        except DynamicsError:
            raise
        except Exception as error:
            mend = (
                f"Vectorised particles draw {samples} samples at once. {BROADCAST}"
                if samples
                else f"If it takes columns of its prompts, make it with {size} of each, or pass a smaller num_prompts"
            )
            raise self.error("prior", f"parameters of {size} prompts", _told(error), mend) from error
        nodes = tracer.trace.nodes
        params = [name for name, node in nodes.items() if node["type"] == "param"]
        sites = {
            name: node
            for name, node in nodes.items()
            if node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)
        }
        if theta is None and sites:
            mend = "Return what the other methods take as theta; did you forget the return?"
            raise self.error("prior", "the parameters", "None", mend)
        return Drawn(theta, sites, params)

    def values(self, value: Callable[[Any], Tensor] | None = None) -> dict[str, Tensor]:
        """Return the values of all sites from one run of the prior."""
        return {name: node["value"].detach() for name, node in self.draw(value).sites.items()}

    def parameters(self, values: Mapping[str, Tensor], rows: Tensor | None = None) -> Any:
        """Call `model.parameters`; an error counts as the model's."""
        try:
            return self.model.parameters(self.num_prompts, values, rows)
        except Exception as error:
            what = "parameters" if rows is None else f"the parameters of the prompts {rows.tolist()}"
            mend = (
                "Every site has a prior with a mean or a median, or cannot be left out of a posterior's values"
                if rows is None
                else "Inside `with prompts as rows:` index the columns of all prompts with rows: there may be fewer"
            )
            raise self.error("prior", what, _told(error), mend) from error

    # ------------------------------------------------------------------------------------------------- the methods

    def step(self, t: int, rows: Tensor | None = None) -> Step:
        """Take one step of `steps`, for all prompts or some of them; fields [N] and [1]."""
        now = self.steps.at(t)
        return now if rows is None else now.at(rows)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method, which must not sample anything, and return its result."""
        with poutine.block(), poutine.trace() as tracer:
            try:
                result = getattr(self.model, method)(*arguments)
            except Exception as error:
                shape = tuple(arguments[1].trials.shape) if len(arguments) > 1 else None
                expected = "a law" if shape is None else f"a law for step.trials of shape {shape}"
                raise self.error(method, expected, _told(error), self._why(method, arguments)) from error
        if result is None:
            what = "chances" if method == "informative" else "a law"
            raise self.error(method, what, "None", "Return it; did you forget the return?")
        if names := list(tracer.trace.nodes):
            mend = f"Sample in prior and return it as a part of theta; {method} is called many times for one theta"
            raise self.error(method, "to compute only", f"the site {names[0]!r}", mend)
        return result

    def _why(self, method: str, arguments: tuple[Any, ...]) -> str:
        if len(arguments) > 1 and not bool((arguments[1].trials > 0).all()):
            some = arguments[1].replace(trials=arguments[1].trials.clamp_min(1))
            try:
                getattr(self.model, method)(arguments[0], some)
            except Exception:  # noqa: BLE001 - it fails for another reason, which is told
                return self._elsewhere(arguments)
            return f"It does return where no trials are 0. {MISSING}"
        return self._elsewhere(arguments)

    def _elsewhere(self, arguments: tuple[Any, ...]) -> str:
        if len(arguments) > 1 and arguments[1].trials.ndim > 1:
            return BROADCAST
        return "It fails for one draw of the prior and one step already: see the error that this one comes from, above"

    def laws(self, theta: Any, step: Step, lead: Sequence[int] = ()) -> Laws:
        """Return all laws of the model at one theta and step. Each is checked: type, shape, finite, normalised.

        Args:
            theta: the parameters, whose sample dimensions are the last ones of `lead`.
            step: the step, with fields [..., N].
            lead: [...], the sizes of steps and samples together.
        """
        num_prompts, K = step.trials.shape[-1], self.num_states
        whole = [*lead, num_prompts]
        with _weights() as started:
            first = self.call("initial", theta)
        initial = self._categorical("initial", first, whole).expand(*whole, K)
        with _weights() as made:
            law = self.call("transition", theta, step)
        self._oriented(law, made)
        self._normalised("initial", first, started)
        self._normalised("transition", law, made)
        transition = self._categorical("transition", law, [*whole, K]).expand(*whole, K, K)
        emission = self.call("emission", theta, step)
        if not isinstance(emission, torch.distributions.Distribution):
            raise self.error("emission", "a distribution", _kind(emission), "Return the law of a group")
        if not isinstance(emission, TorchDistributionMixin):
            raise self.error("emission", "a distribution of Pyro", _kind(emission), PYROS)
        if emission.event_shape:
            came = f"events of shape {tuple(emission.event_shape)}"
            raise self.error("emission", "a law of one number", came, "Leave out the last `.to_event`")
        self._batch("emission", tuple(emission.batch_shape), [*whole, K])
        trials = step.trials.unsqueeze(-1)
        outcomes = torch.stack([torch.zeros_like(trials), (trials + 1) // 2, trials]).to(initial.dtype)
        shown = unchecked(emission).log_prob(outcomes)
        if bool(shown.isnan().any()):
            gone = bool(shown[..., (step.trials > 0).expand(shown.shape[1:-1]), :].isnan().any())
            mend = "Keep its parameters away from where it has no density" if gone else MISSING
            raise self.error("emission", "log-probabilities of 0, half and all of the trials", "NaN", mend)
        self._precise("emission", shown)
        useful = self.call("informative", theta, step)
        if not isinstance(useful, Tensor):
            raise self.error("informative", "a tensor", _kind(useful), "Return a torch tensor of chances")
        self._batch("informative", tuple(useful.shape), [*whole, K])
        useful = useful.expand(*whole, K)
        if not bool(((useful >= 0) & (useful <= 1)).all()):
            came = f"{useful.min():g} to {useful.max():g}"
            raise self.error("informative", "chances in [0, 1]", came, "Clamp them, if they are off by rounding")
        return Laws(initial, transition, shown.expand(3, *whole, K), useful)

    def _categorical(self, method: str, law: Any, batch: list[int]) -> Tensor:
        """Return the probabilities of a law, which are checked."""
        if not isinstance(law, dist.Categorical):
            mend = "Return `dist.Categorical(probabilities)`, over the states in the last dimension"
            mend = PYROS if isinstance(law, torch.distributions.Categorical) else mend
            raise self.error(method, "a Categorical", _kind(law), mend)
        probs: Tensor = law.probs
        K = self.num_states
        if probs.shape[-1] != K:
            raise self._miscounted(method, probs.shape[-1])
        self._batch(method, tuple(law.batch_shape), batch)
        self._precise(method, probs)
        total = probs.sum(-1)
        if not bool(((total - 1).abs() < 1e-4).all() and (probs >= 0).all()):
            mend = "A row of zeros, or NaN in a parameter, is no distribution; keep weights positive, exponents finite"
            raise self.error(method, "probabilities that sum to 1", f"a sum of {_worst(total, 1.0):g}", mend)
        return probs

    def _precise(self, method: str, values: Tensor) -> None:
        if values.dtype != torch.get_default_dtype():
            mend = "Make constants with `torch.tensor` of Python numbers (NumPy's are double), or convert them"
            raise self.error(method, f"{torch.get_default_dtype()}, torch's default", f"{values.dtype}", mend)

    def _batch(self, method: str, batch: tuple[int, ...], whole: list[int]) -> None:
        """Check that a batch shape broadcasts to the whole one, and has the states if the whole one has them."""
        states = method != "initial"
        if states and batch and batch[-1] not in (self.num_states, 1, *whole):
            raise self._miscounted(method, batch[-1])
        try:
            fits = list(together(batch, tuple(whole))) == whole
        except ValueError:
            fits = False
        if not fits or (states and batch[-1:] != (self.num_states,)):
            axes = f"[{self.num_prompts} prompts or 1{f', {self.num_states} states' if states else ''}]"
            plain = len(whole) == 1 + states
            axes = axes if plain else f"[..., {axes[1:-1]}] within {whole}"
            mend = "Dimensions that all prompts share may be 1 or left out on the left" if plain else BROADCAST
            raise self.error(method, f"a batch of {axes}", f"{list(batch)}", mend)

    def _miscounted(self, method: str, found: int) -> DynamicsError:
        K = self.num_states
        mend = f"Name the states in order, `states = (...)`, from unsolved to solved; there are {K} names"
        return self.error(method, f"{K} states, as `states` names them", f"{found}", mend)

    def _normalised(self, method: str, law: Any, made: list[tuple[Any, Tensor]]) -> None:
        """Check that the weights were probabilities before the Categorical normalised them."""
        for owner, weights in made:
            total = weights.sum(-1)
            even = bool((weights == weights[..., :1]).all())  # the meaning of `torch.ones(K)` is clear
            if owner is law and not even and not bool(((total - 1).abs() < 1e-3).all()):
                mend = (
                    "A Categorical normalises what it is given without a word. Give it rows that sum to 1, or "
                    "`logits=weights.log()` where weights are meant"
                )
                raise self.error(method, "rows that sum to 1", f"a sum of {_worst(total, 1.0):g}", mend)

    def _oriented(self, law: Any, made: list[tuple[Any, Tensor]]) -> None:
        """Check that the columns of the matrix did not add up to one before the Categorical normalised its rows."""
        for owner, weights in made:
            if owner is not law or weights.ndim < 2 or weights.shape[-1] != weights.shape[-2]:
                continue
            rows, columns = weights.sum(-1), weights.sum(-2)
            if bool(((columns - 1).abs() < 1e-3).all()) and not bool(((rows - 1).abs() < 1e-3).all()):
                came = f"columns that do, and rows that sum to {_worst(rows, 1.0):g}"
                mend = (
                    "transition[..., i, j] is p(next = j | now = i): transpose the matrix (`.mT`), or its softmax's dim"
                )
                raise self.error("transition", "rows that sum to 1", came, mend)

    # ------------------------------------------------------------------------------------------------- the log

    def history(self, solved: Tensor | None = None) -> RolloutHistory:
        """Make a log of `steps` with outcomes [N, T], or without outcomes its schedule."""
        history = RolloutHistory(self.num_prompts, num_steps=self.num_steps, features=self.features)
        for t in range(self.num_steps):
            rows = self.trials[:, t].nonzero().squeeze(-1)
            counts = torch.zeros(len(rows)) if solved is None else solved[rows, t]
            groups: dict[str, Any] = {
                "solved": counts,
                "trials": self.trials[rows, t],
                "trained": self.trained[rows, t],
            }
            history.append(rows, step=t, **groups, **self.told(t))
        return history.schedule() if solved is None else history

    def told(self, t: int) -> dict[str, Any]:
        """The arguments of `observe` and `append` that describe a step itself."""
        columns = {name: float(level[t]) for name, level in self.levels.items()}
        return {"progress": columns.pop("progress"), "columns": columns}


PYROS = "Take it from `pyro.distributions`: torch's own has no plates, no expansion of the kind and no `to_event`"
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-7}
"""The largest difference of two computations of the same number: absolute below 1, and relative above. The gallery's
models stay ten times closer. In single precision Pyro's enumeration, in log space, is the furthest off (2e-5)."""


def differ(one: Tensor, other: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether two tensors differ by more than the rounding of torch's default dtype, or of `dtype` if that is coarser.
    NaN always counts as a difference."""
    tolerance = max(ROUNDING[torch.get_default_dtype()], ROUNDING[dtype or torch.float64])
    return not torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance)


class _Pyros(Messenger):
    """Checks that sites follow Pyro's distributions: those of torch with the same names lack what Pyro needs."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def _pyro_sample(self, msg: Any) -> None:
        law = msg["fn"]
        if isinstance(law, torch.distributions.Distribution) and not isinstance(law, TorchDistributionMixin):
            raise self.case.error("prior", f"{msg['name']!r} to follow a distribution of Pyro", _kind(law), PYROS)


def _kind(value: Any) -> str:
    kind = type(value)
    torchs = issubclass(kind, torch.distributions.Distribution) and not issubclass(kind, TorchDistributionMixin)
    return f"torch.distributions.{kind.__name__}" if torchs else kind.__name__


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _worst(values: Tensor, wanted: float) -> float:
    strange = values[~values.isfinite()]
    return float(strange[0]) if len(strange) else float(values.flatten()[(values - wanted).abs().argmax()])


@contextmanager
def _weights() -> Iterator[list[tuple[Any, Tensor]]]:
    """Record the Categoricals that are made inside the block with their weights, which they normalise silently."""
    made: list[tuple[Any, Tensor]] = []
    make = dist.Categorical.__init__

    def remember(law: Any, probs: Tensor | None = None, *arguments: Any, **named: Any) -> None:
        make(law, probs, *arguments, **named)
        if probs is not None:
            made.append((law, probs.detach()))

    with mock.patch.object(dist.Categorical, "__init__", remember):
        yield made
