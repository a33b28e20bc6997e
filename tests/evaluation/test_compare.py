"""Models side by side on one log, and the commands that compare and diagnose."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fits import svi
from helpers.runs.tiny import call, words

from dps_pyro import Laplace, RolloutHistory
from dps_pyro.evaluation.comparison import compare, halves
from dps_pyro.evaluation.diagnosis import diagnose
from dps_pyro.evaluation.predictive import Check
from dps_pyro.models import BetaBernoulli, LogitWalk, PaperDPS, SolvingProgress

QUICK: dict[str, Any] = {"method": Laplace(draws=40), "progress": False}


@cache
def log() -> RolloutHistory:
    """Of sixteen prompts that are clearly of three kinds, and stay so."""
    torch.manual_seed(1)
    rates = torch.tensor([0.02, 0.5, 0.98]).repeat(6)[:16].unsqueeze(-1).expand(16, 6)
    history = RolloutHistory.from_dense(torch.distributions.Binomial(8, rates).sample(), 8)
    made = RolloutHistory(16, num_steps=6, features={"kind": [["hard", "even", "easy"][i % 3] for i in range(16)]})
    for step in range(6):
        at = history.events.step == step
        made.append(history.events.prompt[at], step=step, solved=history.events.solved[at], trials=8)
    return made


MODELS = {
    "lasting": SolvingProgress(),
    "shuffled": SolvingProgress(transition=[[50, 50, 50]] * 3),  # forgets where a prompt was
}


def test_the_model_that_made_the_log_ranks_first_by_every_score() -> None:
    for score in ("loo", "held-out", "prequential"):
        best, other = compare(MODELS, log(), score=score, **QUICK)  # type: ignore[arg-type]
        assert (best.name, other.name) == ("lasting", "shuffled")
        assert best.behind.total == best.behind.standard_error == 0.0
        assert other.behind.total == pytest.approx(other.elpd.total - best.elpd.total)
        assert other.behind.total < -3 * other.behind.standard_error < 0
        groups = len(log()) if score == "loo" else 48
        assert best.per_group == pytest.approx(best.elpd.total / groups)
        assert best.seconds > 0
        assert (best.elpd.pareto_k is not None) == (score == "loo")


def test_baselines_are_filtered_beside_fitted_models() -> None:
    ranked = compare({**MODELS, "beta": BetaBernoulli(), "paper": PaperDPS()}, log(), score="prequential", **QUICK)
    assert ranked[0].name == "lasting"
    assert {one.name: one.seconds == 0 for one in ranked} == {
        "lasting": False, "shuffled": False, "beta": True, "paper": True,
    }  # fmt: skip
    assert all(torch.equal(one.elpd.rows, ranked[0].elpd.rows) for one in ranked)
    with pytest.raises(ValueError, match=r"score: expected 'prequential', .* with beta among the models, got 'loo'"):
        compare({"beta": BetaBernoulli()}, log(), **QUICK)


def test_halves_share_no_prompt_and_leave_none_out() -> None:
    one, other = halves(log(), seed=3)
    ours, theirs = (set(half.events.prompt.tolist()) for half in (one, other))
    assert not ours & theirs and ours | theirs == set(range(16)) and len(ours) == 8
    assert one.num_prompts == other.num_prompts == 16 and one.num_steps == 6
    assert set(halves(log(), seed=4)[0].events.prompt.tolist()) != ours
    alone = RolloutHistory.from_dense(torch.ones(1, 2), 4)
    with pytest.raises(ValueError, match="at least two prompts with rollouts to halve, got 1"):
        halves(alone)
    with pytest.raises(ValueError, match="models: expected at least one, got none"):
        compare({}, log())


# ------------------------------------------------------------------------------------------------------------- findings


def test_findings_say_what_is_bad_and_what_to_do() -> None:
    posterior = svi(SolvingProgress(), log(), steps=120, draws=40)
    found = diagnose(SolvingProgress(), log(), posterior)
    assert found.occupancy.shape == (6, 3)
    torch.testing.assert_close(found.occupancy.sum(-1), torch.ones(6))
    assert float(found.occupancy[:, 1].mean()) == pytest.approx(5 / 16, abs=0.05)
    first, guide, leaving, *rest = found._replace(converged=False, guide_k=1.2).findings()
    assert not first.good and "still moving" in first.what and "--steps" in first.then
    assert not guide.good and "k-hat 1.20, above" in guide.what and "nuts" in guide.then
    assert leaving.good == (len(found.loo.bad) == 0)
    assert len(rest) == len(found.checks) == 6
    assert found._replace(converged=True).findings()[0].good
    assert found._replace(guide_k=0.1).findings()[1].good
    assert found._replace(guide_k=None).findings()[1].good is None
    sampled = found._replace(about={"method": "nuts", "divergences": 7, "r_hat": 1.3}, converged=False).findings()
    assert "7 divergences, R-hat 1.3" in sampled[0].what and sampled[1].what.startswith("PSIS-LOO")
    failed = Check("changes of class", torch.zeros(1).long(), torch.ones(1).double(), torch.rand(999, 1).double() / 9)
    last = found._replace(checks=[failed]).findings()[-1]
    assert not last.good and "tail probability 0.001" in last.what and "finer states" in last.then


# ------------------------------------------------------------------------------------------------------------- commands


def test_compare_ranks_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = str(log().to_parquet(tmp_path / "history.parquet"))
    model = tmp_path / "mine.py"
    model.write_text("from dps_pyro.models import SolvingProgress\nclass Mine(SolvingProgress):\n    pass\n")
    names = ["SolvingProgress", f"{model}:Mine", "LogitWalk{rungs: 5}", "BetaBernoulli"]
    status, out, err = call(
        capsys, "compare", "--history", history, "--models", *names, "--score", "prequential", "--method", "svi",
        "--steps", "30", "--draws", "12", "--out", str(tmp_path / "compare.png"),
    )  # fmt: skip
    assert (status, err) == (0, "")
    text = words(out)
    assert "log predictive density of 8 prompts" in text
    assert "SolvingProgress" in text and "BetaBernoulli" in text
    assert "had not converged, try more --steps" in text
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    status, _, err = call(capsys, "compare", "--history", history, "--models", "PaperDPS")
    assert status == 2
    assert err.startswith("dps-pyro compare: score: expected 'prequential'")
    status, _, err = call(capsys, "compare", "--history", history, "--models", "LogitWalk{rungs: }}")
    assert status == 2 and "expected YAML" in err


def test_diagnose_shows_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = str(log().to_parquet(tmp_path / "history.parquet"))
    svi(LogitWalk(rungs=7), log(), steps=40, draws=40).save(tmp_path / "prior")
    same = ["--history", history, "--posterior", str(tmp_path / "prior"), "--model", "LogitWalk"]
    arguments = [*same, "--model-args", "{rungs: 7}", "--out", str(tmp_path / "out")]
    status, out, err = call(capsys, "diagnose", *arguments)
    assert (status, err) == (0, "")
    text = words(out)
    assert "PSIS-LOO" in text and "prequential" in text and "changes of class" in text
    assert re.search(r"(good|bad) +guide: k-hat", text)
    assert (tmp_path / "out/diagnosis.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/groups.nc").stat().st_size > 1000
    status, _, err = call(capsys, "diagnose", *[*same[:-1], "SolvingProgress"])
    assert status == 2 and err.startswith("dps-pyro diagnose: ")
