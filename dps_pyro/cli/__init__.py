"""The command line: `dps-pyro COMMAND`. Each command is a module of `dps_pyro.cli`.

An error that a user can fix is printed in one line. Every other error keeps its traceback.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

from dps_pyro.support.files.file_errors import said_of
from dps_pyro.support.interrupts import Terminated, terminable

__all__ = ["main"]


COMMANDS = {
    "demo": "fine-tune an embedded policy on random and on predicted prompts, and draw a report",
    "train": "fine-tune a language model on prompts that are predicted to be partially solved",
    "fit": "fit a dynamics model to logged rollouts, as a prior for the next run",
    "check": "test whether your own model keeps the contract, and say what to change",
    "diagnose": "show whether a fit can be trusted, and whether its model describes the log",
    "compare": "fit several models to a log, and rank them by how well they predict",
    "sbc": "run simulation-based calibration of a model and its fits",
    "simulate": "draw a log from a dynamics model",
    "replay": "replay models on full logs, and score their predictions on all prompts",
    "serve": "serve one prompt sampler to several trainers over HTTP",
    "report": "draw the report of a run, with other runs beside it",
    "bench": "compare ways of choosing prompts by training runs with several seeds",
    "cost": "show what runs cost in tokens, GPU-hours and money, and how much they save",
}
"""The modules of `dps_pyro.cli`, and what each command does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 for success; 1 if numbers or the engine broke down, or the demo failed; 2 for an error that
        the user can fix; 130 after Ctrl-C; and 143 after SIGTERM, with which schedulers end a job. SIGTERM ends a
        command in the same way as Ctrl-C.
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
        advice = "\nResumed with the same settings, it will end here again. Try a lower --learning-rate."
        again = "" if given[0] == "fit" else advice
        return _say(given[0], f"{error}{again}", error, 1)
    except RuntimeError as error:
        from dps_pyro.rollouts import EngineError

        if not isinstance(error, EngineError):
            raise
        return _say(given[0], error, error, 1)
    except (ValueError, OSError) as error:
        if not _ours(error):
            raise
        return _say(given[0], said_of(error) if isinstance(error, OSError) else error, error, 2)


def _say(command: str, message: object, error: BaseException, status: int) -> int:
    print(f"dps-pyro {command}: {message}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
    return status


def _ours(error: Exception) -> bool:
    """Whether the message is meant for the user: it comes from the file system or this package, not from a library."""
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
    text = f"""Predict which prompts are worth a rollout before any rollout is made.

{what}

Add --help to a command to see its options. dps-pyro --version prints the version."""
    if given[:1] in ([], ["-h"], ["--help"]):
        print(text)
        return 0
    print(f"dps-pyro: expected a command, got {given[0]!r}\n\n{text}", file=sys.stderr)
    return 2
