"use strict";
// The page's state is the hash of its address: #trial=3&won=2&env=sokoban&end=lost&step=5&text=mine&expand=1.
// Trials count from 1, as the list shows them. All text goes in by textContent: nothing of a record is ever HTML.

const index = JSON.parse(document.getElementById("index").textContent);
const lines = document.getElementById("trials").textContent.split("\n");
const byId = (id) => document.getElementById(id);
const fields = byId("filters").elements;
const PAGE = 500;

let state = {};
let matches = [];
let listed = 0;
let searched = null;

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

// ---- filters

const KINDS = {
  won: [resultOf, (value) => (/^\d+$/.test(value) ? `won at attempt ${value}` : value)],
  env: [(entry) => entry.env, (value) => value],
  end: [(entry) => String(end(entry)), (value) => value.replaceAll("_", " ")],
  step: [(entry) => String(entry.step ?? ""), (value) => value || "none"],
};

function fillFilters() {
  for (const [name, [of, say]] of Object.entries(KINDS)) {
    const counts = new Map();
    for (const entry of index) counts.set(of(entry), (counts.get(of(entry)) ?? 0) + 1);
    const values = [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const select = fields[name];
    select.append(new Option("any", ""));
    for (const value of values) select.append(new Option(`${say(value)} (${counts.get(value)})`, value));
    select.closest("label").hidden = name === "step" && values.length < 2;
  }
}

function searchable() {
  // Built at the first search: what a trial says, without the names of its fields.
  const texts = (value) =>
    typeof value === "string" ? [value] : value && typeof value === "object" ? Object.values(value).flatMap(texts) : [];
  searched ??= index.map((entry, place) => [entry.task, ...texts(trialAt(place))].join("\n").toLowerCase());
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
}

// ---- list

function row(place) {
  const entry = index[place];
  const link = element("a");
  link.href = hashOf({ ...state, trial: String(place + 1) });
  if (state.trial === String(place + 1)) link.setAttribute("aria-current", "true");
  const task = element("span", "task", entry.task);
  task.title = entry.task;
  const facts = [many(entry.stops.length, "episode"), many(entry.turns, "turn"), many(entry.tokens, "token")];
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

function showList() {
  byId("list").replaceChildren();
  listed = 0;
  byId("count").textContent = `${matches.length} of ${many(index.length, "trial")}`;
  const open = matches.indexOf(Number(state.trial) - 1);
  showRows(Math.max(PAGE, open + 1));
  byId("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

// ---- trial

function folded(title, text, open) {
  const details = element("details");
  const fill = () => {
    if (details.open && details.children.length === 1) details.append(element("pre", "", text));
  };
  details.append(element("summary", "", title));
  details.addEventListener("toggle", fill);
  details.open = open;
  fill();
  return details;
}

function credit(turn, largest) {
  const shown = element("div", "credit");
  shown.append(element("span", "", `reward ${number(turn.reward)}`));
  if (turn.return !== null) shown.append(element("span", "", `return ${number(turn.return)}`));
  if (turn.advantage !== null) {
    const mark = element("span", "advantage", `advantage ${number(turn.advantage)}`);
    if (turn.advantage && largest) {
      mark.classList.add(turn.advantage > 0 ? "plus" : "minus");
      mark.style.setProperty("--share", String(0.1 + (0.55 * Math.abs(turn.advantage)) / largest));
    }
    shown.append(mark);
  }
  return shown;
}

function turnCard(turn, name, largest, reflection) {
  const card = element("section", reflection ? "turn reflection" : "turn");
  const header = element("header");
  header.append(element("span", "name", name));
  if (!reflection) header.append(element("span", "action", turn.action ?? "no action"));
  if (!turn.valid) header.append(element("span", "badge warn", reflection ? "no remark" : "invalid"));
  if (turn.truncated) header.append(element("span", "badge warn", "cut off"));
  card.append(header);
  if (reflection) card.append(element("p", "remark", turn.action ?? turn.text));
  else card.append(element("pre", "board", turn.observation));
  card.append(credit(turn, largest));
  const open = state.expand === "1";
  card.append(folded(`reply · ${many(turn.tokens, "token")}`, turn.text, open));
  if (turn.prompt === null) card.append(element("span", "facts", `prompt · ${many(turn.prompt_tokens, "token")}`));
  else card.append(folded(`prompt · ${many(turn.prompt_tokens, "token")}`, turn.prompt, open));
  return card;
}

function episodeColumn(episode, place, largest) {
  const column = element("article", "episode");
  const header = element("header");
  const colour = { won: "good", lost: "bad" }[episode.stop] ?? "warn";
  header.append(
    element("h3", "", `Episode ${place + 1}`),
    element("span", `badge ${colour}`, episode.stop.replaceAll("_", " ")),
    element("span", "facts", `${many(episode.turns.length, "turn")} · reward ${number(episode.reward)}`),
  );
  column.append(header, ...episode.turns.map((turn, at) => turnCard(turn, `turn ${at + 1}`, largest, false)));
  const last = element("section", "turn end");
  const lastHeader = element("header");
  lastHeader.append(element("span", "name", "the end"));
  last.append(lastHeader, element("pre", "board", episode.final));
  column.append(last);
  if (episode.reflection) column.append(turnCard(episode.reflection, "reflection", largest, true));
  return column;
}

function button(text, key, change) {
  const made = element("button", "", text);
  made.type = "button";
  made.title = `key ${key}`;
  made.disabled = !change;
  if (change) made.addEventListener("click", () => go(change));
  return made;
}

function neighbour(by) {
  const at = matches.indexOf(Number(state.trial) - 1);
  const next = at < 0 ? matches[by > 0 ? 0 : matches.length - 1] : matches[at + by];
  return next === undefined ? null : { trial: String(next + 1) };
}

function showTrial() {
  const place = Number(state.trial) - 1;
  const entry = index[place];
  byId("trial").replaceChildren();
  if (!entry) {
    const hint = index.length ? "Choose a trial in the list, or press j." : "The file has no trials.";
    byId("trial").append(element("p", "nothing", hint));
    return;
  }
  const trial = trialAt(place);
  const top = element("div", "top");
  const nav = element("nav");
  const expanded = state.expand === "1";
  nav.append(
    button("‹ previous", "k", neighbour(-1)),
    button("next ›", "j", neighbour(1)),
    button(expanded ? "fold all" : "open all", "e", { expand: expanded ? "" : "1" }),
  );
  top.append(element("h2", "", `#${place + 1} ${entry.task}`), resultBadge(entry), nav);
  const facts = [many(entry.turns, "turn"), `${many(entry.tokens, "token")} sampled`];
  if (trial.split) facts.unshift(`split ${trial.split}`);
  if (entry.step !== null) facts.push(`step ${entry.step}`);
  if (entry.group !== null) facts.push(`group ${entry.group}`);
  facts.push(`${number(trial.generation_seconds)} s generation`, `${number(trial.environment_seconds)} s environment`);
  if (trial.retries) facts.push(`${trial.retries} begun again`);
  byId("trial").append(top, element("p", "facts", facts.join(" · ")));
  if (trial.failure) {
    const [kind, stage, message] = trial.failure;
    const failure = element("section", "failure");
    failure.append(element("strong", "", `${kind.replaceAll("_", " ")} failure in ${stage}`), element("pre", "", message));
    byId("trial").append(failure);
  }
  const turns = trial.episodes.flatMap((episode) => [...episode.turns, episode.reflection ?? []].flat());
  const sizes = turns.map((turn) => Math.abs(turn.advantage)).filter(Number.isFinite);
  const episodes = element("div", "episodes");
  episodes.append(...trial.episodes.map((episode, at) => episodeColumn(episode, at, Math.max(0, ...sizes))));
  byId("trial").append(episodes);
  byId("trial").scrollTop = 0;
}

// ---- state

function hashOf(wanted) {
  return "#" + new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
}

function go(change) {
  location.hash = hashOf({ ...state, ...change });
}

function apply() {
  state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const name of [...Object.keys(KINDS), "text"])
    if (fields[name].value !== (state[name] ?? "")) fields[name].value = state[name] ?? "";
  find();
  showList();
  showTrial();
}

let typing = 0;
byId("filters").addEventListener("input", (event) => {
  const change = () => go({ [event.target.name]: event.target.value });
  clearTimeout(typing);
  typing = setTimeout(change, event.target.name === "text" ? 200 : 0);
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", () => showRows(listed + PAGE));
addEventListener("hashchange", apply);
addEventListener("keydown", (event) => {
  if (event.target.closest?.("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j" || event.key === "k") go(neighbour(event.key === "j" ? 1 : -1) ?? {});
  if (event.key === "e") go({ expand: state.expand === "1" ? "" : "1" });
});
fillFilters();
apply();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
