"""Countdown: combine the given numbers, each exactly once, with ``+ - * /`` into the target.

The problems are solvable by construction: each is the value of a random expression over its numbers. The reward reads
the answer with a parser and exact rational arithmetic (`dps_pyro.tasks.planning.expression`); nothing is ever executed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dps_pyro.support.files.records import read_records
from dps_pyro.tasks.base import Prompt, PromptSet, Reward, split_of
from dps_pyro.tasks.planning.expression import ExpressionError, evaluate
from dps_pyro.tasks.planning.reading import OpenError, answer_of, arithmetic

Style = Literal["compact", "instruct", "tinyzero"]
"""The language of a prompt."""

OPERANDS: Mapping[int, float] = {2: 0.20, 3: 0.20, 4: 0.10, 5: 0.15, 6: 0.35}
"""The default share of problems with each count of numbers."""

NUMBERS = (1, 30)
"""The default range of the given numbers, both ends included."""

TARGETS = (1, 100)
"""The default range of the targets, both ends included."""

_INSTRUCT = (
    "Using the numbers [{numbers}], create an equation that equals {target}. You can use the basic arithmetic"
    " operations (+, -, *, /) and parentheses, and each number must be used exactly once. Show your work in"
    " <think> </think> tags, and return the final expression, without an equals sign, in <answer> </answer> tags,"
    " for example <answer>(1 + 2) / 3</answer>."
)

_TINYZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant"
    " first thinks about the reasoning process in the mind and then provides the user with the answer.\nUser: Using the"
    " numbers [{numbers}], create an equation that equals {target}. You can use basic arithmetic operations (+, -, *,"
    " /) and each number can only be used once. Show your work in <think> </think> tags. And return the final answer in"
    " <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>.\nAssistant: Let me solve this step by"
    " step.\n<think>"
)
"""TinyZero's template for base models (github.com/Jiayi-Pan/TinyZero): raw, with the thinking begun."""


class Problem(NamedTuple):
    """A solved problem.

    Attributes:
        numbers: The given numbers, in the order in which the policy sees them.
        target: The value to reach.
        solution: An expression over `numbers` worth `target`, its tokens separated by spaces.
    """

    numbers: tuple[int, ...]
    target: int
    solution: str


class _Term(NamedTuple):
    value: int
    text: str
    binding: int  # of the outermost operator: 1 for + and -, 2 for * and /, 3 for a literal


def random_problem(
    rng: random.Random, operands: int, numbers: tuple[int, int] = NUMBERS, targets: tuple[int, int] = TARGETS
) -> Problem:
    """Draw a problem with its solution.

    The numbers are uniform, the expression joins two random terms at a time with a random operator, and a draw is
    thrown away unless every value on the way is a positive integer and the last is within `targets`. All draws are of
    integers, so that they are the same on every platform.

    Raises:
        ValueError: No draw of very many ended within `targets`.
    """
    for _ in range(100_000):
        given = [rng.randint(*numbers) for _ in range(operands)]
        terms: list[_Term] | None = [_Term(number, str(number), 3) for number in given]
        while terms is not None and len(terms) > 1:
            right = terms.pop(rng.randrange(len(terms)))
            left = terms.pop(rng.randrange(len(terms)))
            joined = _join(left, rng.choice("+-*/"), right)
            terms = None if joined is None else [*terms, joined]
        if terms is not None and targets[0] <= terms[0].value <= targets[1]:
            rng.shuffle(given)
            return Problem(tuple(given), terms[0].value, terms[0].text)
    raise ValueError(f"found no problem with {operands} numbers in {numbers} and a target in {targets}")


def _join(left: _Term, operator: str, right: _Term) -> _Term | None:
    """``left operator right``; None unless it is a positive integer."""
    if operator == "+":
        value = left.value + right.value
    elif operator == "-":
        value = left.value - right.value
    elif operator == "*":
        value = left.value * right.value
    else:
        value, remainder = divmod(left.value, right.value)
        value = 0 if remainder else value
    if value <= 0:
        return None
    binding = 1 if operator in "+-" else 2
    a = f"( {left.text} )" if left.binding < binding else left.text
    # Expressions are read from the left: a - (b - c) and a / (b / c) need their parentheses, a + (b - c) does not, and
    # a * (b / c) keeps them to show that the quotient is a whole number.
    needed = right.binding < binding or (right.binding == binding and operator != "+")
    b = f"( {right.text} )" if needed else right.text
    return _Term(value, f"{a} {operator} {b}", binding)


