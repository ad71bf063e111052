"""Identify code by what it does: digests of sources that ignore comments, docstrings and where modules lie.

Three digests serve three questions. :func:`source_digest` is part of the identity of a method or metric from
outside the package. :func:`code_digest` says whether a value was made by the code that is installed now.
:func:`own_code` covers everything that values come from and is what the regression gate compares.
"""

from __future__ import annotations

import ast
import hashlib
import io
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "decomcam_bench"
ROOT = Path(__file__).resolve().parents[2]
#: Sub-packages whose code reads values and makes none.
_READERS = ("stats", "tables", "reports", "gate", "explainer", "interop", "cli")


@cache
def own_code() -> str:
    """Return 16 hexadecimal digits over the sources of the package that maps and values come from."""
    package = ROOT / PACKAGE
    files = [file for file in sorted(package.rglob("*.py")) if file.relative_to(package).parts[0] not in _READERS]
    return _digest(files)


@cache
def code_digest(impl: str) -> str:
    """Return 16 hexadecimal digits over a class's module and all that it imports from its own package.

    Nothing is imported. Names of modules do not count, so that moving a file changes nothing.

    Args:
        impl: ``module:Class``.
    """
    file = _find(ROOT, impl.partition(":")[0])
    return _digest(reached(file, ROOT)) if file else ""


def source_digest(file: str | Path, module: str) -> str:
    """Return the digest of a module from outside the package and of those that it imports next to it.

    Args:
        file: of the module.
        module: its dotted name, which tells the folder that its imports start from.
    """
    path = Path(file).resolve()
    return _digest(reached(path, source_root(path, module)))


def source_root(file: Path, module: str) -> Path:
    """Return the folder that holds the top-level package or module of a file."""
    depth = module.count(".") + (file.name == "__init__.py")
    return file.parents[depth]


def reached(file: Path, root: Path) -> list[Path]:
    """Return a module and those that it imports, directly or not, from the folder ``root``.

    From an installed package only modules of the same top-level package are followed.
    """
    top = file.relative_to(root).parts[0].removesuffix(".py")
    alone = top == PACKAGE or root in _installed()
    found: dict[Path, None] = {}
    queue = [file]
    while queue:
        current = queue.pop()
        if current in found or current == ROOT / PACKAGE / "__init__.py":  # which hands the whole API on
            continue
        found[current] = None
        for name in _imports(current, root):
            if not alone or name.partition(".")[0] == top:
                queue += _modules(root, name)
    return sorted(found)


def _installed() -> set[Path]:
    paths = sysconfig.get_paths()
    return {Path(paths[name]).resolve() for name in ("purelib", "platlib", "stdlib", "platstdlib")}


def _modules(root: Path, name: str) -> Iterator[Path]:
    """Yield the files of a dotted name and of the packages that it lies in."""
    words = name.split(".")
    for count in range(1, len(words) + 1):
        file = _find(root, ".".join(words[:count]))
        if file:
            yield file


def _find(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for file in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return None


def _imports(file: Path, root: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, relative ones resolved."""
    place = file.relative_to(root).with_suffix("").parts
    package = place[:-1]
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            yield from (".".join(filter(None, (module, alias.name))) for alias in node.names)


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _digest(files: Iterable[Path]) -> str:
    """Return the digest of normalised sources, whatever their names and order."""
    sources = filter(None, (normalised(file.read_bytes()) for file in files))
    each = sorted(hashlib.sha256(source).hexdigest() for source in sources)
    return hashlib.sha256("\n".join(each).encode()).hexdigest()[:16]


def normalised(source: bytes) -> bytes:
    """Return a source without comments, docstrings, blank lines and imports.

    >>> normalised(b'import os  # why' + b'\\n' + b'x = 1  # one' + b'\\n')
    b'x = 1'
    """
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return source
    lines = source.decode(tokens[0].string, "replace").splitlines()
    for token in tokens:
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(tree):
        for dropped in _dropped(node):
            for row in range(dropped.lineno, (dropped.end_lineno or dropped.lineno) + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()


def _dropped(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a node that do nothing for its values: docstring and imports."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            yield first
