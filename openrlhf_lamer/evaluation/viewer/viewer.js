"use strict";
// The page's state is the hash of its address:
// #trial=3&group=1&won=2&env=sokoban&end=lost&step=5&text=mine&sort=-return&expand=1&special=1.
// Trials count from 1, as in their file. All text goes in by textContent: nothing of a record is ever HTML.

const index = JSON.parse(document.getElementById("index").textContent);
const given = document.getElementById("trials").textContent;
const lines = given ? given.split("\n") : [];
const byId = (id) => document.getElementById(id);
const fields = byId("filters").elements;
const PAGE = 500;

let state = {};
let matches = [];
let listed = 0;
let searched = [];

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value) {
  if (typeof value !== "number") return String(value);
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

const many = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
const trialAt = (place) => JSON.parse(lines[place]);

// Places of the trials of each group, in the order of the file: in training its group, else the trials of a task.
const groups = new Map();

// A trial's `set` names its group. Its `spread` is the standard deviation of what those of them that did not fail
// earned: of their returns if the file has them, else of their rewards.
function regroup() {
  groups.clear();
  index.forEach((entry, place) => {
    entry.set = JSON.stringify([entry.step, entry.group ?? entry.task]);
    if (!groups.has(entry.set)) groups.set(entry.set, []);
    groups.get(entry.set).push(place);
  });
  const credited = index.every((entry) => entry.failure || entry.return !== null);
  for (const places of groups.values()) {
    const sound = places.map((place) => index[place]).filter((entry) => !entry.failure);
    const spread = deviation(sound.map((entry) => (credited ? entry.return : entry.reward)));
    for (const place of places) index[place].spread = spread;
  }
}

function deviation(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const found = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
  return values.length > 1 && Number.isFinite(found) ? found : null;
}

// What a trial ended by: the failure that broke it, or how its last episode stopped.
const end = (entry) => entry.failure ?? entry.stops[entry.stops.length - 1];

function resultOf(entry) {
  if (entry.failure) return "failed";
  return entry.wins.length ? String(entry.wins[0]) : "lost";
}

function resultBadge(entry) {
  if (entry.failure) return element("span", "badge warn", "failed");
  if (entry.wins.length) return element("span", "badge good", `won at ${entry.wins.join(", ")}`);
  return element("span", "badge bad", "lost");
}

// ---- filters and order

const KINDS = {
  won: [resultOf, (value) => (/^\d+$/.test(value) ? `won at attempt ${value}` : value)],
  env: [(entry) => entry.env, (value) => value],
  end: [(entry) => String(end(entry)), (value) => value.replaceAll("_", " ")],
  step: [(entry) => String(entry.step ?? ""), (value) => value || "none"],
};

// By what trials are sorted: the value, a label, and which end comes first unless asked otherwise. A trial without a
// value, such as a failed one, comes last in both directions.
const sound = (of) => (entry) => (entry.failure ? null : of(entry));
const ORDERS = {
  step: [(entry) => entry.step, () => "step", -1],
  return: [sound((entry) => entry.return), () => "return", -1],
  reward: [sound((entry) => entry.reward), () => "sum of rewards", -1],
  won: [sound((entry) => entry.wins[0] ?? Infinity), () => "success: attempt that won", 1],
  turns: [sound((entry) => entry.turns), () => "turns", -1],
  tokens: [sound((entry) => entry.tokens), () => `${units()} sampled`, -1],
  spread: [(entry) => entry.spread, () => "spread of its group", -1],
};

function units() {
  return [...new Set(index.map((entry) => `${entry.unit}s`))].sort().reverse().join(" or ");
}

function fillFilters() {
  for (const [name, [of, say]] of Object.entries(KINDS)) {
    const counts = new Map();
    for (const entry of index) counts.set(of(entry), (counts.get(of(entry)) ?? 0) + 1);
    const values = [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const select = fields[name];
    select.replaceChildren(new Option("any", ""));
    for (const value of values) select.append(new Option(`${say(value)} (${counts.get(value)})`, value));
    select.value = state[name] ?? "";
    select.closest("label").hidden = name === "step" && values.length < 2;
  }
  fields.sort.replaceChildren(new Option("order of the file", ""));
  for (const [name, [of, label, first]] of Object.entries(ORDERS)) {
    if (!index.some((entry) => Number.isFinite(of(entry)))) continue;
    for (const way of [first, -first])
      fields.sort.append(new Option(`${label()}, ${way > 0 ? "lowest" : "highest"} first`, (way > 0 ? "" : "-") + name));
  }
  fields.sort.value = state.sort ?? "";
}

function searchable() {
  // Built at the first search: what a trial says, without the names of its fields.
  const texts = (value) =>
    typeof value === "string" ? [value] : value && typeof value === "object" ? Object.values(value).flatMap(texts) : [];
  for (let place = searched.length; place < index.length; place++)
    searched.push([index[place].task, ...texts(trialAt(place))].join("\n").toLowerCase());
  return searched;
}

function find() {
  const wanted = Object.entries(KINDS).filter(([name]) => state[name]);
  const text = (state.text ?? "").toLowerCase();
  matches = [];
  index.forEach((entry, place) => {
    if (wanted.every(([name, [of]]) => of(entry) === state[name]) && (!text || searchable()[place].includes(text)))
      matches.push(place);
  });
  order();
}

function order() {
  const down = state.sort?.startsWith("-");
  const chosen = ORDERS[down ? state.sort.slice(1) : state.sort];
  if (!chosen) return;
  const values = index.map(chosen[0]);
  const compare = (a, b) => {
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
    return values[a] === values[b] ? 0 : values[a] < values[b] === !down ? -1 : 1;
  };
  // Groups with the same spread stay together.
  const first = (place) => groups.get(index[place].set)[0];
  const within = chosen === ORDERS.spread ? (a, b) => first(a) - first(b) : () => 0;
  matches.sort((a, b) => compare(a, b) || within(a, b) || a - b);
}

// ---- list

function row(place) {
  const entry = index[place];
  const link = element("a");
  link.href = hashOf({ ...state, trial: String(place + 1) });
  if (state.trial === String(place + 1)) link.setAttribute("aria-current", "true");
  const task = element("span", "task", entry.task);
  task.title = entry.task;
  const facts = [many(entry.stops.length, "episode"), many(entry.turns, "turn"), many(entry.tokens, entry.unit)];
  if (entry.return !== null) facts.push(`return ${number(entry.return)}`);
  else facts.push(`reward ${number(entry.reward)}`);
  if (state.sort?.endsWith("spread") && entry.spread !== null) facts.push(`spread ${number(entry.spread)}`);
  if (entry.step !== null) facts.unshift(`step ${entry.step}`);
  if (entry.group !== null) facts.splice(entry.step === null ? 0 : 1, 0, `group ${entry.group}`);
  link.append(
    element("span", "number", `#${place + 1}`), task, resultBadge(entry), element("span", "facts", facts.join(" · ")),
  );
  const item = element("li");
  item.append(link);
  return item;
}

function showRows(upTo) {
  byId("list").append(...matches.slice(listed, upTo).map(row));
  listed = Math.min(upTo, matches.length);
  const left = matches.length - listed;
  byId("more").hidden = !left;
  byId("more").textContent = `show ${Math.min(left, PAGE)} more of ${left}`;
}

// At least `rows` of the matches are listed.
function showList(rows = PAGE) {
  byId("list").replaceChildren();
  listed = 0;
  byId("count").textContent = `${matches.length} of ${many(index.length, "trial")}`;
  const open = matches.indexOf(Number(state.trial) - 1);
  showRows(Math.max(PAGE, rows, open + 1));
  byId("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

