"""How well models predict and describe a log: scores, predictive checks, calibration, replays, simulation and ArviZ."""

from dps_pyro.evaluation.arviz import to_arviz, to_netcdf
from dps_pyro.evaluation.comparison import Compared, compare
from dps_pyro.evaluation.diagnosis import Diagnosis, Finding, diagnose
from dps_pyro.evaluation.elpd import Difference, Elpd, Prequential, difference, held_out, loo, prequential
from dps_pyro.evaluation.predictive import Check, predictive_checks, replicate
from dps_pyro.evaluation.replays import Recovery, Replay, replay
from dps_pyro.evaluation.sbc_ranks import Ranks, sbc
from dps_pyro.evaluation.scores import Calibration, Quality, brier_score, calibration, log_score, quality
from dps_pyro.evaluation.simulation import Simulated, simulate
from dps_pyro.evaluation.smoothing import paths, smooth, smoothed
from dps_pyro.inference.pareto import good_k, k_hat, psis

__all__ = [
    "Calibration",
    "Check",
    "Compared",
    "Diagnosis",
    "Difference",
    "Elpd",
    "Finding",
    "Prequential",
    "Quality",
    "Ranks",
    "Recovery",
    "Replay",
    "Simulated",
    "brier_score",
    "calibration",
    "compare",
    "diagnose",
    "difference",
    "good_k",
    "held_out",
    "k_hat",
    "log_score",
    "loo",
    "paths",
    "predictive_checks",
    "prequential",
    "psis",
    "quality",
    "replay",
    "replicate",
    "sbc",
    "simulate",
    "smooth",
    "smoothed",
    "to_arviz",
    "to_netcdf",
]
