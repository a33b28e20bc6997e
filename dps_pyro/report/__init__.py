"""The report of a run, one page of pictures: `write_report(run_folder)` writes `report.html` and `figures/*.png`.

The page needs no network, no scripts and no other file. It reads well in light mode, in dark mode and in print. It can
be made at any time, also from a run that is still going or was killed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["write_report"]


def write_report(run_folder: Path, compare: Sequence[Path] = ()) -> Path:
    """Write the report of a run into its folder.

    Args:
        run_folder: the folder that the trainer wrote. Only `metrics.jsonl` has to exist, and its last line may be
            incomplete.
        compare: the folders of other runs, drawn beside this one under the name of their selector. For a fair picture
            they share policy, prompts, group size and optimizer.

    Returns:
        The path of `report.html`. The figures are beside it as PNGs, in `figures/`.

    Raises:
        FileNotFoundError: one of the folders has no `metrics.jsonl`.
    """
    from dps_pyro.report import canvas, figures, page
    from dps_pyro.report.run import read_run
    from dps_pyro.storage import atomic_path

    folder = Path(run_folder)
    run = read_run(folder)
    others = page.name_arms(run, [read_run(Path(other)) for other in compare])
    (folder / "figures").mkdir(exist_ok=True)
    with canvas.style():
        pictures = figures.draw(run, others)
        drawings = {}
        for picture in pictures:
            if picture.figure is not None:
                drawings[picture.slug] = canvas.to_svg(picture.figure, picture.slug, picture.title)
                picture.figure.set_layout_engine("none")  # the PNG takes the layout that the SVG was given
                canvas.to_png(picture.figure, folder / "figures" / f"{picture.slug}.png")
    path = folder / "report.html"
    with atomic_path(path) as aside:
        aside.write_text(page.render(run, others, pictures, drawings), encoding="utf-8", errors="replace")
    return path
