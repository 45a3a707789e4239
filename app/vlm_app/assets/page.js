// Runs once for each view. Views are drawn again when something is picked, so the keyboard's place is put back.
let place = null;
const BUTTONS = "button[data-pick], button[data-token], button[data-layer]";
const key = (button) => JSON.stringify({ ...button.dataset });

element.addEventListener("click", (event) => {
  const button = event.target.closest(BUTTONS);
  if (!button) return;
  const data = button.dataset;
  place = key(button);
  if (data.pick) trigger("pick", { name: data.pick });
  else if (data.token) trigger("token", { side: data.side, token: Number(data.token) });
  else trigger("cell", { layer: Number(data.layer), head: Number(data.head) });
});

element.addEventListener("keydown", (event) => {
  const walk = event.target.closest(".vh-walk");
  if (!walk) return;
  const all = [...walk.querySelectorAll("button")];
  const rows = walk.querySelectorAll(".vh-row:has(button)").length || 1;
  const across = all.length / rows;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: rows > 1 ? across : 1, ArrowUp: rows > 1 ? -across : -1 };
  const at = all.indexOf(event.target);
  const next = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : at + (step[event.key] ?? 0);
  if (next === at || !all[next]) return;
  event.preventDefault();
  all.forEach((button) => (button.tabIndex = -1));
  all[next].tabIndex = 0;
  all[next].focus();
});

const tell = (event) => {
  const head = event.target.closest(".vh-head");
  const line = element.querySelector(".vh-hover");
  if (head && line) line.textContent = head.getAttribute("aria-label");
};
// An object that is pointed at, or has the keyboard, has its boxes drawn on the picture.
const draw = (event) => {
  const name = event.target.closest?.("[data-object]")?.dataset.object;
  element.querySelectorAll("[data-boxed]").forEach((box) => box.classList.toggle("vh-lit", box.dataset.boxed === name));
};
// A word's meaning goes away on Escape, and comes again when the word is pointed at anew.
const terms = (event) => {
  const term = event.target.closest?.(".vh-term");
  if (term) term.classList.toggle("vh-away", event.key === "Escape");
};
for (const kind of ["pointerover", "focusin"]) {
  element.addEventListener(kind, tell);
  element.addEventListener(kind, draw);
  element.addEventListener(kind, terms);
}
element.addEventListener("pointerleave", draw);
element.addEventListener("focusout", draw);
element.addEventListener("keydown", terms);

watch("value", () => {
  if (!place) return;
  const again = [...element.querySelectorAll(BUTTONS)].find((button) => key(button) === place);
  place = null;
  if (again) again.focus({ preventScroll: true });
});
