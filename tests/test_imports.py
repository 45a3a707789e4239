"""The import rules of the house, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "vlm_heads": ROOT / "vlm_heads",
    "vlm_kernels": ROOT / "kernels" / "vlm_kernels",
    "vlm_evals": ROOT / "evals" / "vlm_evals",
    "vlm_app": ROOT / "app" / "vlm_app",
}
MAY_IMPORT = {
    "vlm_kernels": set(),
    "vlm_heads": {"vlm_kernels"},
    "vlm_evals": {"vlm_heads"},
    "vlm_app": {"vlm_kernels", "vlm_heads", "vlm_evals"},
}
KERNEL_LIBRARIES = {"torch"}
SCORING_LIBRARIES = {"numpy", "scipy", "nltk", "pycocotools", "matplotlib"}  # matplotlib: the plots of a report
SERVER_LIBRARIES = {"fastapi", "uvicorn", "pydantic"}
# the parts of vlm_evals that may import torch and the library
ASKING = ("answer.py", "arms.py", "endpoint/", "experiment.py", "first_token.py", "harm.py", "scenes/")

# What other packages may use of the library: its public list, its errors, and the modules named for extending it.
OPEN = {
    "vlm_kernels": {"vlm_kernels", "vlm_kernels.bench"},
    "vlm_heads": {
        "vlm_heads",
        "vlm_heads.errors",
        "vlm_heads.names",
        "vlm_heads.methods",
        "vlm_heads.models",
        "vlm_heads.profiles",
        "vlm_heads.scorers",
    },
}

# Each package from the ground up. A file imports from its own room and from floors below it, so there is no circle
# between rooms and no arrow to a higher one. A room is a folder, or a file beside the folders.
FLOORS: dict[str, tuple[str, ...]] = {
    "vlm_kernels": (
        "plan",
        "torch_rule reference triton_epilogue triton_edit",
        "triton_launch",
        "torch_decode materialised",
        "torch_backend triton_decode triton_tail",
        "triton_backend differentiable",
        "dispatch",
        "bench",
    ),
    "vlm_heads": (
        "moved errors attention lazy version",
        "wrappers names",
        "families generate_call key_map receipt stored",
        "blind token_head layer_end tower",
        "profile models directions",
        "call",
        "token_step stream_call",
        "toolkit",
        "interventions",
        "lenses",
        "steering",
        "attached",
        "contrast",
        "contrasts",
        "asking",
        "checks pipelines",
        "methods",
        "mitigation",
        "attach",
        "scorers",
        "scoring grounding fold",
        "profiles vlm",
    ),
    "vlm_evals": (
        "errors ratios first_token whole_folder",
        "records",
        "text compare manifest",
        "data runs equal_recall",
        "protocol",
        "metric",
        "benchmark yes_no",
        "metrics",
        "registry",
        "tasks reports",
        "report judge",
        "scored answer scenes",
        "gathered",
        "many",
        "endpoint",
        "arms harm",
        "experiment",
    ),
    "vlm_app": (
        "options console mistakes leftovers examples agreement blocks",
        "endpoint models pictures method_facts",
        "method_page",
        "scorer_page",
        "view bridges speed serving",
        "plots shared_model scored_on",
        "export",
        "visit",
        "session",
        "page",
        "studies",
        "commands",
        "cli",
    ),
}


def _imports(source: str, module: str) -> Iterator[tuple[str, str | None]]:
    """Yield (absolute module, imported name or None) for every import, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *(node.module or "").split(".")]).strip(".")
            yield from ((base, alias.name) for alias in node.names)


