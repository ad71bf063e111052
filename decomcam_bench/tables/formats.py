"""Tables to read: Markdown, LaTeX (booktabs) and HTML, with intervals, marks and directions."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from decomcam_bench.tables.columns import SHOWN_SUFFIXES, SIGNIFICANT, belongs, is_count, numbers

#: How better and worse than the reference are marked, and an interval without a width.
BETTER, WORSE, FLAT = "\N{SUPERSCRIPT PLUS SIGN}", "\N{SUPERSCRIPT MINUS}", "\N{DEGREE SIGN}"
#: What a cell begins with that a spreadsheet computes.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
_FAILURE = {
    "worst": "count as misses",
    "drop": "are left out",
    "common": "are left out, for every method of the block alike",
}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}", "]": "{]}", "*": "{*}", '"': r"\char34{}", BETTER: "$^{+}$", WORSE: "$^{-}$", FLAT: r"\textdegree{}",
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """Hold one entry of a table.

    Attributes:
        text: the number or label.
        interval: its ends as text, or empty.
        place: 1 for the best of its block, 2 for the second, 0 otherwise.
        mark: :data:`BETTER` or :data:`WORSE` than the reference, or an empty string.
        numeric: is right-aligned.
    """

    text: str
    interval: str = ""
    place: int = 0
    mark: str = ""
    numeric: bool = False


def latex(table: pd.DataFrame, directions: Mapping[str, str]) -> str:
    """Write a booktabs table: the best of each block bold, the second underlined.

    Needs ``\\usepackage{booktabs}``.

    Args:
        table: from :func:`~decomcam_bench.tables.tables.load_table`, laid out.
        directions: from column label to ``higher``, ``lower`` or ``none``.
    """
    header, rows = shown(table, directions)
    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$"}
    heads = [tex(name) + arrows.get(direction, "") for name, direction in header]
    lines = [
        r"\begin{tabular}{" + "".join("r" if rows and rows[0][i].numeric else "l" for i in range(len(header))) + "}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        lines.append(" & ".join(latex_entry(entry) for entry in row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {tex(line)}}}" for line in legend(table, header, rows)]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def latex_entry(entry: Shown) -> str:
    text = tex(entry.text).replace("-", "$-$", 1) if entry.numeric and entry.text.startswith("-") else tex(entry.text)
    if entry.place:
        text = (r"\textbf{" if entry.place == 1 else r"\underline{") + text + "}"
    if entry.mark:
        text += "$^{+}$" if entry.mark == BETTER else "$^{-}$"
    return text + (rf" {{\scriptsize {tex(entry.interval)}}}" if entry.interval else "")


def html_table(table: pd.DataFrame, directions: Mapping[str, str]) -> str:
    """A ``<table>``; everything in it is escaped."""
    header, rows = shown(table, directions)
    arrows = {"higher": " ↑", "lower": " ↓"}
    heads = "".join(
        f'<th scope="col">{html.escape(name + arrows.get(direction, ""))}</th>' for name, direction in header
    )
    body = "\n".join("<tr>" + "".join(html_entry(entry) for entry in row) + "</tr>" for row in rows)
    below = "".join(f"<p><small>{html.escape(line)}</small></p>\n" for line in legend(table, header, rows))
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{below}"


def html_entry(entry: Shown) -> str:
    text = html.escape(entry.text)
    if entry.place:
        text = f"<b>{text}</b>" if entry.place == 1 else f"<u>{text}</u>"
    if entry.mark:
        text += f"<sup>{'+' if entry.mark == BETTER else '−'}</sup>"
    if entry.interval:
        text += f" <small>{html.escape(entry.interval)}</small>"
    return f'<td align="right">{text}</td>' if entry.numeric else f"<td>{text}</td>"


def rich_markdown(table: pd.DataFrame, directions: Mapping[str, str]) -> str:
    """Write Markdown with intervals next to their numbers and marks for what differs from the reference."""
    header, rows = shown(table, directions)
    texts = [[e.text + e.mark + (f" {e.interval}" if e.interval else "") for e in row] for row in rows]
    return markdown([name for name, _ in header], texts) + _below(legend(table, header, rows))


def plain_markdown(table: pd.DataFrame) -> str:
    """Write Markdown with four significant digits."""
    rows = [[_cell_text(value) for value in row] for row in table.itertuples(index=False)]
    return markdown([str(name) for name in table.columns], rows)


def _cell_text(value: Any) -> str:
    if _absent(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table with aligned columns."""
    escaped = [[text.replace("|", "\\|") for text in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in escaped) for i in range(len(header))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in escaped
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _below(lines: Sequence[str]) -> str:
    return "".join(f"\n{line}\n" for line in lines)


def legend(table: pd.DataFrame, header: Sequence[tuple[str, str]], rows: Sequence[Sequence[Shown]]) -> list[str]:
    """Return lines that explain what a table marks, and what it does not.

    Args:
        table: as it is shown.
        header: names and directions.
        rows: entries.
    """
    lines = []
    entries = [entry for row in rows for entry in row]
    if any(entry.mark for entry in entries):
        name = table.attrs.get("reference") or "the reference"
        lines.append(f"{BETTER} better, {WORSE} worse than {name}: p < {SIGNIFICANT} after Holm's correction")
    if any(entry.interval.endswith(FLAT) for entry in entries):
        lines.append(f"{FLAT} an interval of no width: the number is the same for every image")
    apart = [name for name, direction in header if direction != "none" and mixed_blocks(table, name)]
    if apart:
        lines.append(f"no best is marked where rows are over different pairs: {', '.join(apart)}")
    policies = table.attrs.get("failure", {})
    failed = [name for name, _ in header if f"{name}_failed" in table.columns]
    for policy, what in _FAILURE.items():
        names = [name for name in failed if policies.get(name.rpartition(": ")[2]) == policy]
        if names:
            lines.append(f"pairs without a usable map {what} (failure={policy}): {', '.join(names)}")
    return lines


def shown(
    table: pd.DataFrame, directions: Mapping[str, str], decimals: int | None = None
) -> tuple[list[tuple[str, str]], list[list[Shown]]]:
    """Return the header (label, direction) and the entries of the columns that do not belong to another one.

    Args:
        table: laid out.
        directions: from column label to ``higher``, ``lower`` or ``none``.
        decimals: of all numbers; None for as many as :func:`writer` chooses.
    """
    asked = set(table.attrs.get("shown", ()))
    hidden = {name for name in belongs(table) if name not in asked and not name.endswith(SHOWN_SUFFIXES)}
    hidden |= {name for name in belongs(table) if name.endswith("_diff_n") and name not in asked}
    columns = [str(name) for name in table.columns if name not in hidden]
    own = {*numbers(table), *(name for name in asked if not is_count(name))}
    header = [(name, _direction(name, directions) if name in own else "none") for name in columns]
    blocks = _blocks(table)
    made = {name: _entries(table, name, direction, blocks, name in own, decimals) for name, direction in header}
    return header, [[made[name][row] for name in columns] for row in range(len(table))]


def mixed_blocks(table: pd.DataFrame, name: str) -> set[Any]:
    """Return the blocks in which the rows of a number are over different pairs."""
    if f"{name}_n" not in table.columns and f"{name}_failed" not in table.columns:
        return set()
    pairs = list(table.get(f"{name}_n", [0] * len(table)))
    failed = list(table.get(f"{name}_failed", [0] * len(table)))
    # Dropped pairs differ between methods, even where they are as many.
    dropped = table.attrs.get("failure", {}).get(name.rpartition(": ")[2]) == "drop"
    found: dict[Any, set[int]] = {}
    for block, value, count, lost in zip(_blocks(table), table[name], pairs, failed, strict=True):
        if not _absent(value):
            own = found.setdefault(block, set())
            own |= {0 if _absent(count) else int(count)}
            if dropped and not _absent(lost) and lost > 0:
                own |= {-1}
    return {block for block, counts in found.items() if len(counts) > 1}


def _direction(name: str, directions: Mapping[str, str]) -> str:
    """Of a column, or of the number that a pivot put behind ``VALUE: ``."""
    return directions.get(name) or directions.get(name.rpartition(": ")[2], "none")


def _blocks(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return what rows are compared within: the same data set and the same model, shown or not."""
    hidden = table.attrs.get("blocks")
    if hidden and len(hidden) == len(table):
        return list(hidden)
    keys = [name for name in ("dataset", "model") if name in table.columns]
    return (
        [tuple(str(value) for value in row) for row in table[keys].itertuples(index=False)]
        if keys
        else [()] * len(table)
    )


def _entries(
    table: pd.DataFrame, name: str, direction: str, blocks: Sequence[Any], number: bool, decimals: int | None
) -> list[Shown]:
    values = list(table[name])
    if is_count(name):
        return [Shown("" if _absent(value) else f"{value:.0f}", numeric=True) for value in values]
    if not number:
        return [Shown("" if _absent(value) else str(value), numeric=name == "rank") for value in values]
    lows, highs = (list(table.get(f"{name}_{end}", [math.nan] * len(values))) for end in ("low", "high"))
    write = writer([*values, *lows, *highs]) if decimals is None else _fixed(decimals)
    texts = ["" if _absent(value) else write(value) for value in values]
    places = [0] * len(values)
    if direction != "none":
        mixed = mixed_blocks(table, name)
        for block in (block for block in dict.fromkeys(blocks) if block not in mixed):
            inside = [i for i, other in enumerate(blocks) if other == block and texts[i]]
            # Numbers that read the same share a place.
            ranked = sorted({float(texts[i]) for i in inside}, reverse=direction == "higher")
            for i in inside:
                place = ranked.index(float(texts[i])) + 1
                places[i] = place if place <= 2 and len(ranked) > 1 else 0
    intervals = [_interval_text(*ends, write) for ends in zip(lows, highs, strict=True)]
    marks = [""] * len(values)
    if f"{name}_p" in table.columns and direction != "none":
        differences = table.get(f"{name}_diff", pd.Series([math.nan] * len(values)))
        marks = [_mark(p, gap, direction) for p, gap in zip(table[f"{name}_p"], differences, strict=True)]
    return [Shown(*entry, numeric=True) for entry in zip(texts, intervals, places, marks, strict=True)]


def _fixed(decimals: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{decimals}f}"


def csv_text(table: pd.DataFrame) -> str:
    """Write CSV in which no cell is a formula."""
    return str(defused(table).to_csv(index=False, lineterminator="\n"))


def defused(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with an apostrophe before texts that a spreadsheet would take for a formula.

    >>> defused(pd.DataFrame({"class": ["cat", "=1+1"], "energy": [-0.5, 0.5]}))["class"].tolist()
    ['cat', "'=1+1"]
    """
    made = table.copy()
    for name in made.columns:
        if not pd.api.types.is_numeric_dtype(made[name]):
            made[name] = made[name].map(lambda value: defused_text(value) if isinstance(value, str) else value)
    return made.rename(columns=lambda name: defused_text(str(name)))


def defused_text(text: str) -> str:
    """Return a text that a spreadsheet shows as it stands."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _interval_text(low: Any, high: Any, write: Callable[[float], str]) -> str:
    if _absent(low) or _absent(high):
        return ""
    return f"[{write(low)}, {write(high)}]" + (FLAT if low == high else "")


def _mark(p: Any, difference: Any, direction: str) -> str:
    """Return which way a number differs from the reference's, if it does."""
    if _absent(p) or _absent(difference) or not p < SIGNIFICANT:
        return ""
    return BETTER if (difference > 0) == (direction == "higher") else WORSE


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
