"""verl 0.5 to 0.7: the sampler that `data.sampler.class_path` names, made by verl's own `create_rl_sampler`, in verl's
dataloader, told of batches of verl's own kind in the order in which its trainer does it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress

verl = pytest.importorskip("verl")
pytestmark = [
    pytest.mark.verl,
    pytest.mark.filterwarnings("ignore"),  # verl's own
    pytest.mark.skipif(verl.__version__.startswith(("0.8", "0.9")), reason="of verl 0.5 to 0.7"),
]

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "dps_pyro/policies/countdown"
N, BATCH, PROMPTS = 4, 8, 36


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A dataset as verl's preprocessing scripts write them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "data_source": "countdown",
            "prompt": [{"role": "user", "content": f"3 {row + 3} = {row + 6} :"}],
            "reward_model": {"style": "rule", "ground_truth": str(row)},
            "extra_info": {"split": "train", "index": 100 + row},
        }
        for row in range(PROMPTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    return tmp_path


def config(home: Path, *more: str) -> Any:
    """verl's configuration, from its own files."""
    from hydra import compose, initialize_config_dir

    overrides = [
        f"data.train_files={home}/train.parquet", f"data.train_batch_size={BATCH}", "data.seed=5",
        "data.dataloader_num_workers=0", "data.filter_overlong_prompts=False",
        "data.sampler.class_path=pkg://dps_pyro.trainers.verl.curriculum", "data.sampler.class_name=PredictedSampler",
        f"actor_rollout_ref.rollout.n={N}", f"trainer.default_local_dir={home}/checkpoints", *more,
    ]  # fmt: skip
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
        return compose("ppo_trainer", overrides)


def dataloader(config: Any) -> Any:
    """As verl's `RayPPOTrainer._create_dataloader` makes it."""
    from torchdata.stateful_dataloader import StatefulDataLoader
    from transformers import AutoTokenizer
    from verl.trainer.main_ppo import create_rl_dataset, create_rl_sampler
    from verl.utils.dataset.rl_dataset import collate_fn

    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    dataset = create_rl_dataset(config.data.train_files, config.data, tokenizer, None)
    return StatefulDataLoader(
        dataset=dataset,
        batch_size=config.data.get("gen_batch_size", config.data.train_batch_size),
        num_workers=0,
        drop_last=True,
        collate_fn=collate_fn,
        sampler=create_rl_sampler(config.data, dataset),
    )


def solved_by(row: int, step: int) -> int:
    return (row * 7 + step) % (N + 1)


def rolled_out(columns: dict[str, Any], step: int) -> Any:
    """The step's batch as the trainer has it when it calls `update`: repeated, scored, and balanced for the GPUs."""
    from verl import DataProto

    batch = DataProto.from_single_dict(columns)
    size = len(batch)
    batch.non_tensor_batch["uid"] = np.array([f"uid-{step}-{at}" for at in range(size)], dtype=object)
    batch = batch.repeat(repeat_times=N, interleave=True)
    scores = torch.zeros(size * N, 5)
    for at, info in enumerate(batch.non_tensor_batch["extra_info"]):
        info["num_turns"] = 2  # as verl's reward managers do
        scores[at, 3] = float(at % N < solved_by(info["index"] - 100, step))
    batch.batch["token_level_scores"] = scores
    batch.reorder(torch.randperm(size * N, generator=torch.Generator().manual_seed(step)))
    return batch


def train(loader: Any, home: Path, first: int, last: int, kill_before_update: bool = False) -> list[list[int]]:
    """Steps in verl's order: fetch, roll out, save, tell the sampler. Epochs follow each other."""
    selections: list[list[int]] = []
    step = first
    while step < last:
        for columns in loader:
            selections.append([info["index"] - 100 for info in columns["extra_info"]])
            batch = rolled_out(columns, step)
            kept = home / f"checkpoints/global_step_{step + 1}"
            kept.mkdir(parents=True, exist_ok=True)
            torch.save(loader.state_dict(), kept / "data.pt")
            step += 1
            if kill_before_update and step == last:
                return selections
            loader.sampler.update(batch=batch)
            if step == last:
                return selections
    return selections


def bare(steps: int) -> list[list[int]]:
    sampler = PromptSampler(SolvingProgress(), PROMPTS, trials=N, seed=5)
    selections = []
    for step in range(steps):
        rows = sampler.select(BATCH)
        sampler.observe(rows, [solved_by(row, step) for row in rows.tolist()], N)
        selections.append(rows.tolist())
    return selections


def test_selects_what_the_bare_verbs_select_over_epochs(home: Path) -> None:
    from verl.experimental.dataset.sampler import AbstractCurriculumSampler

    loader = dataloader(config(home))
    assert isinstance(loader.sampler, AbstractCurriculumSampler)
    assert len(loader) == PROMPTS // BATCH
    assert train(loader, home, 0, 10) == bare(10)
    assert loader.sampler.selector.sampler.ids[0] == "100"


@pytest.mark.parametrize("killed", [2, 4, 6])
def test_a_resumed_run_selects_what_the_uninterrupted_run_selects(home: Path, killed: int) -> None:
    before = train(dataloader(config(home)), home, 0, killed)
    kept = home / f"checkpoints/global_step_{killed}"
    assert {path.name for path in (kept / "dps_pyro").iterdir()} == {
        "history.parquet",
        "state.json",
        "state.safetensors",
    }
    loader = dataloader(config(home))
    loader.load_state_dict(torch.load(kept / "data.pt", weights_only=False))
    assert before + train(loader, home, killed, 10) == bare(10)


def test_killed_between_the_checkpoint_and_the_rewards_it_goes_on_without_them(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(dataloader(config(home)), home, 0, 3, kill_before_update=True)
    loader = dataloader(config(home))
    loader.load_state_dict(torch.load(home / "checkpoints/global_step_3/data.pt", weights_only=False))
    with caplog.at_level(logging.WARNING):
        train(loader, home, 3, 5)
    assert "No sampler state after step 3" in caplog.text
    assert sorted(set(loader.sampler.selector.sampler.history.events.step.tolist())) == [0, 1, 3, 4]


def test_the_state_of_another_run_is_not_taken_for_this_ones(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(dataloader(config(home)), home, 0, 3)
    train(dataloader(config(home, "+data.dps_pyro.seed=8")), home, 0, 3, kill_before_update=True)  # over the first
    loader = dataloader(config(home, "+data.dps_pyro.seed=8"))
    loader.load_state_dict(torch.load(home / "checkpoints/global_step_3/data.pt", weights_only=False))
    with caplog.at_level(logging.WARNING):
        train(loader, home, 3, 4)
    assert "No sampler state after step 3" in caplog.text


def test_rows_that_verl_cannot_tell_apart_are_refused(home: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"data_source": "x", "prompt": [{"role": "user", "content": "1"}], "reward_model": {"ground_truth": "1"}}
    pq.write_table(pa.Table.from_pylist([row] * BATCH), home / "train.parquet")
    with pytest.raises(ValueError, match=r"rows 0 and 1 are alike; give each its own extra_info\.index"):
        dataloader(config(home))


def test_the_other_route_says_where_this_verl_wants_it() -> None:
    with pytest.raises(
        ImportError, match=r"expected verl's trainer route, but verl 0\.\d.* wants data\.sampler\.class_path"
    ):
        import dps_pyro.trainers.verl.trainer  # noqa: F401
