"""The walls of the house: who may import whom, where hooks are registered, what is never unpickled, how long a file is.

The rules are those of the design. Each is a row of data or one small check on a file's syntax tree, and the checks are
themselves tried on small sources that break them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TREES = ("lens", "pages", "ui", "benchmarks", "tests")
MAX_LINES = 400

HEAVY = ("torch", "transformers", "faiss")
ROOMS = ("lens.latentlens", "lens.embedlens", "lens.functiontokens", "lens.segmaps")
ABOVE_ROOMS = ("lens.demo", "lens.figures", "lens.compare", "lens.export", "lens.cli", "lens.commands")
PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


@dataclass(frozen=True)
class Wall:
    """Modules under ``inside`` import none of ``banned``; ``deep``: nor does anything that they import."""

    inside: tuple[str, ...]
    banned: tuple[str, ...]
    deep: bool = False


WALLS = (
    Wall(("lens",), ("streamlit", "ui", "pages", "app")),
    Wall(("lens.figures", "lens.export"), HEAVY, deep=True),
    Wall(("pages", "app", "ui"), HEAVY),
    Wall(("lens.backend",), (*ROOMS, *ABOVE_ROOMS)),
    *(Wall((room,), (*(other for other in ROOMS if other != room), *ABOVE_ROOMS)) for room in ROOMS),
    Wall(("lens", "pages", "ui", "app", "benchmarks"), ("tests", *PICKLES)),
)


def within(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of ``packages`` or lies in one."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def imports(source: str) -> set[str]:
    """Every module that a source imports when it runs, wherever in it, by absolute name.

    ``from a.b import c`` counts as ``a.b`` and ``a.b.c``, since c may be a module. What stands under ``TYPE_CHECKING`` is
    never run.
    """
    found: set[str] = set()
    for node in running(ast.parse(source)):
        match node:
            case ast.Import():
                found.update(alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module)
                found.update(f"{module}.{alias.name}" for alias in node.names)
            case ast.ImportFrom():
                found.add("a relative import")
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if called(node) in ("import_module", "__import__"):
                found.add(name)
    return found


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield from running(child)


def called(call: ast.Call) -> str:
    """The last name of what is called: ``load`` for ``torch.load(...)``."""
    return ast.unparse(call.func).rpartition(".")[2]


def wall_problems(sources: dict[str, str]) -> list[str]:
    """Imports through a wall, in a set of modules by name."""
    direct = {module: imports(source) for module, source in sources.items()}
    problems = []
    for wall in WALLS:
        for module in (m for m in sources if within(m, wall.inside)):
            reached = everything_imported(module, direct) if wall.deep else direct[module]
            problems += [f"{module} imports {name}" for name in sorted(reached) if within(name, wall.banned)]
    problems += [f"{module} has a relative import" for module, names in direct.items() if "a relative import" in names]
    return problems


def everything_imported(module: str, direct: dict[str, set[str]]) -> set[str]:
    """What a module imports, what that imports, and so on, as far as the sources go."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        for name in direct.get(waiting.pop(), set()) - reached:
            reached.add(name)
            waiting.append(name)
    return reached


def hook_problems(module: str, source: str) -> list[str]:
    """Hooks registered elsewhere than in the one module that removes them."""
    if module == "lens.backend.hooks":
        return []
    names = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    hooks = sorted(
        n for n in names if (n.startswith("register_") and n.endswith("_hook")) or n.endswith("forward_hooks")
    )
    return [f"{module} uses {name}" for name in hooks]


def pickle_problems(module: str, source: str) -> list[str]:
    """Calls that unpickle: ``torch.load`` unless weights_only=True stands there, and what allows pickles by name."""
    problems = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        options = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        if ast.unparse(call.func) == "torch.load" and options.get("weights_only") is not True:
            problems.append(f"{module}:{call.lineno} calls torch.load without weights_only=True")
        if called(call) == "read_pickle" or options.get("allow_pickle"):
            problems.append(f"{module}:{call.lineno} reads a pickle")
    return problems


def project_sources() -> dict[str, str]:
    """The project's modules by name."""
    paths = [ROOT / "app.py", *(path for tree in TREES for path in (ROOT / tree).rglob("*.py"))]
    return {name_of(path): path.read_text(encoding="utf-8") for path in paths if path.is_file()}


