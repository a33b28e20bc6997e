"""Three good models, and the first of them broken in every way that an author might break it."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from dps_pyro import Dynamics, Step


class Theta(NamedTuple):
    stay: Tensor  # [...]
    rates: Tensor  # [..., 3]
    ease: Tensor  # [..., N]


class Plain(Dynamics[Any]):
    """A good model with a bit of everything: global and per-prompt sites, a column, moves that look at the step."""

    def __init__(self, num_prompts: int = 6) -> None:
        self.column = torch.linspace(-1, 1, num_prompts)

    def prior(self, prompts: pyro.plate) -> Theta:
        stay, rates = self.shared()
        with prompts as rows:
            ease = pyro.sample("ease", dist.Normal(torch.tensor(0.0), 1.0)) + self.column[rows]
        return Theta(stay, rates, ease)

    def shared(self) -> tuple[Tensor, Tensor]:
        stay = pyro.sample("stay", dist.Beta(torch.tensor(9.0), torch.tensor(1.0)))
        return stay, pyro.sample("gaps", dist.Dirichlet(torch.ones(4))).cumsum(-1)[..., :-1].clamp(max=1.0)

    def initial(self, theta: Theta) -> dist.Categorical:
        return dist.Categorical(logits=theta.ease.unsqueeze(-1) * torch.arange(3))

    def matrix(self, theta: Theta, step: Step) -> Tensor:
        trained = step.trials > 0 if step.trained is None else step.trained
        stay = torch.where(trained, theta.stay, 0.5 + 0.5 * theta.stay)[..., None, None]
        uneven = torch.tensor([[0.5, 0.4, 0.1], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6]])
        return stay * torch.eye(3) + (1 - stay) * uneven

    def transition(self, theta: Theta, step: Step) -> dist.Categorical:
        return dist.Categorical(self.matrix(theta, step))

    def emission(self, theta: Theta, step: Step) -> Any:
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)


class Walk(Dynamics[Tensor]):
    """25 states, all shared, the last states alike."""

    states = tuple(f"rung {k}" for k in range(25))

    def prior(self, prompts: pyro.plate) -> Tensor:
        return pyro.sample("moves", dist.Dirichlet(torch.tensor([1.0, 5.0, 1.0])))

    def initial(self, moves: Tensor) -> dist.Categorical:
        return dist.Categorical(torch.ones(25))

    def transition(self, moves: Tensor, step: Step) -> dist.Categorical:
        down, stay, up = moves[..., None, None].unbind(-3)
        eye = torch.eye(25)
        below, above = eye[torch.arange(-1, 24).clamp_min(0)], eye[torch.arange(1, 26).clamp_max(24)]
        return dist.Categorical(down * below + stay * eye + up * above)

    def emission(self, moves: Tensor, step: Step) -> dist.Binomial:
        return dist.Binomial(step.trials.unsqueeze(-1), logits=torch.linspace(-4, 4, 25).clamp_max(3.0))


class Scores(Plain):
    """Real-valued sums."""

    def emission(self, theta: Theta, step: Step) -> Any:
        size = step.trials.unsqueeze(-1).clamp_min(1)
        return dist.Normal(size * theta.rates, 0.2 * size.sqrt())


# --------------------------------------------------------------------------------------------------- states and shapes


class TwoNames(Plain):
    states = ("wrong", "right")


class SameNames(Plain):
    states = ("no", "perhaps", "perhaps")


class BareMatrix(Plain):
    def transition(self, theta: Theta, step: Step) -> Any:
        return self.matrix(theta, step)


class Columns(Plain):
    def transition(self, theta: Theta, step: Step) -> dist.Categorical:
        return dist.Categorical(self.matrix(theta, step).mT)


class ZeroRow(Plain):
    def transition(self, theta: Theta, step: Step) -> Any:
        law = dist.Categorical(torch.eye(3))
        law.probs = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
        return law


class PromptsLast(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        return dist.Binomial(step.trials, theta.rates.unsqueeze(-1))


class Doubles(Plain):
    def initial(self, theta: Theta) -> dist.Categorical:
        return dist.Categorical(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))


class FromTheLeft(Plain):
    def shared(self) -> tuple[Tensor, Tensor]:
        stay = pyro.sample("stay", dist.Beta(9.0, 1.0))
        return stay, pyro.sample("gaps", dist.Dirichlet(torch.ones(4))).cumsum(0)[:3]


class OneStepOnly(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        return dist.Binomial(step.trials[:, None], theta.rates)


# ------------------------------------------------------------------------------------------------------------- sites


class DrawsMoves(Plain):
    def transition(self, theta: Theta, step: Step) -> dist.Categorical:
        stay = pyro.sample("luck", dist.Beta(9.0, 1.0))
        return super().transition(theta._replace(stay=stay), step)


class Fickle(Plain):
    def transition(self, theta: Theta, step: Step) -> dist.Categorical:
        return super().transition(theta._replace(stay=torch.rand(())), step)


class Param(Plain):
    def shared(self) -> tuple[Tensor, Tensor]:
        return pyro.param("pace", torch.tensor(0.9)), super().shared()[1]


class Kind(Plain):
    def shared(self) -> tuple[Tensor, Tensor]:
        kind = pyro.sample("kind", dist.Bernoulli(0.5))
        return 0.9 - 0.5 * kind, super().shared()[1]


class Reserved(Plain):
    def shared(self) -> tuple[Tensor, Tensor]:
        return pyro.sample("type", dist.Beta(9.0, 1.0)), super().shared()[1]


class Outside(Plain):
    def prior(self, prompts: pyro.plate) -> Theta:
        ease = pyro.sample("ease", dist.Normal(torch.zeros(prompts.size), 1.0).to_event(1))
        return Theta(*self.shared(), ease)


class OwnPlate(Plain):
    def prior(self, prompts: pyro.plate) -> Theta:
        with pyro.plate("people", prompts.size):
            ease = pyro.sample("ease", dist.Normal(torch.tensor(0.0), 1.0))
        return Theta(*self.shared(), ease)


class OneByOne(Plain):
    def prior(self, prompts: pyro.plate) -> Theta:
        each = [pyro.sample(f"ease_{n}", dist.Normal(torch.tensor(0.0), 1.0)) for n in range(prompts.size)]
        return Theta(*self.shared(), torch.stack(each, -1))


class NoEvent(Plain):
    def shared(self) -> tuple[Tensor, Tensor]:
        rates = pyro.sample("logits", dist.Normal(torch.zeros(3), 1.0)).sigmoid().cumsum(-1) / 4
        return pyro.sample("stay", dist.Beta(9.0, 1.0)), rates


class Inside(Plain):
    """The rates, meant for all, are sampled for each; the code takes the first."""

    def prior(self, prompts: pyro.plate) -> Theta:
        stay = pyro.sample("stay", dist.Beta(9.0, 1.0))
        with prompts as rows:
            gaps = pyro.sample("gaps", dist.Dirichlet(torch.ones(4)))
        return Theta(stay, gaps[..., :1, :].cumsum(-1)[..., :-1].clamp(max=1.0), self.column[rows])


class TooFew(Plain):
    def __init__(self) -> None:
        super().__init__(num_prompts=5)


class SumsToNothing(Plain):
    def prior(self, prompts: pyro.plate) -> Theta:
        theta = super().prior(prompts)
        pyro.factor("balance", -theta.ease.sum(-1, keepdim=theta.ease.ndim > 1).square())
        return theta


class FirstRows(Plain):
    def prior(self, prompts: pyro.plate) -> Theta:
        stay, rates = self.shared()
        with prompts as rows:
            ease = pyro.sample("ease", dist.Normal(torch.tensor(0.0), 1.0)) + self.column[: len(rows)]
        return Theta(stay, rates, ease)


# ---------------------------------------------------------------------------------------------------------- emissions


class Unordered(Plain):
    """Rarely out of order as the prior has it; nothing keeps a fit from it."""

    def shared(self) -> tuple[Tensor, Tensor]:
        stay = pyro.sample("stay", dist.Beta(9.0, 1.0))
        apart = dist.Beta(torch.tensor([5.0, 50.0, 95.0]), torch.tensor([95.0, 50.0, 5.0])).to_event(1)
        return stay, pyro.sample("rates", apart)


class AlwaysEight(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        return dist.Binomial(8, theta.rates)


class Unbounded(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        return dist.Poisson(step.trials.unsqueeze(-1) * theta.rates + 1e-3)


class AllOrNothing(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        return _Sure(step.trials.unsqueeze(-1), logits=torch.tensor([-5.0, -5.0, 5.0]))


class _Sure(dist.Binomial):
    """All or none of the rollouts."""

    def log_prob(self, value: Tensor) -> Tensor:
        right = torch.where(self.logits > 0, self.total_count, 0)
        return torch.where(value == right, 0.0, -float("inf"))


class _OneMore(dist.Binomial):
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        return super().sample(sample_shape) + 1


class DrawsTooMany(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        law = dist.Binomial(step.trials.unsqueeze(-1), theta.rates)
        law.__class__ = _OneMore
        return law

    def informative(self, theta: Theta, step: Step) -> Tensor:
        law = dist.Binomial(step.trials.unsqueeze(-1), theta.rates)
        return torch.where(step.trials.unsqueeze(-1) > 1, 1 - law.log_prob(torch.zeros(1)).exp(), 0.0)


class NoMissing(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        return dist.Binomial(step.trials.unsqueeze(-1), probs=theta.rates * (step.trials / step.trials).unsqueeze(-1))


class Raises(Plain):
    def transition(self, theta: Theta, step: Step) -> dist.Categorical:
        if bool((step.trials == 0).any()):
            raise RuntimeError("no rollouts, no move")
        return super().transition(theta, step)


class RootOfNothing(Scores):
    """The gradient of the root of 0 is infinite, and 0 times that NaN: of steps without rollouts."""

    def emission(self, theta: Theta, step: Step) -> Any:
        size = step.trials.unsqueeze(-1)
        return dist.Normal(size * theta.rates, 0.1 + (size * theta.stay[..., None].square()).sqrt())


class RootOfZero(Plain):
    def matrix(self, theta: Theta, step: Step) -> Tensor:
        nothing = (theta.stay - theta.stay).sqrt()
        return super().matrix(theta._replace(stay=theta.stay + nothing), step)


class AlwaysUseful(Plain):
    def informative(self, theta: Theta, step: Step) -> Tensor:
        return (4 * theta.rates * (1 - theta.rates)).expand(*step.trials.shape, 3)


class Doubled(Plain):
    def informative(self, theta: Theta, step: Step) -> Tensor:
        return 2 * super().informative(theta, step)


class Negative(Plain):
    """The chances of up and down are taken from that of staying, which may be less than both."""

    def matrix(self, theta: Theta, step: Step) -> Tensor:
        up = down = 1 - theta.stay
        zero = torch.zeros_like(up)
        entries = [1 - up, up, zero, down, 1 - up - down, up, zero, down, 1 - down]
        return torch.stack(entries, -1).unflatten(-1, (3, 3))


class Locked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


# ----------------------------------------------------------------------------------- what used to pass, or to break raw


class Unnormalised(Plain):
    def transition(self, theta: Theta, step: Step) -> dist.Categorical:
        return dist.Categorical(3 * self.matrix(theta, step))


class Detached(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates.detach())


class TorchsCategorical(Plain):
    def transition(self, theta: Theta, step: Step) -> Any:
        return torch.distributions.Categorical(self.matrix(theta, step))


class TorchsDirichlet(Plain):
    def shared(self) -> tuple[Tensor, Tensor]:
        stay = pyro.sample("stay", dist.Beta(torch.tensor(9.0), torch.tensor(1.0)))
        gaps: Any = pyro.sample("gaps", torch.distributions.Dirichlet(torch.ones(4)))  # type: ignore[arg-type]
        return stay, gaps.cumsum(-1)[..., :-1].clamp(max=1.0)


class NumpysChances(Plain):
    def informative(self, theta: Theta, step: Step) -> Any:
        return super().informative(theta, step).detach().numpy()


class NoPlate(Plain):
    def prior(self) -> Theta:  # type: ignore[override]
        return Theta(*self.shared(), torch.zeros(1))


class NoReturn(Plain):
    def prior(self, prompts: pyro.plate) -> Any:
        super().prior(prompts)


class NoLaw(Plain):
    def emission(self, theta: Theta, step: Step) -> Any:
        super().emission(theta, step)
