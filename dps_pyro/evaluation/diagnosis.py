"""Can a fit be trusted, and does the model describe the log? The numbers, and what they mean in plain words."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.evaluation.elpd import Elpd, Prequential, loo, prequential
from dps_pyro.evaluation.predictive import Check, predictive_checks
from dps_pyro.evaluation.smoothing import smoothed
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.pareto import good_k, k_hat
from dps_pyro.inference.posterior import Posterior

__all__ = ["Diagnosis", "Finding", "diagnose"]

RARE = 0.01
"""A tail probability below which a posterior predictive check counts as failed."""


class Finding(NamedTuple):
    """One sentence of a diagnosis."""

    good: bool | None  # None if it is not known
    what: str
    then: str  # what to do about it; "" if there is nothing to do


class Diagnosis(NamedTuple):
    """What is known of a fit and its model."""

    states: tuple[str, ...]
    loo: Elpd
    prequential: Prequential
    guide_k: float | None  # None if it is not known
    checks: list[Check]
    occupancy: Tensor  # [T, K], the share of prompts in each state at each step, in hindsight
    about: dict[str, Any]  # of the fit
    converged: bool

    def findings(self) -> list[Finding]:
        """What is good or bad, and what to do."""
        return [self._ended(), *self._guide(), self._leaving_out(), *map(_misfit, self.checks)]

    def _ended(self) -> Finding:
        if self.about.get("method") == "nuts":
            found = f"{self.about.get('divergences')} divergences, R-hat {self.about.get('r_hat')}"
            if self.converged:
                return Finding(True, f"NUTS: the draws agree ({found})", "")
            return Finding(False, f"NUTS: {found}", "fit again with more --steps and --draws")
        if self.about.get("method") == "laplace":
            steps = self.about.get("steps")
            if self.converged:
                return Finding(True, f"Laplace: the search was at the top after {steps} steps", "")
            return Finding(False, "Laplace: the search was still rising", "fit again with more --steps")
        if self.converged:
            return Finding(True, f"SVI: the ELBO was flat after {self.about.get('steps')} steps", "")
        return Finding(False, "SVI: the ELBO was still moving", "fit again with more --steps")

    def _guide(self) -> list[Finding]:
        if self.about.get("method") == "nuts":
            return []
        if self.guide_k is None:
            return [
                Finding(
                    None,
                    "guide: not known how far it is from the posterior (prompts with parameters of their own, "
                    "mini-batches, or a point)",
                    "",
                )
            ]
        if self.about.get("resampled"):
            what = f"draws: kept by importance weights, which are good (Pareto k {self.guide_k:.2f}, at most 0.70)"
            return [Finding(True, what, "")]
        limit = good_k(self.about.get("draws", 200))
        better = "--guide low_rank, or " if self.about.get("guide") == "normal" else ""
        if self.guide_k <= limit:
            return [Finding(True, f"guide: k-hat {self.guide_k:.2f}, at most {limit:.2f}: close to the posterior", "")]
        return [
            Finding(
                False,
                f"guide: k-hat {self.guide_k:.2f}, above {limit:.2f}: its spread is not the posterior's",
                f"its point may still do for a filter; for the spread fit with {better}--method nuts",
            )
        ]

    def _leaving_out(self) -> Finding:
        bad, all_of_them = len(self.loo.bad), len(self.loo.rows)
        if not bad:
            return Finding(True, f"PSIS-LOO: Pareto k at most {self.loo.good_k:.2f} for all {all_of_them} prompts", "")
        return Finding(
            False,
            f"PSIS-LOO: Pareto k above {self.loo.good_k:.2f} for {bad} of {all_of_them} prompts",
            "keep more --draws; if it stays, compare models by held-out prompts (dps-pyro compare --score held-out)",
        )


def diagnose(dynamics: Dynamics[Any], history: RolloutHistory, posterior: Posterior, *, seed: int = 0) -> Diagnosis:
    """Diagnose a fit.

    Args:
        dynamics: the model.
        history: the log that it was fitted to.
        posterior: the fit.
        seed: the random seed of the replications.

    Raises:
        ValueError: the posterior is not of this model and these prompts, or the log has no outcomes.
    """
    return Diagnosis(
        dynamics.states,
        loo(dynamics, history, posterior, seed=seed),
        prequential(dynamics, history, posterior.population().point),
        k_hat(posterior),
        predictive_checks(dynamics, history, posterior.draws, seed=seed),
        smoothed(dynamics, history, posterior.point).mean(0),
        dict(posterior.about),
        posterior.converged,
    )


_THEN = {
    "useful share by step": "the model does not follow the training: try one whose moves depend on it (Trained, drift)",
    "prompts always wrong": "some prompts are not like the others: try types, groups or features of prompts",
    "prompts always right": "some prompts are not like the others: try types, groups or features of prompts",
    "wrong once more": "prompts stay unsolved for longer, or less long, than the model can: try types, or finer states",
    "right once more": "prompts stay solved for longer, or less long, than the model can: try types, or finer states",
    "predictive ranks": "groups vary more, or less, around what is predicted than the model can: try finer states",
    "changes of class": "prompts change more, or less, than the model can: try finer states (Ladder, LogitWalk)",
    "solve rate by visit": "the model does not follow what visits do: try one whose moves depend on training (Trained)",
}


def _misfit(check: Check) -> Finding:
    if check.tail >= RARE:
        return Finding(True, f"{check.name}: like the log's (tail probability {check.tail:.3f})", "")
    return Finding(False, f"{check.name}: unlike the log's (tail probability {check.tail:.3f})", _THEN[check.name])
