"""What a fit learned, kept as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dps_pyro.storage import atomic_path, load_state, save_state

__all__ = ["Posterior"]


@dataclass(frozen=True)
class Posterior:
    """What a fit learned.

    Attributes:
        draws: site name -> [S, ...] draws from the (approximate) posterior. Several chains follow one after the other.
            A "delta" guide has only its point, S = 1.
        point: site name -> [...] the draws' mean, which the online filter runs at. Means of simplexes are simplexes.
        losses: float [steps], the negative ELBO per SVI step; empty for NUTS.
        converged: whether the ELBO was flat when the fit ended. For NUTS, whether no transition diverged and split
            R-hat is below 1.05 at every site.
        about: what was fitted, how, and how long it took: "steps" are those that SVI took, or NUTS's warm-up;
            "draws" is the number of draws kept; "per_prompt" has the names of the sites that each prompt has of its
            own; "columns" has the arguments that give the values the same meaning in a model of other prompts
            (`Dynamics.carried`). For SVI there are also "guide", "batch_size", "stopped" ("flat", "steps" or "time")
            and, with restarts, the "restart_losses" (None for a restart that broke down). For NUTS there are "chains",
            "divergences", the largest "r_hat" (None for fewer than four draws per chain) and the smallest
            "effective_draws".
        log_weights: [S], `log p(draw, outcomes) - log q(draw)` of each draw from an SVI guide q: they say how far the
            guide is from the posterior (its Pareto k-hat). None for mini-batches, sites that each prompt has of its
            own, a "delta" guide, and NUTS.
    """

    draws: Mapping[str, Tensor]
    point: Mapping[str, Tensor]
    losses: Tensor
    converged: bool
    about: dict[str, Any] = field(default_factory=dict)
    log_weights: Tensor | None = None
    sample_stats: Mapping[str, Tensor] = field(default_factory=dict)

    def population(self) -> Posterior:
        """The posterior for other prompts: it has no sites that each prompt has of its own. Use it with a model that
        sums such sites out (`Hierarchical` with its nodes). A model that has these sites would put each prompt at the
        centre of its population, which is not the mean of its prompts."""
        own = self.about.get("per_prompt", [])
        if not own:
            return self
        draws, point = ({name: at for name, at in of.items() if name not in own} for of in (self.draws, self.point))
        return replace(self, draws=draws, point=point, about={**self.about, "per_prompt": []}, log_weights=None)

    def save(self, folder: str | Path) -> Path:
        """Write a folder of safetensors and JSON, atomically; `load` reads it back."""
        with atomic_path(Path(folder)) as aside:
            aside.mkdir()
            tensors = {"draws": dict(self.draws), "point": dict(self.point), "losses": self.losses}
            weights = {"log_weights": self.log_weights, "sample_stats": dict(self.sample_stats)}
            save_state(aside, {**tensors, **weights, "converged": self.converged, "about": self.about})
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Posterior:
        """Read a saved posterior.

        Raises:
            ValueError: the folder is no posterior, or is damaged.
        """
        state = load_state(Path(folder))
        try:
            draws, point, losses = state["draws"], state["point"], state["losses"]
            more = state.get("log_weights"), state.get("sample_stats", {})
            return cls(draws, point, losses, state["converged"], state["about"], *more)
        except KeyError as error:
            raise ValueError(f"{folder}: expected a saved posterior, got a state without {error}") from error
