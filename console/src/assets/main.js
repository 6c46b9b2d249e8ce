// The frame of the page: views by the address, what is live, who answers.
import { setInstance, watch } from "./api.js";
import { address, h, notify, say } from "./dom.js";
import { number, shortId } from "./format.js";
import { dead } from "./dead.js";
import { task } from "./detail.js";
import { events } from "./events.js";
import { history } from "./history.js";
import { name, names } from "./names.js";
import { overview } from "./overview.js";
import { queues } from "./queues.js";
import { runbook } from "./runbook.js";
import { tasks } from "./tasks.js";

/** Each makes `{ title, update(snapshot), onTasks(events), close() }` from its element and its parameters. */
const views = { overview, names, name, tasks, task, history, dead, queues, events, runbook };
const tabs = { overview: "Overview", names: "Names", tasks: "Tasks", history: "History", dead: "Dead letters", queues: "Queues", events: "Events", runbook: "Runbook" };
/** The tab of a view that has none. */
const within = { name: "names", task: "tasks" };

let current = null, currentKey = null, snapshot = null, stop = null, wantsTail = null;

function route() {
  const [view, query] = location.hash.replace(/^#\//, "").split("?");
  return { view: Object.hasOwn(views, view) ? view : "overview", parameters: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

function show() {
  const { view, parameters } = route();
  const key = location.hash;
  if (key === currentKey && current) return;
  const isFirst = current === null;
  current?.close?.();
  currentKey = key;
  const main = document.getElementById("main");
  main.replaceChildren();
  current = views[view](main, parameters);
  document.title = `${current.title} · Tasks`;
  if (!isFirst) { main.focus(); scrollTo(0, 0); }
  navigation();
  if (snapshot) current.update?.(snapshot);
  listen(view === "events");
}

function navigation() {
  const { view } = route();
  const counts = { dead: snapshot?.totals.dead_letters, overview: snapshot?.finding_count };
  // A service without durable jobs has no queues.
  const shown = Object.entries(tabs).filter(([tab]) => tab !== "queues" || snapshot?.jobs);
  const links = shown.map(([tab, label]) => h("a", { href: address(tab), "aria-current": (within[view] ?? view) === tab ? "page" : null },
    label, counts[tab] ? h("span", { class: "count" }, number(counts[tab])) : null));
  const nav = document.getElementById("nav");
  const text = links.map((one) => one.outerHTML).join();
  if (nav.dataset.shown === text) return;
  const focused = [...nav.children].indexOf(document.activeElement);
  nav.dataset.shown = text;
  nav.replaceChildren(...links);
  nav.children[focused]?.focus();
}

function listen(tail) {
  if (wantsTail === tail) return;
  stop?.();
  wantsTail = tail;
  onState("connecting");
  stop = watch({ tail, onSnapshot, onTasks: (events) => current?.onTasks?.(events), onState });
}

function onSnapshot(next) {
  if (snapshot && snapshot.instance !== next.instance) {
    notify(`Another process answers: ${shortId(next.instance.slice(0, 8))}…. The service has restarted, or there are several at this address.`, "bad");
  }
  snapshot = next;
  setInstance(next.instance);
  state(next);
  const shown = document.getElementById("instance");
  set(shown, `${next.instance.slice(0, 8)}…`, "");
  shown.title = next.instance;
  navigation();
  current?.update?.(next);
}

/** What is wrong, and what a probe of the health check gets: it may pass although tasks fail. */
function state({ finding_count: count, health }) {
  const problems = document.getElementById("problems");
  problems.hidden = count === 0;
  set(problems, count === 1 ? "1 problem" : `${number(count)} problems`, "badge bad");
  const passes = health.status === "healthy", isWell = passes && count === 0;
  set(document.getElementById("health"), passes ? "health check passes" : "health check fails", `badge ${isWell ? "good" : passes ? "" : "bad"}`.trim());
}

function onState(state) {
  if (state === "lost") {
    document.getElementById("problems").hidden = true;
    set(document.getElementById("health"), "state unknown", "badge");
  }
  const [text, kind] = { connecting: ["connecting", ""], live: ["live", "good"], polling: ["every 2 s", "warn"], lost: ["no answer: figures are old", "bad"] }[state];
  set(document.getElementById("connection"), text, `badge ${kind}`.trim());
}

/** Changes an element only if it differs. */
function set(element, text, className) {
  say(element, text);
  if (element.className !== className) element.className = className;
}

addEventListener("hashchange", show);
addEventListener("rewritten", () => { currentKey = location.hash; });
// Not by its address, which would be that of a view.
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("main").focus(); });
// Nobody reads a page in the background: the service need not look for it.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stop?.(); stop = null; wantsTail = null; } else listen(route().view === "events");
});
show();
