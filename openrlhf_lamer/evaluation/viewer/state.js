// ---- state

function neighbour(by) {
  const at = matches.indexOf(Number(state.trial) - 1);
  let next = at < 0 ? (by > 0 ? 0 : matches.length - 1) : at + by;
  // Side by side, the next trial is one of another group.
  const seen = index[matches[at]]?.set;
  while (state.group === "1" && matches[next] !== undefined && index[matches[next]].set === seen) next += by;
  return matches[next] === undefined ? null : { trial: String(matches[next] + 1) };
}

function hashOf(wanted) {
  return "#" + new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
}

function go(change) {
  location.hash = hashOf({ ...state, ...change });
}

// Places of the trials whose texts the page needs.
function needed() {
  if (state.text) return [...index.keys()];
  const entry = index[Number(state.trial) - 1];
  if (!entry) return [];
  return state.group === "1" ? groups.get(entry.set) : [Number(state.trial) - 1];
}

function showFields() {
  for (const name of [...Object.keys(KINDS), "text", "sort"])
    if (fields[name].value !== (state[name] ?? "")) fields[name].value = state[name] ?? "";
}

async function apply() {
  state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  showFields();
  if (!(await available())) return;
  find();
  showList();
  showCurves();
  showTrial();
}

let typing = 0;
byId("filters").addEventListener("input", (event) => {
  const { name, value } = event.target;
  clearTimeout(typing);
  typing = setTimeout(() => go({ [name]: value }), name === "text" ? 200 : 0);
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", () => showRows(listed + PAGE));
addEventListener("hashchange", apply);
const switched = (name) => ({ [name]: state[name] === "1" ? "" : "1" });
const KEYS = {
  j: () => neighbour(1) ?? {},
  k: () => neighbour(-1) ?? {},
  g: () => switched("group"),
  s: () => switched("special"),
  e: () => switched("expand"),
  l: () => ({ trial: "", group: "" }),
};
addEventListener("keydown", (event) => {
  if (event.target.closest?.("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (KEYS[event.key]) go(KEYS[event.key]());
});

async function begin() {
  regroup();
  fillFilters();
  await apply();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}
