"""What of verl 0.9 needs a GPU, replaced at the narrowest places: the workers that hold the weights, and the inference
servers. Everything between them (trainer, dataloader, agent loops, rewards, transfer queue, replay buffer, advantages,
checkpoints on the driver) is verl's own and runs here, on the CPU, over a local Ray.

The policy is a number: how often it has been updated. A rollout of it solves Countdown with a chance that grows with
that number and differs from prompt to prompt; which of a group's rollouts do is fixed, so that a run can be repeated.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue
from tensordict import TensorDict
from verl.experimental.reward_loop import RewardLoopManager
from verl.workers.rollout.replica import TokenOutput

from dps_pyro.tasks import Countdown
from dps_pyro.trainers.verl.trainer import PredictedColocateAsync, PredictedSync

N = 4  # rollouts a prompt


def solved_by(prompt: str, updates: int) -> int:
    """How many of N rollouts solve a prompt, by a policy of so many updates."""
    digest = hashlib.sha256(prompt.encode()).digest()
    start, pace = digest[0] % 14 - 9, digest[1] % 3
    return min(max(start + pace * updates // 2, 0), N)


@ray.remote
class Server:
    """An inference server: the policy's answers, as token ids."""

    def __init__(self, tokenizer: str, solutions: dict[str, str]) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.solutions = solutions
        self.asked: Counter[str] = Counter()
        self.updates = 0

    def update(self, updates: int) -> None:
        self.updates = updates
        self.asked.clear()

    def answer(self, prompt_ids: list[int]) -> tuple[list[int], int]:
        prompt = self.tokenizer.decode(prompt_ids, skip_special_tokens=True).strip()
        turn, self.asked[prompt] = self.asked[prompt] % N, self.asked[prompt] + 1
        right = turn < solved_by(prompt, self.updates)
        text = self.solutions[prompt] if right else "1"
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id], self.updates


class Client:
    """verl's client of an inference server."""

    def __init__(self, server: Any) -> None:
        self.server = server

    async def generate(self, request_id: str, *, prompt_ids: list[int], **others: Any) -> TokenOutput:
        tokens, updates = await self.server.answer.remote(prompt_ids)
        versions = {"global_steps": updates, "min_global_steps": updates, "max_global_steps": updates}
        return TokenOutput(
            token_ids=tokens, log_probs=[-0.5] * len(tokens), stop_reason="completed", extra_fields=versions
        )


class Workers:
    """The worker group that holds the weights: one rank."""

    def __init__(self) -> None:
        self.updates = 0
        self._dispatch_info = {"actor": [0]}

    def compute_log_prob(self, batch: Any) -> Any:
        data = transfer_queue.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["input_ids"]
        )
        ids = data["input_ids"]
        like = partial(torch.nested.nested_tensor, layout=torch.jagged)
        fields = {
            name: like([torch.full([len(row)], -0.5) for row in ids.unbind()]) for name in ("log_probs", "entropy")
        }
        return transfer_queue.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=len(batch.keys))
        )

    def update_actor(self, batch: Any) -> dict[str, Any]:
        data = transfer_queue.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["advantages"]
        )
        self.updates += 1
        moved = float(sum(row.abs().sum() for row in data["advantages"].unbind()))
        return {"metrics": {"grad_norm": [moved], "mfu": [0.0]}}

    def save_checkpoint(self, local: str, remote: str | None, step: int, **others: Any) -> None:
        Path(local).mkdir(parents=True, exist_ok=True)
        (Path(local) / "policy.json").write_text(json.dumps(self.updates))

    def load_checkpoint(self, local_path: str, **others: Any) -> None:
        self.updates = json.loads((Path(local_path) / "policy.json").read_text())


class Weights:
    """verl's checkpoint engine: from the workers to the server."""

    def __init__(self, workers: Workers, server: Any) -> None:
        self.workers, self.server = workers, server

    def update_weights(self, global_steps: int | None = None) -> None:
        ray.get(self.server.update.remote(self.workers.updates))

    def sleep_replicas(self) -> None: ...
    def abort_replicas(self) -> None: ...
    def resume_generation_replicas(self) -> None: ...


class _OnCpu:
    """`_setup` as verl's, without what starts a process on a GPU."""

    def _setup(self: Any) -> None:
        self._init_tokenizer()
        self._init_dataloader()
        self._init_dump_executor()
        self._init_resource_pool_mgr()
        task = Countdown(train_size=64, test_size=8)
        solutions = {prompt.text.strip(): task.solution(prompt) for prompt in task.prompts("train")}
        self.server = Server.remote(self.config.actor_rollout_ref.model.path, solutions)
        self.actor_rollout_wg = Workers()
        self.reward_loop_manager = RewardLoopManager(config=self.config, rm_resource_pool=None)
        self.teacher_model_manager = self.distillation_config = None
        self.checkpoint_manager = Weights(self.actor_rollout_wg, self.server)
        self._load_checkpoint()

    def get_llm_client(self: Any) -> Client:
        return Client(self.server)


class CpuSync(_OnCpu, PredictedSync):
    """The synchronous trainer."""


class CpuColocateAsync(_OnCpu, PredictedColocateAsync):
    """The asynchronous trainer."""
