"""Completions whose truth is known by construction, put to every task: nothing raises, hangs, or is paid wrongly.

    python -m benchmarks.hostile                       # 100,000 completions per task: some ten minutes
    python -m benchmarks.hostile --number 1000         # a quick look

The oracle is not the product's code. A Countdown answer is written from a tree whose value is known, a plan is carried
out on a dictionary of what stands on what, and a number is written in forms that are right or wrong by definition. Some
half of the completions are right; the rest are wrong answers, right answers in places that do not count, expressions
that are worth the answer, and text made to break a parser. Comparisons that need computer algebra take a hundred times
as long as others, so that `--algebra` of them are made. Written to results/hostile.json.
"""

from __future__ import annotations

import argparse
import operator
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import results
from dps_pyro.tasks import BlocksWorld, Countdown, Geometry, Math, Prompt, Task, judge
from dps_pyro.tasks.grading.grader import Grader

RESULT = Path(__file__).parent / "results" / "hostile.json"
LIMIT = 0.25
"""Processor seconds for a completion that needs no computer algebra."""


class Case(NamedTuple):
    """A completion and whether it deserves the reward."""

    prompt: Prompt
    completion: str
    right: bool


PIECES = [
    "\\boxed{", "}", "{", "(", ")", "[", "]", "\\frac{", "\\sqrt{", "^{", "_{", "<answer>", "</answer>", "<think>",
    "answer is ",
    "\\left(", "\\text{", "\\begin{pmatrix}", "\\\\", "&", "=", ",", ";", "+", "-", "*", "/", "\0", "\ud800", "é",
    "٣", "²", "√", "\n",
    "####", "a", "b", "x", "^", "**", "__import__('os')", "%", "$", "!", "|", "~", "\\pm", "\\equiv", "\\pmod",
    "\\sum_{k=1}^{", "∞",
]  # fmt: skip


def noise(rng: random.Random, digits: bool) -> str:
    """Text that is made to break a parser; mostly short, now and then 100,000 characters of one piece."""
    if rng.random() < 0.002:
        return rng.choice(PIECES) * 20_000
    pieces = [*PIECES, *"8888"] if digits else PIECES
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 40)))


def placed(rng: random.Random, answer: str, *, right: bool, compact: bool) -> tuple[str, bool]:
    """An answer in a place, and whether it counts there."""
    good = [f"<answer>{answer}</answer>", f"<think>Hm, 1 + 1.</think><answer> {answer} </answer>",
    f"<ANSWER>{answer}</ANSWER>",
            f"<answer>no</answer> wait <answer>{answer}</answer>", f"<answer>{answer}</answer><|im_end|>"]  # fmt: skip
    bad = [f"<answer>{answer}", f"<think><answer>{answer}</answer>",
    f"<think><answer>{answer}</answer></think>I give up",
           f"<answer>{answer}</answer><answer>I give up</answer>", f"<answer></answer>{answer}",
           f"<answer>{answer} or {answer}, who knows</answer>",
           f"</answer>{answer}<answer>"]  # fmt: skip
    if compact and rng.random() < 0.5:
        return answer, right
    if rng.random() < 0.7:
        return rng.choice(good), right
    # Of boxes the last one counts, whatever stands around it.
    return rng.choice([one for one in bad if "boxed" not in answer or "knows" not in one]), False


APPLY: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
}  # fmt: skip


def expression(rng: random.Random, numbers: Sequence[int], signs: Sequence[str]) -> tuple[str, Fraction | None]:
    """A random expression of the numbers, fully bracketed, and its value; None for a division by zero."""
    terms: list[tuple[str, Fraction | None]] = [(str(number), Fraction(number)) for number in numbers]
    rng.shuffle(terms)
    while len(terms) > 1:
        (one, a), (other, b) = terms.pop(rng.randrange(len(terms))), terms.pop(rng.randrange(len(terms)))
        sign = rng.choice("+-*/")
        value = None if a is None or b is None or (sign == "/" and b == 0) else APPLY[sign](a, b)
        terms.append((f"({one} {signs['+-*/'.index(sign)]} {other})", value))
    return terms[0]


