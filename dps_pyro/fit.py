"""Learn a model's parameters from logged rollouts: a prior for the next run's online filter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_mean
from pyro.ops.stats import split_gelman_rubin
from torch import Tensor

from dps_pyro import checks
from dps_pyro.console import progress_bar
from dps_pyro.dynamics import Dynamics
from dps_pyro.history import RolloutHistory
from dps_pyro.storage import atomic_path, load_state, save_state

__all__ = ["Posterior", "fit"]


@dataclass(frozen=True)
class Posterior:
    """What a fit learned.

    Attributes:
        draws: site name -> [S, ...] draws from the (approximate) posterior.
        point: site name -> [...] the draws' mean, which the online filter runs at. Means of simplexes are simplexes.
        losses: float [steps], the negative ELBO an SVI step; empty for NUTS.
        converged: whether the ELBO had gone flat when the fit ended; of NUTS, whether no transition diverged and split
            R-hat is below 1.05 at every site.
        about: what was fitted, how, and how long it took: "steps" are those that SVI took, or NUTS's warm-up; "draws"
            those kept; of NUTS also "divergences" and the largest "r_hat" (None for fewer than four draws).
    """

    draws: Mapping[str, Tensor]
    point: Mapping[str, Tensor]
    losses: Tensor
    converged: bool
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write a folder of safetensors and JSON, atomically; `load` reads it back."""
        with atomic_path(Path(folder)) as aside:
            aside.mkdir()
            tensors = {"draws": dict(self.draws), "point": dict(self.point), "losses": self.losses}
            save_state(aside, {**tensors, "converged": self.converged, "about": self.about})
        return Path(folder)

    def to_arviz(self) -> Any:
        """The draws for ArviZ, as the posterior group of an InferenceData (a DataTree from ArviZ 1.0), in one chain."""
        import arviz as az

        draws = {name: value.unsqueeze(0).numpy() for name, value in self.draws.items()}
        if int(az.__version__.partition(".")[0]) < 1:
            return az.from_dict(posterior=draws)
        return az.from_dict({"posterior": draws})

    @classmethod
    def load(cls, folder: str | Path) -> Posterior:
        """Read a saved posterior.

        Raises:
            ValueError: the folder is not one, or is damaged.
        """
        state = load_state(Path(folder))
        try:
            return cls(state["draws"], state["point"], state["losses"], state["converged"], state["about"])
        except KeyError as error:
            raise ValueError(f"{folder}: expected a saved posterior, got a state without {error}") from error


