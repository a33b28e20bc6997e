"""Logs of other loops as histories. (TRL's own are read in test_trl.py, where TRL writes them.)"""

from __future__ import annotations

import importlib.util
import json
from math import nan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runs.tiny import call

from dps_pyro import PromptSampler
from dps_pyro.cli.inputs import contents
from dps_pyro.history.foreign import read_log
from dps_pyro.history.log import RolloutHistory
from dps_pyro.history.rollouts import Rollout, history_of, prompt_id
from dps_pyro.inference.posterior import Posterior
from dps_pyro.models import LogitWalk, SolvingProgress

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


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def told(history: Any) -> list[tuple[int, int, int, bool]]:
    events = history.events
    columns = (events.step, events.solved.long(), events.trials, events.useful)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_score_that_is_punished_for_its_length_is_not_what_was_solved(tmp_path: Path) -> None:
    """verl's DAPO: right answers that are too long have a score below 1, and `acc` says that they are right."""
    rows = [
        {"input": "q", "output": "o", "score": score, "step": 1, "acc": acc}
        for score, acc in ((1.0, True), (0.3, True), (-1.0, False), (-0.5, True))
    ]
    path = lines(tmp_path / "1.jsonl", rows)
    assert told(read_log(path)) == [(0, 3, 4, True)]
    assert told(read_log(path, reward="score")) == [(0, 1, 4, True)]
    with pytest.raises(ValueError, match=r"none of 3 rollouts has a reward of 1 or more, and they go from -1 to 0\.3"):
        read_log(lines(tmp_path / "2.jsonl", rows[1:]), reward="score")
    with pytest.raises(ValueError, match="every one of 4 rollouts has a reward of -2 or more"):
        read_log(path, reward="score", solved_at=-2)


def test_prime_rls_episodes(tmp_path: Path) -> None:
    def episode(key: str, score: float, *, ok: bool = True, trainable: bool = True) -> dict[str, Any]:
        trace = {
            "task": {"type": "T", "data": {"prompt": key}, "key": key}, "agent": {"trainable": trainable}, "ok": ok,
            "rewards": {"right": {"score": score, "weight": 1.0}, "style": {"score": 0.5, "weight": 0.0}},
        }  # fmt: skip
        work = {"type": "train", "step": 4}
        return {"id": "e", "env": {"id": "gsm8k"}, "run": {"type": "train", "id": "r", "work": work}, "traces": [trace]}

    episodes = [episode("a", 1.0), episode("a", 0.0), episode("b", 0.0), episode("b", 1.0, ok=False)]
    episodes += [{**episode("a", 1.0), "traces": []}, episode("b", 1.0, trainable=False)]
    lines(tmp_path / "run/rollouts/step_4/train/all/traces.jsonl", episodes)
    lines(tmp_path / "run/rollouts/step_4/train/effective/traces.jsonl", episodes[:2])
    history = read_log(tmp_path / "run")
    assert history.ids == ["gsm8k/a", "gsm8k/b"]
    assert told(history) == [(0, 1, 2, True), (0, 0, 1, False)]


def test_prime_rls_single_traces(tmp_path: Path) -> None:
    """Versions of prime-rl before episodes wrote one trace per line. What was not scored in full does not count."""

    def trace(key: str, score: float | None) -> dict[str, Any]:
        rewards = {"right": None if score is None else {"score": score}, "style": {"score": 1.0, "weight": 0.0}}
        task = {"type": "T", "data": {"prompt": key}, "hash": key}
        return {"id": "t", "task": task, "nodes": [], "rewards": rewards, "info": {"env_name": "gsm8k"}}

    rows = [trace("a", 1.0), trace("a", 0.0), trace("a", None), trace("b", 1.0)]
    lines(tmp_path / "run/rollouts/step_7/train/all/traces.jsonl", rows)
    history = read_log(tmp_path / "run")
    assert history.ids == ["gsm8k/a", "gsm8k/b"]
    assert told(history) == [(0, 1, 2, True), (0, 1, 1, False)]