def countdown(rng: random.Random, task: Countdown, prompts: Sequence[Prompt]) -> Case:
    """A right solution in some notation, an expression of other numbers or of another value, or noise."""
    prompt = rng.choice(prompts)
    numbers, target = prompt.answer
    signs = rng.choice(
        (("+", "-", "*", "/"), ("+", "−", "×", "÷"), ("+", "-", r"\times", r"\div"), ("+", "-", r"\cdot", "/"))
    )
    kind = rng.randrange(6)
    if kind == 0:
        return Case(prompt, noise(rng, digits=False), False)
    if kind <= 3:
        text, right = task.solution(prompt), True
        for plain, sign in zip("+-*/", signs, strict=True):
            text = text.replace(f" {plain} ", f" {sign} ")
    else:
        used = list(numbers)
        if kind == 5:
            used[rng.randrange(len(used))] = rng.randint(1, 99)
        text, value = expression(rng, used, signs)
        right = value == target and sorted(used) == sorted(numbers)
        if not right and rng.random() < 0.1:
            text = rng.choice(
                (f"{text} = {target} = {target}", f"{text} + {target} - {text}", str(target), f"{target} * 7919")
            )
    text = rng.choice((text, f"{text} = {target}", f"{target} = {text}", f"${text}$", rf"\boxed{{{text}}}"))
    return Case(prompt, *placed(rng, text, right=right, compact=True))


def carried_out(start: Sequence[str], goal: Sequence[str], steps: Sequence[tuple[str, str]]) -> bool:
    """Whether a plan is legal and reaches the goal, told on a dictionary of what stands on what."""
    below = {block: stack[height - 1] if height else "_" for stack in start for height, block in enumerate(stack)}
    wanted = {block: stack[height - 1] if height else "_" for stack in goal for height, block in enumerate(stack)}
    for block, onto in steps:
        covered = set(below.values())
        illegal = block not in below or block in covered or block == onto or below[block] == onto
        if illegal or (onto != "_" and (onto not in below or onto in covered)):
            return False
        below[block] = onto
    return below == wanted


def blocks(rng: random.Random, _: BlocksWorld, prompts: Sequence[Prompt]) -> Case:
    """A shortest plan, one with a step changed, dropped or added, a random one, or noise."""
    from dps_pyro.tasks.planning.blocks import plan

    prompt = rng.choice(prompts)
    start, goal = prompt.answer
    if rng.randrange(6) == 0:
        return Case(prompt, noise(rng, digits=False), False)
    letters = sorted("".join(start))
    steps = plan(start, goal, rng)
    if rng.random() < 0.5:
        change = rng.randrange(3)
        any_step = (rng.choice(letters), rng.choice([*letters, "_"]))
        place = rng.randrange(len(steps) or 1)
        steps = [*steps[:place], *([any_step] if change else []), *steps[place + (change < 2) :]]
    right = bool(steps) and carried_out(start, goal, steps)
    way = rng.randrange(4)
    written = []
    for block, onto in steps:
        place_to = "the table" if onto == "_" else onto
        written.append(
            (f"{block} {onto}", f"move {block} onto {place_to}", f"{block} -> {place_to}",
             f"Move the block {block} {'to the table' if onto == '_' else f'onto the block {onto}'}")[way]
        )  # fmt: skip
    text = rng.choice(("; ", "\n", ", ")).join(written)
    return Case(prompt, *placed(rng, text, right=right, compact=True))


def number(rng: random.Random, _: Task, prompts: Sequence[Prompt]) -> Case:
    """A generated problem with a number for an answer: the number in some form, another, or something worth it.

    A fraction need not be reduced where the answer is a fraction; where it is whole, a fraction is no plain number.
    """
    prompt = rng.choice(prompts)
    value = Fraction(str(prompt.answer))
    kind = rng.randrange(7)
    if kind == 0:
        return Case(prompt, noise(rng, digits=False), False)
    right = kind <= 3
    if right:
        plain = str(value)
        fraction = rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
        text = rng.choice((plain, fraction, f"x = {plain}", f"${plain}$") if value.denominator > 1 else
                          (plain, f"{plain}.0", f"x={plain}", f"+{plain}" if value >= 0 else plain.replace("-", "−"),
                          f" {plain} "))  # fmt: skip
    elif kind == 4:
        other = value + rng.choice((-10, -2, -1, 1, 2, 10, Fraction(1, 2), Fraction(1, 1000)))
        text = str(other)
    else:
        a = rng.randint(1, 50)
        text = rng.choice((
            f"{value} + {a} - {a}", f"({value + a}) - {a}", f"{value * a} / {a}" if value.denominator == 1
            else f"{value} * {a} / {a}",
            rf"\frac{{{value.numerator * a}}}{{{a}}} + 0",
            f"{value}, {value + a}", f"{value} or {value + a}", rf"\{{{value}, {value - a}\}}", f"x > {value}",
            f"{value}!" if value != 1 and value != 2
            else "y", rf"\sqrt{{{value * value}}} + 0", f"{value} = {value + a}", rf"n \equiv {value} \pmod {a}",
            f"{value}x", f"({value}, {value})",
            f"not {value}", f"{prompt.id.partition(':')[2]}", "\\boxed{", f"{value}e{a}" if value else "1e5",
        ))  # fmt: skip
    good = [rf"So the answer is $\boxed{{{text}}}$.", rf"<think>\boxed{{0}} no</think>\boxed{{{text}}}",
    rf"\boxed{{1}} no, \boxed{{{text}}}<|im_end|>",
            rf"<answer>\boxed{{{text}}}</answer>"]  # fmt: skip
    bad = [rf"\boxed{{{text}", rf"<think>\boxed{{{text}}}", rf"<think>\boxed{{{text}}}</think> I give up.",
    rf"\boxed{{{text}}} no, \boxed{{I give up}}",
           rf"\boxed{{{text}}} no, \boxed{{{text}", rf"<answer>{text}"]  # fmt: skip
    return Case(prompt, rng.choice(good), right) if rng.random() < 0.75 else Case(prompt, rng.choice(bad), False)


