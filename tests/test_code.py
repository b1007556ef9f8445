"""The shape of the code in numbers. As a script it prints them for any checkout: python tests/test_code.py [folder] [-v]."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULE_LINES, FUNCTION_LINES = 250, 50  # at most
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOKUPS = ("hasattr", "getattr")
CONFIG_NAMES = ("cfg", "DictConfig")
CONFIG_MODULES = ("mpx/config", "mpx/cli/")  # which may take a configuration
LAYERS = (  # when imported, a module imports modules of its own layer and of those above it in this list
    ("devices", "errors", "operators", "option_values", "randomness"),
    ("data",),
    ("models", "tasks"),
    ("masks", "perturbations", "scores", "regularizers", "augmentations"),
    ("explanation",),  # its methods import pictures and files when they are called
    ("learning", "explainers", "rankings"),
    ("metrics",),
    ("pictures",),
    ("runs", "verdicts"),
    ("report",),
    ("config", "config_errors", "config_plan", "config_schema", "api", "captum_api", "command",
     "evaluation", "explain_callback", "mask_learner", "stored_run", "cli"),  # fmt: skip
)
FOREIGN = "# foreign:"  # comment on a line that looks for an attribute of an object that is not ours, with its kind


class Code:
    """The parsed modules of a checkout's mpx/."""

    def __init__(self, root: Path):
        self.texts = {path.relative_to(root).as_posix(): path.read_text() for path in sorted((root / "mpx").rglob("*.py"))}
        self.trees = {name: ast.parse(text) for name, text in self.texts.items()}

    def lines(self) -> int:
        return sum(len(text.splitlines()) for text in self.texts.values())

    def long_modules(self) -> list[str]:
        lengths = {name: len(text.splitlines()) for name, text in self.texts.items()}
        return [f"{name} {length}" for name, length in lengths.items() if length > MODULE_LINES]

    def functions(self) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for name, tree in self.trees.items():
            yield from ((name, node) for node in ast.walk(tree) if isinstance(node, FUNCTIONS))

    def long_functions(self) -> list[str]:
        lengths = {f"{name}:{node.lineno} {node.name}": _length(node) for name, node in self.functions()}
        return [f"{name} {length}" for name, length in lengths.items() if length > FUNCTION_LINES]

    def lookups(self) -> list[str]:
        """hasattr( and getattr( whose line has no comment `# foreign: ...`."""
        result = []
        for name, tree in self.trees.items():
            lines = self.texts[name].splitlines()
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LOOKUPS:
                    line = lines[node.lineno - 1]
                    if FOREIGN not in line:
                        result.append(f"{name}:{node.lineno} {line.strip()}")
        return result

    def untyped(self) -> list[str]:
        """Parameters without a type, but for self and cls."""
        result = []
        for name, node in self.functions():
            a = node.args
            parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(p for p in (a.vararg, a.kwarg) if p)]
            missing = [p.arg for p in parameters if p.annotation is None and p.arg not in ("self", "cls")]
            result += [f"{name}:{node.lineno} {node.name}({parameter})" for parameter in missing]
        return result

    def untyped_returns(self) -> list[str]:
        return [f"{name}:{node.lineno} {node.name}" for name, node in self.functions() if node.returns is None
                and node.name != "__init__"]  # fmt: skip

    def config_stations(self) -> list[str]:
        """Functions outside mpx/config*.py and mpx/cli/ that take a configuration."""
        return [f"{name}:{node.lineno} {node.name}" for name, node in self.functions()
                if not name.startswith(CONFIG_MODULES) and _takes_config(node)]  # fmt: skip

    def hydra_imports(self) -> list[str]:
        """Modules outside mpx/config*.py and mpx/cli/ that import Hydra, OmegaConf or one of these."""
        return [f"{name} {module}" for name, module in self.imports()
                if not name.startswith(CONFIG_MODULES) and module.startswith(("hydra", "omegaconf", "mpx.cli"))]  # fmt: skip

    def wrong_imports(self) -> list[str]:
        """Imports of a room by a room in an earlier layer, but for those within functions."""
        layer = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
        result = []
        for name, module in self.imports(within_functions=False):
            importer, imported = _room(name.removesuffix(".py").split("/")), _room(module.split("."))
            if importer in layer and imported in layer and layer[importer] < layer[imported]:
                result.append(f"{name} {module}")
        return result

    def imports(self, within_functions: bool = True) -> Iterator[tuple[str, str]]:
        for name, tree in self.trees.items():
            for node in ast.walk(tree) if within_functions else tree.body:
                if isinstance(node, ast.Import):
                    yield from ((name, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    if node.module == "mpx":
                        yield from ((name, f"mpx.{alias.name}") for alias in node.names)
                    else:
                        yield name, node.module or ""


COUNTS = {  # what is counted -> the places of it; the goal is none
    f"modules over {MODULE_LINES} lines": Code.long_modules,
    f"functions over {FUNCTION_LINES} lines": Code.long_functions,
    "hasattr/getattr on objects of our own": Code.lookups,
    "untyped parameters": Code.untyped,
    "untyped returns": Code.untyped_returns,
    "functions outside config and cli that take a configuration": Code.config_stations,
    "modules outside config and cli that import Hydra or OmegaConf": Code.hydra_imports,
    "imports against the layers": Code.wrong_imports,
}


def _room(parts: list[str]) -> str:
    """Return the room of a module of mpx, "" for other packages and for mpx/__init__.py."""
    return parts[1] if parts[0] == "mpx" and len(parts) > 1 and parts[1] != "__init__" else ""


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its decorators and docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def _takes_config(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return any(p.arg in CONFIG_NAMES or p.annotation and "DictConfig" in ast.unparse(p.annotation) for p in parameters)


def test_every_room_has_a_layer():
    rooms = {_room(name.removesuffix(".py").split("/")) for name in this().texts} - {""}
    assert rooms == {room for rooms in LAYERS for room in rooms}


@cache
def this() -> Code:
    return Code(ROOT)


@pytest.mark.parametrize("what", COUNTS)
def test_goals(what):
    assert COUNTS[what](this()) == []


def main() -> None:
    folders = [argument for argument in sys.argv[1:] if argument != "-v"]
    code = Code(Path(folders[0]) if folders else ROOT)
    print(f"lines of mpx/: {code.lines()} in {len(code.texts)} modules")
    for what, count in COUNTS.items():
        places = count(code)
        print(f"{what}: {len(places)}")
        if "-v" in sys.argv:
            print("".join(f"  {place}\n" for place in places), end="")


if __name__ == "__main__":
    main()
