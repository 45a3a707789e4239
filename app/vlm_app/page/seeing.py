"""What came of it: two answers, what is true of them, what the model looked at, the run as code and as files."""

from __future__ import annotations

import gradio as gr

from vlm_app.page.parts import Update, view
from vlm_app.view import html
from vlm_app.view.inside import Inside
from vlm_app.view.legend import legend
from vlm_app.view.recipe import Recipe
from vlm_app.view.truth_html import truth
from vlm_app.view.why import why_html
from vlm_app.visit import Screen

_HINT = (
    "Choose a patch to see which words used it. Drag a box over a picture, or press Delete on a patch, to hide that "
    "part and ask again."
)
IDLE = "Choose a picture and press Run."
_LISTING = {"language": None, "interactive": False, "show_line_numbers": False, "wrap_lines": True}


class Seeing:
    """Everything that is shown of a run."""

    def __init__(self) -> None:
        self.status = view("status", html.note(IDLE))
        self.story = view("story")
        self.older = view("older")
        with gr.Row(elem_classes="vh-columns"):
            self.plain = view("plain")
            self.mitigated = view("mitigated")
        self.truth = view("truth")
        view("legend", legend())
        with gr.Tabs(elem_id="vh-tabs"):
            with gr.Tab("Inside"):
                self.strips = view("strips", html.note("Run the model to see which tokens leaned on the image."))
                with gr.Row(elem_classes="vh-inside"):
                    self.heads = view("heads")
                    self.overlays = view("overlays")
                view("hint", html.note(_HINT))
                self.why = view("why")
            with gr.Tab("As code"):
                self._python = gr.Code(label="Python", elem_id="vh-python", **_LISTING)
                self._command = gr.Code(label="Command line", elem_id="vh-command", **_LISTING)
                self.link = gr.Textbox(label="Link to this run", interactive=False, buttons=["copy"], elem_id="vh-link")
            with gr.Tab("Export"):
                self.export = gr.Button("Prepare files", elem_id="vh-export")
                self.files = gr.File(label="Files of this run", file_count="multiple", interactive=False)
        self.answers = [self.plain, self.mitigated, self.truth, self.status]
        self.looked_at = [self.strips, self.heads, self.overlays, self.why]
        self.code = [self._python, self._command, self.link]

    def said(self, text: str, kind: str = "quiet") -> Update:
        """Say one line about the run."""
        return {self.status: html.note(text, kind)}

    def shown(self, screen: Screen) -> Update:
        """Show a run as far as it has come."""
        return {
            self.plain: html.answer(screen.plain),
            self.mitigated: html.answer(screen.mitigated),
            self.truth: truth(screen.truth),
        } | self.said(screen.status)

    def refused(self, mistake: str) -> Update:
        """Show why there is no run."""
        return {self.plain: "", self.mitigated: "", self.truth: ""} | self.said(mistake, "mistake")

    def begun(self, said: str) -> Update:
        """Say that a run was taken, and show nothing of the last one."""
        waiting = html.note("What was looked at is shown once both answers are there.")
        return {
            self.story: "",
            self.older: "",
            self.truth: "",
            self.strips: waiting,
            self.heads: "",
            self.overlays: "",
            self.why: "",
        } | self.said(said)

    def inside(self, found: Inside) -> Update:
        """Show what the model looked at."""
        return {
            self.strips: html.strips(found.strips()),
            self.heads: html.head_map(found.heads()),
            self.overlays: html.patches(found.patches()),
            self.why: why_html(found.why()),
        }

    def not_inside(self, why: str, kind: str = "quiet") -> Update:
        """Say why nothing is shown of what the model looked at."""
        return {self.strips: html.note(why, kind), self.heads: "", self.overlays: "", self.why: ""}

    def written(self, recipe: Recipe, model: str) -> Update:
        """Show a run as code, and a link that runs it where its picture is at hand."""
        link = recipe.query() + ("" if recipe.own_picture else "&run=1")
        return dict(zip(self.code, (recipe.python(model), recipe.command(model), link), strict=True))

    def unchanged(self) -> Update:
        """Change nothing."""
        return {self.strips: gr.skip()}