def fit(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    method: Literal["svi", "nuts"] = "svi",
    *,
    steps: int | None = None,
    learning_rate: float = 0.05,
    batch_size: int | None = None,
    draws: int = 200,
    tolerance: float = 1e-4,
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Fit a dynamics model to logged rollouts.

    Args:
        dynamics: the model.
        history: the log; at least one group, with outcomes. It is laid out as [N, T] rectangles, prompts by steps,
            whatever the method and the batch size: those have to fit into memory.
        method: "svi" maximises the ELBO of a mean-field normal guide (fast); "nuts" samples the exact posterior, one
            chain (small histories).
        steps: SVI steps at most, 2000 if left out; or NUTS's warm-up steps, exactly, 200 if left out.
        learning_rate: Adam's, for "svi", positive.
        batch_size: prompts in an SVI mini-batch, within 1..N; None for all.
        draws: posterior draws to keep, at least 1.
        tolerance: SVI stops early when the mean loss of the last hundred steps is within this fraction, and the
            standard error of the difference, of that of the hundred before.
        seed: of the whole fit. The global RNGs and Pyro's parameter store are left as they were.
        progress: show a progress bar.

    Raises:
        ValueError: the history has no groups or no outcomes, or an argument is of another kind or out of range.
        FloatingPointError: the loss became NaN or infinite; the message says at which step.
    """
    checks.instance("dynamics", dynamics, Dynamics)
    if len(checks.instance("history", history, RolloutHistory)) == 0:
        raise ValueError("history: expected at least one group of rollouts, got none")
    if history.dense().solved is None:
        raise ValueError("history: expected outcomes to learn from, got a schedule, whose outcomes are unknown")
    if method not in ("svi", "nuts"):
        raise ValueError(f"method: expected 'svi' or 'nuts', got {method!r}")
    steps = checks.count("steps", {"svi": 2000, "nuts": 200}[method] if steps is None else steps, 1)
    draws = checks.count("draws", draws, 1)
    learning_rate = checks.positive("learning_rate", learning_rate)
    tolerance = checks.positive("tolerance", tolerance, or_zero=True)
    if batch_size is not None:
        batch_size = checks.count("batch_size", batch_size, 1, history.num_prompts)
    seed = checks.count("seed", seed, 0)
    start = time.perf_counter()
    found: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(seed)
        if method == "svi":
            samples, losses, converged = _svi(
                dynamics, history, steps, learning_rate, batch_size, draws, tolerance, progress
            )
        else:
            samples, found = _nuts(dynamics, history, steps, draws, progress)
            losses = torch.zeros(0)
            converged = found["divergences"] == 0 and found["r_hat"] is not None and found["r_hat"] < 1.05
    about = {
        "model": type(dynamics).__name__,
        "method": method,
        "prompts": history.num_prompts,
        "groups": len(history),
        "steps": len(losses) or steps,
        "draws": draws,
        **found,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 2),
    }
    return Posterior(samples, {name: value.mean(0) for name, value in samples.items()}, losses, converged, about)


def _svi(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    steps: int,
    learning_rate: float,
    batch_size: int | None,
    draws: int,
    tolerance: float,
    progress: bool,
) -> tuple[dict[str, Tensor], Tensor, bool]:
    def plates(history: RolloutHistory, batch_size: int | None = None) -> pyro.plate:
        return pyro.plate("prompts", history.num_prompts, subsample_size=batch_size, dim=-1)

    guide = AutoNormal(dynamics.model, init_loc_fn=init_to_mean, init_scale=0.05, create_plates=plates)
    # The learning rate falls tenfold over the steps allowed, so that the last estimates are not the noise's.
    optimizer = pyro.optim.ClippedAdam({"lr": learning_rate, "lrd": 0.1 ** (1 / max(steps, 1))})
    svi = SVI(dynamics.model, guide, optimizer, Trace_ELBO())
    losses: list[float] = []
    converged = False
    window = 100
    with progress_bar(steps, "fitting", progress) as advance:
        for step in range(steps):
            loss = svi.step(history, batch_size)
            if not torch.isfinite(torch.tensor(loss)):
                raise FloatingPointError(f"the loss is {loss} at step {step}; expected a finite number")
            losses.append(loss)
            advance(f"loss {loss / len(history):.4f} a group")
            if step + 1 >= 3 * window and (step + 1) % window == 0:
                before, after = torch.tensor(losses[-2 * window :]).view(2, window)
                noise = (before.var() / window + after.var() / window).sqrt()
                converged = bool((before.mean() - after.mean()).abs() <= tolerance * before.mean().abs() + noise)
                if converged:
                    break
    with torch.no_grad():
        drawn = Predictive(guide, num_samples=draws)(history)
    samples = {name: value for name, value in drawn.items() if not name.endswith("_unconstrained")}
    return samples, torch.tensor(losses), converged


def _nuts(
    dynamics: Dynamics[Any], history: RolloutHistory, steps: int, draws: int, progress: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The draws, and what tells whether to trust them."""
    kernel = NUTS(dynamics.model, jit_compile=False)
    chain: Any = MCMC(kernel, num_samples=draws, warmup_steps=steps, disable_progbar=not progress)
    chain.run(history)
    samples = dict(chain.get_samples())
    divergences = chain._diagnostics[0]["divergences"]
    r_hat = [float(split_gelman_rubin(value.unsqueeze(0)).max()) for value in samples.values()] if draws >= 4 else []
    return samples, {"divergences": len(divergences), "r_hat": round(max(r_hat), 4) if r_hat else None}
