"""Metrics by name: ours, a plug-in's, one that is broken, and one whose name is taken."""

import logging
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import vlm_evals.metrics
from vlm_evals.errors import TaskError, UnknownMetric
from vlm_evals.registry import GROUP, Registry, find_metric, known_metrics
from vlm_evals.tasks import asked_of

TOY = """
from pathlib import Path
from vlm_evals.metric import Judging, Metric, Option, Scored
from vlm_evals.ratios import Ratio

TOY = Metric(
    name="toy", title="Toy", items="answers", ratios={"long": Ratio("long", "all", "no answer")}, labels={},
    headline="long", judging=Judging("Score.", Option("file", "Answers.", Path), lambda file: Scored([])),
)
OTHER = 3
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that holds a metric."""
    (tmp_path / "a_toy_of_this_test.py").write_text(TOY)
    (tmp_path / "a_broken_one_of_this_test.py").write_text("raise RuntimeError('no\\nluck')")
    monkeypatch.syspath_prepend(tmp_path)
    return "a_toy_of_this_test"


def registry(*points: tuple[str, str]) -> Registry:
    return Registry(vlm_evals.metrics, lambda: [EntryPoint(name, value, GROUP) for name, value in points])


def test_a_file_of_the_folder_is_a_metric() -> None:
    files = {path.stem.replace("_", "-") for path in Path(vlm_evals.metrics.__path__[0]).glob("[a-z]*.py")}
    assert set(registry().all()) == files == set(known_metrics())
    for name, metric in known_metrics().items():
        assert metric.name == name
        assert find_metric(name) is metric
        assert metric.headline in metric.figures([])
        assert {metric.must_hold, *metric.summary, *metric.in_splits, *metric.controls} <= set(metric.ratios)
        assert set(metric.labels) == set(metric.figures([]))


def test_plug_ins_are_asked_only_where_a_name_is_not_ours() -> None:
    def asked() -> list[EntryPoint]:
        raise AssertionError("the entry points were read")

    assert Registry(vlm_evals.metrics, asked).find("chair").title == "CHAIR"


def test_a_plug_in_is_found(plug_in: str) -> None:
    found = registry(("toy", f"{plug_in}:TOY"), ("toy", f"{plug_in}:TOY"))  # listed twice, as an editable install is
    assert found.find("toy").title == "Toy"
    assert list(found.all()) == [*registry().all(), "toy"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("bad", "a_broken_one_of_this_test:BAD", r"the metric 'bad' of .* cannot be loaded \(RuntimeError: no luck\)"),
        ("bad", "nowhere_to_be_found:BAD", r"cannot be loaded \(ModuleNotFoundError"),
        ("bad", "a_toy_of_this_test:GONE", r"cannot be loaded \(AttributeError"),
        ("bad", "a_toy_of_this_test:OTHER", "is no Metric"),
        ("bad", "a_toy_of_this_test:TOY", "is called 'toy' and its entry point 'bad'"),
    ],
)
def test_a_broken_plug_in_is_named_and_breaks_no_other(
    plug_in: str, caplog: pytest.LogCaptureFixture, name: str, value: str, said: str
) -> None:
    found = registry((name, value), ("toy", f"{plug_in}:TOY"))
    with pytest.raises(UnknownMetric, match=said):
        found.find(name)
    assert found.find("toy").name == "toy"
    with caplog.at_level(logging.WARNING):
        assert list(found.all()) == [*registry().all(), "toy"]
    (line,) = caplog.messages
    assert "\n" not in line
    sys.modules.pop("a_broken_one_of_this_test", None)


def test_a_name_that_is_taken_is_refused(plug_in: str, caplog: pytest.LogCaptureFixture) -> None:
    ours = registry(("chair", f"{plug_in}:TOY"))
    assert ours.find("chair").title == "CHAIR"
    with caplog.at_level(logging.WARNING):
        assert ours.all()["chair"].title == "CHAIR"
    assert "a name of ours" in caplog.text
    twice = registry(("toy", f"{plug_in}:TOY"), ("toy", "another:TOY"))
    with pytest.raises(UnknownMetric, match=r"each bring a metric 'toy': uninstall all but one"):
        twice.find("toy")


def test_an_unknown_name_has_the_nearest_known_one() -> None:
    with pytest.raises(UnknownMetric, match=r"no metric 'pop' \(did you mean 'pope'\?\); known: .*chair, .*pope"):
        registry().find("pop")


def test_a_metric_that_asks_nothing_says_so(plug_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import vlm_evals.tasks as tasks

    monkeypatch.setattr(tasks, "find_metric", registry(("toy", f"{plug_in}:TOY")).find)
    with pytest.raises(TaskError, match="vlm-heads judge toy"):
        asked_of("toy")


def test_names_are_known_before_anything_heavy_is_imported() -> None:
    program = (
        "import sys, vlm_evals.registry, vlm_evals.records, vlm_evals.errors\n"
        "print(' '.join({'torch', 'scipy', 'nltk', 'pycocotools', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
