"""Fits of a model to a log: stochastic variational inference, NUTS, posteriors and refits during training."""

from dps_pyro.inference.fitting import fit
from dps_pyro.inference.methods import NUTS, SVI, Guide, Laplace, Method
from dps_pyro.inference.pareto import good_k, k_hat, psis
from dps_pyro.inference.posterior import Posterior
from dps_pyro.inference.refit import Refit

__all__ = ["NUTS", "SVI", "Guide", "Laplace", "Method", "Posterior", "Refit", "fit", "good_k", "k_hat", "psis"]
