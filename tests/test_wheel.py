"""The wheel, installed into an empty environment, works without the checkout."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
from pathlib import Path
import vlm_app, vlm_evals, vlm_heads, vlm_kernels

for package in (vlm_app, vlm_evals, vlm_heads, vlm_kernels):
    assert Path(package.__file__).is_relative_to(sys.prefix), package.__file__
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel; what it depends on is lent by the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    scheme = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    packages = Path(scheme["purelib"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # a path file lends the packages but not their own path files, so the editable checkout stays out
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Path(scheme["scripts"]) / "python"


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "vlm_heads", "vlm_kernels", "vlm_evals", "vlm_app",
    }  # fmt: skip
    assert {f"{top}/py.typed" for top in ("vlm_heads", "vlm_kernels", "vlm_evals", "vlm_app")} <= set(names)
    assert "vlm_evals/text/vocabulary.toml" in names
    assert {"vlm_evals/protocols/opera-500.json", "vlm_evals/protocols/pope-500.json"} <= set(names)
    assert "vlm_evals/scenes/sprites.png" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_is_imported_from_the_environment(python: Path, tmp_path: Path) -> None:
    subprocess.run([python, "-c", PROGRAM], cwd=tmp_path, check=True)


def test_its_command_line_runs_from_anywhere(python: Path, tmp_path: Path) -> None:
    run = [python, "-m", "vlm_app.cli"]
    words = ["describe", "sample:kitchen", "--model", "planted", "--with", "vhr"]
    said = subprocess.run([*run, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert said.stdout.startswith("there is a ")
    subprocess.run([*run, "world", "export", "scenes", "--images", "2"], cwd=tmp_path, check=True, capture_output=True)
    assert len(list((tmp_path / "scenes" / "images").iterdir())) == 2
