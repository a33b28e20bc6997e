"""TRL's colocated vLLM mode, real and untouched, under our trainer. Also a script, a training run a process:

python tests/integrations/test_trl_vllm.py theirs|ours FOLDER
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("trl", "vllm")), reason="needs trl and vllm"
    ),
]

SETTINGS: dict[str, Any] = {
    "use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 64, "vllm_gpu_memory_utilization": 0.1,
    "shuffle_dataset": False, "steps_per_generation": 2, "num_iterations": 2, "gradient_accumulation_steps": 2,
    "max_steps": 5,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_vllm_colocated_training_is_trls_to_the_bit(tmp_path: Path) -> None:
    theirs, mine = (run(who, tmp_path / who) for who in ("theirs", "ours"))
    assert mine["calls"] == theirs["calls"]  # the same completions of the same prompts
    assert mine["weights"] == theirs["weights"]
    assert mine["logs"] == theirs["logs"]
    assert len(mine["calls"]) == 3
    assert len({text for call in mine["calls"] for _, text in call}) > 5
    # vLLM's log-probabilities are those of the policy being trained, after each of its updates, up to the rounding of
    # half precision: TRL leaves the dtype to vLLM, which takes float32 checkpoints down to it.
    name = "sampling/sampling_logp_difference/max"
    differences = [entry[name] for entry in mine["logs"] if name in entry]
    assert len(differences) == 3
    assert max(differences) < 0.1
    assert mine["logs"][0]["grad_norm"] > 0


def run(who: str, out: Path) -> dict[str, Any]:
    out.mkdir()
    environment = {
        **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),  # a script sees its own folder alone
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", __file__, who, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads((out / "found.json").read_text(encoding="utf-8"))
    return found


def main(who: str, out: Path) -> None:
    """Train, on the same prompts in the same order, and write down what was seen."""
    import hashlib

    from helpers.plugins import trl_runs
    from helpers.plugins.trl_order import in_order
    from vllm.model_executor.layers import utils

    def leave_unpacked(layer: Any, **_: Any) -> None:
        layer.cpu_linear = utils.torch.nn.functional.linear

    # vLLM for CPUs packs the weights of linear layers and forgets how to load them; on GPUs it does not. TRL loads new
    # ones into the model as it stands.
    utils.dispatch_cpu_unquantized_gemm = leave_unpacked
    settings = {**trl_runs.SETTINGS, **SETTINGS}
    if who == "ours":
        trainer = trl_runs.predictive(out / "run", prompts=trl_runs.sampler(acquisition=in_order), **settings)
    else:
        import trl

        trainer = trl.GRPOTrainer(
            **trl_runs.policy(),
            args=trl_runs.config(out / "run", **settings),
            train_dataset=trl_runs.dataset(),
            reward_funcs=Kept(),
        )
    trainer.reward_funcs[0] = kept = Kept()
    trainer.train()
    digest = hashlib.sha256()
    for name, weight in trainer.model.state_dict().items():
        digest.update(name.encode() + weight.numpy().tobytes())
    timed = ("runtime", "per_second", "step_time", "profiling", "sampler/")
    logs = [
        {name: value for name, value in entry.items() if not any(word in name for word in timed)}
        for entry in trainer.state.log_history
    ]
    found = {"calls": kept.seen, "weights": digest.hexdigest(), "logs": logs}
    (out / "found.json").write_text(json.dumps(found), encoding="utf-8")


class Kept:
    """The task's reward, that keeps what was to be judged."""

    def __init__(self) -> None:
        from helpers.plugins.trl_runs import Solving

        self.__name__ = "solving"
        self.judge = Solving()
        self.seen: list[list[tuple[str, str]]] = []

    def __call__(self, completions: list[str], id: list[str], **_: Any) -> list[float]:  # noqa: A002 - the column's
        self.seen.append(list(zip(id, completions, strict=True)))
        return self.judge(completions, id)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
