# %% [markdown]
# # Replay: which model predicts best?
#
# In a *full log* every prompt was rolled out at every step. On such a log, replay plays any sampler as if it had seen
# only what it chose, and scores its predictions on all prompts. This example compares three models.

# %%
import torch
from matplotlib.figure import Figure

from dps_pyro import PromptSampler
from dps_pyro.evaluation import replay, simulate
from dps_pyro.models import BetaBernoulli, LogitWalk, PaperDPS

# %% [markdown]
# The log is drawn from `LogitWalk`. `full_log: true` in a training configuration records one of a real run.

# %%
log, truth, _ = simulate(LogitWalk(), prompts=150, num_steps=40, trials=8, seed=0)

# %% [markdown]
# Every sampler sees the same random batches of 16 prompts per step, and predicts the chance of a useful group for all
# 150 prompts before each of them. The last one knows the parameters that the log was drawn from: nobody can do
# better.

# %%
samplers = {
    "PaperDPS": PromptSampler(PaperDPS(), 150),
    "BetaBernoulli": PromptSampler(BetaBernoulli(), 150),
    "LogitWalk": PromptSampler(LogitWalk(), 150),
    "LogitWalk, true parameters": PromptSampler(LogitWalk(), 150, posterior=truth),
}
results = {
    name: replay(log, sampler, selection="uniform", batch_size=16, seed=0, progress=False)
    for name, sampler in samplers.items()
}
for name, result in results.items():
    score, never = result.quality(), result.quality(result.unvisited)
    print(f"{name:27} log score {score.log_score:.3f}, ECE {score.ece:.3f}; never visited: {never.log_score:.3f}")

# %% [markdown]
# The log score is zero for perfect predictions and -0.693 for a coin. Here it is over the steps.

# %%
figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
for name, result in results.items():
    axes.plot(result.log_score.unfold(0, 5, 1).mean(-1), label=name)
axes.axhline(-0.693, color="#777777", linewidth=0.8, linestyle=":")
axes.set(xlabel="step", ylabel="log score, over five steps", ylim=(-1.2, 0))
axes.legend(frameon=False, fontsize=8)
figure

# %% [markdown]
# What would its batches have been made of? Now each sampler is shown what it selects itself.

# %%
for name, model in (("PaperDPS", PaperDPS()), ("LogitWalk", LogitWalk())):
    own = replay(log, PromptSampler(model, 150), selection="own", batch_size=16, progress=False)
    share = float(torch.as_tensor(own.useful_chosen).mean())
    print(f"{name:9} useful among the chosen {share:.2f}; in the whole log {float(own.useful.float().mean()):.2f}")

# %% [markdown]
# A replay says how well a model predicts. How well a policy learns from the selected prompts is another question,
# which [the evidence](../evidence/learning.md) answers. [Replay](../evaluate/replay.md) explains every score.
