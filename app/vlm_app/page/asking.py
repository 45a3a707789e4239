"""What is asked: the picture, what it is known to show, the prompt, and the buttons."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from gradio.components import Component

from vlm_app.options import SAMPLE
from vlm_app.page.parts import Form, Update, path_of, view
from vlm_app.pictures import Picture
from vlm_app.session import Session
from vlm_app.view import html
from vlm_app.view.recipe import Recipe


class Asking:
    """The picture and the question."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.image = gr.State("")
        self.samples = view("samples")
        self.picture = gr.Image(
            label="Picture", sources=["upload", "webcam", "clipboard"], height=260, elem_id="vh-picture", buttons=[]
        )
        self.hidden = gr.State(())
        self.show_all = gr.Button("A part is hidden: show the whole picture", visible=False, elem_id="vh-show-all")
        self.told = gr.Textbox(
            label="What is in it?",
            info="Optional: objects, separated by commas. Answers are then judged, without asking the model again.",
            placeholder="dog, two chairs, cup",
            lines=1,
            max_lines=3,
            visible=False,
            elem_id="vh-told",
        )
        self.prompt = gr.Textbox(label="Prompt", value=Recipe().prompt, lines=1, max_lines=3, elem_id="vh-prompt")
        with gr.Row(elem_classes="vh-go"):
            self.run = gr.Button("Run", variant="primary", elem_id="vh-run")
            self.stop = gr.Button("Stop", interactive=False, elem_id="vh-stop")

    @property
    def form(self) -> list[Component]:
        """Every component that decides what is asked."""
        return [self.image, self.picture, self.prompt, self.hidden]

    def asked(self, form: Form) -> Picture:
        """Return the picture that is chosen.

        Raises:
            BadImage: if there is none, or it cannot be read.
            BadOption: if it is said to show what nobody knows.
        """
        return self._session.picture(form[self.image], path_of(form[self.picture]), form[self.told] or "")

    def source(self, form: Form) -> str:
        """Return where a visitor's own picture lies; empty for a sample."""
        return "" if form[self.image] else str(path_of(form[self.picture]))

    def running(self, is_running: bool) -> Update:
        """Set the buttons."""
        return {self.run: gr.update(interactive=not is_running), self.stop: gr.update(interactive=is_running)}

    def sample(self, image: str) -> Update:
        """Take a sample for the picture."""
        name = image.removeprefix(SAMPLE)
        return {
            self.image: image,
            self.picture: str(self._session.sample_file(name)),
            self.samples: self._thumbnails(name),
            self.told: gr.update(visible=False),
        } | self.hide(())

    def own(self, *, empty: bool = False) -> Update:
        """Take a picture that is no sample; the one that is there, or none yet."""
        update: Update = {self.image: "", self.samples: self._thumbnails(""), self.told: gr.update(visible=True)}
        return update | self.hide(()) | ({self.picture: None} if empty else {})

    def hide(self, box: Sequence[float]) -> Update:
        """Hide a part of the picture, or nothing of it."""
        return {self.hidden: tuple(box), self.show_all: gr.update(visible=bool(box))}

    @property
    def chosen(self) -> list[Component]:
        """Everything that choosing a picture sets."""
        return [self.image, self.picture, self.samples, self.told, self.hidden, self.show_all]

    def opened(self, recipe: Recipe) -> Update:
        """Set picture and prompt as a recipe says."""
        picture = self.own(empty=True) if recipe.own_picture else self.sample(recipe.image)
        return picture | {self.prompt: recipe.prompt} | self.hide(recipe.hidden)

    def _thumbnails(self, chosen: str) -> str:
        pictures = {name: self._session.sample(name).image for name in self._session.samples}
        return html.thumbnails(pictures, chosen)
