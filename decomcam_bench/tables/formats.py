"""Tables to read: Markdown, LaTeX (booktabs) and HTML, with intervals, marks and directions."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from decomcam_bench.tables.layout import belongs, numbers
from decomcam_bench.tables.tables import is_count, markdown

#: Adjusted p below which a difference from the reference is starred.
SIGNIFICANT = 0.05
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}", "]": "{]}", "*": "{*}", '"': r"\char34{}",
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """One entry of a table.

    Attributes:
        text: the number or label.
        interval: its ends as text, or empty.
        place: 1 for the best of its block, 2 for the second, 0 otherwise.
        starred: differs from the reference.
        numeric: is right-aligned.
    """

    text: str
    interval: str = ""
    place: int = 0
    starred: bool = False
    numeric: bool = False


def latex(table: pd.DataFrame, directions: Mapping[str, str]) -> str:
    """A booktabs table: the best of each block bold, the second underlined. Needs
    ``\\usepackage{booktabs}``.

    Args:
        table: from :func:`~decomcam_bench.tables.tables.load_table`, laid out.
        directions: from column label to ``higher``, ``lower`` or ``none``.
    """
    header, rows = shown(table, directions)
    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$"}
    heads = [_tex(name) + arrows.get(direction, "") for name, direction in header]
    lines = [
        r"\begin{tabular}{" + "".join("r" if rows and rows[0][i].numeric else "l" for i in range(len(header))) + "}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        lines.append(" & ".join(_latex_entry(entry) for entry in row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex_entry(entry: Shown) -> str:
    text = _tex(entry.text).replace("-", "$-$", 1) if entry.numeric and entry.text.startswith("-") else _tex(entry.text)
    if entry.place:
        text = (r"\textbf{" if entry.place == 1 else r"\underline{") + text + "}"
    if entry.starred:
        text += "$^{*}$"
    return text + (rf" {{\scriptsize {_tex(entry.interval)}}}" if entry.interval else "")


def html_table(table: pd.DataFrame, directions: Mapping[str, str]) -> str:
    """A ``<table>``; everything in it is escaped."""
    header, rows = shown(table, directions)
    arrows = {"higher": " ↑", "lower": " ↓"}
    heads = "".join(
        f'<th scope="col">{html.escape(name + arrows.get(direction, ""))}</th>' for name, direction in header
    )
    body = "\n".join("<tr>" + "".join(_html_entry(entry) for entry in row) + "</tr>" for row in rows)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"


def _html_entry(entry: Shown) -> str:
    text = html.escape(entry.text)
    if entry.place:
        text = f"<b>{text}</b>" if entry.place == 1 else f"<u>{text}</u>"
    if entry.starred:
        text += "<sup>*</sup>"
    if entry.interval:
        text += f" <small>{html.escape(entry.interval)}</small>"
    return f'<td align="right">{text}</td>' if entry.numeric else f"<td>{text}</td>"


def rich_markdown(table: pd.DataFrame, directions: Mapping[str, str]) -> str:
    """Markdown with intervals beside their numbers and a star for what differs from the reference."""
    header, rows = shown(table, directions)
    texts = [
        [e.text + ("*" if e.starred else "") + (f" {e.interval}" if e.interval else "") for e in row] for row in rows
    ]
    return markdown([name for name, _ in header], texts)


def shown(table: pd.DataFrame, directions: Mapping[str, str]) -> tuple[list[tuple[str, str]], list[list[Shown]]]:
    """Return the header (label, direction) and the entries of the columns that do not belong to another one."""
    own = set(numbers(table))
    hidden = set(belongs(table))
    columns = [str(name) for name in table.columns if name not in hidden]
    header = [(name, _direction(name, directions) if name in own else "none") for name in columns]
    blocks = _blocks(table)
    made = {name: _entries(table, name, direction, blocks, name in own) for name, direction in header}
    return header, [[made[name][row] for name in columns] for row in range(len(table))]


def _direction(name: str, directions: Mapping[str, str]) -> str:
    """Of a column, or of the number that a pivot put behind ``VALUE: ``."""
    return directions.get(name) or directions.get(name.rpartition(": ")[2], "none")


def _blocks(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """What rows are compared within: the same data set and the same model."""
    keys = [name for name in ("dataset", "model") if name in table.columns]
    return (
        [tuple(str(value) for value in row) for row in table[keys].itertuples(index=False)]
        if keys
        else [()] * len(table)
    )


def _entries(table: pd.DataFrame, name: str, direction: str, blocks: Sequence[Any], number: bool) -> list[Shown]:
    values = list(table[name])
    if is_count(name):
        return [Shown("" if _absent(value) else f"{value:.0f}", numeric=True) for value in values]
    if not number:
        return [Shown("" if _absent(value) else str(value), numeric=name == "rank") for value in values]
    lows, highs = (list(table.get(f"{name}_{end}", [math.nan] * len(values))) for end in ("low", "high"))
    write = writer([*values, *lows, *highs])
    texts = ["" if _absent(value) else write(value) for value in values]
    places = [0] * len(values)
    if direction != "none":
        for block in dict.fromkeys(blocks):
            inside = [i for i, other in enumerate(blocks) if other == block and texts[i]]
            # Numbers that read the same share a place.
            ranked = sorted({float(texts[i]) for i in inside}, reverse=direction == "higher")
            for i in inside:
                place = ranked.index(float(texts[i])) + 1
                places[i] = place if place <= 2 and len(ranked) > 1 else 0
    # A number that no choice of images changes, as of the passes of a method, needs no interval.
    intervals = [
        "" if _absent(low) or _absent(high) or low == high == value else f"[{write(low)}, {write(high)}]"
        for value, low, high in zip(values, lows, highs, strict=True)
    ]
    stars = [False] * len(values)
    if f"{name}_p" in table.columns:
        stars = [not _absent(p) and p < SIGNIFICANT for p in table[f"{name}_p"]]
    return [Shown(*entry, numeric=True) for entry in zip(texts, intervals, places, stars, strict=True)]


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def writer(values: Sequence[Any]) -> Callable[[float], str]:
    """How a column's numbers are written: shares with three decimals, whole numbers with none where
    there are no others, and larger ones each by its own size, since a column of rates spans orders of
    magnitude.

    Args:
        values: of the column, and the ends of its intervals.
    """
    known = [abs(float(value)) for value in values if not _absent(value)]
    if known and all(value.is_integer() for value in known):
        return lambda value: f"{value:.0f}"
    if max(known, default=0.0) <= 10:
        return lambda value: f"{value:.3f}"
    return lambda value: f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"
