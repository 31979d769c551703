
// ---- trials come from a server, while the page is open

const EVERY = 2000; // milliseconds
const AT_ONCE = 64; // trials of one request
let run = "";

async function asked(what, values) {
  const answer = await fetch(`${what}?${new URLSearchParams(values)}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  return answer;
}

// Fetches the texts of those of these trials that the page does not have yet.
async function available(places) {
  const missing = places.filter((place) => lines[place] === undefined);
  while (missing.length) {
    const first = missing.shift();
    let end = first + 1;
    while (missing[0] === end && end - first < AT_ONCE) end = missing.shift() + 1;
    const asking = run;
    const found = (await (await asked("details", { run, first, end })).text()).split("\n");
    if (run !== asking) return;
    found.forEach((line, at) => (lines[first + at] = line));
    if (missing.length) byId("count").textContent = `reading the texts: ${many(missing.length, "trial")} left`;
  }
}

function forget() {
  index.length = lines.length = 0;
  searched = [];
}

// Shows trials that have come, and leaves alone what is being read: the open trial, the place in the list, the focus.
async function refresh() {
  const address = location.hash;
  regroup();
  fillFilters();
  showFields();
  await available(needed());
  if (location.hash !== address) return;
  find();
  const list = byId("list");
  const [top, page] = [list.scrollTop, document.scrollingElement.scrollTop];
  const focused = list.contains(document.activeElement) ? document.activeElement.hash : null;
  showList(listed);
  showCurves();
  [list.scrollTop, document.scrollingElement.scrollTop] = [top, page];
  if (focused) [...list.querySelectorAll("a")].find((link) => link.hash === focused)?.focus({ preventScroll: true });
  if (!document.body.classList.contains("open")) showTrial();
}

async function news() {
  let pause = EVERY;
  try {
    const found = await (await asked("news", { run, known: index.length })).json();
    if (found.run !== undefined) {
      const again = found.run !== run;
      if (again) forget();
      run = found.run;
      points = found.points;
      for (const entry of found.index) index.push(entry);
      if (found.more) pause = 0;
      if (again) document.body.classList.remove("open");
      if (again || found.index.length) await refresh();
    }
    const time = new Date().toLocaleTimeString();
    byId("state").textContent = found.state || (found.more ? "reading …" : `read to the end at ${time}`);
  } catch (error) {
    byId("state").textContent = `no answer (${error.message}): is \`openrlhf-lamer view --follow\` still running?`;
  }
  setTimeout(news, pause);
}

begin().then(news);
