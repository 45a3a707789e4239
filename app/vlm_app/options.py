"""The options that subcommands share, under the same names everywhere."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_PROMPT = "Please describe this image in detail."  # vlm_heads.vlm's, without importing torch for it
DEFAULT_MODEL = "mini"
DEFAULT_SEED = 7
SAMPLE = "sample:"  # before the name of a picture that ships with the package

Images = Annotated[
    list[str], typer.Argument(metavar="IMAGE…", help="Image files; sample:kitchen and others ship with the package.")
]
Model = Annotated[str, typer.Option("--model", "-m", help="mini, small, planted, a folder, or a Hugging Face id.")]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        "-w",
        metavar="NAME[:OPTION=VALUE,…]",
        help="An intervention, such as vhr or vhr:gain=1.5,layers=all, or one contrast, such as vcd:alpha=0.5, or a "
        "folder that `vlm-heads tune` wrote; may be given several times.",
    ),
]
Profile = Annotated[Path | None, typer.Option("--profile", help="Head scores saved by `vlm-heads score`.")]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="What to ask about the image.")]
Seed = Annotated[int, typer.Option("--seed", help="Seeds everything that is drawn.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, …; by default a GPU if there is one.")]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Load a checkpoint that misses weights: those are random then.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]

EndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Ask a server that speaks OpenAI's chat completions, as http://127.0.0.1:8000/v1, and no model here.",
    ),
]
ServedModel = Annotated[
    str | None,
    typer.Option("--served-model", help="What the server calls the model; needed where it serves several."),
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, max=1024, help="Requests to the server at once.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that one request to the server may take.")]
KeyFrom = Annotated[
    str | None,
    typer.Option(
        "--key-from",
        metavar="VARIABLE",
        help="The variable of the environment that holds the server's key; VLM_HEADS_API_KEY by default.",
    ),
]
