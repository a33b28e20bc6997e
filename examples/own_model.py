# %% [markdown]
# # A model of your own, end to end
#
# A dynamics model says how the solving progress of a prompt starts, how it moves, and what a group of rollouts shows
# of it. The exact filter, the likelihood and the fit follow from these three. This example writes a model, tests it
# against the contract, fits it to a log, and selects prompts with it.
#
# The idea: most prompts sit still for a long time, and then move. The model learns how sticky the states are.

# %%
import pyro
import pyro.distributions as dist
import torch

from dps_pyro import SVI, Dynamics, PromptSampler, fit
from dps_pyro.evaluation import compare, simulate
from dps_pyro.models import SolvingProgress
from dps_pyro.testing import check_dynamics

# %% [markdown]
# Only `prior` samples. The other methods compute from what `prior` returned. The states are ordered by construction:
# success rates are the cumulative sum of the gaps between them.


# %%
class Sticky(Dynamics):
    states = ("unsolved", "partially solved", "solved")

    def prior(self, prompts):
        stay = pyro.sample("stay", dist.Beta(torch.tensor(18.0), torch.tensor(2.0)))
        gaps = pyro.sample("gaps", dist.Dirichlet(torch.tensor([1.0, 10.0, 10.0, 1.0])))
        return stay, gaps.cumsum(-1)[..., :3].clamp(max=1.0)

    def initial(self, theta):
        return dist.Categorical(torch.ones(3) / 3)

    def transition(self, theta, step):
        stay = theta[0][..., None, None]
        up = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.0, 0.8], [0.0, 1.0, 0.0]])
        return dist.Categorical(stay * torch.eye(3) + (1 - stay) * up)

    def emission(self, theta, step):
        return dist.Binomial(step.trials.unsqueeze(-1), theta[1])


# %% [markdown]
# `check_dynamics` holds the model against the contract: shapes, ordered states, probabilities that add up to one, and
# the agreement of the likelihood, the filter and brute force. It returns if nothing is wrong, and otherwise says what
# to change.

# %%
check_dynamics(Sticky())

# %% [markdown]
# We draw a log from the model with a known stickiness, and leave out three groups in four, as a training run would.

# %%
truth = {"stay": torch.tensor(0.97)}
log = simulate(Sticky(), prompts=100, num_steps=30, trials=8, values=truth, centre=True, observed=0.25, seed=1).log
posterior = fit(Sticky(), log, SVI(steps=400), progress=False)
low, high = posterior.draws["stay"].quantile(torch.tensor([0.05, 0.95])).tolist()
print(f"stay: true 0.97, fitted {float(posterior.point['stay']):.3f}, 90 % interval {low:.3f} to {high:.3f}")

# %% [markdown]
# Does the model predict better than the reference model? The score is the log predictive density of prompts that were
# left out. A difference of less than two standard errors is no difference.

# %%
models = {"Sticky": Sticky(), "SolvingProgress": SolvingProgress()}
ranked = compare(models, log, score="held-out", method=SVI(steps=400), progress=False)
for one in ranked:
    print(
        f"{one.name:16} elpd {one.elpd.total:8.1f}, difference {one.behind.total:.1f} ± {one.behind.standard_error:.1f}"
    )

# %% [markdown]
# The fitted model selects prompts. Half of the rollouts of prompt 0 were right. The other
# prompts were never rolled out.

# %%
sampler = PromptSampler(Sticky(), num_prompts=4, posterior=posterior)
for solved in (0, 3, 4):
    sampler.observe([0], [solved], trials=8)
print("belief:", [[round(value, 2) for value in row] for row in sampler.belief.tolist()])
print("chance of a useful group:", [round(value, 2) for value in sampler.informative(8).tolist()])

# %% [markdown]
# Save the class as `sticky.py`, and `dps-pyro train --dynamics sticky.py:Sticky` trains with it. [Write your own
# dynamics](../models/write-your-own-dynamics.md) goes on to parameters that each prompt has of its own.
