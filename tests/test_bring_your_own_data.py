"""Every command of "Bring your own data" is walked, on five records in the form that it is for."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import tyro
from helpers.engines.chat import chat_model
from helpers.runs.tiny import call
from pyarrow import parquet

from dps_pyro.cli import fit
from dps_pyro.cli.inputs import read_history
from dps_pyro.cli.train import read_settings
from dps_pyro.tasks import judge
from dps_pyro.trainers.parts import make_sampler, make_task
from dps_pyro.trainers.policy.processors import load_reader
from dps_pyro.trainers.step.groups import earnings, shown

PAGE = Path(__file__).parents[1] / "docs/guides/bring-your-own-data.md"
SUMS = [(f"What is {n} + {n}?", str(2 * n)) for n in range(11, 16)]

TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?:^|`)(dps-pyro \w+ --[^`\n]+)", TEXT, flags=re.MULTILINE)
TRAIN = [line for line in COMMANDS if line.startswith("dps-pyro train")]
FIT = [line for line in COMMANDS if line.startswith("dps-pyro fit ")]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def verl(question: str, answer: str) -> dict[str, Any]:
    return {
        "data_source": "openai/gsm8k", "prompt": user(f'{question} Output the final answer after "####".'),
        "ability": "math", "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": "train", "index": 0, "question": question, "answer": f"So. #### {answer}"},
    }  # fmt: skip


def skywork(question: str, answer: str) -> dict[str, Any]:
    solved = {"DeepSeek-R1-Distill-Qwen-1.5B": 3, "DeepSeek-R1-Distill-Qwen-7B": 1}
    return {
        "data_source": "train-math-deepscaler", "prompt": user(question), "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": json.dumps([answer])},
        "extra_info": {"index": 7, "model_difficulty": solved},
    }  # fmt: skip


DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $A"
    " (without quotes).\n\n{}\n\nRemember to put your answer on its own line."
)


def data(make: Callable[[str, str], Any]) -> list[Any]:
    return [make(question, answer) for question, answer in SUMS]


def jsonl(records: list[Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    return write


def table(records: list[Any]) -> Callable[[Path], None]:
    return lambda path: parquet.write_table(pa.Table.from_pylist(records), path)


def gsm8k(path: Path) -> None:
    path.mkdir()
    rows = data(lambda q, a: {"question": q, "answer": f"Add <<{a}={a}>>.\n#### {a}"})
    table(rows)(path / "train-00000-of-00001.parquet")
    table(rows[:1])(path / "test-00000-of-00001.parquet")


def rlvr(path: Path) -> None:
    (path / "data").mkdir(parents=True)
    rows = data(lambda q, a: {"messages": user(q), "ground_truth": a, "dataset": "gsm8k"})
    table(rows)(path / "data/train-00000-of-00001.parquet")


def excel(path: Path) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("problem", "answer", "level"), *((q, a, "2") for q, a in SUMS)])


def saved(path: Path) -> None:
    """As `datasets.save_to_disk` writes it."""
    path.mkdir()
    rows = pa.Table.from_pylist(data(lambda q, a: {"problem": q, "answer": a}))
    with pa.OSFile(str(path / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, rows.schema) as out:
        out.write_table(rows)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (path / "dataset_info.json").write_text("{}")


def dialogue(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"from": "human", "value": question}, {"from": "assistant", "ground_truth": {"value": answer}}]


def dialogues(path: Path) -> None:
    path.write_text(json.dumps(data(dialogue)))


DATA: dict[str, Callable[[Path], None]] = {
    "gsm8k/main": gsm8k,
    "math.jsonl": jsonl(data(lambda q, a: {"problem": q, "solution": f"It is $\\boxed{{{a}}}$.", "level": "Level 1"})),
    "verl/train.parquet": table(data(verl)),
    "dapo-math-17k.parquet": table(2 * data(lambda q, a: verl("", a) | {"prompt": user(DAPO.format(q))})),
    "skywork/math.parquet": table(data(skywork)),
    "orz_math_57k_collected.json": dialogues,
    "openrlhf.json": jsonl(data(lambda q, a: {"input": q, "label": a})),
    "slime.jsonl": jsonl(data(lambda q, a: {"prompt": user(q), "label": a})),
    "trl.jsonl": jsonl(data(lambda q, a: {"prompt": [{"role": "system", "content": "Add."}, *user(q)], "solution": a})),
    "RLVR-GSM": rlvr,
    "big-math.parquet": table(
        data(lambda q, a: {"problem": q, "answer": a, "domain": ["Algebra"], "llama8b_solve_rate": int(a) / 40})
    ),
    "polaris.jsonl": jsonl(data(lambda q, a: {"problem": q, "answer": a, "difficulty": f"{int(a) % 7}/8"})),
    "problems.csv": excel,
    "saved": saved,
    "own.parquet": table(data(lambda q, a: {"extra_info": {"question": q, "gold": a}})),
}
"""A file or folder of the page, and what writes it."""


def rollouts(make: Callable[[str, int, float], Any]) -> list[Any]:
    """Two groups of two rollouts and one of one, in which two rollouts are right."""
    return [make("a", 1, 1.0), make("a", 1, 0.0), make("b", 1, 0.0), make("b", 1, 0.0), make("a", 2, 1.0)]


def trace(prompt: str, step: int, reward: float) -> dict[str, Any]:
    task = {"type": "T", "data": {"prompt": prompt}, "key": prompt}
    one = {"task": task, "agent": {"trainable": True}, "ok": True, "rewards": {"right": {"score": reward}}}
    return {"id": "e", "task": task, "run": {"work": {"step": step}}, "traces": [one]}


def sample(prompt: str, step: int, reward: float) -> list[Any]:
    return [step, f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\nYes.", reward]


def trl(prompt: str, step: int, reward: float) -> dict[str, Any]:
    said = {"completion": "c", "accuracy": reward, "format": 1.0, "advantage": reward}
    return {"step": step, "prompt": user(prompt), **said}


def traced(prompt: str, step: int, reward: float) -> dict[str, Any]:
    tokens = [ord(prompt)]
    return {"step": step, "prompt_tokens": tokens, "reward": 10 * reward, "advantage": 0.0, "dataset": "gsm8k"}


def nemo(prompt: str, step: int, reward: float) -> dict[str, Any]:
    tokens = {"token_ids": [[ord(prompt), 1]], "token_loss_mask": [[0, 1]]}
    return {"content": [[prompt, "c"]], "rewards": [reward], **tokens, "idx": step}


def write_logs() -> None:
    """The logs of the page, in the current folder."""
    for folder in ("output/completions", "rollouts", "prime-run", "traces", "nemo-logs"):
        Path(folder).mkdir(parents=True)
    for step in (1, 2):
        of_step = [row for row in rollouts(trl) if row["step"] == step]
        table(of_step)(Path(f"output/completions/completions_{step:05d}.parquet"))
        rows = rollouts(lambda p, s, r: {"input": p, "output": "o", "score": r - 0.1, "acc": bool(r), "step": s})
        jsonl([row for row in rows if row["step"] == step])(Path(f"rollouts/{step}.jsonl"))
        episodes = [one for one in rollouts(trace) if one["run"]["work"]["step"] == step]
        Path(f"prime-run/rollouts/step_{step}/train/all").mkdir(parents=True)
        jsonl(episodes)(Path(f"prime-run/rollouts/step_{step}/train/all/traces.jsonl"))
        batch = [one for one in rollouts(nemo) if one["idx"] == step]
        jsonl(batch)(Path(f"nemo-logs/train_data_step{step}.jsonl"))
    jsonl(rollouts(traced))(Path("traces/run_rollouts_000000.jsonl"))
    jsonl([{"run_name": "run", "git_commit": "0"}])(Path("traces/run_metadata.jsonl"))
    samples = {"columns": ["global_step", "text", "reward"], "data": rollouts(sample)}
    Path("samples.table.json").write_text(json.dumps(samples))
    names = ("step", "prompt", "completion", "accuracy", "format")
    with Path("export.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rollouts(lambda p, s, r: (s, p, "c", r, 1.0))])
    Path("groups.csv").write_text("prompt,step,solved,trials\na,0,1,2\nb,0,0,2\na,1,1,1\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the page names, the code blocks of files among it."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, write in DATA.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            write(Path(name))
        write_logs()
        chat_model(Path("path/to/model"))
        for _, name, body in re.findall(r"```(python|yaml)\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL):
            Path(name).write_text(body, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _at_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))


def test_the_page_names_every_form_once() -> None:
    named = [argument for line in TRAIN for argument in shlex.split(line) if argument in DATA or argument[:2] == "~/"]
    assert {name.removeprefix("~/") for name in named} == DATA.keys() - {"own.parquet"}
    assert len(TRAIN) == 22 and len(FIT) == 8
    assert set(COMMANDS) - {*TRAIN, *FIT} == {"dps-pyro diagnose --history rollouts --posterior prior"}


@pytest.mark.parametrize("line", TRAIN, ids=lambda line: line.removeprefix("dps-pyro train "))
def test_every_training_command_has_five_problems(line: str) -> None:
    config = read_settings([*shlex.split(line)[2:], "--batch-size", "2"])
    reader = load_reader(str(config.task.policy))
    task = make_task(config, reader)
    train, test = task.prompts("train"), task.prompts("test")
    prompts = [*train, *test]
    assert (len(prompts), len(test) > 0) == (5, True)
    for prompt, read in zip(prompts, shown(reader, task, prompts, config), strict=True):
        text = str(read)
        assert text.endswith("<assistant>") and "<user>" in text and "'role'" not in text and "content" not in text
        question = next(question for question, _ in SUMS if question in prompt.text)
        assert question in text and ("<system>Add.<user>" in text) == ("trl" in line)
    golds = [next(answer for question, answer in SUMS if question in prompt.text) for prompt in prompts]
    if config.task.reward is None:
        right = judge(task, prompts, [f"It is \\boxed{{{gold}}}." for gold in golds])
        wrong = judge(task, prompts, [f"It is \\boxed{{{gold}1}}." for gold in golds])
        assert [reward.value for reward in right] == [1.0] * 5 and [reward.value for reward in wrong] == [0.0] * 5
    else:
        earned = earnings(task, prompts[:2], [golds[0], "no idea"])
        assert [reward.value for reward in earned] == [1.0, 0.0], earned
        task._judge.close()  # type: ignore[attr-defined]
    if "rates" in line:
        sampler = make_sampler(config, task)
        rates = sampler.history.features["llama8b_solve_rate"]
        assert rates == [float(gold) / 40 for gold in golds[: len(train)]]
        level = sampler.belief @ torch.arange(7.0, dtype=sampler.belief.dtype)
        assert torch.equal(level.argsort(), torch.tensor(rates).argsort())


@pytest.mark.parametrize("line", FIT, ids=lambda line: line.removeprefix("dps-pyro fit --history "))
def test_every_log_is_read(line: str) -> None:
    options = tyro.cli(fit.Options, args=shlex.split(line)[2:])
    said: list[str] = []
    history = read_history(options.history, options, said.append)
    events = history.events
    assert (history.num_prompts, int(events.solved.sum()), int(events.trials.sum())) == (2, 2, 5)
    assert said[0].startswith(f"{options.history}: 2 of 5 rollouts solved their prompt, and 1 of 3 groups are useful.")


def test_a_whole_run_a_fit_and_a_diagnosis(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    line = next(line for line in TRAIN if "--data verl/train.parquet" in line and "--reward" not in line)
    small = "--out runs/own --steps 1 --batch-size 2 --group-size 2 --max-new-tokens 4 --eval-samples 1 --no-report"
    status, _, errors = call(capsys, *shlex.split(f"{line} {small}")[1:])
    assert (status, errors) == (0, "")
    fitted = next(line for line in FIT if "rollouts --out" in line)
    status, shown_, errors = call(capsys, *shlex.split(f"{fitted} --steps 3 --draws 10")[1:])
    assert (status, errors) == (0, "") and "2 of 5 rollouts" in shown_
    status, shown_, errors = call(capsys, *shlex.split(COMMANDS[-1])[1:])
    assert (status, errors) == (0, "") and "LogitWalk on 3 groups" in shown_
