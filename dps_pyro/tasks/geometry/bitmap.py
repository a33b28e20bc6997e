"""Small pictures of lines, circles and bitmap digits, drawn with integers alone.

Every coordinate is a whole number of pixels and the font is in this file, so that a figure is the same data on every
platform. Labels lie on a grid of 8 x 8 cells, a character a cell, as on graph paper: a vision model whose patches are
such cells sees each digit whole.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageDraw

__all__ = ["CELL", "SIZE", "Figure", "Point", "draw", "snap"]

CELL = 8
"""The side of a label's cell, in pixels."""

SIZE = 96
"""The side of a picture, in pixels: 12 cells."""

Point = tuple[int, int]
"""A place in a picture: pixels from the left and from the top."""

_PAPER, _INK, _NUMBER, _UNKNOWN = (255, 255, 255), (90, 90, 90), (0, 0, 0), (200, 0, 0)

_GLYPHS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
    "x": "00000 00000 10001 01010 00100 01010 10001",
}


class Figure(NamedTuple):
    """The lines, labels and circle that a picture shows."""

    lines: tuple[tuple[Point, Point], ...]
    labels: tuple[tuple[str, Point], ...]  # digits or "x", and the left upper corner of the first cell
    circle: tuple[Point, int] | None = None  # centre and radius


def snap(text: str, centre: Point) -> tuple[str, Point]:
    """Make a label of a figure: `text` about `centre`, on the grid and within the picture."""
    width = CELL * len(text)
    left, top = (
        (2 * at - extent + CELL) // (2 * CELL) * CELL for at, extent in zip(centre, (width, CELL), strict=True)
    )
    return text, (min(max(left, 0), SIZE - width), min(max(top, 0), SIZE - CELL))


def draw(figure: Figure) -> Image.Image:
    """Draw the picture: RGB, `SIZE` x `SIZE` pixels, dark on white, the unknown in red."""
    image = Image.new("RGB", (SIZE, SIZE), _PAPER)
    canvas = ImageDraw.Draw(image)
    if figure.circle is not None:
        (x, y), radius = figure.circle
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_INK)
    for line in figure.lines:
        canvas.line(line, fill=_INK)
    for text, (left, top) in figure.labels:
        # Lines stop short of the digits, so that neither spoils the other.
        canvas.rectangle((left, top, left + CELL * len(text) - 2, top + CELL - 1), fill=_PAPER)
        ink = _UNKNOWN if text == "x" else _NUMBER
        for place, character in enumerate(text):
            for row, bits in enumerate(_GLYPHS[character].split()):
                for column, bit in enumerate(bits):
                    if bit == "1":
                        canvas.point((left + CELL * place + column + 1, top + row), fill=ink)
    return image
