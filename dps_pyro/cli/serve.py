"""`dps-pyro serve`: one prompt sampler for several trainers."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

__all__ = ["Options", "run"]


SHARE = 40_000
"""The numbers in the beliefs of all prompts, so many states each, from which on it costs less to share them."""


@dataclass
class Options:
    """Serve a prompt sampler over HTTP. Every request must carry the key, and every change is on disk before it is
    answered.

    The key comes from the environment variable DPS_PYRO_KEY and has at least 16 characters. The connection is not
    encrypted: use a private network, or put a proxy with TLS in front.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder for the state and the journal. If the service is started again with the same folder, it continues."""
    prompts: int = 0
    """The number of prompts. Give either this or --ids."""
    ids: Path | None = None
    """A text file with the prompts' ids, one per line."""
    model: str = "LogitWalk"
    """The model: a name in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments for the constructor of the model, as YAML."""
    prior: Path | None = None
    """A posterior of the same model, as a folder that `dps-pyro fit` wrote."""
    acquisition: str = "variance"
    """How beliefs become a batch: variance, soft, covering, thompson, top, target,
    priority, entropy or uniform."""
    trials: int = 8
    """The planned group size."""
    seed: int = 0
    """The random seed of the selections."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 8700
    """The port to listen on. 0 takes any free port."""
    sync: bool = False
    """Flush each change to the disk, for machines that may lose power."""


def run(arguments: list[str]) -> int:
    """Load what is there, and serve until stopped."""
    options = tyro.cli(Options, prog="dps-pyro serve", args=arguments)
    key = os.environ.get("DPS_PYRO_KEY", "")
    if not key:
        raise ValueError("DPS_PYRO_KEY: expected a key of at least 16 characters in the environment, got none")
    try:
        import uvicorn

        from dps_pyro.serve.app import make_app
    except ImportError as error:
        raise ValueError(f"dps-pyro serve: expected the packages of dps-pyro[serve], got {error}") from error
    from dps_pyro.cli.inputs import read_predictor
    from dps_pyro.history.log import RolloutHistory
    from dps_pyro.inference.posterior import Posterior
    from dps_pyro.selection.arguments import acquisition_of
    from dps_pyro.selection.pooling import rule_of
    from dps_pyro.selection.sampler import PromptSampler
    from dps_pyro.serve.durable import Durable, shares_beliefs

    names = None if options.ids is None else options.ids.read_text(encoding="utf-8").split("\n")
    prompts = options.prompts if names is None else [name for name in names if name]
    posterior = None if options.prior is None else Posterior.load(options.prior)
    model = read_predictor(options.model, options.model_args, RolloutHistory(0), posterior)

    make = partial(
        PromptSampler,
        model,
        prompts,
        acquisition=options.acquisition,
        trials=options.trials,
        posterior=posterior,
        seed=options.seed,
    )
    count = prompts if isinstance(prompts, int) else len(prompts)
    shared = shares_beliefs(options.folder)  # a saved state is continued as it was
    if shared is None:  # a request is about few prompts, which costs less where the others share a belief
        shared = count * len(model.states) >= SHARE and rule_of(acquisition_of(options.acquisition)) is not None
    try:
        sampler = make(pooled=shared)
    except ValueError:  # the model needs a belief for every prompt, or something else is wrong, which is told now
        sampler = make()
    app = make_app(Durable(sampler, options.folder), key, sync=options.sync)
    # What was loaded stays: the garbage collector need not look through it again while requests wait.
    gc.collect()
    gc.freeze()
    quiet: dict[str, Any] = {"access_log": False, "proxy_headers": False, "server_header": False, "date_header": False}
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", **quiet)
    return 0
