"""Blocks world: rearrange stacks of blocks, one block at a time; the plan is verified by carrying it out.

A state is a set of stacks, each written from the bottom to the top. A move takes a block with nothing on it and puts it
on another such block or on the table.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from typing import Any, Literal

from dps_pyro.tasks.base import Prompt, PromptSet, Reward, split_of
from dps_pyro.tasks.planning.reading import OpenError, answer_of

__all__ = ["TABLE", "BlocksWorld", "Move", "State", "move", "plan", "random_state"]

State = tuple[str, ...]
"""Stacks from the bottom to the top, in alphabetical order: ``("ab", "c")`` has b on a."""

Move = tuple[str, str]
"""A block and where it goes: another block, or `TABLE`."""

TABLE = "_"
_LETTERS = "abcdef"
_MAX_CHARS = 600
_STEP = re.compile(
    r"(?:\(?\d{1,3}[.):]\)?|[-*•])?(?:then|the|and|finally|next|first|put|place|stack|move|unstack|block){0,9}([a-f])"
    r"(?:from(?:the|top|of|block){0,6}(?:[a-f]|table))?(?:->|→|down|on|top|to|of|the|block){0,9}(?:([a-f])|_|table)"
)
"""A move in words, without white space: ``movetheblockaontotheblockb``, ``moveafrombtothetable``, ``1.a->c``."""


def move(state: State, block: str, onto: str) -> State | None:
    """Return the state after a move; None if the rules do not allow it, or if it moves nothing.

    >>> move(("ab", "c"), "b", "c")
    ('a', 'cb')
    """
    stacks = {stack[-1]: stack for stack in state}
    if block not in stacks or block == onto or (onto != TABLE and onto not in stacks):
        return None
    source = stacks.pop(block)
    if onto == TABLE:
        if len(source) == 1:
            return None
        moved = [*stacks.values(), block]
    else:
        moved = [*(stack for top, stack in stacks.items() if top != onto), stacks[onto] + block]
    return tuple(sorted(moved + ([source[:-1]] if len(source) > 1 else [])))


@lru_cache(4096)
def _moves(state: State) -> tuple[tuple[Move, State], ...]:
    """Every legal move, and the state to which it leads."""
    tops = [stack[-1] for stack in state]
    tried = [((top, onto), move(state, top, onto)) for top in tops for onto in (*tops, TABLE)]
    return tuple((step, after) for step, after in tried if after is not None)


def plan(start: State, goal: State, rng: random.Random | None = None) -> list[Move]:
    """Find a shortest plan, breadth first. `rng` draws one of several; without it the plan is always the same.

    Raises:
        ValueError: The two states have different blocks.
    """
    if sorted("".join(start)) != sorted("".join(goal)):
        raise ValueError(f"expected the same blocks in both states, got {start} and {goal}")
    came: dict[State, tuple[State, Move] | None] = {start: None}
    frontier = [start]
    while goal not in came:
        following: dict[State, list[tuple[State, Move]]] = {}
        for state in frontier:
            for step, after in _moves(state):
                if after not in came:
                    following.setdefault(after, []).append((state, step))
        for after, ways in following.items():
            came[after] = ways[0] if rng is None else rng.choice(ways)
        frontier = list(following)
    steps: list[Move] = []
    at = goal
    while (way := came[at]) is not None:
        at = way[0]
        steps.append(way[1])
    return steps[::-1]


def random_state(rng: random.Random, blocks: int) -> State:
    """Draw a state: blocks in random order, each on the table or on the last stack."""
    letters = list(_LETTERS[:blocks])
    rng.shuffle(letters)
    stacks: list[str] = []
    for letter in letters:
        if stacks and rng.randrange(5) < 3:
            stacks[-1] += letter
        else:
            stacks.append(letter)
    return tuple(sorted(stacks))


class BlocksWorld:
    """The blocks world task.

    Args:
        blocks: The numbers of blocks that problems have, each from 2 to 6, in equal shares.
        moves: The least and the greatest length of a shortest plan, which is the difficulty.
        optimal: Whether only a shortest plan earns the reward. Otherwise any plan does that reaches the goal within
            `_MAX_CHARS` characters and four moves per block.
        train_size: The number of training prompts.
        test_size: The number of test prompts. None of them is a training prompt.
        seed: The seed of the problems. The same arguments give the same problems on every platform.
        style: The language of the prompts. ``"compact"`` is that of the embedded policy: ``"ab/c > cb/a :"`` is
            answered by ``"b c"``; ``"instruct"`` is English, and asks for the plan within ``<answer>``.

    Raises:
        ValueError: An argument is out of its range, or there are too few distinct problems of that kind.
    """

    name = "blocks"
    groups = "blocks+moves"
    """The feature that tells most about a prompt's difficulty."""

    def __init__(
        self,
        *,
        blocks: Any = (3, 4, 5),
        moves: Any = (1, 6),
        optimal: bool = False,
        train_size: int = 1024,
        test_size: int = 256,
        seed: int = 0,
        style: Literal["compact", "instruct"] = "compact",
    ) -> None:
        if style not in ("compact", "instruct"):
            raise ValueError(f"expected style 'compact' or 'instruct', got {style!r}")
        if isinstance(blocks, str) or not blocks or any(type(n) is not int or not 2 <= n <= 6 for n in blocks):
            raise ValueError(f"expected blocks to be counts from 2 to 6, got {blocks!r}")
        if len(moves) != 2 or any(type(n) is not int for n in moves) or not 1 <= moves[0] <= moves[1]:
            raise ValueError(f"expected moves to be a range [least, most] from 1, got {moves!r}")
        for name, whole, least in (("train_size", train_size, 0), ("test_size", test_size, 0), ("seed", seed, None)):
            if type(whole) is not int or (least is not None and whole < least):
                expected = "a whole number" if least is None else f"a whole number of at least {least}"
                raise ValueError(f"expected {name} to be {expected}, got {whole!r}")
        self.blocks, self.moves, self.optimal, self.style = tuple(blocks), (moves[0], moves[1]), optimal, style
        seen: set[str] = set()
        test = self._draw("test", test_size, seed, seen)
        self._splits = {"train": self._draw("train", train_size, seed, seen), "test": test}

    def prompts(self, split: str) -> PromptSet:
        """The prompts of ``"train"`` or ``"test"``.

        Raises:
            ValueError: There is no such split.
        """
        return split_of(self._splits, split)

    def prompt(self, start: State, goal: State) -> Prompt:
        """Make the prompt of a problem of your own.

        Raises:
            ValueError: The states do not have the same blocks.
        """
        start, goal = tuple(sorted(start)), tuple(sorted(goal))
        least = len(plan(start, goal))
        if self.style == "compact":
            text = f"{'/'.join(start)} > {'/'.join(goal)} :"
        else:
            text = (
                f"Blocks stand on a table in stacks. Now: {_told(start)}. Wanted: {_told(goal)}. A move takes one block"
                " that has nothing on it and puts it onto another block that has nothing on it, or onto the table."
                " Think within <think> </think>, and write the plan within <answer> </answer>, one move after the"
                " other with semicolons between, for example <answer>move a onto b; move c to the table</answer>."
            )
        features = {"moves": least, "blocks": len("".join(start))}
        return Prompt(f"blocks:{'/'.join(start)}>{'/'.join(goal)}", text, (start, goal), features)

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """1.0 for a plan that leads from the start to the goal by the rules, else 0.0.

        The plan is the text of the last ``<answer>...</answer>``, or the whole completion. The reasons: ``"correct"``,
        ``"goal not reached"``, ``"illegal move"``, ``"too many moves"``, ``"not shortest"``, and for what is no plan
        ``"unfinished thinking"``, ``"unclosed answer"``, ``"empty"``, ``"too long"`` and ``"not a plan"``.
        """
        start, goal = prompt.answer
        steps = _read(completion)
        if isinstance(steps, str):
            return Reward(0.0, steps)
        if len(steps) > 4 * len("".join(start)):
            return Reward(0.0, "too many moves")
        state: State = start
        for block, onto in steps:
            if (after := move(state, block, onto)) is None:
                return Reward(0.0, "illegal move")
            state = after
        if state != goal:
            return Reward(0.0, "goal not reached")
        if self.optimal and len(steps) > prompt.features["moves"]:  # type: ignore[operator]  # a number
            return Reward(0.0, "not shortest")
        return Reward(1.0, "correct")

    def draw(self, rng: random.Random) -> Prompt:
        """Draw a problem of this kind. It may belong to either split or to none."""
        for _ in range(10_000):
            blocks = rng.choice(self.blocks)
            prompt = self.prompt(random_state(rng, blocks), random_state(rng, blocks))
            if self.moves[0] <= prompt.features["moves"] <= self.moves[1]:
                return prompt
        raise ValueError(f"found no problem of {self.blocks} blocks and {self.moves} moves")

    def _draw(self, split: str, size: int, seed: int, seen: set[str]) -> PromptSet:
        """Draw a split's problems, none of them in `seen`, where they are put."""
        rng = random.Random(f"blocks/{split}/{seed}")
        prompts: list[Prompt] = []
        misses = 0
        while len(prompts) < size:
            prompt = self.draw(rng)
            if prompt.id not in seen:
                seen.add(prompt.id)
                prompts.append(prompt)
                misses = 0
            elif (misses := misses + 1) > 10_000:
                raise ValueError(
                    f"expected enough distinct problems for both splits, got {size - len(prompts)} too few"
                )
        return PromptSet(prompts)


def _told(state: State) -> str:
    """A state in words: ``a is on the table, b is on a``."""
    parts = [
        f"{block} is on {stack[height - 1] if height else 'the table'}"
        for stack in state
        for height, block in enumerate(stack)
    ]
    return ", ".join(parts)


def _read(completion: str) -> list[Move] | str:
    """The moves of a plan, or why there are none."""
    try:
        text = answer_of(completion)
    except OpenError as error:
        return error.reason
    text = text.strip().rstrip(";.,").lower()
    if not text:
        return "empty"
    if len(text) > _MAX_CHARS:
        return "too long"
    steps: list[Move] = []
    lines = [line.strip().rstrip(";,") for line in text.splitlines() if line.strip()]
    for part in re.split(r"[;,\n]", "\n".join(lines)):
        if (match := _STEP.fullmatch("".join(part.split()).strip(".*`"))) is None:
            return "not a plan"
        steps.append((match[1], match[2] or TABLE))
    return steps