class Countdown:
    """The Countdown task.

    Args:
        operands: A mapping of the count of numbers of a problem to its share of the problems. The shares are positive
            weights of any sum, and they are exact in each split, up to rounding. A sequence of counts gives all of them
            the same share.
        numbers: The range of the given numbers, both ends included.
        targets: The range of the targets, both ends included.
        train_size: The number of training prompts.
        test_size: The number of test prompts. No test problem is a training problem, in any order of its numbers.
        seed: The seed of the problems. The same arguments give the same problems on every platform.
        style: The language of the prompts. ``"compact"`` is that of the embedded policy, ``"3 7 25 = 46 :"``.
            ``"instruct"`` is English, and asks for reasoning within ``<think>`` and the final expression within
            ``<answer>``, like TinyZero. ``"tinyzero"`` is TinyZero's own prompt for base models, which wants
            ``--prompt-format raw``.

    Raises:
        ValueError: An argument is out of its range, or there are too few distinct problems of that kind.
    """

    name = "countdown"
    groups = "operands"
    """The feature that tells most about a prompt's difficulty."""
    presets = ("three_to_four", "four", "from_files")
    """Constructors that a configuration may name."""

    def __init__(
        self,
        *,
        operands: Mapping[int, float] | Sequence[int] = OPERANDS,
        numbers: tuple[int, int] = NUMBERS,
        targets: tuple[int, int] = TARGETS,
        train_size: int = 1024,
        test_size: int = 256,
        seed: int = 0,
        style: Style = "compact",
    ) -> None:
        if style not in ("compact", "instruct", "tinyzero"):
            raise ValueError(f"expected style 'compact', 'instruct' or 'tinyzero', got {style!r}")
        for name, whole, least in (("train_size", train_size, 0), ("test_size", test_size, 0), ("seed", seed, None)):
            if type(whole) is not int or (least is not None and whole < least):
                expected = "a whole number" if least is None else f"a whole number of at least {least}"
                raise ValueError(f"expected {name} to be {expected}, got {whole!r}")
        self.operands = _weights(operands)
        self.numbers = _range("numbers", numbers)
        self.targets = _range("targets", targets)
        self.seed = seed
        self.style = style
        self._solutions: dict[str, str] = {}
        # The test split is drawn first: a larger training set leaves it, and what is measured on it, as it was.
        test = self._draw("test", test_size)
        self._splits = {"train": self._draw("train", train_size), "test": test}

    @classmethod
    def three_to_four(
        cls, *, train_size: int = 2000, test_size: int = 512, seed: int = 0, style: Style = "instruct"
    ) -> Countdown:
        """Countdown-3to4 as the DPS paper trains and tests on it: three or four numbers up to 99, targets up to 100.

        These are generated problems of the same kind and number; `from_files` reads the published ones. The paper's
        code asks with ``style="tinyzero"``, and gives a tenth of the reward to any other closed answer; this does not.
        """
        return cls(
            operands=(3, 4), numbers=(1, 99), targets=(10, 100), train_size=train_size, test_size=test_size, seed=seed,
            style=style,
        )  # fmt: skip

    @classmethod
    def four(
        cls, *, train_size: int = 2000, test_size: int = 512, seed: int = 0, style: Style = "instruct"
    ) -> Countdown:
        """Countdown-4, the paper's harder test: four numbers up to 99, targets up to 100."""
        return cls(
            operands=(4,), numbers=(1, 99), targets=(10, 100), train_size=train_size, test_size=test_size, seed=seed,
            style=style,
        )  # fmt: skip

    @classmethod
    def from_records(
        cls,
        train: Iterable[Mapping[str, Any]],
        test: Iterable[Mapping[str, Any]] | None = None,
        *,
        train_size: int | None = None,
        test_size: int = 512,
        style: Style = "instruct",
    ) -> Countdown:
        """Make the task from problems as they are published: ``{"nums": [44, 19, 35], "target": 98}``.

        Args:
            train: The records.
            test: The held-out records. If they are left out, they are the `test_size` distinct problems behind the
                first `train_size` of `train`, or the last ones where `train_size` is left out (at most half of them).
            train_size: The greatest number of training prompts, the first ones. The default is all.
            test_size: The greatest number of test prompts.
            style: The language of the prompts, as for the constructor.

        Repeated problems are kept once, and no test problem is a training problem.

        Raises:
            ValueError: A record has no `nums` or no `target`.
        """
        made = cls(train_size=0, test_size=0, style=style)
        enough = None if train_size is None or test is not None else train_size + test_size
        known = made._read(train, enough)
        # So the paper's code splits the published problems, of which the first few thousand are used.
        start = len(known) - min(test_size, len(known) // 2)
        start = start if train_size is None else min(train_size, start)
        following = {name: known[name] for name in list(known)[start : start + test_size]}
        tested = following if test is None else made._read(test)
        rest = [prompt for name, prompt in known.items() if name not in tested]
        made._splits = {
            "train": PromptSet(rest[:train_size]),
            "test": PromptSet(list(tested.values())[:test_size]),
        }
        return made

    @classmethod
    def from_files(
        cls,
        train: str | Path = "Jiayi-Pan/Countdown-Tasks-3to4",
        test: str | Path | None = None,
        *,
        train_size: int | None = 2000,
        test_size: int = 512,
        style: Style = "instruct",
    ) -> Countdown:
        """Make the task as `from_records` does, from files, folders or data sets (see `read_records`).

        If left out, problems are the DPS paper's Countdown-3to4, the first 2,000 and the next 512; with
        ``test="Jiayi-Pan/Countdown-Tasks-4"`` the test problems are its Countdown-4, the first 512.

        Raises:
            ValueError: A source cannot be read, or its records are no problems.
        """
        held_out = None if test is None else read_records(test)
        return cls.from_records(read_records(train), held_out, train_size=train_size, test_size=test_size, style=style)

    def _read(self, records: Iterable[Mapping[str, Any]], enough: int | None = None) -> dict[str, Prompt]:
        """Prompts by their ids, each problem once, of `enough` problems at most."""
        prompts: dict[str, Prompt] = {}
        for place, record in enumerate(records):
            if "nums" not in record or "target" not in record:
                raise ValueError(f"expected nums and target in record {place}, got {', '.join(record) or 'nothing'}")
            prompt = self.prompt(list(record["nums"]), record["target"])
            prompts.setdefault(prompt.id, prompt)
            if len(prompts) == enough:
                break
        return prompts

    def prompts(self, split: str) -> PromptSet:
        """The prompts of ``"train"`` or ``"test"``, the counts of numbers in random order.

        Raises:
            ValueError: There is no such split.
        """
        return split_of(self._splits, split)

    def prompt(self, numbers: Sequence[int], target: int) -> Prompt:
        """Make the prompt of a problem of your own, solvable or not.

        Raises:
            ValueError: There are not 2 to 8 numbers, or one of them or the target is no integer from 1 to 999999.
        """
        if not 2 <= len(numbers) <= 8:
            raise ValueError(f"expected 2 to 8 numbers, got {len(numbers)}")
        for number in (*numbers, target):
            if type(number) is not int or not 0 < number < 1_000_000:
                raise ValueError(f"expected integers from 1 to 999999, got {number!r}")
        if self.style == "compact":
            text = f"{' '.join(map(str, numbers))} = {target} :"
        else:
            template = _INSTRUCT if self.style == "instruct" else _TINYZERO
            text = template.format(numbers=", ".join(map(str, numbers)), target=target)
        return Prompt(
            id=f"countdown:{','.join(map(str, sorted(numbers)))}={target}",
            text=text,
            answer=(tuple(numbers), target),
            features={"operands": len(numbers), "target": target, "largest": max(numbers)},
        )

    def solution(self, prompt: Prompt) -> str:
        """Return an expression that solves a prompt of either split; for tests and supervised warm starts.

        Raises:
            KeyError: The prompt belongs to neither split.
        """
        return self._solutions[prompt.id]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        r"""1.0 for an expression of each given number exactly once that is worth the target, else 0.0.

        The answer is the text within the last ``<answer>...</answer>`` behind the thinking (``</think>``), or the whole
        text behind it where nothing is tagged; within either, the content of the last ``\boxed{}``, if there is one.
        ``×``, ``÷``, ``\times``, ``\frac{}{}`` and brackets of other kinds are read as they are meant, and "= target"
        on either side is left out; another equation is no expression.

        The reasons are ``"correct"``, ``"wrong value"``, ``"wrong numbers"`` (whatever the value), ``"division by
        zero"``, ``"unclosed answer"``, ``"unfinished thinking"``, and for text that could not be parsed ``"empty"``,
        ``"too long"``, ``"number too long"`` and ``"not an expression"``. It never raises on a string, and it takes at
        most milliseconds.
        """
        numbers, target = prompt.answer
        try:
            value, literals = evaluate(arithmetic(answer_of(completion), target))
        except OpenError as error:
            return Reward(0.0, error.reason)
        except ExpressionError as error:
            return Reward(0.0, error.reason)
        if sorted(literals) != sorted(numbers):
            return Reward(0.0, "wrong numbers")
        return Reward(1.0, "correct") if value == target else Reward(0.0, "wrong value")

    def _draw(self, split: str, size: int) -> PromptSet:
        """Draw a split's problems, none of them drawn before."""
        rng = random.Random(f"countdown/{split}/{self.seed}")
        prompts = []
        for operands, count in _apportion(self.operands, size).items():
            misses = 0
            while count:
                problem = random_problem(rng, operands, self.numbers, self.targets)
                prompt = self.prompt(problem.numbers, problem.target)
                if prompt.id not in self._solutions:
                    self._solutions[prompt.id] = problem.solution
                    prompts.append(prompt)
                    count, misses = count - 1, 0
                elif (misses := misses + 1) > 10_000:
                    raise ValueError(
                        f"expected enough distinct problems for both splits, got {count} too few with {operands}"
                        f" numbers in {self.numbers} and a target in {self.targets}"
                    )
        rng.shuffle(prompts)
        return PromptSet(prompts)


def _weights(operands: Any) -> dict[int, float]:
    """Check the weights of the counts of numbers. A sequence of counts gives equal weights."""
    listed = isinstance(operands, Sequence) and not isinstance(operands, str)
    pairs: list[tuple[Any, Any]] = [(count, 1.0) for count in operands] if listed else []
    if isinstance(operands, Mapping):
        pairs = list(operands.items())
    for count, weight in pairs:
        real = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < math.inf
        if type(count) is not int or not 2 <= count <= 8 or not real:
            pairs = []
            break
    if not pairs:
        expected = "counts from 2 to 8, or a mapping of such counts to positive weights"
        raise ValueError(f"expected operands to be {expected}, got {operands!r}")
    return dict(pairs)


def _range(name: str, ends: Any) -> tuple[int, int]:
    """Check a range of numbers."""
    pair = isinstance(ends, Sequence) and len(ends) == 2 and all(type(end) is int for end in ends)
    if not pair or not 0 < ends[0] <= ends[1] < 1_000_000:
        raise ValueError(f"expected {name} to be a range [low, high] within 1..999999, got {ends!r}")
    return ends[0], ends[1]


def _apportion(weights: Mapping[int, float], size: int) -> dict[int, int]:
    """Share out `size` by the largest remainders, e.g. ``{2: 1, 3: 2}`` and 10 -> ``{2: 3, 3: 7}``."""
    total = sum(weights.values())
    exact = {key: size * weights[key] / total for key in sorted(weights)}
    shares = {key: int(share) for key, share in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (shares[key] - exact[key], key))
    for key in by_remainder[: size - sum(shares.values())]:
        shares[key] += 1
    return shares