def shown(rng: random.Random, task: Task, prompts: Sequence[Prompt]) -> Case:
    """A rendered diagram, whose compact answer is what follows the last "="."""
    case = number(rng, task, prompts)
    value = int(str(case.prompt.answer))
    kind = rng.randrange(6)
    if kind <= 2:
        return Case(case.prompt, rng.choice((f"{value}", f"180-{abs(180 - value)}={value}", f"1+1=2\n={value} ")), True)
    wrong = rng.choice(
        (
            f"{value + rng.choice((-1, 1, 10))}",
            f"{value}=",
            f"={value}+0",
            f"-{value}",
            f"{value}.5",
            f"{value}{value}",
            "=",
            "x",
        )
    )
    return Case(case.prompt, noise(rng, digits=False) + "=" if kind == 5 else wrong, False)


def algebra(rng: random.Random) -> tuple[str, str, bool]:
    """A gold answer, a completion that takes computer algebra, and whether it is right."""
    a, b, c = rng.randint(2, 30), rng.randint(2, 30), rng.randint(2, 9)
    pairs = [
        (str(a), rf"\sqrt{{{a * a}}}", True), (str(a), rf"\sqrt{{{a * a + 1}}}", False), (str(a), rf"{a + b} - {b}",
        True),
        (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", True), (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + 1}}}",
        False),
        (f"(x+{a})(x-{b})", f"x^2 + {a - b}x - {a * b}", True), (f"(x+{a})(x-{b})", f"x^2 + {a - b + 1}x - {a * b}",
        False),
        (rf"\frac{{1}}{{{c}^{{{a + 20}}}}}", rf"{c}^{{-{a + 20}}}", True), (rf"\frac{{1}}{{{c}^{{{a + 20}}}}}",
        rf"\frac{{1}}{{{c}^{{{a + 21}}}}}", False),
        (f"{a}, {a + b}", rf"\{{{a + b}, {a}\}}", True), (f"{a}, {a + b}", f"{a}", False), (f"{a}, {a + b}",
        f"({a + b}, {a})", False),
        (f"x > {a}", rf"({a}, \infty)", True), (f"x > {a}", rf"[{a}, \infty)", False), (f"{a}x + {b}y = {c}",
        f"{2 * a}x + {2 * b}y - {2 * c} = 0", True),
        (f"{a}x + {b}y = {c}", f"{a}x + {b}y = {c + 1}", False), (rf"n \equiv {a} \pmod{{{a + b}}}",
        rf"n \equiv {2 * a + b} \pmod{{{a + b}}}", True),
        (str(a), rf"n \equiv {a} \pmod{{{b}}}", False), (str(a), rf"x = {a - 1} + 1 = {a}", True), (str(a),
        f"{b} = {a}" if a != b else "x", False),
        (f"{a}.5e{b}", rf"{a}.5 \times 10^{{{b}}}", True), (f"{a}.5e{b}", rf"{a}.5 \times 10^{{{b + 1}}}", False),
        (str(a), rf"\geq {a}", False),
        (f"{a}^{{{b}}}+1", f"{a}^{{{b}}}+2", False), (str(a), "9^{9^{9^9}}", False), (str(a), noise(rng,
        digits=False), False),
    ]  # fmt: skip
    gold, answer, right = rng.choice(pairs)
    return gold, rf"So it is $\boxed{{{answer}}}$.", right


