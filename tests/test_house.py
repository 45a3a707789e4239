"""The house: sizes, what is written down, and what an installation contains."""

import re
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 450
LARGEST_FILE = 17_000_000  # bytes: the weights of the embedded model are the only large thing
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|root|tmp|Users|mnt|scratch)/[\w.-]+")


def _committed(*patterns: str) -> list[Path]:
    """Return the files that git tracks, or all below the root where this is no checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def machine_paths(text: str) -> list[str]:
    """Return absolute paths of somebody's machine in a text."""
    return MACHINE_PATH.findall(text)


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in _committed("*.py")}
    long = {path.relative_to(ROOT).as_posix(): lines for path, lines in lengths.items() if lines > LONGEST_FILE}
    assert not long, f"files over {LONGEST_FILE} lines: {long}"


def test_no_committed_file_is_too_large() -> None:
    large = [path for path in _committed() if path.stat().st_size > LARGEST_FILE]
    assert not large


def test_no_path_of_a_machine_is_written_down() -> None:
    texts = _committed("*.py", "*.md", "*.toml", "*.txt", "Makefile", ".ci/*", "*.json")
    found = {
        path.relative_to(ROOT).as_posix(): hits
        for path in texts
        if path != Path(__file__) and (hits := machine_paths(path.read_text("utf-8")))
    }
    assert not found


@pytest.mark.parametrize("text", ["see /home/someone/x.py", "'/tmp/run-1'", "open(/root/.cache)"])
def test_a_path_of_a_machine_is_seen(text: str) -> None:
    assert machine_paths(text)


@pytest.mark.parametrize("text", ["https://host/home/x", "../shared/data", "app/vlm_app/cli.py"])
def test_relative_paths_and_addresses_pass(text: str) -> None:
    assert not machine_paths(text)


def test_the_top_level_folders_are_not_packages() -> None:
    """A regular package named `kernels` breaks transformers' own import of the hub client."""
    assert not [name for name in ("kernels", "evals", "app") if (ROOT / name / "__init__.py").exists()]


@pytest.mark.parametrize("host", ["example.org", "93.184.215.14"])
def test_the_network_is_out_of_reach(host: str) -> None:
    with pytest.raises(BaseException, match="nothing is downloaded"):
        socket.create_connection((host, 80), timeout=1)
