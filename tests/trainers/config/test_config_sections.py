"""The sections of the configuration: old flat files, unknown names, and the page that describes them."""

from pathlib import Path

import pytest
import yaml

from benchmarks.docs.settings import PAGE, page
from dps_pyro.trainers.config.config_file import load_config, save_config
from dps_pyro.trainers.config.sections import SECTION_OF, SECTIONS, TaskSection, UpdateSection
from dps_pyro.trainers.config.settings import TrainConfig


def test_every_setting_has_one_section_and_a_meaning() -> None:
    assert len(SECTION_OF) == sum(len(section.model_fields) for section in SECTIONS.values())
    for section in SECTIONS.values():
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name


def test_a_flat_file_of_an_earlier_version_loads(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    config = TrainConfig.flat(
        out="runs/a", task="math", engine="vllm", steps=7, kl=0.1, clip=(0.1, 0.3), task_args={"train_size": 3}, seed=4
    )
    sections = yaml.safe_load(save_config(config))
    assert list(sections) == list(SECTIONS)
    flat = {name: value for section in sections.values() for name, value in section.items()}
    file.write_text(yaml.safe_dump(flat), encoding="utf-8")
    assert load_config(file) == config
    file.write_text("task: {steps: 7}\nkl: 0.1\n", encoding="utf-8")
    assert load_config(file) == TrainConfig(task=TaskSection(steps=7), update=UpdateSection(kl=0.1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", r"got stepz \(nearest: steps\)$"),
        (
            "update: {learning_rte: 1}",
            r"update: expected settings among loss, .*; got learning_rte \(nearest: learning_rate\)$",
        ),
        ("update: {steps: 1}", r"update: expected settings among loss, .*; got steps"),
        ("update: 3", r"update: expected settings, as \{name: value\}, got 3$"),
        ("machine: {threads: 0}", r"threads: expected 1 or more, got 0$"),
    ],
)
def test_wrong_sections_are_told(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_config(file)


def test_a_copy_has_other_values_and_is_checked() -> None:
    config = TrainConfig.flat(steps=3, kl=0.5)
    other = config.replaced(steps=4)
    assert (other.task.steps, other.update.kl, config.task.steps) == (4, 0.5, 3)
    with pytest.raises(ValueError, match="steps: expected 1 or more, got 0"):
        config.replaced(steps=0)


def test_the_page_of_settings_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m benchmarks.docs.settings"
