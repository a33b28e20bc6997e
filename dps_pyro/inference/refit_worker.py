"""The process that refits beside a training loop; `dps_pyro.inference.refit` starts it and speaks to it."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import sys
import traceback

import torch

from dps_pyro.inference.refit import _fit, framed, read
from dps_pyro.support.child import end_with_parent

__all__ = ["main"]


def main() -> None:
    """Answer jobs until the other side is gone, which may be in the midst of a fit."""
    end_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints, prints elsewhere
    while True:
        try:
            files, job = pickle.loads(read(sys.stdin.buffer))  # noqa: S301
        except EOFError:
            return
        try:
            for name, path in files.items():
                _import(name, path)
            asked = pickle.loads(job)  # noqa: S301
            torch.set_default_dtype(asked["dtype"])
            answer = _fit(asked)
            content = pickle.dumps(answer)
        except Exception:  # noqa: BLE001 - told to the other side, which raises it
            content = pickle.dumps(traceback.format_exc())
        answers.write(framed(content))
        answers.flush()


def _import(name: str, path: str) -> None:
    """A user's model file, under the name that it has there. A module of that name from another file is replaced."""
    known = getattr(sys.modules.get(name), "__file__", None)
    if known == path or (spec := importlib.util.spec_from_file_location(name, path)) is None:
        return
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main()
