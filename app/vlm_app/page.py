"""The page: components and which of them hands what to the session. Nothing here thinks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from vlm_app.options import SAMPLE
from vlm_app.session import Session
from vlm_app.view import html
from vlm_app.view.cards import Card, Control, cards, presets
from vlm_app.view.form import Key, values_of, words_of
from vlm_app.view.inside import Inside
from vlm_app.view.offline import Offline
from vlm_app.view.recipe import LONGEST_ANSWER, Recipe
from vlm_app.visit import Screen, Visit
from vlm_heads.errors import VlmHeadsError

Update = dict[Any, Any]  # component -> its new value; what is missing stays as it is

TITLE = "vlm-heads"
_MODEL = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "hidden", "api_visibility": "private"}
_QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Session and recipe read the form as the browser sends it, and say what is wrong with it.
_FORM = {"preprocess": False}
_LISTING = {"language": None, "interactive": False, "show_line_numbers": False, "wrap_lines": True}
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
        js=_asset("connection.js"),
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
        self._options: dict[Key, Component] = {}
        self._cards: dict[str, gr.Column] = {}
        self._chosen_first, _ = values_of(Recipe().words)
        with gr.Blocks(title=TITLE, analytics_enabled=False) as self.blocks:
            self._image = gr.State("")
            gr.HTML(html.header(TITLE, session.model.described))
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
        self._prompt = gr.Textbox(label="Prompt", value=Recipe().prompt, lines=1, max_lines=3, elem_id="vh-prompt")
        with gr.Row(elem_classes="vh-go"):
            self._run = gr.Button("Run", variant="primary", elem_id="vh-run")
            self._stop = gr.Button("Stop", interactive=False, elem_id="vh-stop")
        self._preset = gr.Dropdown(
            ["", *presets()], value="", label="Preset", info="Settings of the papers", elem_id="vh-preset"
        )
        names = [(card.label, card.name) for card in cards()]
        self._methods = gr.CheckboxGroup(
            names, value=self._chosen_first, label="Methods, together", elem_id="vh-methods"
        )
        for card in cards():
            self._card(card)
        with gr.Accordion("Decoding", open=False, elem_id="vh-decoding"):
            self._tokens = gr.Slider(1, LONGEST_ANSWER, Recipe().max_tokens, step=1, label="Longest answer, tokens")
            self._temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 is greedy")
            self._top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="when sampling")
            self._seed = gr.Number(self._session.seed, label="Seed", precision=0, minimum=0)

    def _card(self, card: Card) -> None:
        visible = card.name in self._chosen_first
        with gr.Column(visible=visible, elem_classes="vh-card", elem_id=f"vh-card-{card.name}") as group:
            gr.HTML(html.card(card.label, card.title))
            self._controls(card, [control for control in card.controls if control.slides])
            rest = [control for control in card.controls if not control.slides]
            if rest:
                with gr.Accordion("More options", open=False):
                    self._controls(card, rest)
        self._cards[card.name] = group

    def _controls(self, card: Card, controls: Sequence[Control]) -> None:
        for control in controls:
            self._options[Key(card.name, control.option.name)] = self._control(card, control)

    def _control(self, card: Card, control: Control) -> Component:
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
        return gr.Textbox(option.write(option.default), **said)

    def _see(self) -> None:
        self._status = self._view("status", html.note(_IDLE))
        self._older = self._view("older")
        with gr.Row(elem_classes="vh-columns"):
            self._plain = self._view("plain")
            self._mitigated = self._view("mitigated")
        with gr.Tabs(elem_id="vh-tabs"):
            with gr.Tab("Inside"):
                self._strips = self._view("strips", html.note("Run the model to see which tokens leaned on the image."))
                with gr.Row(elem_classes="vh-inside"):
                    self._heads = self._view("heads")
                    self._overlays = self._view("overlays")
            with gr.Tab("As code"):
                self._python = gr.Code(label="Python", elem_id="vh-python", **_LISTING)
                self._command = gr.Code(label="Command line", elem_id="vh-command", **_LISTING)
                self._link = gr.Textbox(
                    label="Link to this state", interactive=False, buttons=["copy"], elem_id="vh-link"
                )
            with gr.Tab("Export"):
                self._export = gr.Button("Prepare files", elem_id="vh-export")
                self._files = gr.File(label="Files of this run", file_count="multiple", interactive=False)

    def _wire(self) -> None:
        decoding = [self._tokens, self._temperature, self._top_p, self._seed]
        form = [self._image, self._picture, self._prompt, self._methods, *decoding, *self._options.values()]
        picture = [self._image, self._picture, self._samples]
        shown = [self._plain, self._mitigated, self._status]
        inside = [self._strips, self._heads, self._overlays]
        buttons = [self._run, self._stop]
        link = "(query) => { const url = location.origin + location.pathname + '?' + query; "
        link += "history.replaceState(null, '', url); return url; }"

        self.blocks.load(self.open, None, [*form, self._samples, self._status], **_QUICK)
        self.blocks.unload(self.leave)
        self._samples.pick(self.pick_sample, None, picture, **_QUICK)
        self._picture.input(self.pick_own, None, [self._image, self._samples], **_QUICK)
        # a click tells `select`, also on the entry that is chosen; the Enter key tells `change`; leaving tells neither
        preset = [self._preset.select, self._preset.change]
        gr.on(preset, self.use_preset, self._preset, [self._methods, *self._options.values()], **_QUICK)
        self._methods.change(self.show_cards, self._methods, list(self._cards.values()), **_QUICK)
        begun = gr.on(
            [self._run.click, self._prompt.submit],
            self.begin,
            None,
            [self._status, self._older, *buttons, *inside],
            js=_SCROLL,
            **_QUICK,
        )
        ran = begun.then(self.run, set(form), [*shown, self._python, self._command, self._link], **_FORM, **_MODEL)
        ran.then(None, self._link, self._link, js=link, api_visibility="private")
        ran.then(self.look, None, [*shown, *inside], **_MODEL).then(
            self.finish, set(form), [*buttons, self._older, self._status], **_FORM, **_QUICK
        )
        gr.on(
            [component.change for component in form],
            self.compare,
            set(form),
            self._older,
            trigger_mode="always_last",
            **_FORM,
            **_QUICK,
        )
        self._export.click(self.export, None, [self._files, self._status], **_MODEL)
        self._stop.click(self.stop, None, self._status, **_QUICK)
        self._strips.token(self.pick_token, None, inside, **_MODEL)
        self._heads.cell(self.pick_head, None, inside, **_MODEL)

    def open(self, request: gr.Request) -> Update:
        """Fill the form from the link that was opened."""
        query = str(request.request.url.query) if request else ""
        try:
            missing = self._session.missing_picture(query)
            said = html.note(missing, "mistake") if missing else html.note(_IDLE)
            return self._opened(self._session.open_link(query), said)
        except VlmHeadsError as mistake:
            said = html.note(f"The link cannot be followed: {mistake}", "mistake")
            return self._opened(self._session.open_link(""), said)

    def pick_sample(self, event: gr.EventData) -> Update:
        """Take a sample for the picture."""
        return self._sample(SAMPLE + str(event.name))

    def pick_own(self) -> Update:
        """Take a picture that is no sample."""
        return {self._image: "", self._samples: self._thumbnails("")}

    def use_preset(self, name: str) -> Update:
        """Set methods and options as a preset says; the empty entry says nothing."""
        return self._asked(presets()[name]) if name in presets() else {self._methods: gr.skip()}

    def show_cards(self, chosen: Collection[str]) -> Update:
        """Show the cards of the chosen methods."""
        return {group: gr.update(visible=name in chosen) for name, group in self._cards.items()}

    def begin(self, request: gr.Request) -> Update:
        """Say that the run was taken; the model may be busy with another visitor."""
        return {
            self._status: html.note(self._visit(request).begin()),
            self._older: "",
            self._run: gr.update(interactive=False),
            self._stop: gr.update(interactive=True),
            self._strips: html.note("What was looked at is shown once both answers are there."),
            self._heads: "",
            self._overlays: "",
        }

    def run(self, form: Mapping[Component, Any], request: gr.Request) -> Iterator[Update]:
        """Stream both answers."""
        try:
            picture = self._session.picture(form[self._image], _path_of(form[self._picture]))
            recipe = self._recipe(form, picture.name)
            code = self._code(recipe)
            for screen in self._visit(request).run(picture, recipe):
                yield self._shown(screen) | code
        except VlmHeadsError as mistake:
            yield {self._plain: "", self._mitigated: "", self._status: html.note(str(mistake), "mistake")}

    def look(self, request: gr.Request) -> Update:
        """Look inside the run that has ended."""
        visit = self._visit(request)
        try:
            found = visit.look()
        except VlmHeadsError as mistake:
            said = html.note(f"Cannot look inside: {mistake}", "mistake")
            return {self._strips: said, self._heads: "", self._overlays: ""}
        if found is None:
            stopped = {self._strips: html.note("Nothing was looked at.")}
            return self._shown(visit.screen()) | stopped if visit.sides else self._unchanged()
        return self._shown(visit.screen()) | self._inside(found)

    def finish(self, form: Mapping[Component, Any], request: gr.Request) -> Update:
        """Let the visitor run again."""
        visit = self._visit(request)
        visit.end()
        buttons = {self._run: gr.update(interactive=True), self._stop: gr.update(interactive=False)}
        said = {self._status: html.note(visit.screen().status)} if visit.sides else {}
        return buttons | said | self.compare(form, request)

    def compare(self, form: Mapping[Component, Any], request: gr.Request) -> Update:
        """Say where the answers that are shown are older than the settings."""
        sample, path = form[self._image], _path_of(form[self._picture])
        try:
            recipe = self._recipe(form, sample or Path(path or "").name)
            shown = self._visit(request).shows(recipe, "" if sample else str(path))
        except VlmHeadsError:  # what cannot be asked was not asked
            shown = self._visit(request).picture is None
        return {self._older: html.older(not shown)}

    def stop(self, request: gr.Request) -> Update:
        """End the run under way."""
        return {self._status: html.note(self._visit(request).stop())}

    def leave(self, request: gr.Request) -> None:
        """Forget a visitor who has closed the page."""
        self._session.leave(_key(request))

    def pick_token(self, request: gr.Request, event: gr.EventData) -> Update:
        """Look at a token."""
        found = self._visit(request).pick_token(str(event.side), int(event.token))
        return self._inside(found) if found else self._unchanged()

    def pick_head(self, request: gr.Request, event: gr.EventData) -> Update:
        """Look at a head."""
        found = self._visit(request).pick_head(int(event.layer), int(event.head))
        return self._inside(found) if found else self._unchanged()

    def export(self, request: gr.Request) -> Update:
        """Write the files of the last run."""
        try:
            paths = [str(path) for path in self._visit(request).export()]
            return {self._files: paths, self._status: html.note("The files are ready.")}
        except VlmHeadsError as mistake:
            return {self._files: None, self._status: html.note(str(mistake), "mistake")}

    def _visit(self, request: gr.Request) -> Visit:
        return self._session.visit(_key(request))

    def _recipe(self, form: Mapping[Component, Any], image: str) -> Recipe:
        values = {key: form[component] for key, component in self._options.items()}
        return Recipe(
            image=image,
            prompt=form[self._prompt] or "",
            words=words_of(form[self._methods], values),
            max_tokens=form[self._tokens],
            temperature=form[self._temperature],
            top_p=form[self._top_p],
            seed=form[self._seed] or 0,
        )

    def _sample(self, image: str) -> Update:
        name = image.removeprefix(SAMPLE)
        return {
            self._image: image,
            self._picture: str(self._session.sample_file(name)),
            self._samples: self._thumbnails(name),
        }

    def _opened(self, recipe: Recipe, said: str) -> Update:
        own = {self._image: "", self._picture: None, self._samples: self._thumbnails("")}
        picture = own if recipe.own_picture else self._sample(recipe.image)
        return picture | self._asked(recipe.words) | self._decoding(recipe) | {self._status: said}

    def _thumbnails(self, chosen: str) -> str:
        pictures = {name: self._session.sample(name).image for name in self._session.samples}
        return html.thumbnails(pictures, chosen)

    def _asked(self, words: Sequence[str]) -> Update:
        chosen, values = values_of(words)
        return {self._methods: chosen} | {component: values[key] for key, component in self._options.items()}

    def _decoding(self, recipe: Recipe) -> Update:
        return {
            self._prompt: recipe.prompt,
            self._tokens: recipe.max_tokens,
            self._temperature: recipe.temperature,
            self._top_p: recipe.top_p,
            self._seed: recipe.seed,
        }

    def _code(self, recipe: Recipe) -> Update:
        model = self._session.model.vlm.name
        return {self._python: recipe.python(model), self._command: recipe.command(model), self._link: recipe.query()}

    def _shown(self, screen: Screen) -> Update:
        return {
            self._plain: html.answer(screen.plain),
            self._mitigated: html.answer(screen.mitigated),
            self._status: html.note(screen.status),
        }

    def _inside(self, found: Inside) -> Update:
        return {
            self._strips: html.strips(found.strips()),
            self._heads: html.head_map(found.heads()),
            self._overlays: html.patches(found.patches()),
        }

    def _unchanged(self) -> Update:
        return {self._strips: gr.skip()}


def _key(request: gr.Request) -> str:
    return str(request.session_hash)


def _path_of(file: Mapping[str, Any] | None) -> str | None:
    return None if file is None else str(file["path"])