def name_of(path: Path) -> str:
    """``lens/backend/__init__.py`` is ``lens.backend``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = project_sources()
PRODUCT = {module: source for module, source in SOURCES.items() if not within(module, ("tests",))}


def test_the_sources_are_found():
    assert {"lens.backend", "lens.backend.hooks", "lens.errors", "lens.latentlens", "tests.test_layers"} <= set(SOURCES)


def test_no_import_goes_through_a_wall():
    assert wall_problems(PRODUCT) == []


@pytest.mark.parametrize("module", sorted(PRODUCT))
def test_hooks_are_registered_in_one_module(module: str):
    assert hook_problems(module, PRODUCT[module]) == []


@pytest.mark.parametrize("module", sorted(PRODUCT))
def test_nothing_is_unpickled(module: str):
    assert pickle_problems(module, PRODUCT[module]) == []


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_files_are_short_and_say_what_they_are(module: str):
    source = SOURCES[module]
    assert source.count("\n") < MAX_LINES
    assert ast.get_docstring(ast.parse(source)), "a module docstring says what the file is"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lens.figures.grid", "import torch"),
        ("lens.figures.grid", "import torch.nn as nn"),
        ("lens.figures", "def f():\n    from torch import nn"),
        ("lens.export", "import importlib\nimportlib.import_module('faiss')"),
        ("lens.figures.grid", "from lens.deep import thing"),
        ("lens.jobs", "import streamlit as st"),
        ("lens.latentlens.index", "from streamlit import cache_data"),
        ("lens.backend.store", "import ui.state"),
        ("pages.latentlens", "import transformers"),
        ("app", "try:\n    import torch\nexcept ImportError:\n    pass"),
        ("ui.state", "from torch import Tensor"),
        ("lens.backend.store", "from lens import latentlens"),
        ("lens.backend.store", "from lens.demo.architecture import DemoConfig"),
        ("lens.backend.store", "import lens.figures.grid"),
        ("lens.latentlens.search", "from lens.embedlens.anchors import anchors"),
        ("lens.segmaps", "import lens.latentlens"),
        ("lens.segmaps.maps", "from lens.figures import grid"),
        ("lens.backend.store", "import pickle"),
        ("lens.compare.table", "from joblib import load"),
        ("lens.backend.store", "from . import hooks"),
        ("lens.backend.store", "from tests.helpers import tiny_llama"),
    ],
)
def test_the_checker_sees_an_import_through_a_wall(module: str, source: str):
    others = {"lens.deep": "from lens.deeper import x", "lens.deeper": "import torch"}
    assert wall_problems({**others, module: source}) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lens.figures.grid", "import numpy\nimport torchlike"),
        ("lens.figures.grid", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("lens.backend.store", "import torch\nimport lens.errors"),
        ("lens.latentlens.search", "import faiss\nfrom lens.backend import tracing"),
        ("lens.compare.table", "from lens.latentlens import search\nfrom lens.embedlens import anchors"),
        ("pages.latentlens", "import streamlit\nfrom lens.latentlens import search"),
        ("lens.jobs", "text = 'import streamlit'"),
    ],
)
def test_the_checker_lets_honest_imports_pass(module: str, source: str):
    assert wall_problems({module: source}) == []


@pytest.mark.parametrize(
    "source",
    [
        "def f(block):\n    block.register_forward_hook(print)",
        "block.register_forward_pre_hook(print)",
        "block.register_full_backward_hook(print)",
        "torch.nn.modules.module.register_module_forward_hook(print)",
        "block._forward_hooks[0] = print",
    ],
)
def test_the_checker_sees_a_hook(source: str):
    assert hook_problems("lens.embedlens.causal", source) != []
    assert hook_problems("lens.backend.hooks", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load('x.pt')",
        "torch.load('x.pt', weights_only=False)",
        "torch.load('x.pt', weights_only=flag)",
        "numpy.load('x.npy', allow_pickle=True)",
        "pandas.read_pickle('x')",
    ],
)
def test_the_checker_sees_an_unpickling(source: str):
    assert pickle_problems("lens.jobs", source) != []
    assert pickle_problems("lens.jobs", "torch.load('x', weights_only=True)\nnumpy.load('y')\njson.load(z)") == []
