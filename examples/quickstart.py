# %% [markdown]
# # Prompt selection in ten lines
#
# This example puts `PromptSampler` into a training loop and compares it with uniform selection. The policy is a toy:
# one number, its skill, which grows when a group of rollouts is useful. Put your rollouts, rewards and optimizer in
# its place.

# %%
import torch
from matplotlib.figure import Figure

from dps_pyro import PromptSampler
from dps_pyro.models import LogitWalk

PROMPTS, BATCH, GROUP, STEPS = 300, 16, 8, 60

# %% [markdown]
# The policy solves a prompt with the probability `sigmoid(skill - difficulty)`. A group of eight rollouts is useful
# if some are right and some are wrong, and each useful group makes the policy a little more skilful.


# %%
def train(acquisition: str) -> tuple[PromptSampler, list[float], float]:
    generator = torch.Generator().manual_seed(0)
    difficulty = 4 * torch.randn(PROMPTS, generator=generator)
    skill, shares = -2.0, []
    sampler = PromptSampler(LogitWalk(), PROMPTS, trials=GROUP, acquisition=acquisition, seed=0)
    for _ in range(STEPS):
        rows = sampler.select(BATCH)  # 1. which prompts to roll out
        chance = torch.sigmoid(skill - difficulty[rows])
        solved = (torch.rand(BATCH, GROUP, generator=generator) < chance[:, None]).sum(-1)
        sampler.observe(rows, solved, trials=GROUP)  # 2. how many of each group were right
        useful = ((solved > 0) & (solved < GROUP)).float().mean()
        shares.append(float(useful))
        skill += 0.1 * float(useful)
    return sampler, shares, skill


runs = {name: train(name) for name in ("thompson", "uniform")}
for name, (sampler, shares, skill) in runs.items():
    visited = sampler.metrics()["visited"]
    print(f"{name:9} useful groups {sum(shares) / STEPS:.2f}, skill at the end {skill:.2f}, visited {visited:.2f}")

# %% [markdown]
# With the same number of rollouts, predicted prompts give more useful groups. Here is the share of useful groups,
# averaged over five steps.

# %%
figure = Figure(figsize=(7, 2.8), layout="constrained")
axes = figure.subplots()
for name, (_, shares, _) in runs.items():
    axes.plot(torch.tensor(shares).unfold(0, 5, 1).mean(-1), label=name)
axes.set(ylim=(0, 1), xlabel="step", ylabel="share of useful groups")
axes.legend(frameon=False)
figure

# %% [markdown]
# The sampler knows something about every prompt, also about those that were never rolled out. `informative` gives the
# probability that the next group of a prompt is useful.

# %%
sampler = runs["thompson"][0]
chance = sampler.informative(GROUP)
seen = sampler.visits > 0
print(f"prompts rolled out: {int(seen.sum())} of {PROMPTS}")
print("most likely to be useful:", chance.topk(5).indices.tolist())
print("their probabilities:", [round(float(value), 2) for value in chance.topk(5).values])

# %% [markdown]
# `sampler.state_dict()` holds everything that a checkpoint needs. [Your own loop](../guides/plug-in.md) has the
# details.
