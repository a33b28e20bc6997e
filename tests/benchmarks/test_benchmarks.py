"""The docs' numbers are the result files', and the sampler is as fast as promised."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from benchmarks import pairs
from benchmarks.cost import sampler, trainer
from benchmarks.docs import evidence
from benchmarks.inference import fit
from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress


def test_the_pages_of_evidence_show_their_result_files() -> None:
    pages = [path.read_text(encoding="utf-8") for path in evidence.pages_with_tables()]
    assert sum(page.count("<!-- table: ") for page in pages) >= 12
    for page in pages:
        assert evidence.render(page) == page, "python -m benchmarks.docs.evidence writes it again"
    assert all((evidence.IMAGES / f"{name}.png").is_file() for name in ("selectors", "demo", "replay", "smollm2"))


def test_the_reported_comparison_has_five_seeds_and_no_tuning_on_them() -> None:
    result = evidence._read("selectors")
    assert len(result["seeds"]) >= 5
    assert all(len(arm["accuracy"]) == len(result["seeds"]) for arm in result["arms"].values())


def test_the_judged_pairs_are_judged_as_people_do_and_what_is_left_has_its_reason() -> None:
    result = evidence._read("pairs")
    assert result["judged_right"] >= 0.97 * result["pairs"] >= 0.97 * 200
    assert result["wrong_paid"] <= 0.01 * result["wrong"]
    assert len(result["left"]) == result["pairs"] - result["judged_right"]
    left = {"gold": "a|b", "completion": "\\boxed{\n2}", "right": True, "reason": "wrong value"}
    shown = pairs.table({**result, "judged_right": 236, "left": [left]})
    assert "| a\\|b | \\boxed{⏎2} | yes | wrong value |" in shown
    assert "236 of 237 pairs are judged right (99.6%)" in shown


def test_pairs_are_counted_by_verdict() -> None:
    asked = [
        {"gold": "2", "completion": "\\boxed{2}", "right": True},
        {"gold": "2", "completion": "\\boxed{3}", "right": False},
        {"gold": "2", "completion": "\\boxed{2}", "right": False},
    ]
    found = pairs.measure(asked)
    assert (found["pairs"], found["judged_right"], found["wrong"], found["wrong_paid"]) == (3, 2, 2, 1)
    assert found["reasons"] == {"right": {"correct": 1}, "wrong": {"wrong value": 1, "correct": 1}}
    assert found["left"] == [{**asked[2], "reason": "correct"}]


def test_the_trainer_is_as_fast_as_promised() -> None:
    result = evidence._read("trainer")
    assert set(result) >= set(trainer.PARTS)
    assert trainer.misses(result) == []
    assert all(len(row["seconds"]["ours"]) >= 3 for row in result["update"].values())
    assert result["memory"]["update, ours"]["most"] < result["memory"]["update, TRL"]["most"]


def test_fits_are_as_fast_as_promised() -> None:
    result = evidence._read("fit")
    assert all(row["seconds"] < fit.SECONDS and row["stopped"] == "flat" for row in result["fit"].values())
    assert all(row["ratio"] >= fit.RATIO for rows in result["step"].values() for row in rows)
    assert max(map(abs, result["pooled"]["em"]["log_likelihoods_apart"].values())) < 1e-3


def test_a_language_model_learned_under_every_seed_and_the_engine_stayed_in_step() -> None:
    result = evidence._read("smollm2")
    assert len(result["seeds"]) >= 5
    for arm in result["arms"].values():
        assert len(arm["reward"]) == len(result["seeds"])
        pairs = zip(arm["accuracy_before"]["values"], arm["accuracy_after"]["values"], strict=True)
        assert all(after > before + 0.2 for before, after in pairs)
        assert max(arm["engine_kl"]["values"]) < 1e-6
        assert max(arm["selection"]["values"]) < 0.01


def test_a_step_over_a_million_prompts_is_within_its_target() -> None:
    prompts = PromptSampler(SolvingProgress(), 1_000_000, seed=0)

    def step() -> float:
        start = time.process_time()
        rows = prompts.select(256)
        prompts.observe(rows, torch.full((256,), 3), 8)
        return 1000 * (time.process_time() - start)

    assert any(step() < sampler.TARGET_MS for _ in range(6))


def test_the_pictures_of_the_docs_are_there() -> None:
    images = Path(__file__).parents[2] / "docs" / "images"
    assert {image.name for image in images.glob("*.png")} >= {"demo.png", "selectors.png", "replay.png", "smollm2.png"}
