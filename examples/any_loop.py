"""Predicted prompts in a loop of one's own: the five verbs and nothing else.

    python examples/any_loop.py

The policy here is a vector of skills; put your rollouts, rewards and optimizer in its place.
"""

from pathlib import Path

import torch

from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress
from dps_pyro.storage import atomic_path, load_state, save_state

PROMPTS, BATCH, GROUP, STEPS = 200, 16, 8, 40
CHECKPOINT = Path("runs/any_loop")

torch.manual_seed(0)
difficulty = 4 * torch.randn(PROMPTS)
skill = torch.zeros(())  # the policy: it solves a prompt with the chance sigmoid(skill - difficulty)

sampler = PromptSampler(SolvingProgress(), PROMPTS, trials=GROUP, seed=0)
done = 0
if CHECKPOINT.exists():  # go on where the last run stopped
    state = load_state(CHECKPOINT)
    sampler.load_state_dict(state["sampler"])
    skill, done = state["skill"], state["done"]

for step in range(done, STEPS):
    rows = sampler.select(BATCH)
    solves = torch.rand(BATCH, GROUP) < torch.sigmoid(skill - difficulty[rows])[:, None]
    sampler.observe(rows, solves.sum(-1), trials=GROUP)
    useful = (solves.any(-1) & ~solves.all(-1)).float().mean()
    skill = skill + 0.1 * useful  # only mixed groups teach
    if (step + 1) % 10 == 0:
        with atomic_path(CHECKPOINT) as aside:
            aside.mkdir()
            save_state(aside, {"sampler": sampler.state_dict(), "skill": skill, "done": step + 1})
        metrics = sampler.metrics()
        print(f"step {step + 1}: useful {metrics['useful/so_far']:.2f}, visited {metrics['visited']:.2f}")
