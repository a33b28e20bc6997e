"""Which of reasoning-gym's tasks may judge completions here, and why the others may not.

A completion is untrusted text. The scorer of every task in `SAFE` was read, as version 0.1.25 of reasoning-gym has it:
it compares strings, or splits, counts, and parses JSON or numbers, in time and memory that are about linear in the
completion. A new version is to be read again.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REFUSED", "SAFE", "VERSION"]

VERSION = "0.1.25"
"""The version whose scorers were read."""

_EQUAL = (
    *("acre", "aiw", "arc_1d", "base_conversion", "basic_arithmetic", "binary_alternation", "caesar_cipher"),
    *("count_bits", "count_primes", "course_schedule", "gcd", "largest_island", "lcm"),
    *("leg_counting", "letter_counting", "mahjong_puzzle", "maze", "modulo_grid"),
    *("number_filtering", "number_sequence", "rotate_matrix", "rotten_oranges", "simple_equations"),
    *("simple_geometry", "string_manipulation", "string_splitting", "string_synthesis", "syllogism"),
    "word_sequence_reversal",
)
"""The library's own default: equal strings, or the share that the answer is of a completion that contains it."""

_OWN = (
    *("ab", "chain_sum", "circuit_logic", "color_cube_rotation", "dice", "family_relationships", "futoshiki"),
    *("game_of_life", "group_anagrams", "kakurasu", "knights_knaves", "letter_jumble", "manipulate_matrix"),
    *("mini_sudoku", "needle_haystack", "palindrome_generation", "palindrome_partitioning", "path_star", "products"),
    *("quantum_lock", "rectangle_count", "self_reference", "sentence_reordering", "shortest_path"),
    *("spell_backward", "sudoku", "survo", "word_sorting", "zebra_puzzles"),
)
"""Scorers of their own: strings compared, split and counted, JSON, and whole numbers."""

SAFE = frozenset((*_EQUAL, *_OWN))
"""The tasks that are offered."""

_EVALUATES = "its scorer evaluates the completion as Python (eval)"
_VARIES = "its problems depend on Python's hash seed, and differ from process to process"
_SYMPY = "its scorer hands the completion to sympy's parser, which evaluates it"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), _EVALUATES),
    **dict.fromkeys(("countdown", "intermediate_integration", "polynomial_multiplication"), _SYMPY),
    **dict.fromkeys(("puzzle24", "simple_integration"), _SYMPY),
    **dict.fromkeys(("isomorphic_strings", "list_functions", "ransom_note", "word_ladder"), _VARIES),
    "codeio": "it runs code",
    "coin_flip": "its scorer reads any fraction, 1e999999999 among them, which takes all memory",
    "game_of_life_halting": "its scorer takes any answer for a yes",
}
"""Tasks that are known to be unfit, and why."""
