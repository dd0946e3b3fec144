"""A network as an inline SVG: boxes that can be chosen, coloured by the fold that they belong to, and the arrows between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from refold.drawing import INPUT, Box
from refold.page._layout import HEIGHT, WIDTH, Layout, Point, lay_out

COLOURS = 8
"""Of the folds; the style sheet has as many."""
LETTERS = 17
"""That a box has room for."""

BOX = Markup(
    '<g class="box {kind}" data-at="{number}" role="button" tabindex="-1" aria-label="{label}" transform="translate({x},{y})">'
    '<rect width="{width}" height="{height}" rx="6"/><text class="name" x="{middle}" y="15">{name}</text>'
    '<text class="size" x="{middle}" y="29">{size}</text>{badge}</g>'
)
BADGE = Markup('<text class="badge" x="{x}" y="-3">{number}</text>')
ARROW = Markup('<path d="{path}"/>')
PICTURE = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    'role="group" aria-label="{label}"><g class="arrows">{arrows}</g>{boxes}</svg>'
)


def picture(boxes: Sequence[Box], label: str) -> Markup:
    """The boxes as one SVG element; their numbers, from 0, are those in the attribute `data-at`."""
    layout = lay_out(boxes)
    drawn = Markup("").join(_box(number, box, layout) for number, box in enumerate(boxes))
    arrows = Markup("").join(ARROW.format(path=_curve(points)) for _, _, points in layout.arrows)
    return PICTURE.format(width=layout.width, height=layout.height, label=label, arrows=arrows, boxes=drawn)


def size_of(box: Box) -> str:
    """The shape of what a box makes; a free size is a letter.

    >>> size_of(Box("y", "conv", shape=(None, 64, 56, 56)))
    'n x 64 x 56 x 56'
    """
    return "" if box.shape is None else " x ".join("n" if size is None else f"{size}" for size in box.shape)


def _box(number: int, box: Box, layout: Layout) -> Markup:
    x, y = layout.places[box.name]
    kind = f"fold c{box.fold % COLOURS}" if box.fold is not None else "end" if box.operation == INPUT else "plain"
    name = box.name if box.operation == INPUT else box.operation
    size = size_of(box).replace(" x ", "\N{MULTIPLICATION SIGN}")
    numbers = [str(fold + 1) for fold in box.folds]
    badge = BADGE.format(x=WIDTH - 2, number=", ".join(numbers)) if numbers else Markup("")
    said = [name, *([size_of(box)] if box.shape else []), *(f"fold {number}" for number in numbers)]
    return BOX.format(
        kind=kind,
        number=number,
        label=", ".join(said),
        x=x - WIDTH // 2,
        y=y - HEIGHT // 2,
        width=WIDTH,
        height=HEIGHT,
        middle=WIDTH // 2,
        name=cut(name, LETTERS),
        size=cut(size, LETTERS + 5),
        badge=badge,
    )


def cut(text: str, room: int) -> str:
    """A text, or its beginning where it has more letters than there is room for.

    >>> cut("batch_norm", 6)
    'batch…'
    """
    return text if len(text) <= room else text[: room - 1] + "…"


def _curve(points: Sequence[Point]) -> str:
    """From the lower edge of the first box through the points between to the upper edge of the last."""
    first, *between, last = points
    stops = [(first[0], first[1] + HEIGHT // 2), *between, (last[0], last[1] - HEIGHT // 2 - 1)]
    return "".join(_strokes(stops))


def _strokes(stops: Sequence[Point]) -> Iterator[str]:
    x, y = stops[0]
    yield f"M{x} {y}"
    for to_x, to_y in stops[1:]:
        if to_x == x:
            yield f"V{to_y}"
        else:
            half = (y + to_y) // 2
            yield f"C{x} {half} {to_x} {half} {to_x} {to_y}"
        x, y = to_x, to_y
