
// ---- curves over the steps

let points = JSON.parse(byId("points").textContent);
const brief = (value) => number(Number(value.toPrecision(2)));
const percent = (value) => `${Math.round(1000 * value) / 10}%`;

// Title, lines with their names, what the scale reaches at least, and how its values are written.
const CHARTS = [
  ["Success", { first: "first episode", won: "any episode" }, 1, percent],
  ["Entropy, nats a token", { play: "play", reflect: "reflections" }, 0.01, brief],
  ["Invalid actions", { invalid: "of all actions" }, 0.05, percent],
];
const SIZE = { width: 320, height: 108, left: 38, right: 8, top: 8, bottom: 18 };
const FEW = 40;

function drawn(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Points of the chosen environment, or of the first one.
function curve() {
  const env = points.some((point) => point.env === state.env) ? state.env : points[0]?.env;
  return points.filter((point) => point.env === env);
}

function showCurves() {
  const own = curve();
  byId("curves").hidden = !own.length;
  if (!own.length) return;
  const several = new Set(points.map((point) => point.env)).size > 1;
  byId("curves").querySelector("summary").textContent =
    `${several ? `${own[0].env} · ` : ""}step ${own[own.length - 1].step} · a click on a curve shows its step`;
  byId("curves").querySelector(".charts").replaceChildren(...CHARTS.map((chart) => figure(own, ...chart)));
}

function figure(own, title, names, least, written) {
  const made = element("figure");
  const caption = element("figcaption", "", title);
  const known = Object.keys(names).filter((name) => own.some((point) => typeof point[name] === "number"));
  for (const name of known) {
    const last = own.findLast((point) => typeof point[name] === "number")[name];
    caption.append(element("span", `line ${name}`, `${names[name]} ${written(last)}`));
  }
  made.append(caption);
  if (known.length) made.append(plot(own, known, least, written, title));
  else made.append(element("p", "facts", "not in this file"));
  return made;
}

function plot(own, names, least, written, title) {
  const { width, height, left, right, top, bottom } = SIZE;
  const values = own.flatMap((point) => names.map((name) => point[name])).filter(Number.isFinite);
  const most = Math.max(least, ...values);
  const [from, to] = [own[0].step, own[own.length - 1].step];
  const x = (step) => (to > from ? left + ((width - left - right) * (step - from)) / (to - from) : (left + width) / 2);
  const y = (value) => height - bottom - ((height - top - bottom) * value) / most;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} by step` });
  for (const value of [0, most]) {
    svg.append(drawn("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }));
    svg.append(drawn("text", { x: left - 4, y: y(value) + 4, "text-anchor": "end" }, written(value)));
  }
  if (own.some((point) => String(point.step) === state.step))
    svg.append(drawn("line", { x1: x(state.step), x2: x(state.step), y1: top, y2: height - bottom, class: "chosen" }));
  svg.append(drawn("text", { x: x(from), y: height - 4, "text-anchor": to > from ? "start" : "middle" }, String(from)));
  if (to > from) svg.append(drawn("text", { x: x(to), y: height - 4, "text-anchor": "end" }, String(to)));
  for (const name of names) {
    const at = own.filter((point) => Number.isFinite(point[name])).map((point) => [x(point.step), y(point[name])]);
    svg.append(drawn("polyline", { points: at.map((place) => place.join(",")).join(" "), class: `line ${name}` }));
    if (at.length > FEW) continue;
    svg.append(...at.map(([cx, cy]) => drawn("circle", { cx, cy, r: 2.2, class: `line ${name}` })));
  }
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * width;
    const nearest = own.reduce((a, b) => (Math.abs(x(b.step) - place) < Math.abs(x(a.step) - place) ? b : a));
    go({ step: state.step === String(nearest.step) ? "" : String(nearest.step), trial: "", group: "" });
  });
  return svg;
}

