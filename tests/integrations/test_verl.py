"""verl 0.9's own trainers on predicted prompts: dataset, dataloader, agent loops, rewards, transfer queue, replay
buffer, advantages and checkpoints are verl's, over a local Ray on the CPU; weights and servers are of verl_seam.py."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dps_pyro import PromptSampler, RolloutHistory
from dps_pyro.models import SolvingProgress
from dps_pyro.tasks import Countdown

verl = pytest.importorskip("verl")
pytestmark = [
    pytest.mark.verl,
    pytest.mark.filterwarnings("ignore"),  # verl's and Ray's own
    pytest.mark.skipif(not verl.__version__.startswith("0.9."), reason="of verl 0.9"),
]

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "dps_pyro/policies/countdown"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
BATCH = 8
Whole = tuple[Any, list[dict[str, float]], Path]  # a trainer, what it logged, its checkpoints


def write_dataset(path: Path, indexed: bool = True) -> Path:
    """The first 64 Countdown problems as verl's preprocessing scripts write them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "data_source": "countdown",
            "prompt": [{"role": "user", "content": prompt.text}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": json.dumps(prompt.answer)},
            "extra_info": {"split": "train", "operands": len(prompt.answer[0]), **({"index": i} if indexed else {})},
        }
        for i, prompt in enumerate(Countdown(train_size=64, test_size=8).prompts("train"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dataset and a policy with a chat template; a local Ray, whose processes find the tests."""
    import ray

    folder = tmp_path_factory.mktemp("verl")
    write_dataset(folder / "train.parquet")
    shutil.copytree(POLICY, folder / "policy")
    about = json.loads((folder / "policy/tokenizer_config.json").read_text())
    (folder / "policy/tokenizer_config.json").write_text(json.dumps(about | {"chat_template": TEMPLATE}))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    yield folder
    ray.shutdown()


def compose(home: Path, *more: str) -> Any:
    """verl's configuration, composed by Hydra from verl's own files and overrides as a user gives them."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    overrides = [
        f"data.train_files={home}/train.parquet",
        f"data.val_files={home}/train.parquet",
        f"actor_rollout_ref.model.path={home}/policy",
        f"data.train_batch_size={BATCH}",
        "data.max_prompt_length=32",
        "data.max_response_length=32",
        "data.seed=5",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.agent.num_workers=1",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        "actor_rollout_ref.actor.use_kl_loss=False",
        "+actor_rollout_ref.model.override_config={attn_implementation: eager}",
        "algorithm.adv_estimator=grpo",
        "reward.num_workers=1",
        f"reward.custom_reward_function.path={ROOT}/tests/verl_reward.py",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "trainer.n_gpus_per_node=1",
        "trainer.nnodes=1",
        "trainer.device=cpu",
        "trainer.logger=[]",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.total_epochs=100",
        *more,
    ]
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
        return hydra_compose("ppo_trainer", overrides)


def train(home: Path, mode: str, *more: str) -> tuple[Any, list[dict[str, float]]]:
    """Train as verl's task runner does; the trainer, and what it logged a step."""
    import ray
    import transfer_queue
    from helpers.plugins import verl_seam
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ

    config = compose(home, f"trainer.v1.trainer_mode={mode}", *more)
    config.transfer_queue.enable = True
    transfer_queue.init(config.transfer_queue)
    logged: list[dict[str, float]] = []
    try:
        kind = verl_seam.CpuSync if mode.endswith("sync") and "async" not in mode else verl_seam.CpuColocateAsync
        trainer = kind(config)
        trainer.replay_buffer.poll_interval = 0.05
        trainer.init()
        kept = trainer._compute_metrics

        def keep(batch: Any, metrics: dict[str, Any], *others: Any, **named: Any) -> None:
            kept(batch, metrics, *others, **named)
            logged.append(dict(metrics))

        trainer._compute_metrics = keep
        manager = AgentLoopManagerTQ.create(
            config=config,
            llm_client=trainer.get_llm_client(),
            teacher_client=None,
            reward_loop_worker_handles=trainer.get_reward_handles(),
        )
        trainer.fit(manager)
    finally:
        for actor in [*trainer.reward_loop_manager.reward_loop_workers, trainer.server, *manager.agent_loop_workers]:
            ray.kill(actor)  # as when the process ends: the next run wants their names
        transfer_queue.close()
    return trainer, logged


def groups(trainer: Any) -> list[tuple[int, ...]]:
    """Everything the sampler was told: step, row, solved, trials."""
    events = trainer.selector.sampler.history.events
    return [
        tuple(map(int, event)) for event in zip(events.step, events.prompt, events.solved, events.trials, strict=True)
    ]


@pytest.fixture(scope="module")
def whole(home: Path) -> Whole:
    """Six steps without interruption, a checkpoint every other step."""
    out = home / "whole"
    keep = ("trainer.total_training_steps=6", "trainer.save_freq=2", f"trainer.default_local_dir={out}")
    return *train(home, "dps_pyro_sync", *keep), out


def killed_after(step: int, whole: Path, folder: Path) -> Path:
    """What a run leaves behind that was killed after a step: its checkpoints so far."""
    for kept in range(2, step + 1, 2):
        shutil.copytree(whole / f"global_step_{kept}", folder / f"global_step_{kept}")
    (folder / "latest_checkpointed_iteration.txt").write_text(str(step))
    return folder


def test_selects_what_the_bare_verbs_select_for_the_same_rewards(
    whole: Whole,
) -> None:
    from helpers.plugins.verl_seam import N, solved_by

    trainer, logged, _ = whole
    texts = [prompt.text.strip() for prompt in Countdown(train_size=64, test_size=8).prompts("train")]
    bare = PromptSampler(SolvingProgress(), [str(row) for row in range(64)], trials=N, seed=5)
    told = []
    for step in range(6):
        rows = bare.select(BATCH)
        solved = [solved_by(texts[row], step) for row in rows.tolist()]
        bare.observe(rows, solved, N)
        told += [(step, row, count, N) for row, count in zip(rows.tolist(), solved, strict=True)]
    assert groups(trainer) == told
    assert torch.equal(trainer.selector.sampler.belief, bare.belief)
    assert len(logged) == 6 and all(step["dps_pyro/groups"] == BATCH for step in logged)
    useful = sum(0 < solved < N for _, _, solved, _ in told[-BATCH:]) / BATCH
    assert logged[-1]["dps_pyro/useful"] == useful
    assert logged[-1]["dps_pyro/rollouts"] == 6 * BATCH * N


def test_a_resumed_run_selects_what_the_uninterrupted_run_selects(home: Path, whole: Whole, tmp_path: Path) -> None:
    trainer, _, out = whole
    folder = killed_after(4, out, tmp_path / "run")
    kept = folder / "global_step_4"
    assert {"actor", "data.pt", "dps_pyro"} <= {path.name for path in kept.iterdir()}
    assert {path.suffix for path in (kept / "dps_pyro").iterdir()} == {".json", ".safetensors", ".parquet"}
    assert len(RolloutHistory.from_parquet(kept / "dps_pyro/history.parquet")) == 4 * BATCH
    keep = ("trainer.total_training_steps=6", "trainer.save_freq=2", f"trainer.default_local_dir={folder}")
    resumed, logged = train(home, "dps_pyro_sync", *keep)
    assert len(logged) == 2
    assert groups(resumed) == groups(trainer)
    assert torch.equal(resumed.selector.sampler.belief, trainer.selector.sampler.belief)


def test_goes_on_from_a_checkpoint_of_verls_own_trainer(home: Path, whole: Whole, tmp_path: Path) -> None:
    folder = killed_after(2, whole[2], tmp_path / "run")
    shutil.rmtree(folder / "global_step_2/dps_pyro")
    keep = ("trainer.total_training_steps=4", "trainer.save_freq=-1", f"trainer.default_local_dir={folder}")
    trainer, _ = train(home, "dps_pyro_sync", *keep)
    assert trainer.selector.origin == 2
    assert {step for step, *_ in groups(trainer)} == {0, 1}


def test_group_filtering_tells_of_the_groups_that_it_throws_away(home: Path, tmp_path: Path) -> None:
    trainer, logged = train(
        home, "dps_pyro_sync", "trainer.total_training_steps=2", "trainer.save_freq=-1",
        f"trainer.default_local_dir={tmp_path}", "algorithm.filter_groups.enable=True",
        "algorithm.filter_groups.metric=reward",
    )  # fmt: skip
    events = trainer.selector.sampler.history.events
    useless = (events.solved == 0) | (events.solved == events.trials)
    assert useless.any() and not (events.trained & useless).any()
    assert int(events.trained.sum()) == 2 * BATCH
    assert sum(step["dps_pyro/groups"] for step in logged) == len(events.step)


def test_asynchronous_training_places_groups_at_the_policy_that_made_them(home: Path, tmp_path: Path) -> None:
    keep = ("trainer.save_freq=3", f"trainer.default_local_dir={tmp_path}")
    trainer, logged = train(home, "dps_pyro_colocate_async", "trainer.total_training_steps=3", *keep)
    assert [step["dps_pyro/groups"] for step in logged] == [BATCH] * 3
    events = trainer.selector.sampler.history.events
    assert trainer.selector.sampler.tracker.step == 3
    # One batch was dispatched ahead of the first step, and one is still out.
    assert logged[-1]["dps_pyro/in_flight"] == BATCH
    resumed, more = train(home, "dps_pyro_colocate_async", "trainer.total_training_steps=5", *keep)
    assert [step["dps_pyro/groups"] for step in more] == [BATCH] * 2
    assert all(step["dps_pyro/unknown"] == 0 for step in more)
    assert groups(resumed)[: len(events.step)] == groups(trainer)
