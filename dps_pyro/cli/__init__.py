"""The command line: `dps-pyro COMMAND`, the commands being the modules of `dps_pyro.cli`.

Errors that a user can mend are one line; everything else keeps its traceback.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

from dps_pyro.support.interrupts import Terminated, terminable

__all__ = ["main"]


COMMANDS = {
    "demo": "fine-tune the embedded policy, beside a short uniform arm, and draw a report",
    "train": "fine-tune a language model on prompts predicted to be partially solved",
    "fit": "fit a dynamics model to logged rollouts: a prior for the next run",
    "check": "hold a model of your own against the contract, and say what to mend",
    "diagnose": "whether a fit is to be relied on, and whether its model describes the log",
    "compare": "fit models to a log, and rank them by how well they predict",
    "sbc": "simulation-based calibration of a model and its fits",
    "simulate": "draw a log from a dynamics model",
    "replay": "play models on full logs, and score what they predict on all prompts",
    "serve": "serve one prompt sampler to several trainers, over HTTP",
    "report": "draw the report of a run, others beside it",
    "bench": "compare ways of choosing prompts by training runs over seeds",
    "cost": "what runs cost in tokens, GPU-hours and money, and what they save against others",
}
"""The modules of `dps_pyro.cli`, and what each is for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 where all went well; 1 where numbers or the engine broke down, or the demo failed; 2 for what
        the user can mend; 130 after Ctrl-C, and 143 after the SIGTERM with which schedulers end a job, which ends a
        command in the same way.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in COMMANDS:
        return _usage(given)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    with terminable():
        return _run(given)


def _run(given: Sequence[str]) -> int:
    try:
        # Imported when it is called: `dps-pyro --help` waits for no torch.
        command = importlib.import_module(f"dps_pyro.cli.{given[0]}")
        return int(command.run(list(given[1:])))
    except ModuleNotFoundError as error:
        from dps_pyro.support.extras import EXTRA_OF, install

        if error.name not in EXTRA_OF:
            raise
        return _say(given[0], install(error.name), error, 2)
    except Terminated as stop:
        return _say(given[0], "stopped by SIGTERM", stop, 143)
    except KeyboardInterrupt as stop:
        return _say(given[0], "stopped", stop, 130)
    except FloatingPointError as error:
        again = "" if given[0] == "fit" else "\nResumed as it is, it would end here again: try a lower --learning-rate."
        return _say(given[0], f"{error}{again}", error, 1)
    except RuntimeError as error:
        from dps_pyro.rollouts import EngineError

        if not isinstance(error, EngineError):
            raise
        return _say(given[0], error, error, 1)
    except (ValueError, OSError) as error:
        if not _ours(error):
            raise
        return _say(given[0], error, error, 2)


def _say(command: str, message: object, error: BaseException, status: int) -> int:
    print(f"dps-pyro {command}: {message}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
    return status


def _ours(error: Exception) -> bool:
    """Whether the message is meant for the user: the file system's, or raised here and not in a library's depths."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return isinstance(error, OSError) or raised.partition(".")[0] == "dps_pyro" or raised == "__main__"


def _usage(given: Sequence[str]) -> int:
    import dps_pyro

    if given[:1] == ["--version"]:
        print(dps_pyro.__version__)
        return 0
    what = "\n".join(f"  dps-pyro {name:<10} {line}" for name, line in COMMANDS.items())
    text = f"""Predict which prompts are worth a rollout, before any rollout.

{what}

Each has --help. dps-pyro --version prints the version."""
    if given[:1] in ([], ["-h"], ["--help"]):
        print(text)
        return 0
    print(f"dps-pyro: expected a command, got {given[0]!r}\n\n{text}", file=sys.stderr)
    return 2
