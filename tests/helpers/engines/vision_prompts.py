"""Prompts with images."""

from __future__ import annotations

from helpers.engines.vlms import picture

from dps_pyro.tasks import Prompt

__all__ = ["PROMPTS"]

PROMPTS = [
    Prompt("one", "<image>Find x.", "1", images=(picture(0),)),
    Prompt("two", "In <image> and <image>, which is larger?", "1", images=(picture(1), picture(2, 64, 64))),
    Prompt("none", "What is 1 + 1?", "2"),
    Prompt("wide", "Find y.", "3", images=(picture(3, 64, 20),)),
]
