"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: put on, loaded, saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dps_pyro.rollouts.seeds import seed_for
from dps_pyro.rollouts.weights import base_model, merged_weights
from dps_pyro.trainers.config.settings import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dps_pyro.trainers.policy.processors import Reader

__all__ = ["adapted", "save_merged", "save_trained"]


def adapted(model: PreTrainedModel, config: TrainConfig, saved: Path | None = None) -> PreTrainedModel:
    """The model with adapters: new ones that change nothing yet, drawn by the run's seed, or those of `saved`.

    There is no dropout: the policy that is updated is the one that was sampled from.

    Raises:
        ValueError: peft is not installed, or the model has no such modules.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError("lora_rank: expected peft to be installed: pip install 'dps_pyro[lora]'") from error
    if saved is not None:
        return peft.PeftModel.from_pretrained(model, str(saved), is_trainable=True)  # type: ignore[return-value]
    targets = list(config.update.lora_targets)
    settings = peft.LoraConfig(
        r=config.update.lora_rank,
        lora_alpha=2 * config.update.lora_rank if config.update.lora_alpha is None else config.update.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(config.machine.seed, "lora"))
        try:
            return peft.get_peft_model(model, settings)  # type: ignore[return-value]
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"lora_targets: expected modules of {type(model).__name__}, got {targets}: {reason}"
            ) from error


def save_trained(policy: PreTrainedModel, tokenizer: Reader, folder: Path) -> None:
    """What a resumed run needs: the whole policy, or the adapters alone; and the tokenizer."""
    options: dict[str, Any] = {} if base_model(policy) is policy else {"save_embedding_layers": False}
    policy.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)


def save_merged(policy: PreTrainedModel, tokenizer: Reader, folder: Path) -> None:
    """An ordinary transformers folder, adapters merged into the weights."""
    base = base_model(policy)
    base.save_pretrained(folder, state_dict=None if base is policy else merged_weights(policy))
    tokenizer.save_pretrained(folder)
