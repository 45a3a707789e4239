"""Models and interventions from what was written on the command line."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_heads import VLM, BadOption, HeadProfile, Mitigation


_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hpu|mtia|meta|xla|npu|privateuseone|[a-z]+(?=:))(:\d+)?")


def look_first(
    *,
    model: str | None = None,
    device: str | None = None,
    words: Sequence[str] | None = None,
    profile: Path | None = None,
) -> None:
    """Refuse names that mean nothing here before torch is imported, which takes seconds.

    Args:
        model: as `load_vlm` takes it.
        device: as `chosen_device` takes it.
        words: as `parse_mitigations` takes them; their options are left to it.
        profile: as `load_profile` takes it.

    Raises:
        VlmHeadsError: for the first that cannot be what it is meant to be.
    """
    from vlm_heads.errors import BadProfile
    from vlm_heads.names import is_repository, require_methods, require_model

    require_methods(word for word in single_words(words) if not is_kept(word))
    if model is not None:
        require_model(model)
    if model == "small":
        from vlm_evals.scenes.small.package import installed_file, shipped_weights

        installed_file()
        shipped_weights()
    if device is not None and not _DEVICE.fullmatch(device):
        raise _no_device(device, "there is no such kind")
    if profile is not None and not profile.exists() and not is_repository(str(profile)):
        raise BadProfile(f"{profile} holds no head profile: there is no such folder; `vlm-heads score` writes one")


def load_vlm(name: str, device: str | None, seed: int, *, allow_missing: bool = False) -> VLM:
    """Return a model on its device, with every generator seeded.

    Args:
        name: one of ours, a folder, or a Hugging Face id.
        device: where it is put; None for a GPU if there is one.
        seed: of every generator.
        allow_missing: let weights that the checkpoint misses be random.

    Raises:
        VlmHeadsError: if there is no such model, or it is no vision-language model, or the device is not there.
    """
    import torch
    from huggingface_hub.utils.logging import set_verbosity as set_hub_verbosity
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from vlm_heads import VLM

    disable_progress_bar()
    set_verbosity_error()
    set_hub_verbosity(logging.ERROR)
    where = chosen_device(device)
    torch.manual_seed(seed)
    # a bare word is ours or a folder; only `owner/name` is worth asking the hub for
    local = "/" not in name
    return VLM.from_pretrained(name, device=where, allow_missing=allow_missing, local_files_only=local)


def chosen_device(device: str | None) -> str:
    """Return the device asked for, or by default this process's GPU if there is one.

    Raises:
        BadOption: if it is not here.
    """
    import torch

    if device is None:
        rank = int(os.environ.get("LOCAL_RANK", "0"))  # where processes outnumber the GPUs, they share them
        return f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise _no_device(device, str(error).splitlines()[0]) from error
    return device


def _no_device(device: str, reason: str) -> BadOption:
    from vlm_heads.errors import BadOption

    return BadOption(f"device {device!r} cannot be used ({reason}); leave out --device, or say --device cpu")


def load_profile(folder: Path | None) -> HeadProfile | None:
    """Return the head scores in a folder; None for None."""
    from vlm_heads import HeadProfile

    return None if folder is None else HeadProfile.from_pretrained(folder)


def parse_mitigations(words: Sequence[str] | None, profile: Path | None = None) -> Mitigation:
    """Return the interventions and the contrast written as `name`, as `name:option=value,…`, or kept in a folder.

    Args:
        words: as `--with` takes them; one may name several, separated by spaces.
        profile: folder of head scores, in place of what a kept mitigation brings.

    Raises:
        BadOption: for an unknown name or option, with the nearest known one, for two contrasts, or a damaged folder.
        BadProfile: if the folder of head scores is missing or damaged.
    """
    from vlm_heads import Mitigation
    from vlm_heads.methods import parse_method

    return Mitigation.of(
        [Mitigation.from_pretrained(word) if is_kept(word) else parse_method(word) for word in single_words(words)],
        profile=load_profile(profile),
    )


def single_words(words: Sequence[str] | None) -> list[str]:
    """Return words that name one method, or one folder, each; what was given may name several, separated by spaces.

    A space inside of an option's value, as in a question, separates nothing unless a method's name comes after it.
    """
    from vlm_heads.names import METHODS, words_in, written_methods

    known = {*written_methods(), *(plug.name for plug in entry_points(group=METHODS))}
    found: list[str] = []
    for word in words or ():
        pieces = [word] if is_kept(word) else words_in(word) or [word]
        begun = len(found)
        for piece in pieces:
            goes_on = len(found) > begun and "=" in found[-1] and not is_kept(piece)
            if goes_on and piece.partition(":")[0] not in known:
                found[-1] += f" {piece}"
            else:
                found.append(piece)
    return found


def say_tuned_elsewhere(words: Sequence[str] | None, vlm: VLM) -> None:
    """Remark on folders of `vlm-heads tune` whose evidence is about other weights than this model's."""
    from vlm_evals.answer import fingerprint

    from vlm_app.console import remark

    for word in single_words(words):
        evidence = Path(word) / "evidence.json"
        if not is_kept(word) or not evidence.is_file():
            continue
        try:
            card = json.loads(evidence.read_text(encoding="utf-8"))
            tuned, weights = card["model"], card["weights"]
        except (ValueError, KeyError, TypeError, OSError):
            remark(f"{evidence} cannot be read, so nothing says what {word} was tuned on")
            continue
        if weights != fingerprint(vlm.model):
            remark(f"{word} was tuned on {tuned}, and this is {vlm.name} with other weights: its evidence says nothing")


def is_kept(word: str) -> bool:
    """Whether a word is the folder of a mitigation, as `vlm-heads tune` writes it."""
    return (Path(word) / "mitigation.json").is_file()
