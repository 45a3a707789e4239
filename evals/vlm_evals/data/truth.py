"""What is in each image: the ground truth of CHAIR.

An image's objects are the categories of all its instances, crowds included, and the objects that the same text pipeline
finds in the human captions. They come from the official COCO files through pycocotools, or from a saved index.
"""

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from vlm_evals.data.coco import annotation_files
from vlm_evals.data.image_names import same_place, told_apart, whole_name
from vlm_evals.errors import EvaluationError, FileFormatError, UnknownImage
from vlm_evals.records import cache_folder, file_hash, image_key, read_json, read_text, write_json
from vlm_evals.text.objects import ObjectFinder, vocabulary

FORMAT = 1


@dataclass(frozen=True)
class Truth:
    """The objects of every image.

    Attributes:
        objects: image key -> object names.
        digest: SHA-256 of the index, or of the sources it was built from.
        source: the file or folder it came from, by name.
        pipeline, vocabulary_name: the text pipeline that read the human captions; None where an index does not say.
    """

    objects: Mapping[str, frozenset[str]] = field(repr=False)
    digest: str
    source: str
    pipeline: str | None = None
    vocabulary_name: str | None = None

    def of(self, image_id: int | str) -> frozenset[str]:
        """Return the objects of an image.

        Raises:
            UnknownImage: if the image is not in the ground truth; an image without objects has an entry.
        """
        return self.objects[self.key_of(image_id)]

    def key_of(self, image_id: int | str) -> str:
        """Return the key of an image: its name's, or its whole path where images of several folders share a name.

        Raises:
            UnknownImage: if the image is not in the ground truth, or may be several of it.
        """
        if (key := image_key(image_id)) in self.objects:
            return key
        candidates = [one for one in self._whole_names.get(key, ()) if same_place(one, whole_name(image_id))]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UnknownImage(
                f"image {image_id!r} may be {' or '.join(sorted(candidates)[:3])} of the ground truth {self.source}; "
                "give its name with the folder"
            )
        raise UnknownImage(
            f"image {image_id!r} is not in the ground truth {self.source} ({len(self.objects)} images); "
            "give the index or the COCO annotations of the split the captions are about"
        )

    @cached_property
    def _whole_names(self) -> dict[str, list[str]]:
        """`image_key` -> whole names, for images that share it."""
        found: dict[str, list[str]] = {}
        for key in self.objects:
            if "/" in key:
                found.setdefault(image_key(key), []).append(key)
        return found


def load_truth(
    source: Path | str | Sequence[Path | str], finder: ObjectFinder | None = None, cache: Path | None = None
) -> Truth:
    """Return the ground truth of a saved index, a folder of COCO annotations, or a list of COCO files.

    Args:
        source: a JSON index (image id -> object names, or one that `save_truth` wrote); or a folder with
            `instances*.json` and `captions*.json`, itself or in `annotations/`; or such files, several of each.
        finder: reads the human captions; chair-2018 with the published vocabulary by default, which is also what
            published chair-opera tables rest on.
        cache: folder for the built index; by default the user's cache folder. A folder that cannot be written is not
            used.

    Raises:
        FileFormatError: if a file is not what it should be.
        EvaluationError: if there are no annotations in a folder, or the index was built with another vocabulary.
    """
    paths = [Path(source)] if isinstance(source, Path | str) else [Path(one) for one in source]
    files = [file for path in paths for file in (_annotation_files(path) if path.is_dir() else [path])]
    first = read_json(files[0]) if len(files) == 1 else None
    if first is not None and not _is_coco(first):
        truth = _from_index(files[0], first)
        _refuse_mixing(truth, finder)
        return truth
    finder = finder or ObjectFinder()
    return _built_or_cached(files, finder, cache or cache_folder())


def save_truth(path: Path, truth: Truth) -> None:
    """Write a ground truth as an index that `load_truth` reads."""
    write_json(
        path,
        {
            "format": FORMAT,
            "digest": truth.digest,
            "source": truth.source,
            "pipeline": truth.pipeline,
            "vocabulary": truth.vocabulary_name,
            "objects": {key: sorted(nodes) for key, nodes in truth.objects.items()},
        },
    )


def build_truth(files: Sequence[Path], finder: ObjectFinder) -> Truth:
    """Return the ground truth of official COCO files, instances and captions in any number and order.

    Raises:
        FileFormatError: if a file is neither, or names a category that CHAIR does not know.
    """
    objects: dict[str, set[str]] = {}
    for path in files:
        for key, nodes in _objects_of(path, finder):
            objects.setdefault(key, set()).update(nodes)
    frozen = {key: frozenset(nodes) for key, nodes in objects.items()}
    names = ", ".join(path.name for path in files)
    return Truth(frozen, _sources_digest(files, finder), names, finder.pipeline, finder.vocabulary_name)