def test_open_instructs_traces(tmp_path: Path) -> None:
    def record(step: int, tokens: list[int], reward: float) -> dict[str, Any]:
        return {
            "step": step, "sample_idx": 0, "prompt_idx": 0, "prompt_tokens": tokens, "response_tokens": [1],
            "reward": reward, "advantage": 0.0, "finish_reason": "stop", "dataset": "gsm8k", "ground_truth": [7],
        }  # fmt: skip

    rows = [record(1, [5, 6], 10.0), record(1, [5, 6], 0.0), record(2, [7], 0.0), record(2, [7], 0.0)]
    lines(tmp_path / "r_rollouts_000000.jsonl", rows)
    lines(tmp_path / "r_metadata.jsonl", [{"run_name": "r", "git_commit": "0", "model_name": "m", "timestamp": "t"}])
    assert told(read_log(tmp_path, "open-instruct")) == [(0, 1, 2, True), (1, 0, 2, False)]


def test_nemo_rls_batches(tmp_path: Path) -> None:
    def record(tokens: list[int], reward: float) -> dict[str, Any]:
        return {
            "content": [["the question", "the answer"]], "rewards": [reward], "input_lengths": [4],
            "token_ids": [[*tokens, 9, 9]], "token_loss_mask": [[*[0] * len(tokens), 1, 1]], "idx": 0,
        }  # fmt: skip

    lines(tmp_path / "train_data_step1.jsonl", [record([1, 2], 1.0), record([1, 2], 0.0), record([3], 0.0)])
    lines(tmp_path / "train_data_step2.jsonl", [record([3], 1.0)])
    lines(tmp_path / "val_data_step1.jsonl", [{"content": [[{"role": "user"}]], "rewards": [0.0], "idx": 0}])
    assert told(read_log(tmp_path)) == [(0, 1, 2, True), (0, 0, 1, False), (1, 1, 1, False)]
    older = [
        {"content": [["q", "a"]], "rewards": [1.0], "idx": 0},
        {"content": [["q", "b"]], "rewards": [0.0], "idx": 1},
    ]
    assert told(read_log(lines(tmp_path / "older/train_data_step1.jsonl", older))) == [(0, 1, 2, True)]
    with pytest.raises(ValueError, match="to tell the prompt from the completion, got neither"):
        read_log(lines(tmp_path / "bad/train_data_step1.jsonl", [{"content": ["q a"], "rewards": [1.0]}]))


def test_openrlhfs_samples(tmp_path: Path) -> None:
    def text(question: str, said: str) -> str:
        return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{said}"

    rows = [[1, text("q", "a"), 1.0], [2, text("q", "b"), 0.0], [3, text("r", "c"), 0.0]]
    path = tmp_path / "samples.table.json"
    path.write_text(json.dumps({"columns": ["global_step", "text", "reward"], "data": rows}))
    history = read_log(path)
    assert (history.num_prompts, told(history)) == (2, [(0, 1, 1, False), (1, 0, 1, False), (2, 0, 1, False)])
    together = [[1, text("q", "a"), 1.0], [1, text("r", "c"), 0.0], [1, text("q", "b"), 0.0]]  # of one step
    path.write_text(json.dumps({"columns": ["global_step", "text", "reward"], "data": together}))
    assert told(read_log(path)) == [(0, 1, 2, True), (0, 0, 1, False)]
    path.write_text(json.dumps({"columns": ["global_step", "text", "reward"], "data": [[1, "no template", 1.0]]}))
    with pytest.raises(ValueError, match="expected texts in which a chat template marks where the answer begins"):
        read_log(path)


