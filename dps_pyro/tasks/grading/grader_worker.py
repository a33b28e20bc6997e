"""The process that grades: a script of its own, started and spoken to by `grader_pool`.

A request is one line of JSON, ``[kind, gold, text, tolerance, seconds]``, and so is a reply, ``[verdict, answer,
seconds]``, where the seconds are the processor time that it took. The kinds are:

- ``read``: find the final answer of the completion `text` and compare it at sight. The verdict is ``equal`` or
  ``different``; ``answer``, where computer algebra has to decide; or why there is no answer (see `answers.NoAnswer`);
- ``number``: as ``read``, where nothing but a plain number is right. One more verdict is ``not a number``;
- ``compare``: compare the answer `text` with `gold`. The verdict is one of `comparison.compare`, ``timed out``,
  ``out of memory`` or ``failed: <how>``.

Three fences hold what a completion can do. All patterns that read a completion are linear in its length. A comparison
runs in a fork of this process, which the system kills when its processor time is up, whatever it computes; the fork
costs milliseconds, a new worker seconds. The memory of both is limited. The computer algebra system is imported at the
first comparison.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

__all__ = ["main"]

_Compare = Callable[[str, str, float], str]
_WARM = (
    (r"\frac{1}{2}", "x = 0.5"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"(x+1)^2", r"x^2+2x+1"),
    (r"\{1, 2\}", r"1 \pm \sqrt{19}"),
    (r"4.5\times 10^{3}", r"\pi"),
    (r"x^2+y^2=1", r"y^2+x^2=2"),
    (r"\log_2 8 + \sin 3 + n!", r"\log 2 + \binom{n}{2}"),
)


def _light() -> None:
    """Let this script import its siblings without the package around them, which imports much more."""
    root = Path(__file__).resolve().parents[2]
    for name, folder in (("dps_pyro", root), ("dps_pyro.tasks", root / "tasks")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


def main(memory_bytes: int) -> None:
    """Answer requests until the other side is gone."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # whatever prints, prints nowhere
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    from dps_pyro.tasks.grading import answers  # noqa: F401 - read before "ready" is said

    def say(verdict: str, answer: str = "", seconds: float = 0.0) -> None:
        print(json.dumps([verdict, answer, seconds]), file=replies, flush=True)

    say("ready")
    compare: _Compare | None = None
    for line in sys.stdin:
        kind, gold, text, tolerance, seconds = json.loads(line)
        if kind != "compare":
            signal.setitimer(signal.ITIMER_PROF, seconds)  # nothing catches its signal: it ends this process
            say(*_read(gold, text, number_only=kind == "number"))
            signal.setitimer(signal.ITIMER_PROF, 0)
            continue
        if compare is None:
            try:
                compare = _loaded()
            except Exception as error:  # noqa: BLE001 - told to the other side, which raises
                say("no computer algebra", f"{type(error).__name__}: {error}")
                continue
        say(*_fenced(compare, gold, text, tolerance, seconds))


def _loaded() -> _Compare:
    """Import the computer algebra system. The first comparisons compile much, so that they are made here."""
    from dps_pyro.tasks.grading.comparison import compare

    for pair in _WARM:
        compare(*pair, 0.0)
    gc.collect()
    gc.freeze()
    return compare


_EQUATION = re.compile(r"x=(.{1,80})")


def _read(gold: str, completion: str, *, number_only: bool) -> tuple[str, str]:
    """The reply to a request to read."""
    from dps_pyro.tasks.grading.answers import NoAnswer, final_answer
    from dps_pyro.tasks.grading.spelling import normalise, number, same_at_sight

    try:
        answer = final_answer(completion)
    except NoAnswer as why:
        return why.reason, ""
    if not number_only:
        same = same_at_sight(gold, answer)
        return ("answer" if same is None else "equal" if same else "different"), answer
    text = normalise(answer)
    if (equation := _EQUATION.fullmatch(text)) is not None:
        text = equation[1]
    found, right = number(text), number(normalise(gold))
    if found is None or right is None or (right[0].denominator == 1 and ("/" in text or "frac" in text)):
        return "not a number", answer
    return ("equal" if found[0] == right[0] else "different"), answer


def _fenced(compare: _Compare, gold: str, answer: str, tolerance: float, seconds: float) -> tuple[str, str, float]:
    """Compare in a fork, which is killed when its processor time is up."""
    mine, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(mine)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            verdict = compare(gold, answer, tolerance)
        except MemoryError:
            verdict = "out of memory"
        except BaseException as error:  # noqa: BLE001 - whatever an answer does to a parser
            verdict = f"failed: {type(error).__name__}"
        os.write(its, verdict.encode())
        os._exit(0)
    os.close(its)
    with os.fdopen(mine, "rb") as pipe:
        verdict = pipe.read().decode()
    _, status, usage = os.wait4(child, 0)
    spent = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU)
        verdict = "timed out" if late else f"failed: signal {os.WTERMSIG(status)}"
    return verdict or "failed: no verdict", "", spent


if __name__ == "__main__":
    _light()
    main(int(sys.argv[1]))
