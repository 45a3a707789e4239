"""The plug-in for lmms-eval: the installed package where there is one, else a thin double of what it asks of a model.

The double says what lmms-eval 0.7.3 says, as far as a model meets it: read on 2026-11-21 from `api/model.py`,
`api/instance.py`, `api/task.py` (construct_requests), `utils.py` (simple_parse_args_string) and
`models/registry_v2.py`. `make test-lmms` runs the same tests, and a whole evaluation, beside the package itself.
"""

import abc
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from vlm_app.bridges.lmms import manifest
from vlm_evals.scenes.samples import sample_path
from vlm_evals.scenes.small.build import save_small
from vlm_evals.scenes.small.package import shipped_weights

from tests.support.installed_base import needs_base
from vlm_heads import VLM, HeadReinforcement
from vlm_heads.errors import BadPrompt, UnsupportedGeneration
from vlm_heads.models.images import load_image

INSTALLED = find_spec("lmms_eval") is not None
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
PROMPT = "Please describe this image in detail."
NAMES = ("kitchen", "street", "park")


Documents = dict[str, dict[str, list[dict[str, list[Path]]]]]  # task -> split -> documents


class _Model(abc.ABC):
    """What lmms-eval 0.7.3 expects of a model: three abstract methods, a rank, the documents, an argument string."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: Documents = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @property
    def rank(self) -> int:
        return self._rank

    def clean(self) -> None:
        self.task_dict.clear()

    @classmethod
    def create_from_arg_string(cls, text: str, additional_config: dict[str, object] | None = None):
        pairs = re.split(r",(?![^\[]*\])", text)  # a comma inside brackets separates nothing
        given = {key: int(value) if value.isnumeric() else value for key, value in (one.split("=", 1) for one in pairs)}
        return cls(**given, **{key: value for key, value in (additional_config or {}).items() if value is not None})


@dataclass(frozen=True)
class _Manifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class _Instance:
    request_type: str
    arguments: tuple[object, ...]
    idx: int
    metadata: dict[str, object] = field(default_factory=dict)

    @property
    def args(self) -> tuple[object, ...]:
        return self.arguments


Requests = Callable[..., list[_Instance]]


def _double() -> dict[str, ModuleType]:
    names = ("lmms_eval", "lmms_eval.api", "lmms_eval.models")
    modules = {name: ModuleType(name) for name in names}
    leaves: dict[str, dict[str, type]] = {
        "lmms_eval.api.model": {"lmms": _Model},
        "lmms_eval.api.instance": {"Instance": _Instance},
        "lmms_eval.models.registry_v2": {"ModelManifest": _Manifest},
    }
    for name, content in leaves.items():
        modules[name] = ModuleType(name)
        vars(modules[name]).update(content)
    return modules


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Model]]:
    """The class that lmms-eval makes from our manifest."""
    if not INSTALLED:
        for name, module in _double().items():
            monkeypatch.setitem(sys.modules, name, module)
    module, _, name = manifest().simple_class_path.rpartition(".")
    yield getattr(importlib.import_module(module), name)
    sys.modules.pop(module)


@pytest.fixture
def requests() -> Requests:
    """Make requests as lmms-eval's simple tasks do, one for each document."""

    def make(prompts: list[str], **generation: object) -> list[_Instance]:
        instance = importlib.import_module("lmms_eval.api.instance").Instance
        metadata = {"task": "world", "doc_id": 0, "repeats": 1}
        return [
            instance("generate_until", (prompt, dict(generation), _images_of, at, "world", "test"), 0, metadata)
            for at, prompt in enumerate(prompts)
        ]

    return make


def _images_of(document: dict[str, list[Path]]) -> list[Image.Image]:
    return [load_image(path) for path in document["paths"]]


def _loaded(plugin: type[_Model], arguments: str = "pretrained=mini", **more: object) -> _Model:
    model = plugin.create_from_arg_string(arguments, {"batch_size": 1, "device": "cpu", "max_batch_size": None} | more)
    model.task_dict["world"] = {"test": [{"paths": [sample_path(name)]} for name in NAMES]}
    return model


def test_the_entry_point_leads_to_a_manifest(repository: Path, plugin: type[_Model]) -> None:
    points = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    assert points.keys() == {"vlm_heads"}
    assert TARGET.fullmatch(points["vlm_heads"])
    module, _, name = points["vlm_heads"].partition(":")
    made = getattr(importlib.import_module(module), name)()
    base = importlib.import_module("lmms_eval.api.model").lmms
    assert made.model_id == "vlm_heads"
    assert made.simple_class_path == f"{plugin.__module__}.{plugin.__name__}"
    assert issubclass(plugin, base)
    assert plugin.is_simple  # lmms-eval refuses a class whose word is not its manifest's


def test_it_says_what_the_model_says(plugin: type[_Model], requests: Requests) -> None:
    answers = _loaded(plugin).generate_until(requests([PROMPT] * 3, max_new_tokens=48, until=["\n\n"]))
    mini = VLM.from_pretrained("mini")
    assert answers == [mini.answer(sample_path(name), max_new_tokens=48).text for name in NAMES]


