"""The optional libraries: which extra brings each, and an error that names it where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["EXTRA_OF", "install", "needed"]

EXTRA_OF = {
    "arviz": "arviz",
    "datasets": "hub",
    "fastapi": "serve",
    "filelock": "train",
    "httpx": "train",
    "jinja2": "report",
    "lark": "tasks",
    "math_verify": "tasks",
    "matplotlib": "report",
    "peft": "lora",
    "PIL": "tasks",
    "reasoning_gym": "gym",
    "tenacity": "train",
    "uvicorn": "serve",
    "pydantic": "train",
    "tensorboard": "train",
    "transformers": "train",
    "trl": "trl",
    "tyro": "train",
    "verl": "verl",
    "vllm": "vllm",
    "wandb": "wandb",
    "yaml": "train",
}
"""The extra of `dps_pyro` that installs a library, by the library's module."""


def install(module: str) -> str:
    """Say that a library is missing, and the command that installs it."""
    return f"expected {module} to be installed, got none: pip install 'dps_pyro[{EXTRA_OF[module]}]'"


def needed(module: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: a key of `EXTRA_OF`.

    Raises:
        ModuleNotFoundError: the library is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise  # the library is there, and lacks something of its own
        raise ModuleNotFoundError(install(module), name=module) from error
