"""Rendered geometry and Geometry3k: problems, pictures, splits, rewards, and a training step on a real model class."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from helpers.engines.vlms import CLASSES, picture, save_checkpoint
from helpers.problems.geometry3k import GEOMETRY3K
from PIL import Image
from pyarrow import parquet

from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.tasks import Geometry, Task, by_name
from dps_pyro.tasks.geometry.bitmap import SIZE, draw
from dps_pyro.tasks.geometry.diagrams import KINDS, LEVELS, random_problem
from dps_pyro.tasks.geometry.task import side_of
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.step.bookkeeping import Clock
from dps_pyro.trainers.step.groups import Source, rewarded
from dps_pyro.trainers.step.policy_update import update


@pytest.fixture(scope="module")
def task() -> Geometry:
    return Geometry()


def test_it_is_a_task_with_both_splits(task: Geometry) -> None:
    assert isinstance(task, Task)
    assert (len(task.prompts("train")), len(task.prompts("test"))) == (1024, 256)
    with pytest.raises(ValueError, match="expected split 'train' or 'test'"):
        task.prompts("validation")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", LEVELS)
def test_workings_add_up_and_marks_are_in_the_picture(kind: str, level: int) -> None:
    rng = random.Random(f"{kind}{level}")
    for _ in range(50):
        problem = random_problem(rng, kind, level)
        assert problem.answer > 0
        for step in problem.working.split(","):
            left, result = step.split("=")
            if left == "x":
                continue
            value, *rest = re.findall(r"[-+*/]?\d+", left)
            total = int(value)
            for operand in rest:
                number = int(operand[1:])
                if operand[0] == "/":
                    assert total % number == 0
                total = {"+": total + number, "-": total - number, "*": total * number, "/": total // number}[
                    operand[0]
                ]
            assert total == int(result)
        assert problem.working.endswith(f"={problem.answer}")
        shown = sorted(text for text, _ in problem.figure.labels if text != "x")
        assert shown == sorted(map(str, problem.marks))
        assert not re.search(r"\d", problem.question)
        cells = [(x + 8 * i, y) for text, (x, y) in problem.figure.labels for i in range(len(text))]
        assert len(set(cells)) == len(cells), "no label covers another"
        assert all(0 <= x <= SIZE - 8 and 0 <= y <= SIZE - 8 and x % 8 == y % 8 == 0 for x, y in cells)


def test_no_test_problem_is_a_training_problem_drawn_another_way(task: Geometry) -> None:
    sides = {}
    for split in ("train", "test"):
        ids = task.prompts(split).ids
        sides[split] = {(i.split(":")[1], tuple(sorted(i.split(":")[2].split(",")))) for i in ids}
    assert not sides["train"] & sides["test"]
    problem = random_problem(random.Random(0), "triangle/sum", 3)
    assert side_of(problem) == side_of(problem._replace(marks=problem.marks[::-1], layout=(0, 0, 0)))


def test_the_same_problems_everywhere_under_a_seed(task: Geometry) -> None:
    ids = "\n".join((*task.prompts("train").ids, *task.prompts("test").ids))
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == "0903f1b8080317f8"
    assert Geometry(seed=1, train_size=8, test_size=8).prompts("train") != Geometry(train_size=8, test_size=8).prompts(
        "train"
    )
    assert Geometry(train_size=8).prompts("test") == task.prompts("test")


def test_pictures_differ_as_their_problems_do() -> None:
    rng = random.Random(3)
    problems = [random_problem(rng, kind, 3) for kind in KINDS for _ in range(5)]
    pictures = {draw(problem.figure).tobytes() for problem in problems}
    assert len(pictures) == len({(problem.kind, problem.marks, problem.layout) for problem in problems})
    assert draw(problems[0].figure).size == (SIZE, SIZE)


def test_rewards_of_the_compact_style(task: Geometry) -> None:
    prompt = task.prompts("test")[0]
    assert task.reward(prompt, task.solution(prompt)) == (1.0, "correct")
    assert task.reward(prompt, str(prompt.answer)).value == 1
    assert task.reward(prompt, str(int(prompt.answer) + 1)) == (0.0, "wrong value")
    assert task.reward(prompt, "") == (0.0, "empty")
    assert task.reward(prompt, "5=") == (0.0, "empty")
    for hostile in ("x", "1/0", "9" * 1_000_000, "\u0664\u0665", "=" * 1000 + "-1", "\x00"):
        assert task.reward(prompt, hostile).reason in {"not a number", "wrong value"}


def test_rewards_of_the_instruct_style() -> None:
    task = Geometry(train_size=4, test_size=1, style="instruct")
    prompt = task.prompts("train")[0]
    assert "\\boxed{}" in prompt.text
    assert task.reward(prompt, f"So \\boxed{{{prompt.answer}}}").value == 1
    assert task.reward(prompt, "So \\boxed{1000}").value == 0


@pytest.mark.parametrize("arguments", [{"kinds": ["cube"]}, {"levels": [4]}, {"train_size": -1}, {"style": "song"}])
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Geometry(**arguments)


def test_too_few_problems_are_said_to_be_too_few() -> None:
    with pytest.raises(ValueError, match="enough distinct problems"):
        Geometry(kinds=["triangle/isosceles"], levels=[1], train_size=500)


def records(folder: Path) -> Path:
    """Problems in Geometry3k's format: JSONL, and PNG beside it."""
    lines = []
    for place, (problem, answer) in enumerate(
        [("<image>Find $x$.", "5\\sqrt{3}"), ("<image>Find y.", "22"), ("Find z. <image>", "9")]
    ):
        picture(place, 50, 40).save(folder / f"{place}.png")
        lines.append(json.dumps({"id": str(place), "images": [f"{place}.png"], "problem": problem, "answer": answer}))
    (folder / "sample.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "sample.jsonl"


def test_records_with_pictures_in_files_bytes_and_memory(tmp_path: Path) -> None:
    task = Geometry.geometry3k(records(tmp_path))
    assert (len(task.prompts("train")), len(task.prompts("test"))) == (2, 1)
    kept = {prompt.id for split in ("train", "test") for prompt in task.prompts(split)}
    listed = [json.loads(line) for line in (tmp_path / "sample.jsonl").read_text().splitlines()]
    for record in listed:
        record["images"] = [{"bytes": (tmp_path / record["images"][0]).read_bytes()}]
    other = Geometry.from_records(listed, listed[:1])
    assert {prompt.id for split in ("train", "test") for prompt in other.prompts(split)} == kept
    assert not {*other.prompts("train").ids} & {*other.prompts("test").ids}
    with pytest.raises(ValueError, match="expected an image"):
        Geometry.from_records([{**listed[0], "images": [{"bytes": b"no"}]}], [])
    with pytest.raises(ValueError, match="got answer"):
        Geometry.from_records([{**listed[0], "answer": None}], [])


def published(folder: Path) -> list[dict[str, Any]]:
    """The records of `records` with their images as Parquet has them: bytes, and the name they had."""
    listed = [json.loads(line) for line in records(folder).read_text().splitlines()]
    return [
        {"images": [{"bytes": (folder / record["images"][0]).read_bytes(), "path": None}], "problem": record["problem"],
         "answer": record["answer"]}
        for record in listed
    ]  # fmt: skip


def shown(task: Geometry, split: str) -> list[tuple[str, str, bytes]]:
    """What the prompts of a split ask, what they want, and their picture."""
    return [(p.text.split("\n")[0], p.answer, p.images[0].tobytes()) for p in task.prompts(split)]


def test_parquet_as_published_in_one_file_and_in_a_folder_of_splits(tmp_path: Path) -> None:
    rows = published(tmp_path)
    wanted = [(row["problem"], row["answer"], picture(place, 50, 40).tobytes()) for place, row in enumerate(rows)]
    (tmp_path / "hub" / "data").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), tmp_path / "hub/data/train-00000-of-00002.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows[1:2]), tmp_path / "hub/data/train-00001-of-00002.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows[2:]), tmp_path / "hub/data/test-00000-of-00001.parquet")
    task = Geometry.geometry3k(tmp_path / "hub")
    assert shown(task, "train") == wanted[:2] and shown(task, "test") == wanted[2:]

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "all.parquet")
    one = Geometry.geometry3k(tmp_path / "all.parquet", test_share=0.34)
    assert sorted(shown(one, "train") + shown(one, "test")) == sorted(wanted) and len(one.prompts("test")) == 1
    assert one.prompts("test").ids == Geometry.geometry3k(tmp_path / "all.parquet", test_share=0.34).prompts("test").ids
    named = by_name.make("geometry", {"preset": "geometry3k", "source": str(tmp_path / "hub")})
    assert named.prompts("train").ids == task.prompts("train").ids


