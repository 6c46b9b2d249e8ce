// What is wrong, and whether it is getting worse.
import { get } from "./api.js";
import { charts } from "./chart.js";
import { address, badge, errorText, foreign, h, link, nameLink, patch } from "./dom.js";
import { number, percent, rate, seconds } from "./format.js";
import { atWork, steps } from "./links.js";
import { timeShares } from "./shares.js";
import { table } from "./table.js";

/** Where the name of each finding leads. */
const leads = {
  failing: (name) => address("history", { state: "failed", name }),
  at_limit: (name) => address("tasks", { state: "pending", name }),
  growing: (name) => address("tasks", { state: "pending", name }),
  paused: (name) => address("name", { name }),
  blocking: (name) => address("tasks", { state: "running", name }),
  hanging: (name) => address("tasks", { state: "running", name }),
  blocks_runtime: (name) => address("tasks", { state: "running", name }),
  waiting: (name) => address("tasks", { state: "pending", name }),
  evicted: (name) => address("dead", { name }),
};
/** Those of which tasks are lost or stand still: they come first. */
const GRAVE = ["closing", "full", "failing", "blocks_runtime", "hanging", "blocking", "long_running", "lost", "stuck"];
const labels = { closing: "shut down", full: "full", long_running: "runs long", open: "held", evicted: "letters evicted", failing: "failing", blocks_runtime: "blocks the runtime", slow: "slow", at_limit: "at its limit", blocking: "holds up others", hanging: "hanging", waiting: "waiting", growing: "backlog", paused: "paused", lost: "lost", stuck: "stuck" };

export function overview(main) {
  const findings = h("ul", { class: "findings", id: "findings" });
  const runtime = h("p", { class: "dim", id: "runtime" });
  const tiles = h("div", { class: "tiles" });
  const graphs = h("div", { "aria-busy": "true" }, h("p", { class: "dim" }, "The charts are being read."));
  const windows = h("div");
  main.append(h("h1", null, "What is wrong now"), findings, runtime, h("h2", null, "Now"), tiles, h("h2", null, "The last hour"), graphs,
    h("h2", null, "Is it getting worse?"), windows);
  const timer = refresh(async () => draw(graphs, await get("samples.json")));
  return {
    title: "Overview",
    update(snapshot) {
      patch(findings, list(snapshot));
      patch(runtime, [h("span", null, blocked(snapshot))]);
      patch(tiles, tilesOf(snapshot));
      patch(windows, [windowTable(snapshot.windows)]);
    },
    close: () => clearInterval(timer),
  };
}

/** Now and every ten seconds. */
export function refresh(read) {
  const run = () => read().catch(() => {});
  run();
  return setInterval(run, 10000);
}

export function draw(element, { samples }) {
  element.removeAttribute("aria-busy");
  if (!samples) {
    element.replaceChildren(h("p", { class: "dim" }, "This name has no history: too many other names are in use, or none of its tasks has run lately."));
  } else if (samples.ago.length < 2) {
    element.replaceChildren(h("p", { class: "dim" }, "The service has been watched for a few seconds only: charts follow."));
  } else {
    element.replaceChildren(charts(samples, { rate, number, seconds }));
  }
}

function list(snapshot) {
  const isGrave = ({ kind }) => GRAVE.includes(kind);
  const ordered = [...snapshot.findings.filter(isGrave), ...snapshot.findings.filter((one) => !isGrave(one))];
  const found = ordered.map((one) => {
    const { kind, name, message, error, health } = one;
    const target = name ? (leads[kind] ?? ((of) => address("name", { name: of })))(name) : null;
    return h("li", { class: kind }, badge(labels[kind] ?? kind, kind),
      name ? [h("a", { href: target }, foreign(name)), " "] : null, message, ". ", kind === "slow" ? time(snapshot, name) : null,
      health ? h("b", { class: "health" }, `${health}.`) : null, errorText(error),
      h("span", { class: "steps small" }, steps(one, snapshot.allowed).map((step) => [step, " "])));
  });
  const more = snapshot.finding_count - found.length;
  if (more > 0) found.push(h("li", { class: "more" }, `Showing ${number(found.length)} of ${number(snapshot.finding_count)} problems: the worst five of each kind. The others are in the list of `, link("names", {}, "names"), "."));
  return found.length ? found : [h("li", { class: "well" }, badge("well", "good"),
    "Nothing stands out: no name fails, hangs, is slow, waits at its limit or has a growing backlog, and nothing was lost in the last 5 minutes.")];
}

