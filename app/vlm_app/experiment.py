"""One evaluation: a protocol bound to data, asked of a model in several arms, each arm a run directory of its own.

OUT/data                      the embedded world's pictures and annotations, where no --data was given
OUT/plain, OUT/mitigated      the two arms of a paired evaluation; a single run is OUT itself
OUT/bottom-heads, …           controls
OUT/bias+0.4, …               the plain model's trade-off curve
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_evals.data.coco import CocoFolder, TaskError
from vlm_evals.runs import content_hash, merge_answers, open_run
from vlm_evals.scored import keep_truth
from vlm_evals.tasks import Metric, Protocol, bind, read_protocol, samples, template_named

from vlm_app.console import progress

if TYPE_CHECKING:
    from vlm_evals.answer import Asking, Processes

    from vlm_heads import Contrast, HeadProfile, Mitigation
    from vlm_heads.interventions.base import Intervention

BIASES = (-1.0, -0.3, 0.4, 1.2, 2.6)  # added to the end-of-text logits of the plain model; 0 is the plain run itself
CONTROLS = {"bottom-heads": "bottom", "random-heads": "random"}
WORLD_IMAGES = 500  # scenes of the embedded world that are asked about where no limit is given


@dataclass(frozen=True)
class Arm:
    """One way of answering.

    Attributes:
        name: its folder below the evaluation's; empty for the evaluation's own.
        interventions: attached to every generation.
        contrast: a second stream beside every generation, or None.
        end_bias: added to the end-of-text logits.
    """

    name: str
    interventions: tuple[Intervention, ...] = ()
    contrast: Contrast | None = None
    end_bias: float = 0.0

    @classmethod
    def of(cls, name: str, mitigation: Mitigation) -> Arm:
        """Return the arm of what was written on the command line."""
        return cls(name, mitigation.interventions, mitigation.contrast)


def arms_of(mitigation: Mitigation, *, paired: bool, curve: bool = False, controls: bool = False) -> list[Arm]:
    """Return the arms of an evaluation, the plain one first where there are several.

    Raises:
        TaskError: if arms are to be compared and there is no intervention, or none has heads to take a control from.
    """
    if not (paired or curve or controls):
        return [Arm.of("", mitigation)]
    if not mitigation:
        raise TaskError("--paired, --curve and --controls compare with an intervention: name one, as in --with vhr")
    arms = [Arm("plain"), Arm.of("mitigated", mitigation)]
    if controls:
        arms += [control(arms[1], name, heads) for name, heads in CONTROLS.items()]
    if curve:
        arms += [Arm(bias_name(bias), end_bias=bias) for bias in BIASES]
    return arms


def bias_name(bias: float) -> str:
    """Return the folder of a point of the plain model's curve."""
    return f"bias{bias:+g}"


def control(arm: Arm, name: str, heads: str) -> Arm:
    """Return the same arm acting on other heads, where its interventions choose any.

    Raises:
        TaskError: if none has heads to choose.
    """
    if not any(_chooses_heads(one) for one in arm.interventions):
        names = ", ".join(one.name for one in (*arm.interventions, arm.contrast) if one is not None)
        raise TaskError(f"--controls takes the same gain on other heads, and {names} chooses no heads: leave it out")
    changed: list[Any] = [replace(one, heads=heads) if _chooses_heads(one) else one for one in arm.interventions]  # type: ignore[type-var]
    return replace(arm, name=name, interventions=tuple(changed))


def _chooses_heads(intervention: Any) -> bool:
    return any(one.name == "heads" and "HeadChoice" in str(one.type) for one in fields(intervention))


def find_data(
    name: str, metric: Metric, given: Path | None, out: Path, *, limit: int | None, seed: int, place: Processes
) -> CocoFolder:
    """Return the data folder of a protocol: the one given, or an export of the embedded world, made where missing.

    Raises:
        TaskError: if the protocol needs a folder and none is given, or its file cannot be used as asked.
    """
    world = _read(name, metric, limit).world if is_file(name) else _world(template_named(name).world, limit, seed)
    if given is not None:
        return CocoFolder.find(given)
    if world is None:
        raise TaskError(f"the protocol {name!r} needs --data: a folder with COCO's pictures and annotations")
    folder = out / "data"
    if place.first and not folder.is_dir():
        _export(folder, **world)
    place.wait()
    return CocoFolder.find(folder)


