// ---- texts

// A folded text, which `fill` puts there when it is opened.
function folded(title, fill, open) {
  const details = element("details");
  const filled = () => {
    if (details.open && details.children.length === 1) details.append(fill());
  };
  details.append(element("summary", "", title));
  details.addEventListener("toggle", filled);
  details.open = open;
  filled();
  return details;
}

function written(places, pieces) {
  const text = element("pre");
  for (const place of places) {
    const piece = pieces[place];
    if (typeof piece === "string") text.append(piece);
    else if (piece[1] === "role") text.append(element("span", "role", piece[0]));
    else if (state.special === "1") text.append(element("span", "special", piece[0]));
  }
  return text;
}

// Each sampled token, the darker the less likely it was.
function likelihoods(sampled) {
  const text = element("pre");
  for (const [token, logprob] of sampled) {
    const known = typeof logprob === "number" ? Math.min(1, -logprob / 5) : 1;
    const mark = element("span", "token", typeof token === "string" ? token : `${token} `);
    mark.style.setProperty("--share", String(known * 0.6));
    mark.title = `log-probability ${number(logprob)}`;
    text.append(mark);
  }
  return text;
}

// ---- turns

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

function turnCard(turn, name, view, reflection) {
  const card = element("section", reflection ? "turn reflection" : "turn");
  const header = element("header");
  header.append(element("span", "name", name));
  if (!reflection) header.append(element("span", "action", turn.action ?? "no action"));
  if (!turn.valid) header.append(element("span", "badge warn", reflection ? "no remark" : "invalid"));
  if (turn.truncated) header.append(element("span", "badge warn", "cut off"));
  card.append(header);
  if (reflection) card.append(element("p", "remark", turn.action ?? turn.text));
  else card.append(element("pre", "board", turn.observation));
  card.append(credit(turn, view.largest), ...texts(turn, view));
  return card;
}

// The reply, its tokens' log-probabilities and the prompt, as far as the file has them.
function texts(turn, { pieces, unit }) {
  const open = state.expand === "1";
  const plain = () => element("pre", "", turn.text);
  const thoughts = turn.thoughts ? `, ${turn.thoughts.toLocaleString("en")} of them thoughts` : "";
  const reply = turn.reply ? () => written(turn.reply, pieces) : plain;
  const shown = [folded(`reply · ${many(turn.tokens, unit)}${thoughts}`, reply, open)];
  if (turn.sampled.length) {
    const sum = turn.sampled.reduce((total, [, logprob]) => total + Number(logprob), 0);
    const mean = number(sum / turn.sampled.length);
    const title = `log-probability ${number(sum)} · ${mean} a ${unit}`;
    shown.push(folded(title, () => likelihoods(turn.sampled), open));
  }
  const length = `prompt · ${many(turn.prompt_tokens, unit)}`;
  if (turn.prompt) shown.push(folded(length, () => written(turn.prompt, pieces), open));
  else shown.push(element("span", "facts", `${length}; view --tokenizer shows them as text`));
  return shown;
}

const turnsOf = (trial) => trial.episodes.flatMap((episode) => [...episode.turns, episode.reflection ?? []].flat());

// What the cards of these trials have in common: the scale of their advantages.
function scale(trials) {
  const sizes = trials.flatMap(turnsOf).map((turn) => Math.abs(turn.advantage)).filter(Number.isFinite);
  return Math.max(0, ...sizes);
}

function episodeHeader(episode, place) {
  const header = element("header");
  const colour = { won: "good", lost: "bad" }[episode.stop] ?? "warn";
  header.append(
    element("h3", "", `Episode ${place + 1}`),
    element("span", `badge ${colour}`, episode.stop.replaceAll("_", " ")),
    element("span", "facts", `${many(episode.turns.length, "turn")} · reward ${number(episode.reward)}`),
  );
  return header;
}

function theEnd(episode) {
  const last = element("section", "turn end");
  const header = element("header");
  header.append(element("span", "name", "the end"));
  last.append(header, element("pre", "board", episode.final));
  return last;
}

function episodeColumn(episode, place, view) {
  const column = element("article", "episode");
  column.append(episodeHeader(episode, place));
  column.append(...episode.turns.map((turn, at) => turnCard(turn, `turn ${at + 1}`, view, false)), theEnd(episode));
  if (episode.reflection) column.append(turnCard(episode.reflection, "reflection", view, true));
  return column;
}

// ---- one trial

function button(text, key, change) {
  const made = element("button", "", text);
  made.type = "button";
  made.title = `key ${key}`;
  made.disabled = !change;
  if (change) made.addEventListener("click", () => go(change));
  return made;
}

function failureOf(trial) {
  if (!trial.failure) return [];
  const [kind, stage, message] = trial.failure;
  const failure = element("section", "failure");
  failure.append(element("strong", "", `${kind.replaceAll("_", " ")} failure in ${stage}`), element("pre", "", message));
  return [failure];
}

