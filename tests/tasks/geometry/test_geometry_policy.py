"""The embedded geometry policy: the shipped checkpoint reads its pictures, and `--task geometry` finds it."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.tiny import metrics, tiny
from PIL import Image
from pyarrow import parquet
from transformers import AutoModelForImageTextToText, Idefics3ForConditionalGeneration

from benchmarks.learning import geometry as benchmark
from dps_pyro.policies.embedded import EMBEDDED, defaults_of
from dps_pyro.rollouts import Query, Sampling
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.tasks import Geometry, judge
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.parts import make_task
from dps_pyro.trainers.policy.load import load_policy
from scripts import make_geometry_policy

FOLDER = EMBEDDED["geometry"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def policy() -> tuple[Any, Any]:
    model, processor = load_policy(TrainConfig.flat(task="geometry", device="cpu").resolved())
    return model.eval(), processor


def test_is_a_small_stock_vision_language_model_with_a_card(policy: tuple[Any, Any]) -> None:
    model, processor = policy
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert type(model) is Idefics3ForConditionalGeneration
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8_000_000
    assert not [*FOLDER.glob("*.bin"), *FOLDER.glob("*.py"), *FOLDER.glob("*.pt")]
    assert model.generation_config.max_new_tokens == defaults_of("geometry").max_new_tokens
    assert defaults_of(str(FOLDER)) == defaults_of("geometry")
    assert "make_geometry_policy" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_it_knows_its_tasks_language(policy: tuple[Any, Any]) -> None:
    tokenizer = policy[1].tokenizer
    for model in (None, str(FOLDER)):
        task = make_task(TrainConfig.flat(task="geometry", model=model), policy[1])
        assert isinstance(task, Geometry) and task.style == "compact"
        for prompt in [*task.prompts("test"), *task.prompts("train")[:64]]:
            solution = task.solution(prompt)
            ids = tokenizer(prompt.text + solution)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True).endswith(solution)
            assert len(tokenizer(solution)["input_ids"]) <= defaults_of("geometry").max_new_tokens  # <bos>, for <eos>


def test_it_reads_the_picture(policy: tuple[Any, Any]) -> None:
    """What it solves with the pictures it does not solve with white ones in their place, nor with each other's."""
    task = Geometry()
    prompts = task.prompts("test")[:64]
    engine = TransformersEngine(*policy)
    white = [Image.new("RGB", prompt.images[0].size, "white") for prompt in prompts]
    other = [prompts[(row + 1) % 64].images[0] for row in range(64)]
    accuracy = {}
    for name, pictures in (("own", [prompt.images[0] for prompt in prompts]), ("white", white), ("other", other)):
        asked = [Query(prompt.text, (image,)) for prompt, image in zip(prompts, pictures, strict=True)]
        texts = engine.generate(asked, 4, Sampling(24), seed=0).texts
        owners = [prompt for prompt in prompts for _ in range(4)]
        accuracy[name] = sum(reward.value for reward in judge(task, owners, texts)) / len(texts)
    assert 0.12 < accuracy["own"] < 0.75  # something is left to learn
    assert max(accuracy["white"], accuracy["other"]) < 0.08


def test_trains_out_of_the_box_with_a_report(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", task="geometry", report=True, batch_size=8, steps=2, log_completions=1))
    lines = metrics(tmp_path / "run")
    assert any(line.get("grad_norm") for line in lines)
    assert lines[0]["accuracy"] > 0
    html = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert len(html) > 10_000 and html.count('<img src="data:image/png;base64,') == 8  # of four prompts of two steps
    table = parquet.read_table(tmp_path / "run/completions").to_pydict()
    shown = {prompt: images[0] for prompt, images in zip(table["prompt_id"], table["images"], strict=True) if images}
    own = {prompt.id: prompt.images[0] for prompt in Geometry().prompts("train")}
    assert set(shown) == set(table["prompt_id"]) and len(shown) >= 8
    for name, image in shown.items():
        with Image.open(io.BytesIO(image)) as opened:
            assert opened.tobytes() == own[name].tobytes()  # these are small, and shown as they are
    saved = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "run/checkpoints/step-000002/policy", local_files_only=True
    )
    shipped = AutoModelForImageTextToText.from_pretrained(FOLDER, local_files_only=True)
    moved = [not torch.equal(a, b) for a, b in zip(saved.parameters(), shipped.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_the_script_makes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_geometry_policy, "Geometry", partial(Geometry, test_size=16))  # what is measured
    out = tmp_path / "policy"
    make_geometry_policy.main(["--steps", "1", "--samples", "1", "--out", str(out)])
    made, shipped = (
        AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True) for folder in (out, FOLDER)
    )
    assert made.config.to_dict() | {"_name_or_path": ""} == shipped.config.to_dict() | {"_name_or_path": ""}
    assert {file.name for file in out.iterdir()} == {file.name for file in FOLDER.iterdir()}
    assert "1 steps" in (out / "README.md").read_text(encoding="utf-8")


def test_the_page_shows_the_result_file() -> None:
    page = (ROOT / "docs" / "trainer" / "geometry.md").read_text(encoding="utf-8")
    assert benchmark.table(benchmark.read(ROOT / "benchmarks" / "results" / "geometry.json")) in page
