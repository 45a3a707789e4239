"""One evaluation: a protocol bound to data, asked of a model in several arms, each arm a run directory of its own.

OUT/data                      the embedded world's pictures and annotations, where no data was given
OUT/plain, OUT/mitigated      the two arms of a paired evaluation; a single run is OUT itself
OUT/bottom-heads, …           controls, see `arms`
OUT/bias+0.4, …               the plain model's trade-off curve
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from vlm_evals.answer import Processes
from vlm_evals.arms import Arm
from vlm_evals.endpoint.asking import Asker
from vlm_evals.errors import TaskError
from vlm_evals.protocol import Protocol
from vlm_evals.records import Sample
from vlm_evals.runs import content_hash, keep_notes, merge_answers, open_run
from vlm_evals.tasks import asked_of, bind, is_file, narrowed, read_named, samples, shortfall, template_named
from vlm_evals.whole_folder import whole_folder
from vlm_heads import HeadProfile, Mitigation

MOST_IMAGES = 100_000  # of the embedded world that one run may ask about: twice as many are drawn, 3 kB each
WORLD_IMAGES = 500  # scenes of the embedded world that are asked about where no limit is given

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def silent(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show no progress."""
    yield lambda count: None


def find_data(
    name: str,
    metric: str,
    given: Path | None,
    out: Path,
    *,
    limit: int | None,
    seed: int,
    processes: Processes,
    progress: Progress = silent,
) -> Any:
    """Return the data folder of a protocol: the given one, or an export of the embedded world, made where missing.

    Raises:
        TaskError: if the protocol needs a folder and none is given, or its file cannot be used as asked.
    """
    asked = asked_of(metric)
    if is_file(name):
        named = read_named(name, metric, limit)
        world, name = named.world, named.name
    else:
        world = _world(template_named(name, asked, metric).world, limit, seed)
    if given is not None:
        return narrowed(name, asked.find_data(given))
    if world is None:
        raise TaskError(f"the protocol {name!r} needs --data: a folder with {asked.data_is}")
    folder = out / "data"
    processes.once(lambda: not folder.is_dir(), lambda: _export(folder, progress, **world))
    return asked.find_data(folder)


def _world(split: str | None, limit: int | None, seed: int) -> Mapping[str, Any] | None:
    """Return which export of the embedded world is asked about; None where other pictures are."""
    if split is not None and limit is not None and not 1 <= limit <= MOST_IMAGES:
        raise TaskError(f"--limit {limit}: of the embedded world 1 to {MOST_IMAGES} images can be asked about")
    images = max(WORLD_IMAGES, 2 * (limit or WORLD_IMAGES))  # POPE skips scenes with fewer than three objects
    return None if split is None else {"split": split, "images": images, "seed": seed}


def _export(folder: Path, progress: Progress, *, split: str, images: int, seed: int) -> None:
    """Write scenes in one step: a folder that is there is whole."""
    from vlm_evals.scenes.export import export_world
    from vlm_evals.scenes.world import SPLITS

    if split not in SPLITS or not 1 <= images <= 2 * MOST_IMAGES:
        raise TaskError(
            f"there is no world of the split {split!r} with {images} images: the splits are {', '.join(SPLITS)}"
        )
    with whole_folder(folder) as draft, progress("drawing scenes", images) as advance:
        export_world(draft, split=split, images=images, seed=seed, progress=lambda one: _counted(one, advance))


def _counted(scenes: Iterable[Any], advance: Callable[[int], None]) -> Iterator[Any]:
    for scene in scenes:
        yield scene
        advance(1)


def choose_protocol(name: str, metric: str, data: Any, *, limit: int | None, seed: int, **changes: Any) -> Protocol:
    """Return a built-in protocol bound to data, or the protocol of a file, with some entries changed."""
    if is_file(name):
        return read_named(name, metric, limit).changed(**changes)
    if limit is None and template_named(name, asked_of(metric), metric).world is not None:
        limit = WORLD_IMAGES
    return bind(name, metric, data, limit=limit, seed=seed, **changes)


def notes_on(name: str, data: Any) -> list[str]:
    """Return what a report says of the data of a protocol: pictures that are missing, unless it names its images."""
    lacking = None if is_file(name) else shortfall(data)
    return [lacking] if lacking else []


def notes_on_check(mitigation: Mitigation, asked: Sequence[Sample]) -> list[str]:
    """Return what a report says where answers are checked that the check never touches."""
    if mitigation.check is None or not all(sample.label for sample in asked):
        return []
    return [
        f"{mitigation.check.name} never checks an answer that begins with yes or no: it cannot change these figures"
    ]


def ask_arms(
    asking: Asker,
    protocol: Protocol,
    data: Any,
    arms: Sequence[Arm],
    out: Path,
    *,
    processes: Processes,
    notes: Sequence[str] = (),
    progress: Progress = silent,
) -> None:
    """Ask everything in every arm; what was answered by an earlier start is not asked again.

    Args:
        asking: the model or the server, and how it is asked; what is done to it is each arm's own.
        protocol: what is asked.
        data: the protocol's.
        arms: each a folder below `out`.
        out: folder of the evaluation.
        processes: those that share the work.
        notes: sentences that every report of the runs carries.
        progress: shows how many answers of an arm there are.
    """
    asked = samples(protocol, data)
    names = [sample.sample_id for sample in asked]
    share = len(asked[processes.index :: processes.count])
    for arm in arms:
        folder = out / arm.name
        here = arm.asking(asking, out)
        identity = {"protocol": protocol.as_json(), "setting": setting(here, arm)}
        title = f"{protocol.metric} {arm.name}".strip()
        with (
            open_run(
                folder,
                identity,
                shard=processes.index,
                shards=processes.count,
                where=asking.where,
                defaults=_defaults(arm.mitigation),
            ) as run,
            progress(title, share if processes.first else None) as advance,
        ):
            here.answer(arm.decoded(protocol), arm.prompted(asked), run, processes=processes, progress=advance)
        processes.wait()
        if processes.first:
            merge_answers(folder, names)
            asked_of(protocol.metric).keep(folder, protocol, data)
            keep_notes(folder, [*notes, *notes_on_check(arm.mitigation, asked)])
    processes.wait()


def setting(asking: Asker, arm: Arm) -> dict[str, Any]:
    """Return who answers, as JSON: part of what a run directory is bound to.

    Args:
        asking: as the arm asks.
        arm: what it changes in how the model is asked is stated where it changes anything.
    """
    profile = None if arm.mitigation.profile is None else _profile_hash(arm.mitigation.profile)
    return (
        asking.stated() | arm.mitigation.stated() | {"end_bias": arm.end_bias, "profile": profile} | arm.changes(asking)
    )


def _defaults(mitigation: Mitigation) -> dict[str, dict[str, Any]]:
    """Return of every method of a mitigation what its options are where nothing is said."""
    return {one.name: {option.name: option.default for option in one.options()} for one in mitigation.methods()}


def _profile_hash(profile: HeadProfile) -> str:
    scores = profile.scores.tolist()
    return content_hash(scores if profile.gains is None else [scores, profile.gains.tolist()])
