"""Fits of a model to a log: stochastic variational inference, NUTS, posteriors and refits during training."""

from dps_pyro.inference.fitting import fit
from dps_pyro.inference.posterior import Posterior
from dps_pyro.inference.refit import Refit
from dps_pyro.inference.svi import Guide

__all__ = ["Guide", "Posterior", "Refit", "fit"]
