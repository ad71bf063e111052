"""Tables as papers print them: constant labels in the caption, names of one's own, controls below a rule."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, unknown
from decomcam_bench.tables import formats
from decomcam_bench.tables.columns import COUNTS, IDENTITY, is_count, numbers
from decomcam_bench.tables.layout import bare

#: What labels of models with random weights hold.
_UNTRAINED = ("untrained", "pretrained=random")
FORMATS = ("md", "latex", "html", "csv")
_ARROWS = {"higher": " ↑", "lower": " ↓"}


@dataclass(frozen=True)
class Style:
    """How a table is printed.

    Attributes:
        names: other names of labels and columns.
        decimals: of numbers; None for as many as their size asks for.
        percent: print shares in percent.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    decimals: int | None = None
    percent: bool = False

    def __post_init__(self) -> None:
        if self.decimals is not None and not 0 <= self.decimals <= 10:
            raise ConfigError(f"--decimals {self.decimals}: must be from 0 to 10")

    def name(self, text: str) -> str:
        """Return the name of a label or column, with those of its options left as they are."""
        if text in self.names:
            return self.names[text]
        plain = bare(text)
        return self.names[plain] + text.removeprefix(plain) if plain in self.names else text


def read_names(file: str | None, renames: Sequence[str]) -> dict[str, str]:
    """Return other names from a YAML mapping and from ``OLD=NEW``, which wins.

    Raises:
        ConfigError: for a file that holds no mapping of texts, or a word without an equals sign.
    """
    from decomcam_bench.config.sources import read_yaml

    found = {str(key): str(value) for key, value in read_yaml(file).items()} if file else {}
    for word in renames:
        old, sign, new = word.partition("=")
        if not sign or not old:
            raise ConfigError(f"--rename {word}: write it as OLD=NEW, such as decomcam=DecomCAM")
        found[old] = new
    return found


def check_names(table: pd.DataFrame, names: Mapping[str, str], renames: Sequence[str]) -> None:
    """Refuse a ``--rename`` of something that the table does not show.

    Raises:
        ConfigError: with the nearest name.
    """
    shown = [str(name) for name in table.columns]
    for column in (name for name in IDENTITY if name in table):
        shown += [str(value) for value in table[column].dropna().unique()]
    shown += [bare(name) for name in shown]
    for word in renames:
        if (old := word.partition("=")[0]) not in shown:
            raise ConfigError(f"--rename {word}: " + unknown("name", old, list(dict.fromkeys(filter(None, shown)))))