def put(task: Task, cases: Sequence[Case]) -> dict[str, Any]:
    """The verdicts on cases, and the longest that one took."""
    reasons: Counter[str] = Counter()
    raised: list[str] = []
    paid: list[list[str]] = []
    refused: list[list[str]] = []
    late = 0
    slowest = 0.0
    together = hasattr(task, "rewards")
    chunk = 256 if together else 1
    for place in range(0, len(cases), chunk):
        part = cases[place : place + chunk]
        start = time.process_time()
        try:
            rewards = judge(task, [case.prompt for case in part], [case.completion for case in part])
        except Exception as error:  # noqa: BLE001 - what is looked for
            raised.append(f"{type(error).__name__}: {error}"[:200])
            continue
        taken = (time.process_time() - start) / len(part)
        slowest, late = max(slowest, taken), late + (taken > LIMIT)
        for case, reward in zip(part, rewards, strict=True):
            reasons[reward.reason] += 1
            if bool(reward.value) != case.right:
                (refused if case.right else paid).append(
                    [str(case.prompt.answer), case.completion[:120], reward.reason]
                )
    return {
        "completions": len(cases), "right_by_construction": sum(case.right for case in cases), "raised": raised,
        "wrongly_paid": len(paid), "wrongly_refused": len(refused), "over_limit": late,
        "slowest_seconds": round(slowest, 5),
        "examples_paid": paid[:10], "examples_refused": refused[:10], "reasons": dict(reasons.most_common()),
    }  # fmt: skip


def put_algebra(total: int, seed: int) -> dict[str, Any]:
    """The verdicts on comparisons that take computer algebra."""
    rng = random.Random(f"hostile/algebra/{seed}")
    cases = [algebra(rng) for _ in range(total)]
    grader = Grader(seconds=2.0)
    paid: list[list[str]] = []
    refused: list[list[str]] = []
    longest = 0.0
    reasons: Counter[str] = Counter()
    run = grader.pool.run

    def measured(*arguments: Any) -> Any:
        nonlocal longest
        replies = run(*arguments)
        longest = max([longest, *(reply.seconds for reply in replies)])
        return replies

    grader.pool.run = measured  # type: ignore[method-assign,assignment]
    for place in range(0, total, 256):
        part = cases[place : place + 256]
        for (gold, completion, right), reward in zip(
            part, grader.grade_all([one[0] for one in part], [one[1] for one in part]), strict=True
        ):
            reasons[reward.reason] += 1
            if bool(reward.value) != right:
                (refused if right else paid).append([gold, completion[:120], reward.reason])
    grader.close()
    return {
        "completions": total, "right_by_construction": sum(case[2] for case in cases), "raised": [],
        "wrongly_paid": len(paid),
        "wrongly_refused": len(refused), "over_limit": int(longest > 2.5), "slowest_seconds": round(longest, 3),
        "examples_paid": paid[:10], "examples_refused": refused[:10], "reasons": dict(reasons.most_common()),
    }  # fmt: skip


def measure(total: int, compared: int, seed: int = 0) -> dict[str, Any]:
    """All tasks. The result has an entry per task, each with what `put` counts."""
    made: dict[str, tuple[Task, Callable[..., Case]]] = {
        "countdown": (Countdown(train_size=256, test_size=0), countdown),
        "blocks": (BlocksWorld(train_size=256, test_size=0), blocks),
        "mathematics": (Math(train_size=256, test_size=0, style="instruct"), number),
        "geometry": (Geometry(train_size=64, test_size=0), shown),
        "geometry, instruct": (Geometry(train_size=64, test_size=0, style="instruct"), number),
    }
    found = {}
    for name, (task, case) in made.items():
        rng = random.Random(f"hostile/{name}/{seed}")
        prompts = list(task.prompts("train"))
        share = total if name != "geometry, instruct" else max(total // 10, 1)
        found[name] = put(task, [case(rng, task, prompts) for _ in range(share)])
    return found | {"mathematics, by computer algebra": put_algebra(compared, seed)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a line per task, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--number", type=int, default=100_000, help="The number of completions for each task.")
    parser.add_argument("--algebra", type=int, default=4000, help="The number of comparisons by computer algebra.")
    parser.add_argument("--seed", type=int, default=0, help="The seed of the completions.")
    parser.add_argument("--out", type=Path, default=RESULT, help="The file to which the result is written.")
    arguments = parser.parse_args(argv)
    found = measure(arguments.number, arguments.algebra, arguments.seed)
    for name, one in found.items():
        keys = ("wrongly_paid", "wrongly_refused", "over_limit")
        counts = ", ".join(f"{one[key]} {key.replace('_', ' ')}" for key in keys)
        print(f"{name}: {one['completions']} completions, {len(one['raised'])} raised, {counts}, slowest", end="")
        print(f" {one['slowest_seconds']} s")
    result = {
        "command": f"python -m benchmarks.hostile --number {arguments.number} --algebra {arguments.algebra}",
        "date": results.today(),
        "machine": f"{len(os.sched_getaffinity(0))} cores, shared with other work",
        "limit_seconds": LIMIT,
        "tasks": found,
    }
    results.write(arguments.out, result)


if __name__ == "__main__":
    main()