function heading(title, badges, group, pieces) {
  const made = element("div", "top");
  const nav = element("nav");
  const [expanded, special, side] = ["expand", "special", "group"].map((name) => state[name] === "1");
  const list = button("☰ list", "l", { trial: "", group: "" });
  list.className = "back";
  nav.append(list, button("‹ previous", "k", neighbour(-1)), button("next ›", "j", neighbour(1)));
  if (group.length > 1)
    nav.append(button(side ? "one trial" : `side by side (${group.length})`, "g", { group: side ? "" : "1" }));
  if (pieces.length)
    nav.append(button(special ? "hide special tokens" : "special tokens", "s", { special: special ? "" : "1" }));
  nav.append(button(expanded ? "fold all" : "open all", "e", { expand: expanded ? "" : "1" }));
  made.append(element("h2", "", title), ...badges, nav);
  return made;
}

// How far the list was scrolled when a trial was opened. A phone shows one or the other, and scrolls the page for both.
let listAt = 0;

function showTrial() {
  const place = Number(state.trial) - 1;
  const entry = index[place];
  const page = document.scrollingElement;
  const wasOpen = document.body.classList.contains("open");
  if (entry && !wasOpen) listAt = page.scrollTop;
  document.body.classList.toggle("open", Boolean(entry));
  byId("trial").replaceChildren();
  if (!entry) {
    const hint = index.length ? "Choose a trial in the list, or press j." : "The file has no trials.";
    byId("trial").append(element("p", "nothing", hint));
    if (wasOpen) page.scrollTop = listAt;
    return;
  }
  const group = groups.get(entry.set);
  byId("trial").append(...(state.group === "1" && group.length > 1 ? sideBySide(entry, group) : alone(entry, place, group)));
  byId("trial").scrollTop = page.scrollTop = 0;
  // The link or button that was pressed is gone; keys go on from here, and screen readers read here.
  if (document.activeElement === document.body) byId("trial").focus({ preventScroll: true });
}

function alone(entry, place, group) {
  const trial = trialAt(place);
  const facts = [many(entry.turns, "turn"), `${many(entry.tokens, entry.unit)} sampled`];
  if (trial.split) facts.unshift(`split ${trial.split}`);
  if (entry.step !== null) facts.push(`step ${entry.step}`);
  if (entry.group !== null) facts.push(`group ${entry.group}`);
  facts.push(`${number(trial.generation_seconds)} s generation`, `${number(trial.environment_seconds)} s environment`);
  if (trial.retries) facts.push(`${trial.retries} begun again`);
  if (entry.unit === "character") facts.push("its player has no tokenizer: characters are counted");
  const view = { pieces: trial.pieces, unit: entry.unit, largest: scale([trial]) };
  const episodes = element("div", "episodes");
  episodes.append(...trial.episodes.map((episode, at) => episodeColumn(episode, at, view)));
  return [
    heading(`#${place + 1} ${entry.task}`, [resultBadge(entry)], group, trial.pieces),
    element("p", "facts", facts.join(" · ")),
    ...failureOf(trial),
    episodes,
  ];
}

// ---- the trials of a group

function sideBySide(entry, group) {
  const trials = group.map(trialAt);
  const largest = scale(trials);
  const facts = [many(group.length, "trial")];
  if (entry.step !== null) facts.push(`step ${entry.step}`);
  if (entry.group !== null) facts.push(`group ${entry.group}`);
  const earned = group.some((place) => index[place].return !== null) ? "returns" : "rewards";
  if (entry.spread !== null) facts.push(`spread of ${earned} ${number(entry.spread)}`);
  const grid = element("div", "group");
  const rows = Math.max(...trials.map((trial) => trial.episodes.length));
  grid.style.setProperty("--rows", String(1 + rows));
  grid.append(...trials.map((trial, at) => trialColumn(trial, group[at], largest)));
  return [heading(entry.task, [], group, trials[0].pieces), element("p", "facts", facts.join(" · ")), grid];
}

function trialColumn(trial, place, largest) {
  const entry = index[place];
  const column = element("article", "trial");
  const header = element("header");
  const link = element("a", "", `#${place + 1}`);
  link.href = hashOf({ ...state, trial: String(place + 1), group: "" });
  const facts = [many(entry.turns, "turn"), many(entry.tokens, entry.unit)];
  facts.unshift(entry.return === null ? `reward ${number(entry.reward)}` : `return ${number(entry.return)}`);
  header.append(link, resultBadge(entry), element("span", "facts", facts.join(" · ")), ...failureOf(trial));
  const view = { pieces: trial.pieces, unit: entry.unit, largest };
  column.append(header, ...trial.episodes.map((episode, at) => episodeCell(episode, at, view)));
  return column;
}

// An episode in a line a turn, which opens into its card.
function episodeCell(episode, place, view) {
  const cell = element("section", "cell");
  cell.append(episodeHeader(episode, place));
  const line = (turn, name, reflection) => {
    const credits = turn.advantage === null ? `reward ${number(turn.reward)}` : `advantage ${number(turn.advantage)}`;
    const did = reflection ? (turn.action ?? "no remark") : (turn.action ?? "no action");
    const made = folded("", () => turnCard(turn, name, view, reflection), state.expand === "1");
    made.className = reflection ? "line reflection" : "line";
    const summary = made.querySelector("summary");
    summary.append(element("span", "name", name), element("span", "did", did), element("span", "facts", credits));
    if (!turn.valid && !reflection) summary.append(element("span", "badge warn", "invalid"));
    return made;
  };
  cell.append(...episode.turns.map((turn, at) => line(turn, `${at + 1}`, false)));
  if (episode.reflection) cell.append(line(episode.reflection, "reflection", true));
  return cell;
}

