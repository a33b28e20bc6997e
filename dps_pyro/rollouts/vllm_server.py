"""Rollouts from a vLLM server, on a GPU of its own: this machine's or another's.

The server is vLLM's own, OpenAI-compatible, with its development endpoints, by which weights arrive; `START` is the
command that starts one. MODEL is what the policy is trained from; its weights there are replaced at once. New weights
go by way of a folder that both see. The development endpoints let anyone who reaches them do anything with the server:
keep it to a private network.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from dps_pyro.lm.inputs import Query
from dps_pyro.rollouts.base import EngineError, Rollouts, Sampling, group_sizes, queries
from dps_pyro.rollouts.guard import Guard
from dps_pyro.rollouts.json_http import RefusedError, Server
from dps_pyro.rollouts.scratch import memory, remove, remove_stale, scratch_folder
from dps_pyro.rollouts.seeds import request_seeds
from dps_pyro.rollouts.tokens import Completion, encode, eos_ids, pack, pad_id
from dps_pyro.rollouts.vllm_worker import shape_of
from dps_pyro.rollouts.weights import base_model, save_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["START", "VllmServerEngine"]

START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm "
    "--worker-extension-cls dps_pyro.rollouts.vllm_worker.TakesWeights"
)
"""The command that starts such a server."""

_FLOOR = -9999.0  # what vLLM's server writes for a log-probability that is lower, minus infinity included
_ABOVE = 1e-3  # nats by which rounding may put a log-probability above 0


class VllmServerEngine:
    """A `RolloutEngine` on a running vLLM server.

    Args:
        address: the address of the server, http://host:port. If the server wants a key (`--api-key`), the environment
            variable VLLM_API_KEY holds it.
        policy: what is trained: a transformers causal LM, or a PEFT model around one. The server gets its weights.
        tokenizer: its tokenizer.
        max_model_len: the most tokens of prompt and completion; None: as many as the server takes.
        weights_folder: a folder that this process and the server's both see, where new weights lie while the server
            reads them; None: in memory, for a server on this machine.
        timeout: seconds that the server may take for one prompt's completions, or to take the weights.
        patience: seconds in which a server that cannot be reached is asked again.

    Raises:
        ValueError: that is no address.
        EngineError: there is no such server, it serves another model or fewer tokens, or it cannot take weights.
    """

    def __init__(
        self,
        address: str,
        policy: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_model_len: int | None = None,
        weights_folder: Path | None = None,
        timeout: float = 600.0,
        patience: float = 30.0,
    ) -> None:
        self._server = Server(address, timeout=timeout, patience=patience, key=os.environ.get("VLLM_API_KEY"))
        model = base_model(policy)
        self.tokenizer = tokenizer
        self._eos = eos_ids(model, tokenizer)
        self._pad = pad_id(tokenizer, self._eos)
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self._device = model.device
        self._weights_folder = weights_folder
        self._guard = Guard()
        self._version = ""
        remove_stale()
        self._name, self._limit = self._served(max_model_len)
        self._dtype = self._check(model.config)
        self.sync(policy)

    @property
    def context(self) -> int:
        """The most tokens of prompt and completion."""
        return self._limit

    def generate(
        self, prompts: Sequence[str | Query], n: int | Sequence[int], sampling: Sampling, *, seed: int
    ) -> Rollouts:
        """Draw n completions of each prompt, from the weights of the last `sync`.

        Args:
            prompts: strings, with the chat template already applied if there is one; duplicates are fine.
            n: completions per prompt, >= 1, or one such number for each prompt.
            sampling: see `Sampling`.
            seed: decides the draws, together with the weights, the prompts, n and the sampling (and, by rounding, with
                what else the server does meanwhile).

        Returns:
            `Rollouts` on the policy's device.

        Raises:
            ValueError: no prompts, n < 1, a prompt without tokens or with images, or one that leaves no room for
                max_new_tokens.
            FloatingPointError: a log-probability is not finite.
            EngineError: the server failed, cannot be reached, or no longer has the weights of the last `sync`.
        """
        asked = queries(prompts, n)
        ids = encode(self.tokenizer, [query.text for query in asked], self._limit, sampling.max_new_tokens)
        self._guard.check()
        sizes = group_sizes(n, len(prompts))
        bodies = [
            self._body(tokens, size, sampling, own)
            for tokens, size, own in zip(ids, sizes, request_seeds(seed, len(ids)), strict=True)
        ]
        with self._guard.watch("generating"):
            try:
                answers = self._server.post_all("/v1/completions", bodies)
            except RefusedError as error:
                if "not JSON compliant" not in str(error):
                    raise
                raise FloatingPointError(
                    "the server's log-probabilities: expected finite numbers, got NaN or infinity, which stay in its "
                    "cache until it is started again"
                ) from error
            self._check_version()
            limits = [_Limits(size, sampling.max_new_tokens, self._vocabulary) for size in sizes]
            rows = [row for answer, limit in zip(answers, limits, strict=True) for row in _completions(answer, limit)]
            owners = [tokens for tokens, size in zip(ids, sizes, strict=True) for _ in range(size)]
            return pack(owners, rows, self.tokenizer, self._pad, self._device)

    def sync(self, policy: nn.Module) -> None:
        """Give the server the policy's weights, adapters merged, and have it forget what it cached of the old ones.

        Raises:
            FloatingPointError: a weight is not finite; the server keeps those it had.
            EngineError: the server failed, now or before, or does not see the folder.
        """
        self._guard.check()
        if not all(bool(value.isfinite().all()) for value in policy.parameters()):
            # They would come to lie in the server's cache, from where good weights do not drive them out.
            raise FloatingPointError("the policy's weights: expected finite numbers, got NaN or infinity")
        self._device = base_model(policy).device
        version = uuid.uuid4().hex
        with self._guard.watch("taking the policy's weights"):
            folder = scratch_folder("weights", self._weights_folder or memory())
            try:
                save_weights(policy, folder, self._dtype)
                if self._weights_folder is not None:
                    folder.chmod(0o755)  # the server may run as somebody else
                try:
                    self._call("take_weights", folder=str(folder.resolve()), version=version)
                except RefusedError as error:
                    raise EngineError(
                        f"{error} (its log says more; does it see {folder.parent}, and do the weights fit?)"
                    ) from error
            finally:
                remove(folder)
            for cache in ("prefix", "mm", "encoder"):
                self._reset(cache)
            self._version = version
            self._check_version()

    def close(self) -> None:
        """The engine is not to be used again; the server goes on."""
        self._guard.close()

    def _served(self, wanted: int | None) -> tuple[str, int]:
        """The served model's name, and the most tokens that a sequence may have."""
        try:
            cards = self._server.get("/v1/models")["data"]
            card = next(card for card in cards if not card.get("parent"))  # adapters have one
            name, limit = str(card["id"]), int(card["max_model_len"])
        except (RefusedError, AttributeError, KeyError, TypeError, ValueError, StopIteration) as error:
            raise EngineError(f"engine: expected a vLLM server at {self._server.address}, got: {error}") from error
        if wanted is not None and wanted > limit:
            raise EngineError(
                f"max_model_len: expected at most {limit}, which the server at {self._server.address} takes, got "
                f"{wanted}; start it with --max-model-len {wanted}"
            )
        return name, limit if wanted is None else wanted

    def _check(self, config: Any) -> torch.dtype:
        """The precision that the server computes in, after a look at what it serves."""
        try:
            serving = self._call("serving")
        except RefusedError as error:
            raise EngineError(
                f"engine: expected a vLLM server that takes weights at {self._server.address}, got: {error}. "
                f"Start it with: {START}"
            ) from error
        own = shape_of(config)
        shape, dtype = serving.get("shape"), getattr(torch, str(serving.get("dtype")), None)
        if not isinstance(shape, dict) or not isinstance(dtype, torch.dtype) or "logprobs" not in serving:
            raise EngineError(
                f"engine: expected the shape, dtype and logprobs that the server at {self._server.address} serves, got "
                f"{str(serving)[:200]}: start it with this version's worker extension: {START}"
            )
        other = {name: f"{shape.get(name)} (here {value})" for name, value in own.items() if shape.get(name) != value}
        if other:
            listed = ", ".join(f"{name} {value}" for name, value in other.items())
            raise EngineError(
                f"engine: expected the policy's own model at {self._server.address}, got {self._name!r} of another "
                f"shape: {listed}"
            )
        if serving["logprobs"] != "processed_logprobs":
            raise EngineError(
                f"engine: expected log-probabilities of what was drawn from, got a server at {self._server.address} "
                f"that gives {serving['logprobs']}; start it with --logprobs-mode processed_logprobs"
            )
        return dtype

    def _check_version(self) -> None:
        taken = self._call("weights_taken").get("version")
        if taken != self._version:
            raise EngineError(
                f"the server at {self._server.address} no longer has this run's weights: it was started again, or "
                "another run gave it others"
            )

    def _call(self, method: str, **arguments: str) -> dict[str, Any]:
        """Call a method of the worker extension; the first worker's answer, all of them having given the same."""
        body = {"method": method, "kwargs": arguments, "timeout": self._server.timeout}
        answer = self._server.post("/collective_rpc", body)
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or not results:
            raise EngineError(f"expected the results of {method} from the server's workers, got {str(answer)[:200]}")
        if any(result != results[0] for result in results):
            raise EngineError(f"expected the server's workers to agree on {method}, got {results}")
        return results[0] if isinstance(results[0], dict) else {}

    def _reset(self, cache: str) -> None:
        try:
            answer = self._server.post(f"/reset_{cache}_cache", {})
        except RefusedError as error:
            if error.status == 404 and cache != "prefix":  # an older server, of text alone
                return
            raise
        if isinstance(answer, dict) and answer.get("success") is False:
            raise EngineError(f"the server's {cache} cache could not be reset: it is still at somebody's requests")

    def _body(self, tokens: Sequence[int], n: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        return {
            "model": self._name,
            "prompt": list(tokens),
            "n": n,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            # Nothing that the checkpoint's generation_config.json would have instead.
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": self._eos,
            "seed": None if sampling.temperature == 0 else seed,
            "logprobs": 0,  # of the drawn token alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stream": False,
        }


class _Limits(NamedTuple):
    """What the completions of one prompt have to keep to."""

    completions: int  # how many there are
    tokens: int  # the most tokens of one
    vocabulary: int  # token ids are below this


def _completions(answer: Any, limits: _Limits) -> list[Completion]:
    """The completions of one prompt.

    Raises:
        EngineError: they are not as many as were asked for, not whole, or came without tokens or log-probabilities; or
            a token or a log-probability is not one.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise EngineError(f"expected completions under choices, got {str(answer)[:200]}")
    by_index = {choice.get("index"): choice for choice in choices if type(choice.get("index")) is int}
    if len(choices) != limits.completions or by_index.keys() != set(range(limits.completions)):
        raise EngineError(
            f"expected {limits.completions} completions of a prompt, numbered from 0 on, got {len(choices)} numbered "
            f"{str(sorted(by_index))[:80]}"
        )
    return [_completion(by_index[index], limits) for index in range(limits.completions)]


def _completion(choice: dict[str, Any], limits: _Limits) -> Completion:
    tokens, reason = choice.get("token_ids"), choice.get("finish_reason")
    told = choice.get("logprobs")
    logprobs = told.get("token_logprobs") if isinstance(told, dict) else None
    if not (isinstance(tokens, list) and isinstance(logprobs, list) and tokens and len(tokens) == len(logprobs)):
        raise EngineError(
            "expected the tokens of each completion and their log-probabilities, got an answer without: vLLM gives "
            "them from 0.11 on"
        )
    if len(tokens) > limits.tokens:
        raise EngineError(f"expected completions of at most {limits.tokens} tokens, got one of {len(tokens)}")
    for token in tokens:
        if type(token) is not int or not 0 <= token < limits.vocabulary:
            raise EngineError(f"expected token ids in 0..{limits.vocabulary - 1}, got {str(token)[:40]}")
    for value in logprobs:
        if value is not None and (type(value) not in (int, float) or value > _ABOVE):
            raise EngineError(f"expected log-probabilities of at most 0, got {str(value)[:40]}")
    if reason not in ("stop", "length"):
        raise EngineError(f"expected completions that end by end-of-sequence or their length, got {reason!r:.80}")
    numbers = [float("nan") if value is None or value <= _FLOOR else float(value) for value in logprobs]
    return Completion(tokens, numbers, reason)
