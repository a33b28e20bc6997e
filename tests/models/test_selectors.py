"""The published selectors, by hand: what each keeps, skips, forgets and is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.tiny import metrics, tiny

from dps_pyro import PromptSampler
from dps_pyro.models import GRESO, SPO, HistoryResampling, Oracle
from dps_pyro.selection.acquisition import ACQUISITIONS
from dps_pyro.storage import load_state, save_state
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.step import groups

EVERY = [HistoryResampling(), GRESO(), SPO(), Oracle()]


@pytest.mark.parametrize("model", EVERY)
def test_each_is_a_predictor_that_goes_on_where_it_was_saved(model: Predictor, tmp_path: Path) -> None:
    assert isinstance(model, Predictor)

    def made() -> PromptSampler:
        return PromptSampler(model, 12, acquisition="thompson", seed=1, dtype=torch.float64)

    one = made()
    for _ in range(6):
        rows = one.select(4)
        one.observe(rows, rows % 9, 8)
    (tmp_path / "state").mkdir()
    save_state(tmp_path / "state", one.state_dict())
    other = made()
    other.load_state_dict(load_state(tmp_path / "state"))
    for _ in range(3):
        rows = one.select(4)
        assert torch.equal(rows, other.select(4))
        for each in (one, other):
            each.observe(rows, rows % 9, 8)
        torch.testing.assert_close(one.belief, other.belief)
        torch.testing.assert_close(one.belief.sum(-1), torch.ones(12, dtype=torch.float64))
    one.observe([0], [1], 8, step=2)  # late: it counts when it comes
    assert one.metrics()["rollouts"] == 8 * (4 * 9 + 1)
    one.add(2)
    assert len(one.informative(8)) == 14
    assert ((one.informative(8) >= 0) & (one.informative(8) <= 1)).all()


@pytest.mark.parametrize("model", EVERY)
def test_nothing_is_fitted(model: Predictor) -> None:
    with pytest.raises(ValueError, match="expected none"):
        model.tracker(2, values={"rate": torch.ones(1)})


def test_history_resampling_drops_what_was_all_right_at_the_end_of_an_epoch() -> None:
    sampler = PromptSampler(HistoryResampling(), 6, acquisition="top", trials=4)
    solved = torch.tensor([4, 4, 0, 0, 2, 3])  # of 4: two are mastered
    seen = []
    for _ in range(3):
        rows = sampler.select(2)
        seen += rows.tolist()
        sampler.observe(rows, solved[rows], 4)
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]  # an epoch sees each prompt once
    assert sampler.informative(4).tolist() == [0, 0, 1, 1, 1, 1]
    seen = []
    for _ in range(2):
        rows = sampler.select(2)
        seen += rows.tolist()
        sampler.observe(rows, torch.full((2,), 4), 4)
    assert sorted(seen) == [2, 3, 4, 5]
    assert sampler.informative(4).tolist() == [1] * 6  # all are mastered: all are back


def test_greso_skips_by_the_run_of_useless_groups() -> None:
    model = GRESO(start=(0.5, 0.25), delta=0.125)
    sampler = PromptSampler(model, 3, trials=4, dtype=torch.float64)
    sampler.observe([0, 1, 2], [4, 0, 2], 4)
    # A third was all right and a third all wrong, above both targets: the chances fell by delta.
    assert sampler.informative(4).tolist() == pytest.approx([0.375, 0.125, 1])
    sampler.observe([0, 1, 2], [4, 4, 0], 4)  # two thirds, one third
    easy, hard = 0.25, 0.01
    assert sampler.informative(4).tolist() == pytest.approx([easy**2, easy**2, hard])
    sampler.observe([0, 1, 2], [1, 2, 3], 4)  # none: they rise, and every run ends
    assert sampler.informative(4).tolist() == [1, 1, 1]
    sampler.observe([0], [0], 4)
    assert sampler.informative(4)[0].item() == pytest.approx(0.01 + 0.125 - 0.125, abs=1e-9)


def test_greso_accepts_each_prompt_with_its_chance_in_random_order() -> None:
    """What `thompson` does with its chances, against a plain loop over a shuffled set."""
    chance = torch.tensor([1.0, 0.5, 0.25, 0.05])
    sampler = PromptSampler(GRESO(), 4, acquisition="thompson", seed=0)
    sampler.tracker.informative = lambda _: chance  # type: ignore[method-assign]
    counts = torch.zeros(4).index_add(0, torch.cat([sampler.select(1) for _ in range(4000)]), torch.ones(4000))
    generator, plain = torch.Generator().manual_seed(1), torch.zeros(4)
    for _ in range(4000):
        while True:
            order = torch.randperm(4, generator=generator)
            accepted = order[torch.rand(4, generator=generator) < chance[order]]
            if len(accepted):
                plain[accepted[0]] += 1
                break
    torch.testing.assert_close(counts / 4000, plain / 4000, atol=0.03, rtol=0)


def test_spo_forgets_by_how_far_the_policy_has_moved() -> None:
    model = SPO(drift=0.03, half=0.06, keep=(0.1, 0.96))
    sampler = PromptSampler(model, 2, dtype=torch.float64)
    value = lambda: sampler.tracker.rates().sequence(1, 0).tolist()  # noqa: E731
    assert value() == [0.5, 0.5]
    sampler.observe([0], [1], 1)
    first = (0.96 * 0.5 + 1, 0.96 * 0.5)  # a first rollout finds nothing moved, and keeps the most
    assert value() == pytest.approx([first[0] / sum(first), 0.5])
    sampler.observe([1], [0], 1)  # prompt 0 is two steps old at the next
    sampler.observe([0], [0], 1)
    kept = 2 ** (-0.03 * 2 / 0.06)
    second = (kept * first[0], kept * first[1] + 1)
    assert value()[0] == pytest.approx(second[0] / sum(second))


def test_spos_priority() -> None:
    """Drawn with weights sqrt(v (1 - v)) + 0.05."""
    sampler = PromptSampler(Oracle(prior=(1e-6, 1e-6)), 3, acquisition="priority", seed=2)
    sampler.tracker.tell(torch.arange(3), torch.tensor([50, 10, 0]), torch.tensor([100, 100, 100]))  # type: ignore[attr-defined]
    counts = torch.zeros(3).index_add(0, torch.cat([sampler.select(1) for _ in range(6000)]), torch.ones(6000))
    weights = torch.tensor([0.55, 0.35, 0.05])
    torch.testing.assert_close(counts / 6000, weights / weights.sum(), atol=0.02, rtol=0)
    assert ACQUISITIONS["priority"] is not ACQUISITIONS["soft"]


def test_the_oracle_is_told_and_learns_nothing_else() -> None:
    sampler = PromptSampler(Oracle(), 3, trials=4, dtype=torch.float64)
    tracker: Any = sampler.tracker
    tracker.tell(torch.arange(3), torch.tensor([0, 32, 64]), torch.tensor([64, 64, 64]))
    before = sampler.informative(4)
    assert before[0] < 0.05 and before[1] > 0.8 and before[2] < 0.05
    sampler.observe([0, 2], [2, 2], 4)
    assert torch.equal(sampler.informative(4), before)
    tracker.tell(torch.tensor([0]), torch.tensor([32]), torch.tensor([64]))
    assert sampler.informative(4)[0] == before[1]


def test_what_is_out_of_range_is_refused() -> None:
    for wrong in (
        lambda: GRESO(start=(0.0, 0.5)),
        lambda: GRESO(delta=1.0),
        lambda: SPO(keep=(0.9, 0.8)),
        lambda: SPO(half=0.0),
        lambda: Oracle(prior=(0.0, 1.0)),
        lambda: HistoryResampling(trials=0),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()


@pytest.mark.parametrize(
    "settings",
    [
        {"dynamics": "HistoryResampling", "acquisition": "top"},
        {"dynamics": "GRESO", "acquisition": "thompson", "dynamic_sampling": 0},
        {
            "dynamics": "SPO",
            "acquisition": "priority",
            "group_size": 1,
            "baseline": "belief",
            "baseline_scale": "batch",
        },
        {"dynamics": "Oracle", "oracle_rollouts": 3},
        {"dynamics": "BetaBernoulli", "acquisition": "target"},
        {"dynamics": "LogitWalk", "acquisition": "covering", "worth": "signal", "loss": "rloo", "retire": 0.9},
        {"dynamics": "Trained", "acquisition": "thompson", "worth": "progress"},
    ],
)
def test_each_trains(settings: dict[str, Any], tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", steps=2, **settings))
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    size = settings.get("group_size", 4)
    if settings.get("dynamic_sampling") == 0:
        assert lines[-1]["rollouts"] % (4 * size) == 0
    else:
        assert lines[-1]["rollouts"] == 2 * 4 * size  # an oracle's own rollouts count nowhere


def test_an_oracle_needs_telling() -> None:
    with pytest.raises(ValueError, match="oracle_rollouts"):
        tiny(Path(), dynamics="Oracle")
    with pytest.raises(ValueError, match="oracle_rollouts"):
        tiny(Path(), oracle_rollouts=4)


def test_an_oracle_is_told_every_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    ask = groups.told

    def noted(*arguments: Any) -> Any:
        told.append(arguments[-1])
        return ask(*arguments)

    monkeypatch.setattr("dps_pyro.trainers.grpo.told", noted)
    train(tiny(tmp_path / "run", steps=5, dynamics="Oracle", oracle_rollouts=2, oracle_every=2))
    assert told == [0, 2, 4]
