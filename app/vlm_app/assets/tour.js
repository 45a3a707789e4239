// The tour: one step at a time, with what it speaks of outlined. The browser remembers that it was closed.
const KEY = "vlm-heads-tour-closed";
const tour = element.querySelector(".vh-tour");
const steps = [...tour.querySelectorAll("li")];
const [back, next] = tour.querySelectorAll("[data-go]");
let at = 0;

const kept = () => {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage may be forbidden
  }
};
// a style of its own: what is pointed at is drawn again and again, and would lose a class
const pointer = document.head.appendChild(document.createElement("style"));
const point = () => {
  pointer.textContent = tour.hidden
    ? ""
    : `${steps[at].dataset.target} { outline: 2px solid var(--vh-accent); outline-offset: 4px; border-radius: 8px; }`;
};
const show = (step) => {
  at = step;
  steps.forEach((one, place) => (one.hidden = place !== at));
  back.disabled = at === 0;
  next.textContent = at === steps.length - 1 ? "Done" : "Next";
  point();
};
const close = () => {
  tour.hidden = true;
  point();
  try {
    localStorage.setItem(KEY, "1");
  } catch {
    // then it comes again
  }
};
element.addEventListener("click", (event) => {
  const go = Number(event.target.closest("[data-go]")?.dataset.go ?? NaN);
  if (Number.isNaN(go)) return;
  if (go === 0 || at + go === steps.length) close();
  else show(at + go);
});
element.addEventListener("keydown", (event) => {
  if (event.key === "Escape") close();
});
tour.hidden = kept() !== null;
show(0);