def _world(split: str | None, limit: int | None, seed: int) -> Mapping[str, Any] | None:
    """Return which export of the embedded world is asked about; None where other pictures are."""
    images = max(WORLD_IMAGES, 2 * (limit or WORLD_IMAGES))  # POPE passes over those with fewer than three objects
    return None if split is None else {"split": split, "images": images, "seed": seed}


def _read(name: str, metric: Metric, limit: int | None) -> Protocol:
    protocol = read_protocol(Path(name))
    if protocol.metric != metric:
        raise TaskError(f"{name} is a protocol for {protocol.metric}: use `vlm-heads eval {protocol.metric}`")
    if limit is not None:
        raise TaskError(f"{name} names its images: leave out --limit")
    return protocol


def _export(folder: Path, split: str, images: int, seed: int) -> None:
    """Write scenes in one step: a folder that is there is whole."""
    from vlm_evals.scenes.export import export_world

    draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    with progress("drawing scenes", images) as advance:
        export_world(draft, split=split, images=images, seed=seed, progress=lambda scenes: _counted(scenes, advance))
    os.replace(draft, folder)


def _counted(scenes: Any, advance: Any) -> Any:
    for scene in scenes:
        yield scene
        advance(1)


def choose_protocol(
    name: str, metric: Metric, data: CocoFolder, *, limit: int | None, seed: int, **changes: Any
) -> Protocol:
    """Return a built-in protocol bound to data, or the protocol of a file, with some entries changed."""
    if is_file(name):
        return replace(_read(name, metric, limit), **changes)
    if limit is None and template_named(name).world is not None:
        limit = WORLD_IMAGES
    return bind(name, metric, data, limit=limit, seed=seed, **changes)


def is_file(name: str) -> bool:
    """Whether a protocol's name means a file."""
    return name.endswith(".json") or os.sep in name


def ask_arms(
    asking: Asking, protocol: Protocol, data: CocoFolder, arms: Sequence[Arm], out: Path, place: Processes
) -> None:
    """Ask everything in every arm; what was answered by an earlier start is not asked again."""
    from vlm_evals.answer import answer_samples

    asked = samples(protocol, data)
    share = len(asked[place.index :: place.count])
    for arm in arms:
        folder = out / arm.name
        identity = {"protocol": protocol.as_json(), "setting": setting(asking, arm)}
        here = replace(asking, interventions=arm.interventions, contrast=arm.contrast, end_bias=arm.end_bias)
        with (
            open_run(folder, identity, shard=place.index, shards=place.count) as run,
            progress(f"{protocol.metric} {arm.name}".strip(), share if place.first else None) as advance,
        ):
            answer_samples(here, protocol, asked, run, processes=place, progress=advance)
        place.wait()
        if place.first:
            merge_answers(folder, [sample.sample_id for sample in asked])
            keep_truth(folder, protocol, data)
    place.wait()


def setting(asking: Asking, arm: Arm) -> dict[str, Any]:
    """Return who answers, as JSON: part of what a run directory is bound to."""
    from vlm_evals.answer import fingerprint

    from vlm_heads import Mitigation

    stated = Mitigation(arm.interventions, arm.contrast).stated()
    profile = None if asking.profile is None else _profile_hash(asking.profile)
    model = {"model": asking.vlm.name, "weights": fingerprint(asking.vlm.model)}
    return model | stated | {"end_bias": arm.end_bias, "profile": profile}


def _profile_hash(profile: HeadProfile) -> str:
    scores = profile.scores.tolist()
    return content_hash(scores if profile.gains is None else [scores, profile.gains.tolist()])