def test_a_first_row_with_gaps_and_excels_mark(tmp_path: Path) -> None:
    rows = [{"step": 0, "prompt": "a", "completion": "x", "solving": None}]
    rows += [{"step": 0, "prompt": "a", "completion": "x", "solving": value} for value in (1.0, 0.0)]
    assert told(read_log(lines(tmp_path / "a.jsonl", rows))) == [(0, 1, 2, True)]
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfstep,prompt,right\r\n0,a,TRUE\r\n0,a,FALSE\r\n")
    assert told(read_log(tmp_path / "b.csv")) == [(0, 1, 2, True)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_groups_that_were_counted_by_string_id(ending: str, tmp_path: Path) -> None:
    rows = [("b", 0, 3), ("a", 0, 8), ("b", 2, 0)]
    records = [{"prompt": name, "step": step, "solved": solved, "trials": 8} for name, step, solved in rows]
    path = tmp_path / f"log.{ending}"
    if ending == "jsonl":
        lines(path, records)
    elif ending == "csv":
        path.write_text("prompt,step,solved,trials\n" + "".join(f"{a},{s},{n},8\n" for a, s, n in rows))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    history = read_log(path)
    assert history.ids == ["b", "a"]
    assert told(history) == [(0, 3, 8, True), (0, 8, 8, False), (2, 0, 8, False)]


def test_partial_rewards_are_useful_where_they_differ_not_by_their_sum() -> None:
    def group(prompt: str, *rewards: float) -> list[Rollout]:
        return [Rollout(prompt, 0, reward) for reward in rewards]

    rollouts = group("same", 0.5, 0.5) + group("differ", 0.25, 0.75) + group("right", 1.0, 1.0)
    assert history_of(rollouts, solved_at=None).events.useful.tolist() == [False, True, False]


def test_what_a_log_holds_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def history(*solved: int) -> Any:
        made = RolloutHistory(len(solved))
        made.append(list(range(len(solved))), step=0, solved=list(solved), trials=4)
        return made

    assert contents(history(0, 4, 1)) == "5 of 12 rollouts solved their prompt, and 1 of 3 groups are useful."
    assert "No rollout counts as solved: is --solved-at" in contents(history(0, 0))
    assert "Every rollout counts as solved" in contents(history(4, 4))
    assert "No group is useful" in contents(history(0, 4))


def test_diagnose_takes_the_model_from_the_posterior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, prior = tmp_path / "log.parquet", tmp_path / "prior"
    made = RolloutHistory(12, features={"kind": ["a", "b"] * 6})
    for step in range(4):
        made.append(list(range(12)), step=step, solved=[(row + step) % 5 for row in range(12)], trials=4)
    made.to_parquet(log)
    fitted = ("fit", "--history", str(log), "--out", str(prior), "--steps", "5", "--draws", "20")
    status, shown, _ = call(capsys, *fitted, "--model", "LogitWalk", "--model-args", "{groups: kind}")
    assert status == 0 and "96 of 192 rollouts solved their prompt, and 30 of 48 groups are useful" in shown
    status, shown, errors = call(capsys, "diagnose", "--history", str(log), "--posterior", str(prior))
    assert (status, errors) == (0, "") and "LogitWalk on 48 groups" in shown


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
    assert "LogitWalk on 3 groups" in shown
    PromptSampler(LogitWalk(), 5, posterior=Posterior.load(out)).select(2)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    def refused(name: str, text: str, message: str, **settings: Any) -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_log(tmp_path / name, **settings)

    one = json.dumps(dict(zip(COLUMNS, ROWS[0], strict=True)))
    refused("a.parquet", "text", "expected a Parquet file")
    refused("a.txt", "text", "expected a Parquet file")
    refused("a.jsonl", "{", "expected JSON on every line, got .* on line 1")
    refused("b.jsonl", "[1]", "expected records, as .* got")
    refused("c.jsonl", "", "expected rollouts, got none")
    refused("d.jsonl", one, "expected --reward to name one of accuracy, format")
    refused("e.jsonl", one, "reward: expected one of step, prompt, .* got 'correct'", reward="correct")
    refused("f.jsonl", one, "id-column: expected one of", id_column="uid", reward="format")
    refused("g.jsonl", one, "expected columns of verl, got step, prompt", format="verl", reward="format")
    refused("h.jsonl", one, "format: expected one of auto, history", format="csv")
    refused("i.jsonl", one, "expected solved in every record", format="history")
    refused("j.jsonl", '{"step": 1, "text": "?", "score": 1}', "expected a prompt in a column prompt or input")
    refused("k.jsonl", '{"prompt": "?", "score": 1}', "expected a column step of whole numbers, got None")
    refused("l.json", '{"a": [1]}', "expected a list of records, a table with columns and data, or a record per line")
    refused("m.json", "no", "m.json: expected JSON")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got a folder of none"):
        read_log(tmp_path / "empty")
