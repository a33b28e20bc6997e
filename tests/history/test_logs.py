"""Logs of other loops as histories. (TRL's own are read in test_trl.py, where TRL writes them.)"""

from __future__ import annotations

import importlib.util
import json
from math import nan
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import call

from dps_pyro import PromptSampler
from dps_pyro.history.foreign import read_log
from dps_pyro.history.rollouts import Rollout, history_of, prompt_id
from dps_pyro.inference.posterior import Posterior
from dps_pyro.models import SolvingProgress

COLUMNS = ["step", "prompt", "completion", "accuracy", "format", "advantage"]
ROWS = [
    [3, "2 + 2 =", "4", 1.0, 1.0, 0.7],
    [3, "2 + 2 =", 'a "quoted", long\nline', 0.0, 1.0, -0.7],
    [3, "1 + 1 =", "3", 0.0, 1.0, 0.0],
    [3, "1 + 1 =", "5", 0.0, 0.0, 0.0],
    [5, "2 + 2 =", "4", 1.0, 1.0, 0.0],
    [5, "2 + 2 =", "4", 1.0, 0.0, 0.0],
]


def check(history: Any) -> None:
    assert history.ids == [prompt_id("2 + 2 ="), prompt_id("1 + 1 =")]
    events = history.events
    assert events.prompt.tolist() == [0, 1, 0]
    assert events.step.tolist() == [0, 0, 2]  # step 4 was not logged, but it passed
    assert events.solved.tolist() == [1, 0, 2]
    assert events.trials.tolist() == [2, 2, 2]


def dump_of_verl(folder: Path) -> None:
    """As `RayPPOTrainer._dump_generations` of verl 0.5 to 0.9 writes: `rollout_data_dir/<step>.jsonl`."""
    folder.mkdir()
    for step in (3, 5):
        rows = [row for row in ROWS if row[0] == step]
        columns = {
            "input": [row[1] for row in rows], "output": [row[2] for row in rows], "gts": ["?" for _ in rows],
            "score": [row[3] for row in rows], "step": [step for _ in rows], "acc": [bool(row[3]) for row in rows],
        }  # fmt: skip
        entries = [json.dumps({k: v[i] for k, v in columns.items()}, ensure_ascii=False) for i in range(len(rows))]
        (folder / f"{step}.jsonl").write_text("\n".join(entries) + "\n", encoding="utf-8")


def test_verls_rollout_dumps(tmp_path: Path) -> None:
    dump_of_verl(tmp_path / "dump")
    check(read_log(tmp_path / "dump"))
    check(read_log(tmp_path / "dump", "verl", reward="acc"))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
@pytest.mark.filterwarnings("ignore")
def test_tables_that_wandb_keeps_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    frame = pd.DataFrame(ROWS, columns=COLUMNS)
    with wandb.init(mode="offline", dir=tmp_path, project="logs") as run:
        run.log({"completions": wandb.Table(dataframe=frame)})
    (table,) = tmp_path.rglob("*.table.json")
    check(read_log(table, reward="accuracy"))
    check(read_log(table.parent, "wandb", reward="accuracy"))
    frame.to_csv(tmp_path / "export.csv", index=False)
    check(read_log(tmp_path / "export.csv", reward="accuracy"))
    check(read_log(tmp_path / "export.csv", reward="accuracy", solved_at=0.5))


def test_our_own_history(tmp_path: Path) -> None:
    sampler = PromptSampler(SolvingProgress(), ["a", "b", "c"], seed=0)
    sampler.observe(["c", "a"], [3, 0], 8)
    history = read_log(sampler.history.to_parquet(tmp_path / "history.parquet"))
    assert history.ids == ["a", "b", "c"]
    assert history.events.solved.tolist() == [3, 0]


def test_any_other_log_by_its_rollouts() -> None:
    rollouts = [Rollout("b", 10, 0.75), Rollout("a", 12, 1.0), Rollout("b", 10, nan), Rollout("b", 13, 0.5)]
    history = history_of(rollouts, solved_at=0.75, every=2)
    assert history.ids == ["b", "a"]
    assert history.events.step.tolist() == [0, 1, 1]
    assert history.events.solved.tolist() == [1, 1, 0]
    assert history.events.trials.tolist() == [1, 1, 1]
    chosen = history_of(rollouts, solved_at=None, ids=["x", "b"])
    assert chosen.ids == ["x", "b"]
    assert chosen.events.prompt.tolist() == [1, 1]
    assert chosen.events.solved.tolist() == [0.75, 0.5]


def test_messages_are_prompts_too() -> None:
    assert prompt_id([{"role": "user", "content": "2 + 2 ="}]) == prompt_id([{"content": "2 + 2 =", "role": "user"}])
    assert len({prompt_id("a"), prompt_id("b"), prompt_id([{"role": "user", "content": "a"}])}) == 3


def test_fit_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump_of_verl(tmp_path / "dump")
    out = tmp_path / "prior"
    status, shown, errors = call(
        capsys, "fit", "--history", str(tmp_path / "dump"), "--out", str(out), "--reward", "acc", "--steps", "30"
    )
    assert (status, errors) == (0, "")
    assert "SolvingProgress on 3 groups" in shown
    PromptSampler(SolvingProgress(), 5, posterior=Posterior.load(out)).select(2)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    def refused(name: str, text: str, message: str, **settings: Any) -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_log(tmp_path / name, **settings)

    one = json.dumps(dict(zip(COLUMNS, ROWS[0], strict=True)))
    refused("a.parquet", "text", "expected a Parquet file")
    refused("a.txt", "text", "expected a Parquet file")
    refused("a.jsonl", "{", "expected JSON in line 1")
    refused("b.jsonl", "[1]", "expected records, got")
    refused("c.jsonl", "", "expected rollouts, got none")
    refused("d.jsonl", one, "expected reward= to name one of accuracy, format")
    refused("e.jsonl", one, "reward: expected one of step, prompt, .* got 'correct'", reward="correct")
    refused("f.jsonl", one, "id-column: expected one of", id_column="uid", reward="format")
    refused("g.jsonl", one, "expected columns of verl, got step, prompt", format="verl", reward="format")
    refused("h.jsonl", one, "format: expected one of auto, history", format="csv")
    refused("i.jsonl", one, "expected one Parquet file of a history", format="history")
    refused("j.jsonl", '{"step": 1, "text": "?", "score": 1}', "expected a prompt in a column prompt or input")
    refused("k.jsonl", '{"prompt": "?", "score": 1}', "expected a column step of whole numbers, got None")
    refused("l.json", "{}", "expected a table with columns and data")
    refused("m.json", "no", "m.json: expected JSON")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got a folder of none"):
        read_log(tmp_path / "empty")
