"""The page: components and which of them hands what to the session. Nothing here thinks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from vlm_app.options import SAMPLE
from vlm_app.session import Picture, Session
from vlm_app.view import html as views
from vlm_app.view.cards import Card, Control, cards, presets
from vlm_app.view.form import values_of, words_of
from vlm_app.view.inside import Inside
from vlm_app.view.offline import Offline
from vlm_app.view.recipe import LONGEST_ANSWER, Recipe
from vlm_heads.errors import BadImage, VlmHeadsError

TITLE = "vlm-heads"
_MODEL = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "hidden", "api_visibility": "private"}
_QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
_SCROLL = "() => { document.querySelector('#vh-status').scrollIntoView({ block: 'nearest' }); }"
_IDLE = "Choose a picture and press Run."


def build_page(session: Session) -> gr.Blocks:
    """Return the page of a session."""
    return _Page(session).blocks


def launch(blocks: gr.Blocks, port: int, *, share: bool) -> tuple[str, str | None]:
    """Serve the page from threads of its own; return its address here and, if shared, in public."""
    _, local, public = blocks.queue(default_concurrency_limit=8).launch(
        server_name="127.0.0.1",
        server_port=port,
        share=share,
        quiet=True,
        prevent_thread_lock=True,
        inbrowser=False,
        ssr_mode=False,
        footer_links=[],
        max_file_size="64mb",
        theme=_theme(),
        css=_asset("page.css"),
        app_kwargs={"middleware": _middleware()},
        enable_monitoring=False,
    )
    return local, public or None


def _middleware() -> list[Any]:
    from starlette.middleware import Middleware

    return [Middleware(Offline)]


def _theme() -> gr.Theme:
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        font=fonts,
        font_mono=mono,
    ).set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#151413",
        block_border_width="0px",
        block_shadow="none",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_padding="0",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#115e59",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        block_label_text_color="#57534e",
        block_info_text_color="#57534e",
        block_info_text_color_dark="#a8a29e",
    )


def _asset(name: str) -> str:
    return files("vlm_app").joinpath("assets", name).read_text("utf-8")


class _Page:
    """The components by name, and what happens when they are used."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._options: list[gr.components.Component] = []
        self._groups: list[gr.Column] = []
        with gr.Blocks(title=TITLE, analytics_enabled=False) as self.blocks:
            self._chosen = gr.State("")
            gr.HTML(
                f"<header class='vh-top'><h1>{TITLE}</h1><p>What a vision-language model looks at, and what mitigation "
                f"changes.</p><p class='vh-quiet'>{views.escape(session.described)}</p></header>"
            )
            with gr.Row(elem_classes="vh-main"):
                with gr.Column(scale=4, min_width=320, elem_classes="vh-ask"):
                    self._ask()
                with gr.Column(scale=7, min_width=320, elem_classes="vh-see"):
                    self._see()
            self._wire()

    def _view(self, name: str, value: str = "") -> gr.HTML:
        return gr.HTML(value, elem_id=f"vh-{name}", js_on_load=_asset("page.js"), apply_default_css=False)

    def _ask(self) -> None:
        self._samples = self._view("samples")
        self._picture = gr.Image(
            label="Picture", sources=["upload", "webcam", "clipboard"], height=260, elem_id="vh-picture", buttons=[]
        )
        # the session reads the file as it was uploaded, and says what is wrong with it
        self._picture.preprocess = _path_of
        self._prompt = gr.Textbox(label="Prompt", value=Recipe().prompt, lines=1, max_lines=3, elem_id="vh-prompt")
        with gr.Row(elem_classes="vh-go"):
            self._run = gr.Button("Run", variant="primary", elem_id="vh-run")
            self._stop = gr.Button("Stop", interactive=False, elem_id="vh-stop")
        self._preset = gr.Dropdown(
            ["", *presets()], value="", label="Preset", info="Settings of the papers", elem_id="vh-preset"
        )
        names = [(card.label, card.name) for card in cards()]
        self._methods = gr.CheckboxGroup(names, value=["vhr"], label="Methods, together", elem_id="vh-methods")
        for card in cards():
            self._card(card)
        with gr.Accordion("Decoding", open=False, elem_id="vh-decoding"):
            self._tokens = gr.Slider(1, LONGEST_ANSWER, Recipe().max_tokens, step=1, label="Longest answer, tokens")
            self._temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 is greedy")
            self._top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="when sampling")
            self._seed = gr.Number(self._session.seed, label="Seed", precision=0, minimum=0)

    def _card(self, card: Card) -> None:
        with gr.Column(visible=card.name == "vhr", elem_classes="vh-card", elem_id=f"vh-card-{card.name}") as group:
            gr.HTML(f"<h3>{views.escape(card.label)}</h3><p>{views.escape(card.title)}</p>")
            first = [control for control in card.controls if control.slides]
            rest = [control for control in card.controls if not control.slides]
            made = {control.option.name: self._control(card, control) for control in first}
            if rest:
                with gr.Accordion("More options", open=False):
                    made |= {control.option.name: self._control(card, control) for control in rest}
        self._groups.append(group)
        self._options += [made[control.option.name] for control in card.controls]

    def _control(self, card: Card, control: Control) -> gr.components.Component:
        option = control.option
        said = {"label": option.name, "info": control.help, "elem_id": f"vh-{card.name}-{option.name}"}
        if control.slides:
            return gr.Slider(control.low, control.high, option.default, step=control.step, **said)
        if option.kind == "switch":
            return gr.Checkbox(option.default, **said)
        if option.kind == "integer":
            return gr.Number(option.default, precision=0, **said)
        if option.words and option.kind == "word":
            return gr.Dropdown(list(option.words), value=option.default, **said)
        return gr.Textbox(str(option.default), **said)

    def _see(self) -> None:
        self._status = self._view("status", views.note(_IDLE))
        with gr.Row(elem_classes="vh-columns"):
            self._plain = self._view("plain")
            self._mitigated = self._view("mitigated")
        with gr.Tabs(elem_id="vh-tabs"):
            with gr.Tab("Inside"):
                self._strips = self._view(
                    "strips", views.note("Run the model to see which tokens leaned on the image.")
                )
                with gr.Row(elem_classes="vh-inside"):
                    self._heads = self._view("heads")
                    self._overlays = self._view("overlays")
            with gr.Tab("As code"):
                self._python = gr.Code(
                    label="Python",
                    language=None,
                    interactive=False,
                    show_line_numbers=False,
                    wrap_lines=True,
                    elem_id="vh-python",
                )
                self._command = gr.Code(
                    label="Command line",
                    language=None,
                    interactive=False,
                    show_line_numbers=False,
                    wrap_lines=True,
                    elem_id="vh-command",
                )
                self._link = gr.Textbox(
                    label="Link to this state", interactive=False, buttons=["copy"], elem_id="vh-link"
                )
            with gr.Tab("Export"):
                self._export = gr.Button("Prepare files", elem_id="vh-export")
                self._files = gr.File(label="Files of this run", file_count="multiple", interactive=False)

    def _wire(self) -> None:
        decoding = [self._tokens, self._temperature, self._top_p, self._seed]
        form = [self._chosen, self._picture, self._prompt, self._methods, *decoding, *self._options]
        shown = [self._plain, self._mitigated, self._status]
        code = [self._python, self._command, self._link]
        inside = [self._strips, self._heads, self._overlays]
        link = "(query) => { const url = location.origin + location.pathname + '?' + query; "
        link += "history.replaceState(null, '', url); return url; }"

        filled = [self._chosen, self._picture, self._samples, self._prompt, self._methods, *decoding, *self._options]
        self.blocks.load(self.open, None, [*filled, self._status], **_QUICK)
        self.blocks.unload(self.leave)
        self._samples.pick(self.pick_sample, None, [self._chosen, self._picture, self._samples], **_QUICK)
        self._picture.input(lambda: ("", self.thumbnails("")), None, [self._chosen, self._samples], **_QUICK)
        self._preset.input(self.use_preset, self._preset, [self._methods, *self._options], **_QUICK)
        self._methods.change(self.show_cards, self._methods, self._groups, **_QUICK)
        buttons = [self._run, self._stop]
        begun = gr.on(
            [self._run.click, self._prompt.submit],
            self.begin,
            None,
            [self._status, *buttons, *inside],
            js=_SCROLL,
            **_QUICK,
        )
        ran = begun.then(self.run, form, [*shown, *code], **_MODEL)
        ran.then(None, self._link, self._link, js=link, api_visibility="private")
        ran.then(self.look, None, [*shown, *inside], **_MODEL).then(self.finish, None, buttons, **_QUICK)
        self._export.click(self.export, None, [self._files, self._status], **_MODEL)
        self._stop.click(self.stop, None, self._status, **_QUICK)
        self._strips.token(self.pick_token, None, inside, **_MODEL)
        self._heads.cell(self.pick_head, None, inside, **_MODEL)

    def open(self, request: gr.Request) -> list[Any]:
        """Fill the form from the link that was opened."""
        query = str(request.request.url.query) if request else ""
        said = views.note(_IDLE)
        try:
            recipe = Recipe.from_query(query, self._session.seed)
            chosen, values = values_of(recipe.words)
        except VlmHeadsError as mistake:
            recipe, said = Recipe(), views.note(f"The link cannot be followed: {mistake}", "mistake")
            chosen, values = values_of(recipe.words)
        name = recipe.image.removeprefix(SAMPLE)
        name = name if name in self._session.samples else self._session.samples[0]
        decoding = [recipe.max_tokens, recipe.temperature, recipe.top_p, recipe.seed]
        return [*self._sample(name), recipe.prompt, chosen, *decoding, *values, said]

    def pick_sample(self, event: gr.EventData) -> list[Any]:
        """Take a sample for the picture."""
        return self._sample(str(event.name))

    def use_preset(self, name: str) -> list[Any]:
        """Set methods and options as a preset says."""
        chosen, values = values_of(presets().get(name, ()))
        return [chosen, *values]

    def show_cards(self, chosen: Sequence[str]) -> list[Any]:
        """Show the cards of the chosen methods."""
        return [gr.update(visible=card.name in chosen) for card in cards()]

    def begin(self, request: gr.Request) -> list[Any]:
        """Say that it goes on; the model may be busy with somebody else."""
        said = self._session.begin(str(request.session_hash))
        cleared = [views.note("What was looked at is shown once both answers are there."), "", ""]
        return [views.note(said), gr.update(interactive=False), gr.update(interactive=True), *cleared]

    def run(
        self,
        request: gr.Request,
        image: str,
        path: str | None,
        prompt: str,
        chosen: list[str],
        tokens: float,
        temperature: float,
        top_p: float,
        seed: float,
        *values: Any,
    ) -> Iterator[list[Any]]:
        """Stream both answers."""
        session = self._session
        try:
            picture = self._picture_of(image, path)
            recipe = Recipe(
                picture.name, prompt, words_of(chosen, values), int(tokens), temperature, top_p, int(seed or 0)
            )
            code = [recipe.python(session.vlm.name), recipe.command(session.vlm.name), recipe.query()]
            for screen in session.run(str(request.session_hash), picture, recipe):
                yield [screen.plain, screen.mitigated, views.note(screen.status), *code]
        except VlmHeadsError as mistake:
            yield ["", "", views.note(str(mistake), "mistake"), *[gr.skip()] * 3]

    def look(self, request: gr.Request) -> list[Any]:
        """Look inside the run that has ended."""
        key = str(request.session_hash)
        try:
            inside = self._session.look(key)
        except VlmHeadsError as mistake:
            return [*[gr.skip()] * 3, views.note(f"Cannot look inside: {mistake}", "mistake"), "", ""]
        if inside is None:
            return [gr.skip()] * 6
        screen = self._session.screen(self._session.visit(key))
        return [screen.plain, screen.mitigated, views.note(screen.status), *_inside(inside)]

    def finish(self) -> list[Any]:
        """Let the visitor run again."""
        return [gr.update(interactive=True), gr.update(interactive=False)]

    def stop(self, request: gr.Request) -> str:
        """End the run under way."""
        self._session.stop(str(request.session_hash))
        return views.note("Stopping…")

    def leave(self, request: gr.Request) -> None:
        """Forget a visitor who has closed the page."""
        self._session.leave(str(request.session_hash))

    def pick_token(self, request: gr.Request, event: gr.EventData) -> list[Any]:
        """Look at a token."""
        found = self._session.pick_token(str(request.session_hash), str(event.side), int(event.token))
        return _inside(found) if found else [gr.skip()] * 3

    def pick_head(self, request: gr.Request, event: gr.EventData) -> list[Any]:
        """Look at a head."""
        found = self._session.pick_head(str(request.session_hash), int(event.layer), int(event.head))
        return _inside(found) if found else [gr.skip()] * 3

    def export(self, request: gr.Request) -> list[Any]:
        """Write the files of the last run."""
        key = str(request.session_hash)
        try:
            return [[str(path) for path in self._session.export(key)], views.note("The files are ready.")]
        except VlmHeadsError as mistake:
            return [None, views.note(str(mistake), "mistake")]

    def thumbnails(self, chosen: str) -> str:
        """Return the row of samples."""
        pictures = {name: self._session.sample(name).image for name in self._session.samples}
        return views.thumbnails(pictures, chosen)

    def _sample(self, name: str) -> list[Any]:
        return [SAMPLE + name, str(self._session.sample_file(name)), self.thumbnails(name)]

    def _picture_of(self, image: str, path: str | None) -> Picture:
        if image.startswith(SAMPLE):
            return self._session.sample(image.removeprefix(SAMPLE))
        if path is None:
            raise BadImage("there is no picture: choose a sample, or drop, paste or take one")
        return self._session.own(Path(path))


def _path_of(payload: Any) -> str | None:
    return None if payload is None else str(payload.path)


def _inside(found: Inside) -> list[Any]:
    return [found.strips(), found.heads(), found.overlays()]
