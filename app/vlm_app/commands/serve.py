"""`vlm-heads serve`: a server that speaks OpenAI's chat completions, and whose answers are mitigated."""

from __future__ import annotations

import ipaddress
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from vlm_app.console import loading, print_json, remark
from vlm_app.mistakes import UsageError
from vlm_app.options import DEFAULT_MODEL, DEFAULT_SEED, AllowMissing, Device, Json, Profile, Seed, With

PORT = 8000


def serve(
    model: Annotated[str, typer.Argument(help="mini, small, planted, a folder, or a Hugging Face id.")] = DEFAULT_MODEL,
    words: With = None,
    profile: Profile = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = PORT,
    name: Annotated[
        str | None, typer.Option("--name", help="What requests call the model; by default as it is called here.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="VLM_HEADS_SERVE_KEY",
            show_envvar=True,
            help="Answer only requests with this key. In the environment other users cannot see it.",
        ),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Fetch pictures that requests name by a public address.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Requests answered together, where they fit.")
    ] = 16,
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Requests inside at once; others are told to come again.")
    ] = 256,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens a request may ask for.")] = 4096,
    grace: Annotated[
        float, typer.Option("--grace", min=0.0, help="Seconds for answers under way when the server is to end.")
    ] = 30.0,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    allow_missing: AllowMissing = False,
    json: Json = False,
) -> None:
    """Serve a model on 127.0.0.1 as OpenAI's chat completions; each request may bring a mitigation of its own."""
    missing = [one for one in ("fastapi", "uvicorn", "pydantic", "httpx2") if find_spec(one) is None]
    if missing:
        raise UsageError(f"the server needs {', '.join(missing)}: pip install -e '.[serve]' in the checkout")
    from vlm_app.models import load_vlm, look_first, parse_mitigations, say_tuned_elsewhere
    from vlm_app.serving.launch import address_of, listening

    look_first(model=model, device=device, words=words, profile=profile)
    if api_key is not None and not api_key.strip():
        raise UsageError("--api-key is empty: give a key, or leave it out")
    try:
        found = listening(host, port)
    except OSError as failure:
        raise UsageError(
            f"{host}:{port} cannot be listened on ({failure.strerror}): give another --port or --host"
        ) from failure
    if not _is_loopback(host) and api_key is None:
        remark(f"{host} is reached from other machines, and no --api-key is set: anybody there can ask")
    loading(model)
    from vlm_evals.answer import fingerprint

    from vlm_app.serving.launch import serve
    from vlm_app.serving.pictures import Remote
    from vlm_app.serving.question import Rules
    from vlm_app.serving.server import Guard, build_app
    from vlm_app.serving.worker import Worker

    mitigation = parse_mitigations(words, profile)
    vlm = load_vlm(model, device, seed, allow_missing=allow_missing)
    say_tuned_elsewhere(words, vlm)
    rules = Rules(name or model, mitigation, max_tokens, Remote() if allow_remote else None)
    names = frozenset({"127.0.0.1", "localhost", "::1", host}) if _is_loopback(host) else None
    worker = Worker(vlm, together=batch_size)
    app = build_app(worker, rules, fingerprint(vlm.model), guard=Guard(api_key, names), most=queue)
    _say(address_of(found), rules.name, json)
    serve(app, found, grace=grace)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(address: str, name: str, json: bool) -> None:
    if json:
        print_json({"url": f"{address}/v1", "model": name})
    else:
        print(f"vlm-heads serve: {name} at {address}/v1")
        remark("Press Ctrl+C to end it.")
    sys.stdout.flush()
