# %% [markdown]
# # Fit a prior and diagnose it
#
# A training run logs every group of rollouts. A model that was fitted to this log starts the next run with an
# informed prior. This example fits one, asks whether the fit can be believed, and looks back over the log.

# %%
import torch
from matplotlib.figure import Figure

from dps_pyro import fit
from dps_pyro.evaluation import diagnose, paths, simulate, smoothed
from dps_pyro.models import SolvingProgress

# %% [markdown]
# The log is drawn from the model itself, so that the truth is known. A log of your own is read by
# `RolloutHistory.from_parquet("runs/first/history.parquet")`.

# %%
model = SolvingProgress()
log, truth, _ = simulate(model, prompts=100, num_steps=30, trials=8, observed=0.3, seed=4)
print(f"{len(log)} groups of {log.num_prompts} prompts over {log.num_steps} steps")

# %%
torch.set_printoptions(precision=2, sci_mode=False)
posterior = fit(model, log, progress=False)
for name, value in posterior.point.items():
    print(name, "fitted:", value, "true:", truth.point[name], sep="\n")

# %% [markdown]
# `diagnose` answers two questions. Did the fit work? Would the fitted model have made this log? Every finding says
# what to do about it.

# %%
found = diagnose(model, log, posterior)
for finding in found.findings():
    print("good" if finding.good else "bad ", f"{finding.what}. {finding.then}".strip())

# %% [markdown]
# The belief at a step knows the groups before it. *Smoothing* knows the whole log. Here are both stories of one
# prompt: the probability of each state given the whole log, and the most likely path.

# %%
prompt = int(log.events.prompt.bincount().argmax())  # the prompt that was rolled out most often
chances = smoothed(model, log, posterior.point)[prompt]
likeliest = paths(model, log, posterior.point, temperature=0)[prompt]
figure = Figure(figsize=(7, 2.8), layout="constrained")
axes = figure.subplots()
axes.stackplot(range(len(chances)), chances.T.numpy(), labels=model.states, colors=["#C9D6E3", "#E69F00", "#009E73"])
axes.plot(likeliest / 2, color="#222222", label="most likely path")
axes.set(ylim=(0, 1), xlim=(0, len(chances) - 1), xlabel="step", ylabel="probability, given the whole log")
axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
figure

# %% [markdown]
# How many prompts does the policy learn to solve, in hindsight?

# %%
everyone = paths(model, log, posterior.point, temperature=0)
learned = (everyone[:, 0] < 2) & (everyone[:, -1] == 2)
print(f"{int(learned.sum())} of {log.num_prompts} prompts were learned")
torch.bincount(everyone[:, -1], minlength=3)

# %% [markdown]
# `posterior.save("prior")` keeps the fit, and `dps-pyro train --prior prior` starts from it. [Diagnose, compare,
# calibrate](../evaluate/diagnose.md) explains each number.
