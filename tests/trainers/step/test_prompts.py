"""Prompts as values: equality, hashing, images."""

from __future__ import annotations

from PIL import Image

from dps_pyro.tasks import Prompt, PromptSet


def picture(shade: int) -> Image.Image:
    return Image.new("L", (2, 2), shade)


def test_prompts_are_equal_when_their_pictures_are() -> None:
    one, same, other = (Prompt("a", "<image>?", 1, images=(picture(shade),)) for shade in (7, 7, 8))
    assert one == same
    assert one != other
    assert one != Prompt("a", "<image>?", 1)


def test_a_prompt_is_hashable_whatever_it_holds() -> None:
    prompts = [Prompt("a", "?", [1], {"x": 1.0}, (picture(7),)), Prompt("b", "?", {"y": 2})]
    assert len({*prompts, *prompts}) == 2
    assert hash(prompts[0]) == hash(Prompt("a", "?", [1], {"x": 1.0}, (picture(7),)))
    assert PromptSet(prompts) == PromptSet(prompts)


def test_a_picture_stays_out_of_what_is_printed() -> None:
    assert "Image" not in repr(Prompt("a", "?", 1, images=(picture(7),)))
