"""The import rules of the house, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
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
ASKING = ("answer.py", "scenes/")  # the parts of vlm_evals that may import torch and the library


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
        found += [f"{where}, {reason}" for reason in _library_breaches(top, package, file)]
        found += [f"{where}, {reason}" for reason in _inner_breaches(target, name, package, file)]
    return found


def _is_private(target: str, name: str | None) -> bool:
    parts = [*target.split("."), *([name] if name else [])]
    return any(part.startswith("_") and not part.startswith("__") for part in parts)


def _library_breaches(top: str, package: str, file: str) -> Iterator[str]:
    if top in sys.stdlib_module_names or top == package:
        return
    if top == "gradio" and (package, file) != ("vlm_app", "page.py"):
        yield "but gradio belongs in page.py"
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
    asking = {"vlm_evals.answer", "vlm_evals.scenes"}
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
        ("vlm_heads", "attach.py", "import vlm_evals.chair"),
        ("vlm_evals", "chair.py", "import torch"),
        ("vlm_evals", "chair.py", "from . import answer"),
        ("vlm_evals", "tasks.py", "from vlm_evals.scenes.world import Scene"),
        ("vlm_evals", "scenes/world.py", "import vlm_app"),
        ("vlm_app", "cli.py", "import gradio as gr"),
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
        ("vlm_app", "page.py", "import gradio"),
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
    scoring = [path.stem for path in PACKAGES["vlm_evals"].glob("*.py") if path.name not in ASKING]
    modules = ", ".join(f"vlm_evals.{stem}".removesuffix(".__init__") for stem in sorted(scoring))
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