def test_interventions_act(plugin: type[_Model], requests: Requests) -> None:
    asked = requests([PROMPT] * 3, max_new_tokens=48)
    plain = _loaded(plugin).generate_until(asked)
    mini, vhr = VLM.from_pretrained("mini"), [HeadReinforcement(gain=3.0)]
    expected = [mini.answer(sample_path(name), interventions=vhr, max_new_tokens=48).text for name in NAMES]
    assert _loaded(plugin, "pretrained=mini,interventions=vhr:gain=3.0").generate_until(asked) == expected
    assert expected != plain


@pytest.mark.parametrize("size", [1, 2, 8])
def test_answers_keep_the_order_of_the_requests(plugin: type[_Model], requests: Requests, size: int) -> None:
    """Requests that generate in another way are batched apart, and come back where they were."""
    asked = requests([PROMPT, "Is there a car in the image?", PROMPT], max_new_tokens=24)
    asked[1].args[1]["max_new_tokens"] = 4
    mini = VLM.from_pretrained("mini")
    expected = [
        mini.answer(sample_path(name), one.args[0], max_new_tokens=one.args[1]["max_new_tokens"]).text
        for name, one in zip(NAMES, asked, strict=True)
    ]
    assert _loaded(plugin, batch_size=size).generate_until(asked) == expected
    assert len(set(expected)) == 3


def test_a_stop_string_ends_the_answer(plugin: type[_Model], requests: Requests) -> None:
    (whole, *_) = _loaded(plugin).generate_until(requests([PROMPT], max_new_tokens=48))
    (short, *_) = _loaded(plugin).generate_until(requests([PROMPT], max_new_tokens=48, until=["."]))
    assert whole.startswith(short)
    assert short == whole.split(".")[0]


def test_what_a_task_says_about_decoding(plugin: type[_Model], caplog: pytest.LogCaptureFixture) -> None:
    module = importlib.import_module(plugin.__module__)
    assert module.decoding({}) == {"do_sample": False, "max_new_tokens": 1024}
    pope = {"max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
    assert module.decoding(pope) == {"do_sample": False, "max_new_tokens": 128, "num_beams": 1}
    assert module.decoding({"temperature": 0.7, "top_p": 0.9})["do_sample"] is True
    assert module.decoding({"temperature": 0.7, "top_p": 0.9})["top_p"] == 0.9
    assert module.decoding({"do_sample": True, "temperature": 0})["do_sample"] is False
    assert not caplog.records
    assert "image_aspect_ratio" not in module.decoding({"image_aspect_ratio": "original"})
    assert "image_aspect_ratio" in caplog.text
    assert module.stops({"until": ["\n\n", "", "###"]}) == ["###"]
    assert module.stops({"until": None}) == []
    assert module.cut("one ### two", ["two", "###"]) == "one"


def _scored_by_pope(answer: str, label: str) -> float:
    """Score as lmms-eval's POPE does (`tasks/pope/utils.py`, read on 2026-11-26): the whole answer is the label."""
    return float(answer.lower().strip() == label)


@pytest.mark.parametrize(
    ("said", "handed"),
    [
        ("Yes.", "Yes"),
        ("no", "No"),
        ("**No**", "No"),
        ("Yes, there is a cat.", "Yes"),
        ("The answer is no.", "No"),
        ("There is a cat.", "There is a cat."),  # neither: the scorer counts it as wrong, as it should
        ("Yes and no.", "Yes and no."),
    ],
)
def test_pope_gets_one_word(plugin: type[_Model], said: str, handed: str) -> None:
    module = importlib.import_module(plugin.__module__)
    asked = "Is there a cat in the image?\nAnswer the question using a single word or phrase."
    assert module.handed_over(said, asked, "pope") == handed
    assert module.handed_over(said, asked, "pope_adv") == handed


def test_other_tasks_get_what_was_said_without_a_stop_behind_yes(plugin: type[_Model]) -> None:
    module = importlib.import_module(plugin.__module__)
    asked = "What does the sign say?\nAnswer the question using a single word or phrase."
    for said in ("No parking.", "Yes, there is a cat.", "A dog.", "Dr."):
        assert module.handed_over(said, asked, "textvqa_val") == said
    assert module.handed_over("Yes.", asked, "vqav2_val") == "Yes"
    assert module.handed_over("Yes.", "Is it a cat? Please answer yes or no.", "mme") == "Yes"
    assert module.handed_over("Yes.", "Describe the image.", "coco2017_cap_val") == "Yes."


def test_popes_own_scorer_counts_what_a_model_of_sentences_says(plugin: type[_Model], requests: Requests) -> None:
    """`mini` ends its answers with a stop: handed over as they are, not one of them would count."""
    model = _loaded(plugin)
    model.task_dict["pope"] = model.task_dict["world"]
    labels = {"Is there a cat in the image?": "yes", "Is there a dog in the image?": "no"}
    asked = requests(list(labels), max_new_tokens=8)
    for place, one in enumerate(asked):
        one.arguments = (*one.arguments[:3], 0, "pope", "test")
        assert VLM.from_pretrained("mini").answer(sample_path("kitchen"), one.args[0]).text == ("Yes.", "No.")[place]
    answers = model.generate_until(asked)
    assert [_scored_by_pope(said, label) for said, label in zip(answers, labels.values(), strict=True)] == [1.0, 1.0]


@pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed here: make test-lmms")
def test_the_scorer_restated_here_is_the_installed_one() -> None:
    score = importlib.import_module("lmms_eval.tasks.pope.utils").pope_process_results
    for said in ("Yes", "Yes.", "yes", "No", "There is a cat."):
        for label in ("yes", "no"):
            found = score({"answer": label, "question_id": 1}, [said])["pope_accuracy"]["score"]
            assert found == _scored_by_pope(said, label)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("vhr", ["vhr"]),
        ("vhr:gain=1.5;vcd", ["vhr:gain=1.5", "vcd"]),
        ("[vhr:gain=1.5,layers=paper; var]", ["vhr:gain=1.5,layers=paper", "var"]),
        ("'pai:strength=0.2'", ["pai:strength=0.2"]),
    ],
)
def test_interventions_in_an_argument_string(plugin: type[_Model], text: str, words: list[str]) -> None:
    assert importlib.import_module(plugin.__module__).intervention_words(text) == words
    if words:
        arguments = f"pretrained=mini,interventions={text}"
        assert len(_loaded(plugin, arguments).mitigation.interventions) == len([one for one in words if one != "vcd"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrained=mini,interventions=vhrr", "did you mean 'vhr'"),
        ("pretrained=mini,intervention=vhr", "no model argument 'intervention'"),
        ("pretrained=mini,batch_size=auto", "batch_size='auto'"),
        ("pretrained=minni", "did you mean 'mini'"),
        ("pretrained=mini,profile=gone", "no head profile"),
    ],
)
def test_mistakes_name_the_remedy(plugin: type[_Model], arguments: str, message: str) -> None:
    with pytest.raises(Exception, match=re.escape(message)):
        plugin.create_from_arg_string(arguments)