def paper(table: pd.DataFrame, directions: Mapping[str, str], form: str, style: Style) -> str:
    """Print a table for a paper.

    Labels that are the same in every row go into the caption; counts of pairs that are the same, and the key, too
    or away. Controls come last, below a rule, and are neither bold nor underlined.

    Args:
        table: from :func:`~decomcam_bench.tables.tables.load_table`, laid out and sorted.
        directions: from column label to ``higher``, ``lower`` or ``none``.
        form: ``md``, ``latex``, ``html`` or ``csv``.
        style: names and numbers.

    Raises:
        ConfigError: for another form.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: --paper prints {', '.join(FORMATS)}")
    table = _scaled(table, directions) if style.percent else table
    empty = [name for name in numbers(table) if table[name].isna().all()]
    owned = tuple(f"{name}_" for name in empty)
    table = table.drop(columns=[name for name in table if name in empty or (owned and name.startswith(owned))])
    is_control = _controls(table)
    caption, table = _caption(table, style)
    if form == "csv":
        ordered = pd.concat([table[[not c for c in is_control]], table[is_control]])
        return formats.csv_text(
            ordered.rename(columns=style.name).map(lambda v: style.name(v) if isinstance(v, str) else v)
        )
    methods, controls = (_part(table, [c is wanted for c in is_control]) for wanted in (False, True))
    header, rows = formats.shown(methods, directions, style.decimals)
    _, below = formats.shown(controls, directions, style.decimals)
    below = [[replace(entry, place=0) for entry in row] for row in below]
    lines = formats.legend(methods, header, rows)
    arrows = any(direction in _ARROWS for _, direction in header)
    notes = [*(["↑ higher is better, ↓ lower is better; bold: best, underlined: second"] if arrows else []), *lines]
    if style.percent:
        notes.append("shares in percent")
    heads = [style.name(name) for name, _ in header]
    renamed = [[replace(entry, text=style.name(entry.text)) for entry in row] for row in rows]
    renamed_below = [[replace(entry, text=style.name(entry.text)) for entry in row] for row in below]
    write = {"md": _markdown, "latex": _latex, "html": _html}[form]
    return write(caption, list(zip(heads, (d for _, d in header), strict=True)), renamed, renamed_below, notes)


def _controls(table: pd.DataFrame) -> list[bool]:
    """Return which rows are controls: methods that know nothing of the model, and models with random weights."""
    nothing, names = [""] * len(table), registry.controls()
    return [
        bare(str(method)) in names or any(sign in str(model) for sign in _UNTRAINED)
        for method, model in zip(table.get("method", nothing), table.get("model", nothing), strict=True)
    ]


def _part(table: pd.DataFrame, rows: Sequence[bool]) -> pd.DataFrame:
    chosen = table[list(rows)].reset_index(drop=True)
    chosen.attrs = {key: value for key, value in table.attrs.items() if key != "blocks"}
    blocks = table.attrs.get("blocks")
    if blocks and len(blocks) == len(table):
        chosen.attrs["blocks"] = [block for block, keep in zip(blocks, rows, strict=True) if keep]
    return chosen


def _scaled(table: pd.DataFrame, directions: Mapping[str, str]) -> pd.DataFrame:
    """Return the table with shares, and what belongs to them, times 100."""
    scaled = table.copy()
    for name in numbers(table):
        values = table[name].astype(float)
        if is_count(name) or not values.dropna().between(-1, 1).all():
            continue
        for column in (name, *(f"{name}{end}" for end in ("_low", "_high", "_diff", "_diff_low", "_diff_high"))):
            if column in scaled:
                scaled[column] = scaled[column].astype(float) * 100
    scaled.attrs = dict(table.attrs)
    return scaled


def _caption(table: pd.DataFrame, style: Style) -> tuple[str, pd.DataFrame]:
    """Return the caption, and the table without what it says."""
    words, dropped = [], [name for name in ("key", "n_evaluated", "n_skipped") if name in table]
    for name in (*IDENTITY, *COUNTS[:-1]):
        if name not in table.columns or name in dropped or (name == "method" and len(table) > 1):
            continue
        values = table[name].astype(object).where(table[name].notna(), "")
        # A label that only controls lack, such as the layer, is as good as constant.
        different = {value for value in values if value != ""} if name in IDENTITY else set(values)
        if len(different) <= 1:
            dropped.append(name)
            words += [f"{style.name(name)}: {style.name(str(value))}" for value in different if value not in ("", 0)]
    for name in [name for name in table.columns if name.endswith(("_n", "_failed")) and table[name].nunique() <= 1]:
        dropped.append(name)
    kept = table.drop(columns=dropped)
    kept.attrs = dict(table.attrs)
    hidden = [name for name in ("dataset", "model") if name in dropped]
    if hidden and "blocks" not in kept.attrs:
        keys = [name for name in ("dataset", "model") if name in table]
        kept.attrs["blocks"] = [tuple(map(str, row)) for row in table[keys].itertuples(index=False)]
    return "; ".join(words), kept


_Header = Sequence[tuple[str, str]]
_Rows = Sequence[Sequence[formats.Shown]]


def _markdown(caption: str, header: _Header, rows: _Rows, below: _Rows, notes: Sequence[str]) -> str:
    def text(entry: formats.Shown) -> str:
        marks = {1: "**", 2: "_"}.get(entry.place, "")
        return f"{marks}{entry.text}{marks}{entry.mark}" + (f" {entry.interval}" if entry.interval else "")

    heads = [name + _ARROWS.get(direction, "") for name, direction in header]
    body = [[text(entry) for entry in row] for row in rows]
    if below:
        body += [["*controls*", *[""] * (len(heads) - 1)], *([text(entry) for entry in row] for row in below)]
    above = f"{caption}\n\n" if caption else ""
    return above + formats.markdown(heads, body) + "".join(f"\n{line}\n" for line in notes)


def _latex(caption: str, header: _Header, rows: _Rows, below: _Rows, notes: Sequence[str]) -> str:
    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$"}
    numeric = [all(row[place].numeric for row in (*rows, *below)) for place in range(len(header))]
    lines = [
        r"% Preamble: \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{formats.tex('; '.join(filter(None, [caption])))}}}",
        r"\begin{tabular}{" + "".join("r" if right else "l" for right in numeric) + "}",
        r"\toprule",
        " & ".join(formats.tex(name) + arrows.get(direction, "") for name, direction in header) + r" \\",
        r"\midrule",
        *(" & ".join(formats.latex_entry(entry) for entry in row) + r" \\" for row in rows),
    ]
    if below:
        lines += [r"\midrule", *(" & ".join(formats.latex_entry(entry) for entry in row) + r" \\" for row in below)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {_tex_arrows(line)}}}" for line in notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _tex_arrows(line: str) -> str:
    return formats.tex(line).replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")


def _html(caption: str, header: _Header, rows: _Rows, below: _Rows, notes: Sequence[str]) -> str:
    def body(part: _Rows) -> str:
        lines = "\n".join("<tr>" + "".join(formats.html_entry(entry) for entry in row) + "</tr>" for row in part)
        return f"<tbody>\n{lines}\n</tbody>\n"

    heads = "".join(f'<th scope="col">{html.escape(n + _ARROWS.get(d, ""))}</th>' for n, d in header)
    rule = body(below).replace("<tbody>", '<tbody style="border-top: 1px solid">', 1) if below else ""
    told = "".join(f"<p><small>{html.escape(line)}</small></p>\n" for line in notes)
    above = f"<caption>{html.escape(caption)}</caption>\n" if caption else ""
    return f"<table>\n{above}<thead><tr>{heads}</tr></thead>\n{body(rows)}{rule}</table>\n{told}"


def exclude(table: pd.DataFrame, conditions: Sequence[str]) -> list[str]:
    """Return the keys of the rows for which no ``COLUMN=VALUES`` holds.

    Raises:
        ConfigError: for another column, a value that no row has, or when nothing is left.
    """
    from decomcam_bench.tables import layout

    out: set[str] = set()
    for condition in conditions:
        out |= set(layout.where(table, [condition.replace("--where", "--exclude")])["key"])
    left = [str(key) for key in table["key"] if key not in out]
    if not left:
        raise ConfigError(f"--exclude {' '.join(conditions)}: no row is left")
    return left


def fitted(table: pd.DataFrame, width: int) -> list[pd.DataFrame]:
    """Split a table that is too wide for a terminal: constant columns away, then blocks of numbers.

    Args:
        table: to be printed as Markdown.
        width: of the terminal in letters.

    Returns:
        One or several tables; each has the labels that vary.
    """

    def wide(part: pd.DataFrame) -> bool:
        return max(map(len, formats.plain_markdown(part).splitlines()), default=0) > width

    if not wide(table) or not len(table):
        return [table]
    labels = [
        name for name in IDENTITY if name in table and (name == "method" or table[name].nunique(dropna=False) > 1)
    ]
    rest = [name for name in table.columns if name not in (*IDENTITY, "key")]
    rest = [name for name in rest if name not in COUNTS or table[name].nunique() > 1]
    blocks: list[list[str]] = [[]]
    for name in [*rest, *(["key"] if "key" in table else [])]:
        if blocks[-1] and wide(table[[*labels, *blocks[-1], name]]):
            blocks.append([])
        blocks[-1].append(str(name))
    return [table[[*labels, *block]] for block in blocks if block]


def same(table: pd.DataFrame) -> str:
    """Return what all rows of a table have in common, as a line above blocks of it."""
    words = []
    for name in [name for name in (*IDENTITY, *COUNTS[:-1]) if name in table and name != "method"]:
        values = table[name].dropna().astype(str).unique()
        if len(values) == 1 and table[name].notna().all() and values[0]:
            words.append(f"{name}: {values[0]}")
    return "; ".join(words)
