"""Numbers as the page writes them: three digits, with a unit."""

from __future__ import annotations

from collections.abc import Sequence

ABSENT = "-"
THOUSANDS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))
BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def rounded(number: int) -> str:
    r"""A count, in full below ten thousand.

    >>> rounded(9_999), rounded(12_345), rounded(2_511_168)
    ('9,999', '12.3\xa0k', '2.51\xa0M')
    """
    return f"{number:,}" if number < 10**4 else _in(THOUSANDS, number)


def milliseconds(seconds: float) -> str:
    """A time.

    >>> milliseconds(0.000_461_7), milliseconds(1.5)
    ('0.462 ms', '1,500 ms')
    """
    return f"{_digits(seconds * 1e3)} ms"


def in_bytes(size: int | None) -> str:
    r"""A size in memory or on disk.

    >>> in_bytes(1_047_552), in_bytes(36_280), in_bytes(17), in_bytes(None)
    ('1,023\xa0KiB', '35.4\xa0KiB', '17 B', '-')
    """
    if size is None:
        return ABSENT
    return f"{size} B" if size < 2**10 else _in(BYTES, size)


def share(after: int, before: int) -> str:
    """What is left of a count.

    >>> share(1, 4), share(0, 0)
    ('25.0%', '-')
    """
    return f"{after / before:.1%}" if before else ABSENT


def short(number: float | None) -> str:
    """Any number, the very small too.

    >>> short(5.387e-08), short(0.5), short(None)
    ('5.39e-08', '0.5', '-')
    """
    return ABSENT if number is None else f"{number:.3g}"


def _in(units: Sequence[tuple[int, str]], number: int) -> str:
    size, unit = next(one for one in units if number >= one[0])
    return f"{_digits(number / size)}\N{NO-BREAK SPACE}{unit}"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 99.5 else f"{number:.3g}"
