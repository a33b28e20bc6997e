"""`python -m benchmarks` knows every benchmark that there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import benchmarks.__main__ as command
from benchmarks import results

FOLDER = Path(command.__file__).parent


def test_every_benchmark_is_in_the_list() -> None:
    known = {benchmark.module for benchmark in (*command.BENCHMARKS.values(), *command.DOCUMENTATION)}
    helpers = {"inference.peers"}  # run by `filter` and `fit`, in another environment
    for path in FOLDER.rglob("*.py"):
        if path != FOLDER / "__main__.py" and '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            module = ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__main__")
            assert module in known | helpers, f"benchmarks.{module} is missing in benchmarks/__main__.py"
    for module in known:
        assert any((FOLDER / (module.replace(".", "/") + end)).is_file() for end in (".py", "/__main__.py"))


def test_the_command_runs_what_is_named_and_then_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[list[str]] = []

    def record(arguments: list[str], *, check: bool) -> None:
        assert check, "a benchmark that fails is not passed over"
        run.append(arguments[2:])

    monkeypatch.setattr(command.subprocess, "run", record)
    command.main(["smollm2", "--", "--model", "here"])
    assert run[0] == ["benchmarks.learning.smollm2", "--out", "benchmarks/results/smollm2.json", "--model", "here"]
    assert [one[0] for one in run[1:]] == [f"benchmarks.{one.module}" for one in command.DOCUMENTATION]
    run.clear()
    command.main([])
    asked = {one[0] for one in run}
    assert "benchmarks.cost.sampler" in asked and "benchmarks.learning.smollm2" not in asked


def test_a_benchmark_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["nothing"])
    assert "no benchmark named 'nothing'" in capsys.readouterr().err


def test_a_result_is_whole_json_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    results.write(path, {"machine": results.machine(), "date": results.today(), "value": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["value"] is None
