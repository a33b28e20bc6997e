"""A vLLM server of its own: a real one on the CPU, started as the documentation says."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engines.small import EOS, PROMPTS
from helpers.engines.vllm_models import TOKENIZER, assert_in_step, disturb, make_model
from helpers.runs.tiny import metrics, tiny
from torch.testing import assert_close
from transformers import Qwen2ForCausalLM

from dps_pyro.rollouts import EngineError, Query, Sampling, vllm_server
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.rollouts.vllm_server import START, VllmServerEngine
from dps_pyro.trainers.grpo import train

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("vllm", "watchfiles", "uvicorn")),
        reason="vLLM is not installed, or its server's own dependencies are not",
    ),
]


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Path]:
    """What the server is started with: other weights than the policy's."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(seed=7).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        yield Path(folder)


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    # The wheel for CPUs has no working `vllm serve`; the module is what it runs.
    setting, _, _, _, *options = shlex.split(START)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint), *options]
    small = "--enforce-eager --max-num-seqs 64 --kv-cache-memory-bytes 100000000 --dtype float32 --host 127.0.0.1"
    environment = os.environ | dict([setting.split("=")]) | {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    process = subprocess.Popen(
        [*command, *small.split(), "--port", str(port)], env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 280
        while not up(address):
            assert process.poll() is None, "the server did not start"
            assert time.monotonic() < end, "the server takes too long to start"
            time.sleep(0.5)
        yield address, process
    finally:
        for kind in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(process.pid, kind)
                process.wait(30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def up(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{address}/health", timeout=5).status == 200)
    except OSError:
        return False


@pytest.fixture
def policy() -> Qwen2ForCausalLM:
    return make_model()


@pytest.fixture
def engine(server: tuple[str, Any], policy: Qwen2ForCausalLM) -> VllmServerEngine:
    """In step with the policy."""
    return VllmServerEngine(server[0], policy, TOKENIZER)


def test_the_server_begins_as_the_policy_and_stays_in_step(engine: VllmServerEngine, policy: Qwen2ForCausalLM) -> None:
    """Tied weights, and a cache of prompts, too."""
    assert_in_step(engine, policy)
    for _ in range(2):
        disturb(policy)
        engine.sync(policy)
        assert_in_step(engine, policy, temperature=0.7)


def test_lora_is_merged_on_the_way(engine: VllmServerEngine, policy: Qwen2ForCausalLM) -> None:
    peft = pytest.importorskip("peft")
    student = peft.get_peft_model(policy, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    disturb(student, 0.05)
    engine.sync(student)
    assert_in_step(engine, student)


def test_rows_masks_and_reasons(engine: VllmServerEngine, policy: Qwen2ForCausalLM) -> None:
    rollouts = engine.generate(PROMPTS, 32, Sampling(6), seed=1)
    assert len(rollouts.texts) == 96
    assert set(rollouts.finish) == {"stop", "length"}
    for row, (ids, mask) in enumerate(zip(rollouts.completion_ids, rollouts.completion_mask, strict=True)):
        size = int(mask.sum())
        assert mask[:size].all()
        assert EOS not in ids[: size - 1]
        assert (ids[size - 1] == EOS) == (rollouts.finish[row] == "stop")
        assert (rollouts.texts[row] == "") == (size == 1 and bool(ids[0] == EOS))
    mine = TransformersEngine(policy, TOKENIZER).generate(PROMPTS, 32, Sampling(6), seed=1)
    assert_close(rollouts.prompt_ids, mine.prompt_ids)
    assert_close(rollouts.prompt_mask, mine.prompt_mask)


def test_seeds_decide_and_groups_differ(engine: VllmServerEngine) -> None:
    states = torch.get_rng_state().clone(), random.getstate()
    one, two, other = (engine.generate([PROMPTS[0]] * 2, 16, Sampling(12), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.completion_ids, two.completion_ids)
    assert one.texts != other.texts
    assert len(set(one.texts[:16])) > 8
    assert one.texts[:16] != one.texts[16:]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_what_cannot_be_asked_is_refused_and_does_no_harm(engine: VllmServerEngine) -> None:
    with pytest.raises(ValueError, match=r"at most 58 tokens .* got 61 in prompt 1"):
        engine.generate(["1", " ".join("1" * 60)], 1, Sampling(6), seed=0)
    with pytest.raises(ValueError, match="without images"):
        engine.generate([Query("1", (object(),))], 1, Sampling(6), seed=0)  # type: ignore[arg-type]
    assert len(engine.generate(["1"], 2, Sampling(6), seed=0).texts) == 2


def test_another_model_and_another_length_are_refused(server: tuple[str, Any], policy: Qwen2ForCausalLM) -> None:
    other = make_model(tied=False)
    with pytest.raises(
        EngineError, match=r"expected the policy's own model .* tie_word_embeddings True \(here False\)"
    ):
        VllmServerEngine(server[0], other, TOKENIZER)
    with pytest.raises(EngineError, match=r"expected at most 64, .* got 65; start it with --max-model-len 65"):
        VllmServerEngine(server[0], policy, TOKENIZER, max_model_len=65)


def test_weights_that_are_not_finite_never_reach_the_server(engine: VllmServerEngine, policy: Qwen2ForCausalLM) -> None:
    student = make_model()
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="expected finite"):
        engine.sync(student)
    assert_in_step(engine, policy)


def test_a_folder_that_the_server_does_not_see(
    engine: VllmServerEngine, server: tuple[str, Any], policy: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "save_weights", lambda *_: None)  # nothing lies there, as it sees it
    with pytest.raises(EngineError, match=r"failed while taking the policy's weights: .*got none in /.*does it see /"):
        engine.sync(policy)
    with pytest.raises(EngineError, match="not to be used any more"):
        engine.generate(PROMPTS, 2, Sampling(6), seed=0)
    monkeypatch.undo()
    assert_in_step(VllmServerEngine(server[0], policy, TOKENIZER), policy)


def test_weights_of_another_run_are_noticed(server: tuple[str, Any], engine: VllmServerEngine) -> None:
    VllmServerEngine(server[0], make_model(3), TOKENIZER)
    with pytest.raises(EngineError, match="no longer has this run's weights"):
        engine.generate(PROMPTS, 2, Sampling(6), seed=0)


@pytest.fixture
def sums(tmp_path: Path, checkpoint: Path, server: tuple[str, Any]) -> dict[str, Any]:
    """A run's settings: the policy is taught to write at length."""
    (tmp_path / "judge.py").write_text("def judge(completion, record):\n    return min(len(completion), 24) / 24\n")
    records = [{"question": f"{i % 10} + {i // 10 % 10} ="} for i in range(100)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "data": str(tmp_path / "sums.jsonl"), "reward": f"{tmp_path / 'judge.py'}:judge", "model": str(checkpoint),
        "task_args": {"prompt": "question"}, "max_new_tokens": 12, "learning_rate": 1e-3, "dynamics": "DenseReward",
        "engine": server[0], "weights_folder": tmp_path / "weights",
    }  # fmt: skip


def test_a_run_with_a_server_stays_in_step(tmp_path: Path, sums: dict[str, Any]) -> None:
    sums["weights_folder"].mkdir()
    train(tiny(tmp_path / "run", steps=4, checkpoint_every=2, **sums))
    train(tiny(tmp_path / "run", steps=5, resume=True, **sums))
    lines = [line for line in metrics(tmp_path / "run", timings=True) if line["kind"] == "train"]
    assert len(lines) == 5
    drift = [line["engine_kl"] for line in lines if line["engine_kl"] is not None]  # None: no group to learn from
    assert len(drift) > 1
    assert max(drift) < 1e-6
    assert list(sums["weights_folder"].iterdir()) == []


def test_a_server_that_dies_stops_the_run(
    tmp_path: Path, server: tuple[str, subprocess.Popen[bytes]], sums: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of these tests: the server is gone afterwards."""
    generate = VllmServerEngine.generate
    calls = []

    def fatal(self: VllmServerEngine, *arguments: Any, **more: Any) -> Any:
        calls.append(0)
        if len(calls) == 4:
            self._server.patience = 1
            os.killpg(server[1].pid, signal.SIGKILL)
        return generate(self, *arguments, **more)

    monkeypatch.setattr(VllmServerEngine, "generate", fatal)
    with pytest.raises(
        EngineError, match=r"vLLM failed while generating: http://\S+ (cannot be reached|answered)"
    ) as stop:
        train(tiny(tmp_path / "run", steps=5, checkpoint_every=1, **{**sums, "weights_folder": None}))
    assert "The last checkpoint is of step 2" in "\n".join(stop.value.__notes__)
