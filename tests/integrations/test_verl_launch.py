"""The launch script against verl's own configuration schema, and verl's own way of finding a trainer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

verl = pytest.importorskip("verl")
pytestmark = [
    pytest.mark.verl,
    pytest.mark.filterwarnings("ignore"),  # verl's and Ray's own
    pytest.mark.skipif(not verl.__version__.startswith("0.9."), reason="of verl 0.9"),
]

ROOT = Path(__file__).parents[2]


def test_the_scripts_overrides_fit_verls_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from dps_pyro.trainers.verl.settings import Settings

    script = ROOT / "examples/verl_multinode.sh"
    done = subprocess.run(
        ["bash", str(script), "trainer.total_epochs=3"],
        env={**os.environ, "DRY_RUN": "1", "NODES": "4"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    folder = Path(verl.__file__).parent / "trainer/config"
    with initialize_config_dir(str(folder), version_base=None):
        config = compose("ppo_trainer", done.stdout.splitlines())
    assert (config.trainer.nnodes, config.trainer.total_epochs) == (4, 3)
    validate_config(config, need_reference_policy(config), need_critic(config))
    OmegaConf.to_container(config, resolve=True)
    settings = Settings.of(config.data, config.actor_rollout_ref.rollout.n)
    assert (settings.dynamics, settings.trials, settings.seed) == ("SolvingProgress", 8, 0)
    assert config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES == "dps_pyro.trainers.verl.trainer"


def test_every_key_is_taken_from_the_command_line_as_hydra_gives_it() -> None:
    from hydra import compose, initialize_config_dir

    from dps_pyro.trainers.verl.groups import Rule
    from dps_pyro.trainers.verl.settings import Settings

    folder = Path(verl.__file__).parent / "trainer/config"
    with initialize_config_dir(str(folder), version_base=None):
        config = compose("ppo_trainer", [
            "+data.dps_pyro.dynamics=Hierarchical", "+data.dps_pyro.dynamics_args={groups: level}",
            "+data.dps_pyro.features=[level]", "+data.dps_pyro.acquisition=soft", "+data.dps_pyro.sharpness=6",
            "+data.dps_pyro.refit_every=20", "+data.dps_pyro.seed=3", "+data.dps_pyro.metric=acc",
            "+data.dps_pyro.threshold=1", "+data.dps_pyro.prior=prior", "+data.dps_pyro.trials=16",
        ])  # fmt: skip
    settings = Settings.of(config.data, config.actor_rollout_ref.rollout.n)
    assert settings == Settings(
        dynamics="Hierarchical", dynamics_args={"groups": "level"}, features=("level",), sharpness=6.0,
        refit_every=20, seed=3, metric="acc", threshold=1.0, prior=Path("prior"), trials=16,
    )  # fmt: skip
    assert settings.rule == Rule("acc", 1.0)


def test_verl_finds_the_trainers_by_its_environment_variable(tmp_path: Path) -> None:
    code = (
        "import verl; from verl.trainer.ppo.v1 import get_trainer_cls as get; "
        "print(*(get(f'dps_pyro_{mode}').mode for mode in ('sync', 'colocate_async', 'separate_async')))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "VERL_USE_EXTERNAL_MODULES": "dps_pyro.trainers.verl.trainer"}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout.split() == ["sync", "colocate_async", "separate_async"], found.stderr


def test_the_other_route_says_where_this_verl_wants_it() -> None:
    with pytest.raises(ImportError, match=r"expected verl's sampler route, but verl 0\.9.* wants VERL_USE_EXTERNAL"):
        import dps_pyro.trainers.verl.curriculum  # noqa: F401
