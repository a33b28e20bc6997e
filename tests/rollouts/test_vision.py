"""Vision-language models of stock classes, from prompts with images to log-probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engines.vision_prompts import PROMPTS
from helpers.engines.vlms import CLASSES, picture, save_checkpoint
from torch.testing import assert_close
from transformers import GenerationMixin

from dps_pyro.lm.inputs import barred_tokens, encode, stack_vision
from dps_pyro.lm.logprobs import completion_logprobs, token_logprobs
from dps_pyro.rollouts import Query, Rollouts, Sampling, concatenate
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.tasks import Prompt
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.policy.chat import query
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.policy.processors import load_reader, sees


@pytest.fixture(scope="module", params=CLASSES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    return load_policy(TrainConfig.flat(model=str(folder), device="cpu"))


@pytest.fixture(scope="module")
def rollouts(loaded: tuple[Any, Any]) -> Rollouts:
    return TransformersEngine(*loaded).generate(asked(loaded[1]), 3, Sampling(6), seed=0)


def asked(reader: Any) -> list[str | Query]:
    return [query(reader, prompt) for prompt in PROMPTS]


def test_a_checkpoint_with_eyes_is_loaded_as_one(folder: Path, loaded: tuple[Any, Any]) -> None:
    model, reader = loaded
    assert sees(str(folder))
    assert type(model).__name__.endswith("ForConditionalGeneration")
    assert isinstance(model, GenerationMixin)
    assert reader.image_token in reader.tokenizer.get_vocab()


def test_the_template_shows_each_image_in_its_place(loaded: tuple[Any, Any]) -> None:
    reader = loaded[1]
    shown = asked(reader)
    assert [query.text.count(reader.image_token) for query in shown] == [1, 2, 0, 1]
    before, between, after = shown[1].text.split(reader.image_token)
    assert "In " in before
    assert " and " in between
    assert ", which is larger?" in after
    first = shown[3].text  # without a place of its own the image comes before the words
    assert first.index(reader.image_token) < first.index("Find y.")
    assert [len(query.images) for query in shown] == [1, 2, 0, 1]


def test_image_tokens_are_expanded_in_the_prompts_ids(loaded: tuple[Any, Any], rollouts: Rollouts) -> None:
    token = loaded[0].config.image_token_id
    images = (rollouts.prompt_ids == token).sum(1).view(4, 3)
    assert (images == images[:, :1]).all()
    one, two, none, wide = images[:, 0].tolist()
    assert one >= 1
    assert two > one
    assert none == 0
    assert wide > one or wide > 1


def test_logprobs_agree_with_the_engine(loaded: tuple[Any, Any], rollouts: Rollouts) -> None:
    again = completion_logprobs(loaded[0], *rollouts[:4], vision=rollouts.vision)
    assert_close(again, rollouts.logprobs, atol=1e-4, rtol=0)
    rows = torch.tensor([10, 1, 4, 7])  # other company, other padding
    some = rollouts.select(rows)
    again = completion_logprobs(loaded[0], *some[:4], vision=some.vision)
    assert_close(again, rollouts.logprobs[rows], atol=1e-4, rtol=0)


def test_logprobs_depend_on_the_picture(loaded: tuple[Any, Any], rollouts: Rollouts) -> None:
    others = [
        row if not row else {**row, "pixel_values": row["pixel_values"].flip(-1)} for row in rollouts.vision or ()
    ]
    again = completion_logprobs(loaded[0], *rollouts[:4], vision=others)
    differs = (again - rollouts.logprobs).abs().amax(1) > 1e-3
    assert differs.view(4, 3).all(1).tolist() == [True, True, False, True]


def test_smaller_batches_and_concatenation_change_nothing(loaded: tuple[Any, Any], rollouts: Rollouts) -> None:
    model, reader = loaded
    parts = TransformersEngine(model, reader, batch_size=4).generate(asked(reader), 3, Sampling(6), seed=0)
    assert parts.texts == rollouts.texts
    both = concatenate([rollouts.select(torch.arange(3)), rollouts.select(torch.arange(3, 12))])
    again = completion_logprobs(model, *both[:4], vision=both.vision)
    assert_close(again, rollouts.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("place", [0, 1])
def test_greedy_draws_are_those_of_generate(loaded: tuple[Any, Any], place: int) -> None:
    model, reader = loaded
    text, images = asked(reader)[place]
    inputs = reader(text=[text], images=[list(images)], return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False, suppress_tokens=barred_tokens(model))
    drawn = TransformersEngine(model, reader).generate([Query(text, images)], 1, Sampling(6, temperature=0), seed=0)
    completion = drawn.completion_ids[0][drawn.completion_mask[0]].tolist()
    assert ids[0, inputs["input_ids"].shape[1] :].tolist()[: len(completion)] == completion


def test_tokens_that_stand_for_images_are_never_drawn(loaded: tuple[Any, Any]) -> None:
    model, reader = loaded
    barred = barred_tokens(model)
    assert model.config.image_token_id in barred
    with torch.no_grad():  # as likely as can be, were they not barred
        kept = model.lm_head.weight.clone()
        model.lm_head.weight[barred] *= 50
    try:
        drawn = TransformersEngine(model, reader).generate(asked(reader), 8, Sampling(6), seed=1)
        again = completion_logprobs(model, *drawn[:4], vision=drawn.vision)
    finally:
        with torch.no_grad():
            model.lm_head.weight.copy_(kept)
    assert not torch.isin(drawn.completion_ids[drawn.completion_mask], torch.tensor(barred)).any()
    assert_close(again, drawn.logprobs, atol=1e-4, rtol=0)


def test_gradient_reaches_the_eyes(loaded: tuple[Any, Any], rollouts: Rollouts) -> None:
    model = loaded[0]
    model.zero_grad()
    completion_logprobs(model, *rollouts[:4], vision=rollouts.vision).sum().backward()
    eyes = [value for name, value in model.named_parameters() if "vision" in name or "visual" in name]
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in eyes)
    model.zero_grad()


def test_a_saved_reader_loads_again(loaded: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    model, reader = loaded
    model.save_pretrained(tmp_path)
    reader.save_pretrained(tmp_path)
    again = load_reader(str(tmp_path))
    assert asked(again) == asked(reader)
    for shown in asked(reader):
        one, two = encode(reader, shown), encode(again, shown)
        assert one.ids == two.ids
        assert all(torch.equal(one.vision[name], two.vision[name]) for name in one.vision)


def test_places_and_images_are_counted(loaded: tuple[Any, Any]) -> None:
    reader = loaded[1]
    with pytest.raises(ValueError, match=r"expected one <image> an image in prompt 'a', got 2 with 1 images"):
        query(reader, Prompt("a", "<image> and <image>", 0, images=(picture(0),)))
    with pytest.raises(ValueError, match=r"got 0 with 1 images"):
        encode(reader, Query("x", (picture(0),)))
    with pytest.raises(ValueError, match=r"got 1 with 0 images"):
        encode(reader, Query(f"x {reader.image_token}"))


def test_a_system_prompt_and_raw_text(loaded: tuple[Any, Any]) -> None:
    reader = loaded[1]
    shown = query(reader, PROMPTS[0], "Be brief.")
    assert shown.text.index("Be brief.") < shown.text.index(reader.image_token)
    assert query(reader, PROMPTS[0], "Be brief.", "raw").text == f"Be brief.\n\n{reader.image_token}Find x."


def test_a_policy_of_text_has_no_use_for_images() -> None:
    reader = load_policy(TrainConfig.flat(device="cpu"))[1]
    with pytest.raises(ValueError, match="expected a vision-language model for prompts with images"):
        query(reader, PROMPTS[0])
    assert query(reader, PROMPTS[2]) == PROMPTS[2].text


def test_vision_of_several_rows_is_padded_and_joined() -> None:
    rows = [{"a": torch.ones(1, 2, 3)}, {}, {"a": torch.full((1, 1, 4), 2.0)}]
    joined = stack_vision(rows)["a"]
    assert joined.tolist() == [[[1, 1, 1, 0], [1, 1, 1, 0]], [[2, 2, 2, 2], [0, 0, 0, 0]]]
    assert stack_vision([{}, {}]) == {}


def test_barred_tokens_have_no_probability() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    tokens = torch.tensor([[0, 1, 2], [0, 0, 1]])
    values = token_logprobs(logits, tokens, barred=[3, 4])
    assert_close(values, logits[..., :3].log_softmax(-1).gather(-1, tokens[..., None])[..., 0])
    values.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[..., 3:] == 0).all()
    assert logits.grad.isfinite().all()
