"""The gallery: dynamics models to use as they are or to fork, one a file."""

from dps_pyro.models.beta_bernoulli import BetaBernoulli
from dps_pyro.models.covariate import Covariate
from dps_pyro.models.dense_reward import DenseReward
from dps_pyro.models.forgetting import Forgetting
from dps_pyro.models.hierarchical import Hierarchical
from dps_pyro.models.ladder import Ladder
from dps_pyro.models.logit_walk import LogitWalk
from dps_pyro.models.paper_dps import PaperDPS
from dps_pyro.models.prompt_types import PromptTypes
from dps_pyro.models.reward_ema import RewardEMA
from dps_pyro.models.run_start import RunStart
from dps_pyro.models.selectors import GRESO, SPO, HistoryResampling, Oracle
from dps_pyro.models.siblings import Siblings
from dps_pyro.models.solving_progress import SolvingProgress
from dps_pyro.models.trained import Trained

__all__ = [
    "GRESO",
    "SPO",
    "BetaBernoulli",
    "Covariate",
    "DenseReward",
    "Forgetting",
    "Hierarchical",
    "HistoryResampling",
    "Ladder",
    "LogitWalk",
    "Oracle",
    "PaperDPS",
    "PromptTypes",
    "RewardEMA",
    "RunStart",
    "Siblings",
    "SolvingProgress",
    "Trained",
]
