"""
Prints how the package is built: sizes of modules and functions, and modules that import each other in a circle.

With --check it exits with 1 if there is a circle, a long module without a reason, or a function that is too long.
"""

import argparse
import ast
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import grimp

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = "pyncette"
SOURCES: Final = ROOT / "operator" / PACKAGE

MODULE_LINES_MAX: Final = 500
FUNCTION_LINES_MAX: Final = 205
"""The longest function builds the text of the PostgreSQL statements: it is a table."""

LONG_MODULES: Final[dict[str, str]] = {}
"""Why a module may be longer than MODULE_LINES_MAX."""


class Function(NamedTuple):
    module: str
    name: str
    lines: int
    """Without decorators, signature and docstring."""


def functions(module: str, tree: ast.Module) -> Iterator[Function]:
    """Yield every function of a module, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            yield Function(module, node.name, lines)


def circles() -> list[list[str]]:
    """Return the groups of modules that import each other, directly or not, imports for type checkers included."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None, exclude_type_checking_imports=False)
    reach = {module: graph.find_upstream_modules(module) for module in graph.modules}
    found: list[list[str]] = []
    for module in sorted(reach):
        circle = sorted(other for other in reach[module] if module in reach[other])
        if circle and module < circle[0]:
            found.append([module, *circle])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is exceeded")
    parser.add_argument("--longest", type=int, default=10, help="how many of the longest to print")
    options = parser.parse_args()

    modules: dict[str, int] = {}
    found: list[Function] = []
    for path in sorted(SOURCES.rglob("*.py")):
        name = ".".join((PACKAGE, *path.relative_to(SOURCES).with_suffix("").parts)).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        modules[name] = text.count("\n")
        found += functions(name, ast.parse(text))
    print(sizes_of("modules", modules.values()))
    print(sizes_of("functions", (function.lines for function in found)))
    print_longest("modules", modules.items(), options.longest)
    print_longest(
        "functions",
        ((f"{function.module}.{function.name}", function.lines) for function in found),
        options.longest,
    )

    problems = [f"circle: {', '.join(circle)}" for circle in circles()]
    problems += [
        f"{name} has {lines} lines, more than {MODULE_LINES_MAX}, and LONG_MODULES gives no reason"
        for name, lines in modules.items()
        if lines > MODULE_LINES_MAX and name not in LONG_MODULES
    ]
    problems += [
        f"{name} is in LONG_MODULES, and is not long"
        for name in LONG_MODULES
        if modules.get(name, 0) <= MODULE_LINES_MAX
    ]
    problems += [
        f"{function.module}.{function.name} has {function.lines} lines, more than {FUNCTION_LINES_MAX}"
        for function in found
        if function.lines > FUNCTION_LINES_MAX
    ]
    print("", *problems or ["No circles, and no limit exceeded."], sep="\n")
    return int(options.check and bool(problems))


def sizes_of(what: str, sizes: Iterable[int]) -> str:
    """Return the number of *what*, with the median, the 90th percentile and the maximum of their lines."""
    known = sorted(sizes)
    p90 = known[9 * (len(known) - 1) // 10]
    return f"{len(known)} {what}: median {statistics.median(known):g} lines, p90 {p90}, max {known[-1]}"


def print_longest(what: str, sizes: Iterable[tuple[str, int]], number: int) -> None:
    print(f"\nLongest {what}:")
    for name, lines in sorted(sizes, key=lambda item: item[1], reverse=True)[:number]:
        print(f"  {lines:5}  {name}")


if __name__ == "__main__":
    sys.exit(main())
