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
const point = () => {
  document.querySelectorAll(".vh-pointed").forEach((one) => one.classList.remove("vh-pointed"));
  if (!tour.hidden) document.querySelector(steps[at].dataset.target)?.classList.add("vh-pointed");
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