/** Where the time of a slow name goes, in one sentence. */
function time({ names }, name) {
  const row = names.find((one) => one.name === name);
  const [most] = row ? timeShares(row) : [];
  return most ? `Most of its time (${percent(most.share)}) it is ${most.what} (${most.means}). ` : null;
}

/** Whether a task keeps a worker of the runtime from all others. */
function blocked({ is_profiled: isProfiled, findings, names }) {
  if (!isProfiled) return ["Who blocks the runtime is not measured: the registry has no profile."];
  if (findings.some(({ kind }) => kind === "blocks_runtime")) return ["A task blocks the runtime: see above."];
  const slowest = names.filter((row) => row.profile).sort((one, other) => other.profile.longest_poll - one.profile.longest_poll)[0];
  if (!slowest) return ["Nothing blocks the runtime now."];
  return ["Nothing blocks the runtime now. The longest that a task kept a worker to itself was ", seconds(slowest.profile.longest_poll), ": ", nameLink(slowest.name), "."];
}

function tile(label, value, note, view, parameters, isBad) {
  const inside = [h("span", { class: "label" }, label), h("b", null, value), h("span", { class: "note" }, note)];
  const className = `card tile${isBad ? " bad" : ""}`;
  return view ? h("a", { class: className, href: address(view, parameters) }, inside) : h("div", { class: className }, inside);
}

function tilesOf({ totals, rates, windows }) {
  const recent = windows[0];
  const lost = Math.max(0, recent.lost - recent.failed);
  return [
    tile("Running", number(atWork(totals)), totals.stuck ? `${number(totals.stuck)} stuck` : atWork(totals) ? `the oldest for ${seconds(totals.oldest_running)}` : "", "tasks", { state: "running" }),
    tile("Pending", number(totals.pending), totals.pending ? `the oldest for ${seconds(totals.oldest_pending)}` : "", "tasks", { state: "pending" }),
    tile("Retrying", number(totals.retrying), "between two attempts", "tasks", { state: "retrying" }),
    tile("Completed", rate(rates.completed), `${number(totals.completed)} in all`, "history", { state: "completed" }),
    tile("Failed", rate(rates.failed), `${number(recent.failed)} in 5 min, ${percent(recent.failed / (recent.failed + recent.completed)).replaceAll(" ", "\u00a0")}`, "history", { state: "failed" }, recent.failed > 0),
    tile("Tasks lost, 5 min", number(lost), "aborted or discarded, not failed", "history", { state: recent.discarded || !recent.aborted ? "discarded" : "aborted" }, lost > 0),
    tile("Dead letters", number(totals.dead_letters), `of ${number(totals.dead_letter_capacity)} that are kept at most${totals.dead_letters_evicted ? `; ${number(totals.dead_letters_evicted)} evicted since the start` : ""}`, "dead", {}, totals.dead_letters > 0),
    tile("Live", number(totals.live), totals.capacity ? `of ${number(totals.capacity)}; ${number(totals.added)} added` : `${number(totals.added)} added since the start`, null, null, totals.capacity && totals.live >= totals.capacity),
  ];
}

export function windowTable(windows) {
  const failures = ({ failed, completed }) => (failed ? `${number(failed)} (${percent(failed / (failed + completed))})` : "0");
  const three = ({ p50, p95, p99 }) => (p50 === null ? "–" : `${seconds(p50)} / ${seconds(p95)} / ${seconds(p99)}`);
  return table("The last 5, 15 and 60 minutes", [
    { label: "Last", cell: ({ minutes }) => `${minutes} min` },
    { label: "Started", number: true, cell: (window) => number(window.started) },
    { label: "Completed", number: true, cell: (window) => number(window.completed) },
    { label: "Failed", number: true, cell: failures, isBad: ({ failed }) => failed > 0 },
    { label: "Aborted", number: true, cell: ({ aborted }) => number(aborted) },
    { label: "Discarded", number: true, cell: ({ discarded }) => number(discarded) },
    { label: "Run p50 / p95 / p99", number: true, cell: ({ run }) => three(run) },
    { label: "Wait p50 / p95 / p99", number: true, cell: ({ wait }) => three(wait) },
  ], windows);
}