def _objects_of(path: Path, finder: ObjectFinder) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield (image key, objects) of one COCO file; an image without annotation yields none."""
    coco = _coco(path)
    known = vocabulary().nodes
    try:
        for image in coco.dataset["images"]:
            yield image_key(image["id"]), ()
        names = {category["id"]: category["name"] for category in coco.dataset.get("categories", ())}
        for annotation in coco.dataset["annotations"]:
            key = image_key(annotation["image_id"])
            if "caption" in annotation:
                if not isinstance(said := annotation["caption"], str):
                    raise FileFormatError(path, None, f"a caption of image {key} is {said!r}, and no text")
                yield key, (mention.node for mention in finder.find(said).mentions)
            else:
                if not names:
                    raise FileFormatError(
                        path, None, "is not a COCO annotation file of objects: it has no `categories`, which name them"
                    )
                if (category := annotation["category_id"]) not in names:
                    raise FileFormatError(path, None, f"category {category!r} of image {key} is not in `categories`")
                name = names[category]
                if name not in known:
                    raise FileFormatError(path, None, f"category {name!r} is not one of the objects CHAIR knows")
                yield key, (known[name],)
    except FileFormatError:
        raise
    except (KeyError, TypeError, AttributeError, EvaluationError) as error:
        raise FileFormatError(path, None, f"is not a COCO annotation file ({error!r})") from error


def _coco(path: Path) -> Any:
    """Return pycocotools' view of a file, without what it prints."""
    from pycocotools.coco import COCO

    dataset = read_json(path)
    if not _is_coco(dataset):
        raise FileFormatError(path, None, "is not a COCO annotation file: it has no `images` and `annotations`")
    coco = COCO()
    coco.dataset = dataset
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    except (KeyError, TypeError) as error:
        raise FileFormatError(path, None, f"is not a COCO annotation file ({error!r})") from error
    return coco


def _is_coco(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("annotations"), list) and "images" in value


def _annotation_files(folder: Path) -> list[Path]:
    instances, captions = annotation_files(folder)
    if not (instances or captions):
        raise EvaluationError(f"{folder} holds no instances*.json and captions*.json, nor does its folder annotations")
    return [*instances, *captions]


def _from_index(path: Path, value: object) -> Truth:
    """Return the ground truth of a parsed index: the plain mapping, or one that `save_truth` wrote."""
    if not isinstance(value, dict):
        raise FileFormatError(path, None, "is not an index of objects: image id -> list of object names")
    stated: dict[str, Any] = (
        value if isinstance(value.get("objects"), dict) and "format" in value else {"objects": value}
    )
    if stated.get("format", FORMAT) != FORMAT:
        raise FileFormatError(path, None, f"has index format {stated['format']!r}; this version reads {FORMAT}")
    known = set(vocabulary().nodes.values())
    objects: dict[str, frozenset[str]] = {}
    keys = _keys(path, stated["objects"])
    for name, nodes in stated["objects"].items():
        if not _all_known(nodes, known) or not name.strip():
            line = read_text(path).partition(json.dumps(name))[0].count("\n") + 1
            raise FileFormatError(path, line, f"image {name!r} does not have a list of objects that CHAIR knows")
        if objects.setdefault(keys[name], frozenset(nodes)) != frozenset(nodes):
            raise FileFormatError(path, None, f"image {name!r} stands there twice, with different objects")
    digest = str(stated.get("digest") or file_hash(path))
    source = str(stated.get("source") or path.name)
    return Truth(objects, digest, source, stated.get("pipeline"), stated.get("vocabulary"))


def _keys(path: Path, names: Iterable[str]) -> dict[str, str]:
    try:
        return told_apart(names)
    except EvaluationError as error:
        raise FileFormatError(path, None, str(error)) from error


def _all_known(nodes: object, known: set[str]) -> bool:
    try:
        return isinstance(nodes, list) and known.issuperset(nodes)
    except TypeError:  # a list or an object stands among the names
        return False


def _refuse_mixing(truth: Truth, finder: ObjectFinder | None) -> None:
    if finder is None or truth.vocabulary_name in (None, finder.vocabulary_name):
        return
    raise EvaluationError(
        f"the ground truth {truth.source} was built with the vocabulary {truth.vocabulary_name!r}, the captions would "
        f"be read with {finder.vocabulary_name!r}; the two are never mixed"
    )


def _built_or_cached(files: Sequence[Path], finder: ObjectFinder, cache: Path) -> Truth:
    digest = _sources_digest(files, finder)
    saved = cache / f"truth-{digest[:32]}.json"
    if saved.is_file():
        with contextlib.suppress(FileFormatError):  # a damaged cache is built anew
            truth = _from_index(saved, read_json(saved))
            if truth.digest == digest:
                return truth
    truth = build_truth(files, finder)
    with contextlib.suppress(OSError):
        save_truth(saved, truth)
    return truth


def _sources_digest(files: Sequence[Path], finder: ObjectFinder) -> str:
    stated = [FORMAT, finder.pipeline, finder.vocabulary_name, finder.notes, sorted(map(file_hash, files))]
    return sha256(json.dumps(stated).encode()).hexdigest()
