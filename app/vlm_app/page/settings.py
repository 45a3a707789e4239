"""The settings: presets, methods by lever with their options, decoding, and what was measured of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import gradio as gr
from gradio.components import Component

from vlm_app.page.parts import Form, Update, view
from vlm_app.view import html
from vlm_app.view.cards import Card, Control, presets
from vlm_app.view.chart import chart
from vlm_app.view.form import Key, values_of, words_of
from vlm_app.view.levers import LEVERS, Lever, cost_of
from vlm_app.view.recipe import LONGEST_ANSWER, Recipe

_NONE = ("none", "")


class Settings:
    """What is attached, and how is decoded."""

    def __init__(self, seed: int, model: str) -> None:
        self._model = model
        self.options: dict[Key, Component] = {}
        self.cards: dict[str, gr.Column] = {}
        self.levers: dict[str, Component] = {}
        self._first, _ = values_of(Recipe().words)
        self.preset = gr.Dropdown(
            list(presets()), value=None, label="Preset", info="Settings of the papers", elem_id="vh-preset"
        )
        with gr.Column(elem_id="vh-methods"):
            for lever in LEVERS:
                self._lever(lever)
        self.chart = view("chart", chart(Recipe().words, model))
        with gr.Accordion("Decoding", open=False, elem_id="vh-decoding"):
            self._tokens = gr.Slider(1, LONGEST_ANSWER, Recipe().max_tokens, step=1, label="Longest answer, tokens")
            self._temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 is greedy")
            self._top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="when sampling")
            self._seed = gr.Number(seed, label="Seed", precision=0, minimum=0)
        self.decoding = [self._tokens, self._temperature, self._top_p, self._seed]

    @property
    def form(self) -> list[Component]:
        """Every component that decides what is asked."""
        return [*self.levers.values(), *self.decoding, *self.options.values()]

    def chosen(self, form: Form) -> list[str]:
        """Return the names of the chosen methods."""
        given = [form[component] for component in self.levers.values()]
        return [name for one in given for name in ([one] if isinstance(one, str) else one or ()) if name]

    def recipe(self, form: Form, image: str, prompt: str, hidden: Sequence[float]) -> Recipe:
        """Return what the form asks for.

        Raises:
            BadOption: if a value cannot be read or is out of its range.
        """
        values = {key: form[component] for key, component in self.options.items()}
        return Recipe(
            image=image,
            prompt=prompt,
            words=words_of(self.chosen(form), values),
            max_tokens=form[self._tokens],
            temperature=form[self._temperature],
            top_p=form[self._top_p],
            seed=form[self._seed] or 0,
            hidden=tuple(hidden),
        )

    def measured(self, words: Sequence[str]) -> Update:
        """Show what was measured of a setting."""
        return {self.chart: chart(words, self._model)}

    def attached(self, words: Sequence[str]) -> Update:
        """Set methods and options as words say."""
        chosen, values = values_of(words)
        update: Update = {component: values[key] for key, component in self.options.items()}
        for lever in LEVERS:
            mine = [card.name for card in lever.cards if card.name in chosen]
            update[self.levers[lever.name]] = next(iter(mine), "") if lever.one else mine
        return update

    def decoded(self, recipe: Recipe) -> Update:
        """Set the decoding as a recipe says."""
        given = (recipe.max_tokens, recipe.temperature, recipe.top_p, recipe.seed)
        return dict(zip(self.decoding, given, strict=True))

    def shown_cards(self, chosen: Collection[str]) -> Update:
        """Show the cards of the chosen methods."""
        return {group: gr.update(visible=name in chosen) for name, group in self.cards.items()}

    def _lever(self, lever: Lever) -> None:
        names = [(card.label, card.name) for card in lever.cards]
        first = [name for _, name in names if name in self._first]
        said = {"label": lever.title, "info": lever.help, "elem_id": f"vh-lever-{lever.name}"}
        self.levers[lever.name] = (
            gr.Radio([_NONE, *names], value=next(iter(first), ""), **said)
            if lever.one
            else gr.CheckboxGroup(names, value=first, **said)
        )
        for card in lever.cards:
            self._card(card)

    def _card(self, card: Card) -> None:
        visible = card.name in self._first
        with gr.Column(visible=visible, elem_classes="vh-card", elem_id=f"vh-card-{card.name}") as group:
            gr.HTML(html.card(card.label, card.title, cost_of(card)))
            self._controls(card, [control for control in card.controls if control.slides])
            rest = [control for control in card.controls if not control.slides]
            if rest:
                with gr.Accordion("More options", open=False):
                    self._controls(card, rest)
        self.cards[card.name] = group

    def _controls(self, card: Card, controls: Sequence[Control]) -> None:
        for control in controls:
            self.options[Key(card.name, control.option.name)] = _control(card, control)


def _control(card: Card, control: Control) -> Component:
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
