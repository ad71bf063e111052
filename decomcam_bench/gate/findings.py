"""The gate's findings as text for a terminal and as Markdown for a job page."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence

from decomcam_bench.gate.regression import STATES, Finding
from decomcam_bench.tables.formats import markdown

_MARKS = {
    "pass": "✅ pass",
    "improved": "🟢 improved",
    "regressed": "🔴 regressed",
    "failed": "🔴 failed",
    "missing": "⚪ missing",
    "incomparable": "⚪ incomparable",
}
_HEADER = ("state", "cell", "number", "baseline", "now", "change", "tolerance", "paired difference", "p")


def summary_line(findings: Sequence[Finding]) -> str:
    """How many numbers are in which state."""
    found = Counter(finding.state for finding in findings)
    return ", ".join(f"{found[state]} {state}" for state in STATES if found[state])


def as_text(findings: Sequence[Finding]) -> str:
    """Everything that is not a plain pass, then the totals."""
    lines = []
    for finding in findings:
        if finding.state == "pass":
            continue
        number = f": {finding.column}" if finding.column else ""
        change = ""
        if finding.baseline is not None and finding.value is not None:
            change = f" {finding.baseline:.6g} -> {finding.value:.6g} (tolerance {finding.tolerance:.3g})"
        why = f": {finding.why}" if finding.why else ""
        lines.append(f"{finding.state:12} {finding.label}{number}{change}{why}")
        if finding.worst:
            lines.append(f"{'':12} images that lost most:")
        lines += [
            f"{'':14}{image['image_id']}  {image['baseline']:.4g} -> {image['value']:.4g}" for image in finding.worst
        ]
    lines.append(summary_line(findings))
    return "\n".join(lines) + "\n"


def as_markdown(findings: Sequence[Finding], verdict: int) -> str:
    """A page: the verdict, one table, and the images behind each regression."""
    title = {0: "✅ No regression", 1: "🔴 Regression", 2: "⚪ Cannot be judged"}[verdict]
    parts = [f"## {title}\n\n{summary_line(findings)}\n"]
    order = {state: place for place, state in enumerate(("regressed", "failed", "missing", "incomparable", "improved"))}
    listed = sorted(findings, key=lambda finding: order.get(finding.state, len(order)))
    parts.append(markdown(_HEADER, [[_safe(text) for text in _row(finding)] for finding in listed]))
    for finding in listed:
        if finding.why:
            # Stars with a blank inside them are no emphasis.
            name = _safe(f"{finding.label} {finding.column}".strip())
            parts.append(f"- **{name}** ({finding.state}): {_safe(finding.why)}\n")
    for finding in listed:
        if finding.worst:
            rows = [
                [_safe(image["image_id"]), *(f"{image[name]:.4g}" for name in ("baseline", "value", "change"))]
                for image in finding.worst
            ]
            parts.append(
                f"### Images that lost most: {_safe(finding.label)}, {_safe(finding.column)}\n\n"
                + markdown(("image", "baseline", "now", "change"), rows)
            )
    return "\n".join(parts)


def _row(finding: Finding) -> list[str]:
    both = finding.baseline is not None and finding.value is not None
    paired = finding.paired
    return [
        _MARKS[finding.state],
        finding.label,
        finding.column or "(all)",
        _number(finding.baseline),
        _number(finding.value),
        f"{finding.value - finding.baseline:+.3g}" if both else "",  # type: ignore[operator]
        _number(finding.tolerance),
        f"{paired.difference:+.3g} [{paired.low:+.3g}, {paired.high:+.3g}]" if paired else "",
        f"{paired.p:.2g}" if paired else "",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _safe(text: object) -> str:
    """Names come from data sets and files: no HTML and no Markdown of theirs reaches the page."""
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    for sign in "\\`*[]_~@":
        escaped = escaped.replace(sign, "\\" + sign)
    return escaped
