from __future__ import annotations

import ast
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.runs.tiny import MINE, call, metrics, tiny, words

import dps_pyro
from dps_pyro import Posterior, RolloutHistory
from dps_pyro.models.by_name import make
from dps_pyro.tracking.tracker import fitted_part
from dps_pyro.trainers import demo
from dps_pyro.trainers.bench.curves import curve_of
from dps_pyro.trainers.config.config_file import save_config
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.demo import DemoOptions, _free, compare, run_demo
from dps_pyro.trainers.grpo import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run, three steps, without a report."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    train(tiny(folder, steps=3))
    return folder


def settings(file: str, name: str) -> dict[str, str]:
    """Every setting of the options classes whose names end in `name`, and its docstring."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.endswith(name)]
    documented: dict[str, str] = {}
    for field, text in (pair for node in found for pair in itertools.pairwise(node.body)):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant), (
                f"{field.target.id} has no docstring"
            )
            documented[field.target.id] = words(str(text.value.value))
    return documented


# --------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    ("command", "file", "name"),
    [
        ("train", "trainers/config/sections.py", "Section"),
        ("demo", "trainers/demo.py", "DemoOptions"),
        ("fit", "dps_pyro/cli/fit.py", "Options"),
        ("diagnose", "dps_pyro/cli/diagnose.py", "Options"),
        ("compare", "dps_pyro/cli/compare.py", "Options"),
        ("sbc", "dps_pyro/cli/sbc.py", "Options"),
        ("simulate", "dps_pyro/cli/simulate.py", "Options"),
        ("replay", "dps_pyro/cli/replay.py", "Options"),
        ("report", "dps_pyro/cli/report.py", "Options"),
    ],
)
def test_help_explains_every_setting(command: str, file: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, command, "--help")
    text = words(out)
    assert status == 0
    documented = settings(file, name)
    assert len(documented) >= 2
    for setting, meaning in documented.items():
        if setting in ("task_args", "dynamics_args", "vllm_args"):  # of the file, as the help says
            assert f"{setting}" in text
        else:
            assert meaning in text, setting
    if command == "train":
        assert "--config FILE (YAML" in text


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        status, out, err = call(capsys, *arguments)
        assert (status, err) == (0, "")
        assert all(f"dps-pyro {command}" in out for command in ("demo", "train", "fit", "report"))
    status, out, err = call(capsys, "trian")
    assert (status, out) == (2, "")
    assert err.startswith("dps-pyro: expected a command, got 'trian'\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == (0, f"{dps_pyro.__version__}\n", "")


# ------------------------------------------------------------------------------------------------------ how runs end


def test_numbers_that_break_down_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "my.yaml"
    file.write_text(save_config(tiny(run, steps=9, batch_size=8, checkpoint_every=1)), encoding="utf-8")
    status, _, err = call(capsys, "train", "--config", str(file), "--learning-rate", "1e30")
    assert status == 1
    assert err == (
        "dps-pyro train: the policy's logits: expected finite numbers, got NaN or infinity\n"
        "Resumed with the same settings, it will end here again. Try a lower --learning-rate.\n"
        f"The last checkpoint is of step 1; go on with: dps-pyro train --resume --out {run}\n"
    )


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import builtins

    real = builtins.__import__

    def interrupted(name: str, *rest: Any) -> Any:
        if name == "dps_pyro.report":
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert call(capsys, "report", "anything") == (130, "", "dps-pyro report: stopped\n")


# --------------------------------------------------------------------------------------------------- models and priors


def test_fit_makes_a_prior_for_train(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = tmp_path / "prior"
    history = run / "history.parquet"
    status, out, _ = call(
        capsys, "fit", "--history", str(history), "--out", str(prior), "--steps", "40", "--draws", "20"
    )
    assert status == 0
    dynamics = TrainConfig().selection.dynamics  # what is fitted by default is what filters by default
    assert f"{type(fitted_part(make(dynamics))).__name__} on 12 groups" in out
    assert re.search(rf"{re.escape(str(prior))}: \d+ steps", words(out))
    assert "the search is at the top" in words(out)
    posterior = Posterior.load(prior)
    assert all(site in out for site in posterior.draws)
    train(tiny(tmp_path / "next", prior=prior, dynamics=dynamics))
    assert (metrics(tmp_path / "next")[1]["useful_pool"]) != metrics(run)[1]["useful_pool"]


def test_fit_by_sampling(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "nuts", "--steps", "3", "--draws", "3"]
    status, out, _ = call(
        capsys, "fit", "--history", str(run / "history.parquet"), "--out", str(tmp_path / "p"), *options
    )
    assert status == 0
    assert "the draws are not reliable (" in words(out)  # three draws tell nothing


def test_fit_wants_a_history(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for history, message in (
        (run / "config.yaml", "config.yaml: expected a Parquet file"),
        (run / "nothing.parquet", "No such file or directory|nothing.parquet"),
    ):
        status, _, err = call(capsys, "fit", "--history", str(history), "--out", str(tmp_path / "p"))
        assert status == 2
        assert re.search(message, err)
    assert call(capsys, "fit")[0] == 2


@pytest.mark.usefixtures("undrawn")
def test_a_model_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, file = tmp_path / "mine.py", tmp_path / "my.yaml"
    mine.write_text(MINE, encoding="utf-8")
    run = tmp_path / "run"
    config = tiny(run, dynamics=f"{mine}:Mine", dynamics_args={"sharpness": 2.0}, report=True)
    file.write_text(save_config(config), encoding="utf-8")
    assert call(capsys, "train", "--config", str(file))[0] == 0
    assert (run / "posterior/state.json").is_file()
    assert call(capsys, "train", "--resume", "--out", str(run), "--steps", "2", "--no-report")[0] == 0
    assert metrics(run)[-1]["step"] == 2
    with pytest.raises(ValueError, match=r"dynamics: expected one of .*, or path/to/file.py:Name"):
        make(f"{mine}:number")


# -------------------------------------------------------------------------------------------------- report and demo


def test_the_report_of_an_unfinished_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    going = tmp_path / "going"
    going.mkdir()
    (going / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:-30])  # killed within a line
    assert call(capsys, "report", str(going), str(run)) == (0, f"{going / 'report.html'}\n", "")
    page = (going / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    status, _, err = call(capsys, "report", str(tmp_path / "nothing"))
    assert (status, err.count("\n")) == (2, 1)
    assert "expected a run folder with a metrics.jsonl" in err


def test_the_closing_table_says_where_to_look_and_how_to_go_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dps_pyro.trainers.run.live import LiveView

    with LiveView(steps=3, folder=run) as view:
        view.close({"steps": 3})
    text = words(capsys.readouterr().out).replace(" ", "")
    assert f"dps-pyroreport{run}" in text
    assert f"dps-pyrotrain--resume--out{run}--steps6" in text


@pytest.mark.usefixtures("undrawn")
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    problems = {**demo.SETTINGS["task_args"], "train_size": 64, "test_size": 24}
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, "task_args": problems})
    status = run_demo(DemoOptions(out=tmp_path / "demo", steps=2))
    out = words(capsys.readouterr().out)
    assert "1 of 2: prompts chosen at random" in out
    assert "2 of 2: predicted prompts" in out
    page = tmp_path / "demo/predicted/report.html"
    assert str(page) in out.replace(" ", "")
    assert "uniform" in page.read_text(encoding="utf-8")
    summary, uniform = (
        json.loads((tmp_path / "demo" / arm / "summary.json").read_text(encoding="utf-8"))
        for arm in ("predicted", "uniform")
    )
    curves = [curve_of(tmp_path / "demo" / arm) for arm in ("uniform", "predicted")]
    found = compare(summary, uniform, *((curve.rollouts, curve.accuracy) for curve in curves))
    assert summary["demo"] == json.loads(json.dumps(found))
    assert found["sentence"] in out
    assert status == (1 if found["failures"] else 0)
    assert out.count("The demo failed:") == len(found["failures"])
    assert summary["rollouts"] == uniform["rollouts"] == 64  # both arms are paid for alike
    assert summary["accuracy_before"] == uniform["accuracy_before"]  # one policy, one test set, one seed
    assert RolloutHistory.from_parquet(tmp_path / "demo/predicted/history.parquet").num_steps == 2


SPENT = [0, 100, 200, 300, 400]


@pytest.mark.parametrize(
    ("curve", "share", "took", "failures"),
    [
        ([0.1, 0.3, 0.3, 0.3, 0.3], 0.6, 75.0, []),
        ([0.1, 0.15, 0.2, 0.2, 0.25], 0.6, 400.0, ["predicted prompts did not reach"]),
        ([0.1, 0.15, 0.2, 0.2, 0.1], 0.6, None, ["held-out accuracy did not rise.", "predicted prompts did not reach"]),
        ([0.1, 0.3, 0.3, 0.3, 0.3], 0.3, 75.0, ["the share of useful groups was not above uniform selection's."]),
    ],
)
def test_what_a_demo_shows(curve: list[float], share: float, took: float | None, failures: list[str]) -> None:
    uniform = [0.1, 0.2, 0.25, 0.25, 0.25]
    predicted = {"accuracy_before": 0.1, "accuracy_after": curve[-1], "useful_share": share}
    found = compare(predicted, {"useful_share": 0.3}, (SPENT, uniform), (SPENT, curve))
    assert found["target"] == pytest.approx(0.25)
    assert found["rollouts_uniform"] == 200
    assert found["rollouts_predicted"] == (None if took is None else pytest.approx(took))
    assert [text.startswith(start) for text, start in zip(found["failures"], failures, strict=True)] == [True] * len(
        failures
    )
    ended = "did not reach it" if took is None else f"took {took:.0f}"
    assert found["sentence"] == (
        "To a held-out accuracy of 25.0%, with which uniform selection ended, it took 200 rollouts; predicted prompts "
        f"{ended}."
    )


def test_demos_do_not_overwrite_one_another(tmp_path: Path) -> None:
    assert _free(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert _free(tmp_path / "demo") == tmp_path / "demo-3"
