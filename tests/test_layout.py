"""How the tests are laid out: what several of them use is in `tests/support`, and no test module imports another."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def imports(code: str) -> Iterator[str]:
    """Dotted names that this code imports, also in the strings that it hands to other processes."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            try:
                yield from imports(textwrap.dedent(node.value))
            except SyntaxError:
                continue  # a sentence


def test_no_module_imports_a_test_module() -> None:
    modules = {path.stem for path in TESTS.rglob("test_*.py")}
    found = {
        f"{path.relative_to(TESTS)} imports {name}"
        for path in TESTS.rglob("*.py")
        for name in imports(path.read_text(encoding="utf-8"))
        if modules & set(name.split("."))
    }
    assert not found