def breaches(source: str, package: str, file: str) -> list[str]:
    """Return every breach of the import rules in one file.

    Args:
        source: the text of the file.
        package: the package it belongs to.
        file: its path below the package, with forward slashes.
    """
    found = []
    module = ".".join([package, *Path(file).with_suffix("").parts])
    for target, name in _imports(source, module):
        top = target.split(".")[0]
        where = f"{package}/{file}: imports {target}" + (f".{name}" if name else "")
        if top in PACKAGES and top != package and top not in MAY_IMPORT[package]:
            found.append(f"{where}, a package above it")
        if top != package and top != "__future__" and _is_private(target, name):
            found.append(f"{where}, a private name of another package")
        if top != package and top in OPEN and not _is_open(top, target, name):
            found.append(f"{where}, which is not in a public list")
        found += [f"{where}, {reason}" for reason in _library_breaches(top, package, file)]
        found += [f"{where}, {reason}" for reason in _inner_breaches(target, name, package, file)]
    return found


@cache
def _listed(module: str) -> frozenset[str] | None:
    """Return a module's written public list, read from its source; None where it has none."""
    package, *rest = module.split(".")
    path = PACKAGES[package].joinpath(*rest)
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return None


def _is_open(package: str, target: str, name: str | None) -> bool:
    """Whether another package may import this: an open module, or a name on an open module's list."""
    if target not in OPEN[package]:
        return False
    listed = _listed(target)
    return name is None or listed is None or name in listed or f"{target}.{name}" in OPEN[package]


def _rooms(package: str) -> dict[str, int]:
    """Return room -> floor."""
    return {room: floor for floor, rooms in enumerate(FLOORS[package]) for room in rooms.split()}


