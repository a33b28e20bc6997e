"""What vLLM's workers do to take the policy's weights; vLLM loads this where they run.

`VllmEngine` asks for it by itself. A server of one's own is told: `vllm serve MODEL --worker-extension-cls
dps_pyro.rollouts.vllm_worker.TakesWeights`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from dps_pyro.rollouts.weights import load_weights

__all__ = ["TakesWeights"]


class TakesWeights:
    """An extension of a vLLM worker (`worker_extension_cls`)."""

    def take_weights(self: Any, weights: Iterable[tuple[str, Tensor]] | None = None, folder: str = "") -> None:
        """Replace the model's weights by `weights`, or by those in `folder`, as a checkpoint has them.

        vLLM's own `reload_weights`, and what it leaves undone on a CPU: there the output layer is packed when it is
        loaded, and where it is tied to the embedding no weight of its own comes to have it packed again. It would go on
        with the first weights it had.
        """
        self.reload_weights(weights_iterator=load_weights(Path(folder)) if weights is None else weights)

        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            for module in self.get_model().modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)