def test_what_cannot_be_asked_is_refused(plugin: type[_Model], requests: Requests) -> None:
    model = _loaded(plugin)
    asked = requests([PROMPT])
    for paths in ([], [sample_path("park")] * 2):
        model.task_dict["world"]["test"][0]["paths"] = paths
        with pytest.raises(BadPrompt, match=f"world, document 0 comes with {len(paths)} images"):
            model.generate_until(asked)
    with pytest.raises(UnsupportedGeneration, match="generate_until"):
        model.loglikelihood(asked)
    with pytest.raises(UnsupportedGeneration, match="rounds"):
        model.generate_until_multi_round(asked)
    model.clean()
    assert not hasattr(model, "vlm")


TASK = """task: embedded_world
dataset_path: json
dataset_kwargs:
  data_files: {{test: {documents}}}
test_split: test
output_type: generate_until
doc_to_visual: !function embedded.images
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 24, temperature: 0, do_sample: false}}
process_results: !function embedded.scored
metric_list:
  - {{metric: exact, aggregation: mean, higher_is_better: true}}
metadata:
  - version: 1.0
"""
FUNCTIONS = """from PIL import Image


def images(doc):
    return [Image.open(doc["path"])]


def scored(doc, results):
    return {"exact": float(results[0] == doc["answer"])}
"""


@pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed here: make test-lmms")
@pytest.mark.parametrize("name", ["mini", pytest.param("small", marks=needs_base)])
def test_a_whole_evaluation(name: str, tmp_path: Path) -> None:
    """Through its own command line: the share of answers that equal VHR's own is 1 with VHR and less without."""
    if name == "small":
        save_small(shipped_weights(), tmp_path / "small")  # an ordinary checkpoint, not a name
        name = str(tmp_path / "small")
    vlm, vhr = VLM.from_pretrained(name), [HeadReinforcement(gain=3.0)]
    documents = [
        {
            "path": str(sample_path(picture)),
            "question": PROMPT,
            "answer": vlm.answer(sample_path(picture), interventions=vhr, max_new_tokens=24).text,
        }
        for picture in NAMES
    ]
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "embedded_world.yaml").write_text(TASK.format(documents=folder / "documents.jsonl"))
    (folder / "embedded.py").write_text(FUNCTIONS)
    assert _exact(folder, f"pretrained={name},interventions=vhr:gain=3.0", tmp_path / "vhr") == 1.0
    assert _exact(folder, f"pretrained={name}", tmp_path / "plain") < 1.0


def _exact(task: Path, arguments: str, out: Path) -> float:
    command = [sys.executable, "-m", "lmms_eval", "--model", "vlm_heads", "--model_args", arguments]
    command += ["--tasks", "embedded_world", "--include_path", task, "--batch_size", "2", "--output_path", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=task)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (report,) = out.rglob("*results.json")
    found = json.loads(report.read_text())["results"]["embedded_world"]
    return float(found["exact,none"])
