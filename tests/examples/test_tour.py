"""The notebook runs from its first cell to its last, and shows what is kept in it."""

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.notebook import TOUR, executed, said

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed; it comes with the extra 'test'")
pytest.importorskip("nbclient", reason="nbclient is not installed; it comes with the extra 'test'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed; it comes with the extra 'test'")


@pytest.fixture
def ipython(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel keep its history and its connection file here."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.mark.slow
@pytest.mark.usefixtures("ipython")
def test_it_shows_what_is_kept_in_it() -> None:
    kept, now = nbformat.read(TOUR, as_version=4), executed(TOUR)
    shown = said(now)
    assert shown[0] == "there is a dog.\n"
    assert "plain:     there is a dog.\nmitigated: there is a car.\n" in "".join(shown)
    assert shown[-1] == "<IPython.core.display.Image object>"
    if kept.metadata["torch"] == version("torch").partition("+")[0]:
        assert shown == said(kept)


def test_it_is_small_and_whole() -> None:
    assert TOUR.stat().st_size < 300_000
    book = nbformat.read(TOUR, as_version=4)
    nbformat.validate(book)
    counts = [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # every cell ran once, in order
    assert "stderr" not in TOUR.read_text("utf-8")
