"""The size of what has to be read at once: functions, blocks in blocks, files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "main.py", *sorted((ROOT / "swin").rglob("*.py")), *sorted((ROOT / "data").rglob("*.py"))]
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_NESTING = 300, 50, 3
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


def nesting(node: ast.AST) -> int:
    """Blocks in blocks below a node, functions inside it aside; an elif is not inside its if."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def too_large(source: str, name: str) -> list[str]:
    """What is past the limits in a file."""
    found = [f"{name}: {lines} lines"] if (lines := len(source.splitlines())) > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines, depth = (node.end_lineno or node.lineno) - node.lineno + 1, nesting(node)
            if lines > MAX_FUNCTION_LINES or depth > MAX_NESTING:
                found.append(f"{name}:{node.lineno} {node.name}: {lines} lines, blocks {depth} deep")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_larger_than_it_should_be(path):
    assert not too_large(path.read_text(), path.name)


def test_what_is_too_large_is_found():
    deep = "def f():\n while 1:\n  if 1:\n   pass\n  elif 2:\n   with a:\n    if 1:\n     pass\n"
    assert too_large(deep, "a.py") == ["a.py:1 f: 8 lines, blocks 4 deep"]
    long = "def f():\n" + "    pass\n" * 50
    assert too_large(long, "a.py") == ["a.py:1 f: 51 lines, blocks 0 deep"]
    assert too_large("a = 1\n" * 301, "a.py") == ["a.py: 301 lines"]
