"""What happens when something on the page is used: each event, and what is handed to the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from vlm_app.options import SAMPLE
from vlm_app.page.asking import Asking
from vlm_app.page.parts import FORM, MODEL, QUICK, RUNS, Form, Update, path_of, view
from vlm_app.page.seeing import IDLE, Seeing
from vlm_app.page.settings import Settings
from vlm_app.session import Session
from vlm_app.view import html
from vlm_app.view.cards import presets
from vlm_app.view.recipe import Recipe
from vlm_app.view.tour import tour
from vlm_app.visit import Visit
from vlm_heads.errors import VlmHeadsError

TITLE = "vlm-heads"
# it is said at once that the button was pressed; on a small screen the answers lie below it
_PRESSED = """() => {
  const status = document.querySelector('#vh-status');
  const line = status.querySelector('p');
  if (line) line.textContent = 'Starting…';
  status.scrollIntoView({ block: 'nearest' });
}"""
_LINK = """(query) => {
  const url = location.origin + location.pathname + '?' + query;
  history.replaceState(null, '', url);
  return url;
}"""
_RUN_AT_ONCE = """() => {
  if (new URLSearchParams(location.search).get('run') !== '1') return;
  if (!document.querySelector('#vh-status [role=alert]')) document.querySelector('#vh-run').click();
}"""


def build_page(session: Session) -> gr.Blocks:
    """Return the page of a session."""
    return _Page(session).blocks


class _Page:
    """The parts of the page, and what happens when they are used."""

    def __init__(self, session: Session) -> None:
        self._session = session
        with gr.Blocks(title=TITLE, analytics_enabled=False) as self.blocks:
            gr.HTML(html.header(TITLE, session.model.described))
            view("tour", tour(), "tour.js")
            with gr.Row(elem_classes="vh-main"):
                with gr.Column(min_width=240, elem_classes="vh-ask"):
                    self._ask = Asking(session)
                with gr.Column(min_width=240, elem_classes="vh-see"):
                    self._see = Seeing()
                with gr.Column(min_width=240, elem_classes="vh-set"):
                    self._set = Settings(session.seed, session.model.vlm.name)
            self._wire_form()
            self._wire_run()
            self._wire_inside()

    @property
    def _form(self) -> list[Component]:
        return [*self._ask.form, *self._set.form]

    def _wire_form(self) -> None:
        ask, settings, see = self._ask, self._set, self._see
        shown = [*see.answers, *see.looked_at, *see.code, see.story]
        opened = self.blocks.load(self.open, None, [*self._form, ask.samples, ask.told, ask.show_all, *shown], **QUICK)
        opened.then(None, None, None, js=_RUN_AT_ONCE, api_visibility="private")
        self.blocks.unload(self.leave)
        ask.samples.pick(self.pick_sample, None, ask.chosen, **QUICK)
        ask.picture.input(self.pick_own, None, ask.chosen, **QUICK)
        whole = ask.show_all.click(self.show_all, None, ask.chosen, **QUICK)
        whole.then(self.compare, set(self._form), [see.older, settings.chart], **FORM, **QUICK)
        ask.told.change(self.tell, ask.told, see.answers, trigger_mode="always_last", **QUICK)
        # a click tells `select`, also on the entry that is chosen; the Enter key tells `change`; leaving tells neither
        preset = [settings.preset.select, settings.preset.change]
        attached = [*settings.levers.values(), *settings.options.values()]
        gr.on(preset, self.use_preset, settings.preset, attached, **QUICK)
        levers = set(settings.levers.values())
        gr.on([one.change for one in levers], self.show_cards, levers, list(settings.cards.values()), **QUICK)
        changed = [component.change for component in self._form]
        beside = [see.older, settings.chart]
        gr.on(changed, self.compare, set(self._form), beside, trigger_mode="always_last", **FORM, **QUICK)

    def _wire_run(self) -> None:
        ask, see = self._ask, self._see
        first = [see.status, see.story, see.older, see.truth, ask.run, ask.stop, *see.looked_at]
        pressed = gr.on([ask.run.click, ask.prompt.submit], self.begin, None, first, js=_PRESSED, **QUICK)
        hidden = see.overlays.mask(self.hide, set(self._form), ask.chosen, **FORM, **QUICK)
        for begun in (pressed, hidden.success(self.begin, None, first, js=_PRESSED, **QUICK)):
            self._wire_answer(begun)
        ask.stop.click(self.stop, None, see.status, **QUICK)
        see.export.click(self.export, None, [see.files, see.status], **MODEL)

    def _wire_answer(self, begun: Any) -> None:
        """Answer, look inside, and let the visitor run again, once a run has begun."""
        ask, see, form = self._ask, self._see, set(self._form)
        buttons = [ask.run, ask.stop]
        ran = begun.then(self.run, {*form, ask.told}, [*see.answers, *see.code], **FORM, **RUNS)
        ran.then(None, see.link, see.link, js=_LINK, api_visibility="private")
        ran.then(self.look, None, [*see.answers, *see.looked_at], **MODEL).then(
            self.finish, form, [*buttons, see.older, see.status, self._set.chart], **FORM, **QUICK
        )

    def _wire_inside(self) -> None:
        see = self._see
        see.strips.token(self.pick_token, None, see.looked_at, **MODEL)
        see.overlays.patch(self.pick_patch, None, see.looked_at, **MODEL)
        see.heads.cell(self.pick_head, None, see.looked_at, **MODEL)

    def open(self, request: gr.Request) -> Update:
        """Fill the form from the link that was opened; without one, show the opening run."""
        query = str(request.request.url.query) if request else ""
        try:
            if not query and (shown := self._session.open_run(_key(request))) is not None:
                return self._opening(shown)
            missing = self._session.missing_picture(query)
            said = self._see.said(missing, "mistake") if missing else self._see.said(IDLE)
            return self._opened(self._session.open_link(query)) | said
        except VlmHeadsError as mistake:
            said = self._see.said(f"The link cannot be followed: {mistake}", "mistake")
            return self._opened(self._session.open_link("")) | said

    def pick_sample(self, event: gr.EventData) -> Update:
        """Take a sample for the picture."""
        return self._ask.sample(SAMPLE + str(event.name))

    def pick_own(self) -> Update:
        """Take a picture that is no sample."""
        return self._ask.own()

    def show_all(self) -> Update:
        """Hide nothing of the picture."""
        return self._ask.hide(())

    def hide(self, form: Form, request: gr.Request, event: gr.EventData) -> Update:
        """Hide a part of the picture that was asked about."""
        if self._visit(request).said_by != self._session.model.vlm.name or not self._visit(request).sides:
            raise gr.Error("Run the model first.", print_exception=False)
        return self._ask.hide([float(one) for one in event.box])

    def tell(self, text: str, request: gr.Request) -> Update:
        """Judge the answers that are shown by what the picture is said to show."""
        visit = self._visit(request)
        try:
            visit.tell(text)
        except VlmHeadsError as mistake:
            return self._see.said(str(mistake), "mistake")
        return self._see.shown(visit.screen()) if visit.sides else {self._see.status: gr.skip()}

    def use_preset(self, name: str | None) -> Update:
        """Set methods and options as a preset says."""
        found = presets().get(name or "")
        return {next(iter(self._set.levers.values())): gr.skip()} if found is None else self._set.attached(found)

    def show_cards(self, form: Form) -> Update:
        """Show the cards of the chosen methods."""
        return self._set.shown_cards(self._set.chosen(form))

    def begin(self, request: gr.Request) -> Update:
        """Say that the run was taken; the model may be busy with another visitor."""
        return self._see.begun(self._visit(request).begin()) | self._ask.running(True)

    def run(self, form: Form, request: gr.Request) -> Iterator[Update]:
        """Stream both answers."""
        try:
            picture = self._ask.asked(form)
            recipe = self._recipe(form, picture.name)
            code = self._see.written(recipe, self._session.model.vlm.name)
            for screen in self._visit(request).run(picture, recipe):
                yield self._see.shown(screen) | code
        except VlmHeadsError as mistake:
            yield self._see.refused(str(mistake))

    def look(self, request: gr.Request) -> Update:
        """Look inside the run that has ended."""
        visit, see = self._visit(request), self._see
        try:
            found = visit.look()
        except VlmHeadsError as mistake:
            return see.not_inside(f"Cannot look inside: {mistake}", "mistake")
        if found is None:
            return (
                see.shown(visit.screen()) | see.not_inside("Nothing was looked at.") if visit.sides else see.unchanged()
            )
        return see.shown(visit.screen()) | see.inside(found)

    def finish(self, form: Form, request: gr.Request) -> Update:
        """Let the visitor run again."""
        visit = self._visit(request)
        visit.end()
        said = self._see.said(visit.screen().status) if visit.sides else {}
        return self._ask.running(False) | said | self.compare(form, request)

    def compare(self, form: Form, request: gr.Request) -> Update:
        """Say where the answers that are shown are older than the settings, and what was measured of these."""
        visit, source = self._visit(request), self._ask.source(form)
        try:
            image = form[self._ask.image] or Path(path_of(form[self._ask.picture]) or "").name
            recipe = self._recipe(form, image)
        except VlmHeadsError:  # what cannot be asked was not asked
            return {self._see.older: html.older(() if visit.picture is None else ("the settings",))}
        return {self._see.older: html.older(visit.changed(recipe, source))} | self._set.measured(recipe.words)

    def stop(self, request: gr.Request) -> Update:
        """End the run under way."""
        return self._see.said(self._visit(request).stop())

    def leave(self, request: gr.Request) -> None:
        """Forget a visitor who has closed the page."""
        self._session.leave(_key(request))

    def pick_token(self, request: gr.Request, event: gr.EventData) -> Update:
        """Look at a token."""
        found = self._visit(request).pick_token(str(event.side), int(event.token))
        return self._see.inside(found) if found else self._see.unchanged()

    def pick_head(self, request: gr.Request, event: gr.EventData) -> Update:
        """Look at a head."""
        found = self._visit(request).pick_head(int(event.layer), int(event.head))
        return self._see.inside(found) if found else self._see.unchanged()

    def pick_patch(self, request: gr.Request, event: gr.EventData) -> Update:
        """Look at which words used a patch."""
        found = self._visit(request).pick_patch(int(event.patch))
        return self._see.inside(found) if found else self._see.unchanged()

    def export(self, request: gr.Request) -> Update:
        """Write the files of the last run."""
        try:
            paths = [str(path) for path in self._visit(request).export()]
            return {self._see.files: paths} | self._see.said("The files are ready.")
        except VlmHeadsError as mistake:
            return {self._see.files: None} | self._see.said(str(mistake), "mistake")

    def _visit(self, request: gr.Request) -> Visit:
        return self._session.visit(_key(request))

    def _recipe(self, form: Form, image: str) -> Recipe:
        hidden = form[self._ask.hidden] or ()
        return self._set.recipe(form, image, form[self._ask.prompt] or "", hidden)

    def _opened(self, recipe: Recipe) -> Update:
        return self._ask.opened(recipe) | self._set.attached(recipe.words) | self._set.decoded(recipe)

    def _opening(self, visit: Visit) -> Update:
        """Show the opening run; the form asks for the same where the loaded model said it."""
        session, see, screen = self._session, self._see, visit.screen()
        assert session.opening is not None, "there is a run of it"
        own = visit.said_by == session.model.vlm.name
        shown = see.shown(screen) | (see.inside(visit.inside) if visit.inside else {})
        if own:
            shown |= see.written(visit.recipe, visit.said_by)
        shown[see.story] = session.story(screen.truth)
        return self._opened(visit.recipe if own else session.open_link("")) | shown


def _key(request: gr.Request) -> str:
    return str(request.session_hash)
