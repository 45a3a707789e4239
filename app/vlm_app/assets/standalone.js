// A run in a file: what the server answers on the page is read here from the file itself.
const data = JSON.parse(document.querySelector("#vh-data").textContent).sides;
for (const side of Object.values(data))
  for (const map of side.maps) map.values = Uint8Array.from(atob(map.bytes), (one) => one.charCodeAt(0));
const chosen = document.querySelector(".vh-token[aria-pressed=true]")?.dataset ?? {};
document.querySelectorAll(".vh-token[data-token]").forEach((one) => {
  one.dataset.level = one.style.getPropertyValue("--level");
  one.dataset.said = one.title;
});
let at = { side: chosen.side ?? Object.keys(data)[0], token: Number(chosen.token ?? 0), head: null, patch: null };

const press = (selector, is) =>
  document.querySelectorAll(selector).forEach((one) => one.setAttribute("aria-pressed", String(is(one.dataset))));

const draw = () => {
  const side = data[at.side];
  const row = at.head === null ? 0 : 1 + side.heads.findIndex(([layer, head]) => layer === at.head[0] && head === at.head[1]);
  const which = at.head === null ? null : `layer ${at.head[0]}, head ${at.head[1]}`;
  const said = side.said[at.token];
  const line = document.querySelector("#vh-overlays .vh-what");
  if (line) line.textContent = which === null ? said : said.replace(/: [^:]*$/, `: ${which}.`);
  const width = 1 + side.heads.length;
  const slices = side.maps.map((map) => {
    const from = (at.token * width + row) * map.positions;
    return Array.from(map.values.subarray(from, from + map.positions), (one) => (one / 255) * map.top);
  });
  const top = Math.max(1e-9, ...slices.flat());
  document.querySelectorAll("#vh-overlays .vh-overlay").forEach((figure, place) => {
    const weights = slices[place];
    if (!weights) return;
    figure.querySelectorAll(".vh-heat rect").forEach((rect, position) => {
      rect.setAttribute("fill-opacity", (Math.min(1, weights[position] / top) * 0.85).toFixed(3));
      const title = rect.querySelector("title");
      title.textContent = title.textContent.replace(/: [\d.]+ %/, `: ${(100 * weights[position]).toFixed(1)} %`);
    });
    const caption = side.captions[place + (at.head === null ? 0 : side.maps.length)];
    const total = weights.reduce((sum, one) => sum + one, 0);
    if (caption) figure.querySelector("figcaption span").textContent = caption.replace("#", Math.round(100 * total));
  });
  document.querySelector("#vh-why").innerHTML = side.why[at.token];
  press(".vh-token[data-token]", (one) => one.side === at.side && Number(one.token) === at.token);
  press(".vh-head[data-layer]", (one) => at.head !== null && `${one.layer}.${one.head}` === at.head.join("."));
};

// Each word is as dark as it used the chosen patch: the plain answer as it was made, the other with the methods in place.
const colour = () => {
  const used = (one) => {
    const side = data[one.dataset.side];
    const map = side.maps[one.dataset.side === "mitigated" ? side.maps.length - 1 : 0];
    return (map.values[Number(one.dataset.token) * (1 + side.heads.length) * map.positions + at.patch] / 255) * map.top;
  };
  const words = [...document.querySelectorAll(".vh-token[data-token]")];
  const most = at.patch === null ? 1 : Math.max(1e-9, ...words.map(used));
  for (const one of words) {
    const share = at.patch === null ? null : used(one);
    one.style.setProperty("--level", share === null ? one.dataset.level : share / most);
    const text = share === null ? one.dataset.said : `${one.textContent}, ${(100 * share).toFixed(1)} % on this patch`;
    one.title = text;
    one.setAttribute("aria-label", text);
  }
  press("[data-patch]", (one) => Number(one.patch) === at.patch);
};

const trigger = (kind, given) => {
  if (kind === "token") at = { ...at, ...given };
  else if (kind === "cell") {
    const same = at.head !== null && at.head[0] === given.layer && at.head[1] === given.head;
    const kept = data[at.side].heads.some(([layer, head]) => layer === given.layer && head === given.head);
    if (!same && !kept) return;
    at.head = same ? null : [given.layer, given.head];
  }
  if (kind === "patch") {
    at.patch = at.patch === given.patch ? null : given.patch;
    colour();
  } else draw();
};

for (const element of document.querySelectorAll("main > *"))
  ((element, trigger, watch) => {
    /* page.js */
  })(element, trigger, () => {});
