"""The package's names come when they are asked for, and `import vlm_heads.errors` costs next to nothing."""

import ast
import importlib
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import vlm_heads
import vlm_heads.models
from vlm_heads import known_methods
from vlm_heads.errors import BadOption, UnknownModel
from vlm_heads.models.loading import embedded_models
from vlm_heads.names import model_names, require_methods, require_model, written_methods

LAZY = [vlm_heads, vlm_heads.models]


def after(program: str) -> set[str]:
    """Return what a program has imported of the heavy packages."""
    heavy = "{'torch', 'transformers', 'vlm_kernels', 'numpy', 'PIL', 'huggingface_hub'}"
    program = f"import sys\n{program}\nprint(*{heavy} & set(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize(
    "program", ["import vlm_heads", "import vlm_heads.errors", "from vlm_heads import names, __version__"]
)
def test_the_package_itself_imports_nothing_heavy(program: str) -> None:
    assert after(program) == set()


def test_an_image_is_read_without_torch() -> None:
    assert after("from vlm_heads.models import load_image") == {"numpy", "PIL"}


@pytest.mark.parametrize("package", LAZY, ids=lambda package: package.__name__)
def test_every_public_name_is_the_one_that_a_type_checker_sees(package: ModuleType) -> None:
    seen = {}
    for node in ast.walk(ast.parse(inspect.getsource(package))):
        if isinstance(node, ast.ImportFrom) and node.module != "typing" and not node.module.endswith(("lazy", "moved")):
            seen |= {alias.name: importlib.import_module(node.module) for alias in node.names}
    assert seen.keys() == set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is getattr(seen[name], name)
    assert set(package.__all__) <= set(dir(package))


def test_a_name_is_not_hidden_by_the_module_that_is_called_like_it() -> None:
    assert "torch" in after("import vlm_heads.attach\nassert vlm_heads.attach.__name__ == 'attach'")
    assert "torch" in after("from vlm_heads import attach\nassert attach.__name__ == 'attach'")
    assert callable(vlm_heads.attach)
    assert isinstance(sys.modules["vlm_heads.attach"], ModuleType)


def test_what_is_not_there_is_said_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'vlm_heads' has no attribute 'atach'"):
        vlm_heads.atach  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'atach'"):
        from vlm_heads import atach  # noqa: F401


def test_names_and_options_are_read_from_the_files_as_they_are() -> None:
    there = {name: tuple(one.name for one in kind.options()) for name, kind in known_methods().items()}
    assert dict(written_methods()) == there
    assert set(model_names()) == embedded_models().keys()


@pytest.mark.parametrize("name", known_methods())
def test_a_method_with_all_its_options_is_let_through(name: str) -> None:
    stated = ",".join(f"{option}=1" for option in written_methods()[name])
    require_methods([name, f" {name} : {stated}", f'{name}:unknown="a, b=c"'])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("vrh", "no intervention, lens, contrast, check or pipeline 'vrh' \\(did you mean 'vhr'\\?\\); known: a"),
        ("", "no intervention, lens, contrast, check or pipeline ''"),
        ("vhr:gian=2", "vhr has no option 'gian' \\(did you mean 'gain'\\?\\); it has gain, layers"),
        ("vcd:bund=0.2", "did you mean 'bound'"),
    ],
)
def test_a_slip_is_told_as_the_parser_tells_it(word: str, said: str) -> None:
    with pytest.raises(BadOption, match=said) as early:
        require_methods(["vhr", word])
    with pytest.raises(BadOption) as late:
        vlm_heads.parse_method(word)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("name", ["mni", "./gone", "gone/", "/gone/model", "a/b/c", "", "~/model", "owner/na me"])
def test_a_model_that_cannot_be_one_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(UnknownModel, match="give mini, small, planted, planted-sinks, a folder"):
        require_model(name)


@pytest.mark.parametrize("name", ["mini", "planted-sinks", "llava-hf/llava-1.5-7b-hf", ".", "/"])
def test_what_may_be_a_model_is_let_through(name: str) -> None:
    require_model(name)