def _modules() -> dict[str, Path]:
    """Return module -> file, for every file of the house."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows() -> dict[str, set[str]]:
    """Return module -> the modules of the house that its file imports, those inside functions included."""
    modules = _modules()
    found = {}
    for module, path in modules.items():
        named = ((target, f"{target}.{name}") for target, name in _imports(path.read_text("utf-8"), module))
        found[module] = {full if full in modules else target for target, full in named} & modules.keys() - {module}
    return found


def upward(importing: str, imported: str) -> bool:
    """Whether an import within one package leads to another room of the same floor, or to a higher floor."""
    package, *inside = importing.split(".")
    other, *target = imported.split(".")
    if package != other or not inside or not target or inside[0] == target[0]:
        return False
    floors = _rooms(package)
    return floors[target[0]] >= floors[inside[0]]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return circles among modules, each as the path that comes back to its start."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_every_file_has_a_room() -> None:
    inside = {module.split(".")[0]: set() for module in _modules()}
    for module in _modules():
        package, *rest = module.split(".")
        inside[package] |= set(rest[:1])
    assert {package: set(_rooms(package)) for package in inside} == inside


def test_no_arrow_leads_to_a_higher_floor() -> None:
    found = [(module, target) for module, targets in arrows().items() for target in targets if upward(module, target)]
    assert not found


def test_no_circle_between_files() -> None:
    assert not circles(arrows())


def test_an_upward_arrow_and_a_circle_are_seen() -> None:
    assert upward("vlm_heads.toolkit.options", "vlm_heads.attach")
    assert upward("vlm_heads.scoring", "vlm_heads.grounding")
    assert not upward("vlm_heads.attach", "vlm_heads.toolkit.options")
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]


def _is_private(target: str, name: str | None) -> bool:
    parts = [*target.split("."), *([name] if name else [])]
    return any(part.startswith("_") and not part.startswith("__") for part in parts)


def _library_breaches(top: str, package: str, file: str) -> Iterator[str]:
    if top in sys.stdlib_module_names or top == package:
        return
    if top == "gradio" and not (package == "vlm_app" and file.startswith("page/")):
        yield "but gradio belongs in page/"
    if top in SERVER_LIBRARIES and not (package == "vlm_app" and file.startswith("serving/")):
        yield "but the server's framework belongs in serving/"
    if top == "triton" and not (package == "vlm_kernels" and Path(file).name.startswith("triton_")):
        yield "but triton belongs in triton_*.py"
    if package == "vlm_kernels" and top not in KERNEL_LIBRARIES | {"triton"}:
        yield "but the kernels know torch alone"
    if package == "vlm_evals" and not file.startswith(ASKING) and top not in SCORING_LIBRARIES:
        yield "but scoring needs no more than " + ", ".join(sorted(SCORING_LIBRARIES))


def _inner_breaches(target: str, name: str | None, package: str, file: str) -> Iterator[str]:
    modules = {target, f"{target}.{name}"}
    if package == "vlm_heads" and file.startswith("interventions/") and Path(file).stem not in ("__init__", "base"):
        methods = {f"vlm_heads.interventions.{path.stem}" for path in PACKAGES["vlm_heads"].glob("interventions/*.py")}
        if modules & (methods - {"vlm_heads.interventions.base", "vlm_heads.interventions.__init__"}):
            yield "but interventions never import one another"
    asking = {f"vlm_evals.{Path(one).stem}" for one in ASKING}
    if (
        package == "vlm_evals"
        and not file.startswith(ASKING)
        and any(one == part or one.startswith(f"{part}.") for one in modules for part in asking)
    ):
        yield "but scoring must not reach the part that imports torch"


def test_no_file_breaks_the_rules() -> None:
    found = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            found += breaches(path.read_text("utf-8"), package, path.relative_to(folder).as_posix())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "file", "source"),
    [
        ("vlm_kernels", "plan.py", "import numpy"),
        ("vlm_kernels", "dispatch.py", "def f():\n    import triton"),
        ("vlm_kernels", "plan.py", "from vlm_heads import attach"),
        ("vlm_heads", "attach.py", "from vlm_kernels.dispatch import _choose"),
        ("vlm_heads", "attach.py", "from torch import _C"),
        ("vlm_heads", "attach.py", "import vlm_evals.metrics.chair"),
        ("vlm_evals", "chair.py", "import torch"),
        ("vlm_evals", "chair.py", "from . import answer"),
        ("vlm_evals", "tasks.py", "from vlm_evals.scenes.world import Scene"),
        ("vlm_evals", "scenes/world.py", "import vlm_app"),
        ("vlm_app", "cli.py", "import gradio as gr"),
        ("vlm_app", "commands/serve.py", "import uvicorn"),
        ("vlm_app", "session.py", "from vlm_heads.toolkit.options import option"),
        ("vlm_app", "session.py", "from vlm_heads import Tracker"),
        ("vlm_evals", "answer.py", "import vlm_heads.attach"),
    ],
)
def test_a_breach_is_seen(package: str, file: str, source: str) -> None:
    assert breaches(source, package, file)


@pytest.mark.parametrize(
    ("package", "file", "source"),
    [
        ("vlm_kernels", "triton_decode.py", "from __future__ import annotations\nimport torch\nimport triton"),
        ("vlm_heads", "interventions/head_reinforcement.py", "from .base import AttentionCall"),
        ("vlm_evals", "answer.py", "import torch\nfrom vlm_heads import VLM"),
        ("vlm_app", "page/parts.py", "import gradio"),
        ("vlm_app", "serving/launch.py", "import uvicorn"),
        ("vlm_app", "session.py", "from vlm_heads import VLM, errors\nfrom vlm_heads.methods import option"),
    ],
)
def test_what_is_allowed_passes(package: str, file: str, source: str) -> None:
    assert not breaches(source, package, file)


def test_an_intervention_importing_another_is_seen() -> None:
    methods = [path.stem for path in PACKAGES["vlm_heads"].glob("interventions/*.py")]
    others = [stem for stem in methods if stem not in ("__init__", "base")]
    if not others:
        pytest.skip("no intervention stands in vlm_heads/interventions")
    assert breaches(f"from .{others[0]} import X", "vlm_heads", "interventions/new.py")


def test_scoring_leaves_torch_alone() -> None:
    """What the files import in turn is seen only by running them."""
    folder = PACKAGES["vlm_evals"]
    files = {
        module: path.relative_to(folder).as_posix() for module, path in _modules().items() if folder in path.parents
    }
    modules = ", ".join(sorted(module for module, file in files.items() if not file.startswith(ASKING)))
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
