"""What every test stands on: the published files, one thread, no network."""

import ipaddress
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# Before torch, transformers or matplotlib are imported by any test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"
REPORTED_VERSIONS = ("torch", "transformers", "numpy", "pillow", "nltk", "pycocotools")


class NetworkAttempt(BaseException):
    """A test tried to leave this machine; not an Exception, so that no fallback can swallow it."""


def _is_local(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    if text in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(text)).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """Raise on a name look-up or a connection that leaves this machine."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not _is_local(host):
        raise NetworkAttempt(f"{event} to {host!r}: nothing is downloaded in a test")


sys.addaudithook(_refuse_network)


def pytest_report_header() -> str:
    return "ran on " + ", ".join(f"{name} {version(name)}" for name in REPORTED_VERSIONS)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published captions, questions and reference results beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"the published test files are not here: no folder data in {SHARED}")
    return SHARED / "data"


@pytest.fixture(scope="session")
def nltk_data() -> Path:
    """A folder with NLTK's Punkt and tagger data, made known to nltk for the whole session."""
    folder = Path(os.environ.get("NLTK_DATA", SHARED / "nltk_data"))
    if not folder.is_dir():
        pytest.skip(f"NLTK's data is not here: no folder {folder}; set NLTK_DATA")
    os.environ["NLTK_DATA"] = str(folder)
    import nltk

    if str(folder) not in nltk.data.path:
        nltk.data.path.insert(0, str(folder))
    return folder


@pytest.fixture(scope="session")
def untrained_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of the embedded model's shape and random weights, for what does not depend on training."""
    from transformers.utils import logging
    from vlm_evals.scenes.model import build_mini
    from vlm_evals.scenes.tokens import build_processor

    folder = tmp_path_factory.mktemp("untrained") / "mini"
    logging.disable_progress_bar()
    build_mini(seed=0).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve held-out scenes of the embedded world in COCO's format."""
    from vlm_evals.scenes.export import export_world

    folder = tmp_path_factory.mktemp("world") / "data"
    export_world(folder, split="held-out", images=12, seed=3)
    return folder
