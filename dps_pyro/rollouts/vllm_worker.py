"""What vLLM's workers do to take the policy's weights; vLLM loads this where they run.

`VllmEngine` asks for it by itself. A server of your own is told, see `vllm_server`: `--worker-extension-cls
dps_pyro.rollouts.vllm_worker.TakesWeights`. No name here may be one of vLLM's worker's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from dps_pyro.rollouts.weights import load_weights

__all__ = ["TakesWeights", "shape_of"]

_SHAPE = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "tie_word_embeddings"),
)


class TakesWeights:
    """An extension of a vLLM worker (`worker_extension_cls`)."""

    def take_weights(
        self: Any, weights: Iterable[tuple[str, Tensor]] | None = None, folder: str = "", version: str = ""
    ) -> None:
        """Replace the model's weights by `weights`, or by those in `folder`, as a checkpoint has them.

        vLLM's own `reload_weights`, and what it leaves undone on a CPU: there the output layer is packed when it is
        loaded, and where it is tied to the embedding no weight of its own comes to have it packed again. It would go on
        with the first weights it had.
        """
        found = load_weights(Path(folder)) if weights is None else weights
        self.weights_version_taken = ""  # half the old ones and half the new ones, should this fail
        self.reload_weights(weights_iterator=found)

        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            for module in self.get_model().modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)
        self.weights_version_taken = version

    def weights_taken(self: Any) -> dict[str, str]:
        """The `version` of the last weights that were taken whole; empty before."""
        return {"version": getattr(self, "weights_version_taken", "")}

    def serving(self: Any) -> dict[str, Any]:
        """What this worker serves, for a trainer to compare with its policy."""
        model = self.model_config
        return {
            "shape": shape_of(model.hf_config),
            "dtype": str(model.dtype).removeprefix("torch."),
            "logprobs": str(getattr(model.logprobs_mode, "value", model.logprobs_mode)),
        }


def shape_of(config: Any) -> dict[str, Any]:
    """What tells a model's configuration from another's, as far as its weights go."""
    text = config.get_text_config()
    return {name: getattr(text, name) for name in _SHAPE if getattr(text, name, None) is not None}
