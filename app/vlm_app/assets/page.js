// Runs once for each view. Views are drawn again when something is picked, so the keyboard's place is put back.
let place = null;
const BUTTONS = "button[data-pick], button[data-token], button[data-layer], [data-patch]";
const key = (button) => JSON.stringify({ ...button.dataset });

const use = (event) => {
  const button = event.target.closest(BUTTONS);
  if (!button) return;
  const data = button.dataset;
  place = key(button);
  if (data.pick) trigger("pick", { name: data.pick });
  else if (data.token) trigger("token", { side: data.side, token: Number(data.token) });
  else if (data.patch) trigger("patch", { patch: Number(data.patch) });
  else trigger("cell", { layer: Number(data.layer), head: Number(data.head) });
};
element.addEventListener("click", use);

element.addEventListener("keydown", (event) => {
  const walk = event.target.closest(".vh-walk");
  if (!walk) return;
  if (event.target.dataset.patch && [" ", "Enter"].includes(event.key)) {
    event.preventDefault(); // a patch is no button to the browser
    use(event);
    return;
  }
  const all = [...walk.querySelectorAll("button, [data-patch]")];
  const across = Number(walk.dataset.across) || all.length / (walk.querySelectorAll(".vh-row:has(button)").length || 1);
  const rows = all.length / across;
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

// A box that is dragged over a picture hides that part, and the model is asked again; on a patch, the Delete key does.
let drag = null;
const share = (svg, event) => {
  const box = svg.getBoundingClientRect();
  const within = (value) => Math.min(1, Math.max(0, value));
  return [within((event.clientX - box.left) / box.width), within((event.clientY - box.top) / box.height)];
};
const boxed = (from, to) => [
  ...[0, 1].map((axis) => Math.min(from[axis], to[axis])),
  ...[0, 1].map((axis) => Math.abs(from[axis] - to[axis])),
];
const hide = (box) => trigger("mask", { box: box.map((one) => Number(one.toFixed(3))) });
element.addEventListener("pointerdown", (event) => {
  const svg = event.target.closest(".vh-overlay svg");
  if (svg && event.button === 0 && event.pointerType !== "touch") drag = { svg, from: share(svg, event), frame: null };
});
element.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const box = boxed(drag.from, share(drag.svg, event));
  if (!drag.frame && Math.max(box[2], box[3]) < 0.03) return; // a click, not a box
  const { width, height } = drag.svg.viewBox.baseVal;
  drag.frame ??= drag.svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
  drag.frame.setAttribute("class", "vh-drag");
  const sides = [width, height, width, height];
  ["x", "y", "width", "height"].forEach((name, place) => drag.frame.setAttribute(name, box[place] * sides[place]));
});
element.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const { svg, from, frame } = drag;
  drag = null;
  if (!frame) return;
  frame.remove();
  const box = boxed(from, share(svg, event));
  const swallow = (click) => click.stopPropagation(); // the click that ends a box chooses no patch
  window.addEventListener("click", swallow, { capture: true });
  setTimeout(() => {
    window.removeEventListener("click", swallow, { capture: true });
    hide(box);
  }, 0);
});
element.addEventListener("keydown", (event) => {
  const patch = event.target.closest("[data-patch]");
  if (!patch || event.key !== "Delete") return;
  const { width, height } = patch.ownerSVGElement.viewBox.baseVal;
  const [x, y, wide, tall] = ["x", "y", "width", "height"].map((name) => Number(patch.getAttribute(name)));
  hide([x / width, y / height, wide / width, tall / height]);
});
