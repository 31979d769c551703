
// ---- trials come from a server, while the page is open

const EVERY = 2000; // milliseconds
const AT_ONCE = 64; // trials of one request
let run = "";
let behind = false; // whether texts could not be had, so that the next news shows the page again

async function asked(what, values) {
  const answer = await fetch(`${what}?${new URLSearchParams(values)}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  return answer;
}

// Fetches the texts that the page needs and does not have yet; false if it went elsewhere meanwhile, or got no answer.
// Trials may be added between two requests, or the file replaced: so what is missing is asked again each time.
async function available() {
  const address = location.hash;
  while (location.hash === address) {
    const missing = needed().filter((place) => lines[place] === undefined);
    if (!missing.length) return true;
    if (missing.length > AT_ONCE) byId("count").textContent = `reading the texts of ${many(missing.length, "trial")}`;
    const [first] = missing;
    let end = first + 1;
    while (missing[end - first] === end && end - first < AT_ONCE) end++;
    const asking = run;
    try {
      const found = (await (await asked("details", { run, first, end })).text()).split("\n");
      if (run === asking) found.forEach((line, at) => (lines[first + at] = line));
    } catch {
      behind = true;
      return false;
    }
  }
  return false;
}

function forget() {
  index.length = lines.length = 0;
  searched = [];
}

// Shows trials that have come, and leaves alone what is being read: the open trial, the place in the list, the focus.
async function refresh() {
  regroup();
  fillFilters();
  if (!(await available())) return;
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
      if (again || behind) document.body.classList.remove("open");
      if (again || behind || found.index.length) {
        behind = false;
        await refresh();
      }
    }
    const read = found.more ? "reading …" : `read to the end at ${new Date().toLocaleTimeString()}`;
    byId("state").textContent = found.state || (behind ? "texts could not be read, and are asked for again" : read);
  } catch (error) {
    byId("state").textContent = `no answer (${error.message}): is \`openrlhf-lamer view --follow\` still running?`;
  }
  setTimeout(news, pause);
}

begin().then(news);