def test_parquet_as_datasets_writes_and_reads_it(tmp_path: Path) -> None:
    """The hub's own columns: a list of images, which `datasets` decodes to PIL images."""
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "images": [picture(place, 50, 40)]} for place, row in enumerate(published(tmp_path))]
    kinds = {"images": datasets.Sequence(datasets.Image()), "problem": datasets.Value("string")}
    made = datasets.Dataset.from_list(rows, features=datasets.Features(kinds | {"answer": datasets.Value("string")}))
    (tmp_path / "hub").mkdir()
    made.to_parquet(tmp_path / "hub" / "train.parquet")
    made.select([2]).to_parquet(tmp_path / "hub" / "test.parquet")
    files, decoded = Geometry.geometry3k(tmp_path / "hub"), Geometry.from_records(list(made), list(made.select([2])))
    for split in ("train", "test"):
        assert shown(files, split) == shown(decoded, split)
        assert files.prompts(split).ids == decoded.prompts(split).ids
    assert (len(files.prompts("train")), len(files.prompts("test"))) == (2, 1)


def test_a_folder_of_json_lines_with_pictures_beside_them(tmp_path: Path) -> None:
    lines = records(tmp_path).read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:2]))
    (tmp_path / "test.jsonl").write_text(lines[2])
    task = Geometry.geometry3k(tmp_path)
    assert [p.answer for p in task.prompts("train")] == ["5\\sqrt{3}", "22"]
    assert task.prompts("test")[0].images[0].tobytes() == picture(2, 50, 40).tobytes()
    (tmp_path / "2.png").unlink()
    with pytest.raises(ValueError, match="expected an image, its bytes or a path below"):
        Geometry.geometry3k(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(ValueError, match=r"expected test\.parquet, test\.jsonl"):
        Geometry.geometry3k(tmp_path)


def end_to_end(source: Path, kind: str, folder: Path) -> int:
    """Load, template, generate, grade, one update step; how many problems took part."""
    config = TrainConfig.flat(
        model=str(save_checkpoint(kind, folder)), task="geometry", group_size=2, max_new_tokens=6, device="cpu"
    )
    policy, reader = load_policy(config)
    task = Geometry.geometry3k(source)
    prompts = [*task.prompts("train"), *task.prompts("test")]
    for prompt in prompts:
        assert task.reward(prompt, f"Hence \\boxed{{{prompt.answer}}}.").value == 1
    groups = rewarded(Source(TransformersEngine(policy, reader), reader, task, config), prompts, 0, Clock())
    assert groups.rollouts.vision is not None
    assert (groups.rewards == 0).all()  # these weights are random
    groups.rewards[:, 0] = 1  # as if the first of each had been right: what the update then does
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    means = update(policy, None, optimizer, groups, config, 0)
    assert means["kl"] == pytest.approx(0, abs=1e-5)  # the update saw what the rollouts saw
    changed = {name for name, value in policy.named_parameters() if not torch.equal(value, before[name])}
    assert any("vision" in name or "visual" in name for name in changed)
    return len(prompts)


@pytest.mark.parametrize("kind", CLASSES)
def test_problems_of_the_published_format_go_end_to_end(kind: str, tmp_path: Path) -> None:
    assert end_to_end(records(tmp_path), kind, tmp_path / "model") == 3


@pytest.mark.skipif(not (GEOMETRY3K / "sample.jsonl").is_file(), reason="no real problems here (GEOMETRY3K)")
@pytest.mark.parametrize("kind", CLASSES)
def test_ten_real_problems_go_end_to_end(kind: str, tmp_path: Path) -> None:
    assert end_to_end(GEOMETRY3K / "sample.jsonl", kind, tmp_path / "model") == 10


def test_a_picture_is_shown_as_rgb() -> None:
    assert Geometry(train_size=1, test_size=0).prompts("train")[0].images[0].mode == "RGB"
    assert isinstance(draw(random_problem(random.Random(0), "circle/diameter", 1).figure), Image.Image)
