// One row a name; and what is known of one.
import { act, get } from "./api.js";
import { ask, badge, empty, errorText, foreign, h, link, nameLink, notify, patch, say } from "./dom.js";
import { bytes, count, number, percent, rate, seconds, shortId, visible, words } from "./format.js";
import { atWork } from "./links.js";
import { draw, refresh, windowTable } from "./overview.js";
import { MEASURED, timeList } from "./shares.js";
import { patchRows, sorted, sorter, table } from "./table.js";

const failed = (row) => row.failed + row.panicked + row.timed_out;
const share = (row) => (row.recent ? row.recent.failed / Math.max(1, row.recent.failed + row.recent.completed) : 0);

/** Whether a name is at its limit or paused, in words. */
function state(row) {
  if (row.paused) return badge("paused");
  if (row.is_at_limit) return badge("at its limit", "at_limit");
  return null;
}

/** How much of the limit is used, where the service tells it. */
function limit(row) {
  const limits = [];
  if (row.limit !== null && row.limit !== undefined) limits.push(`${number(row.in_use)} of ${number(row.limit)}`);
  if (row.limit_by_key) limits.push(`${number(row.limit_by_key)} for each key`);
  return limits.length || state(row) ? h("span", null, limits.length > 0 ? `${limits.join(", ")} ` : "", state(row)) : null;
}

const columns = [
  { key: "name", label: "Name", cell: (row) => nameLink(row.name), sort: (row) => row.name },
  { key: "running", label: "Running", number: true, cell: (row) => number(atWork(row)), sort: atWork },
  { key: "pending", label: "Pending", number: true, cell: (row) => number(row.pending), sort: (row) => row.pending },
  { key: "retrying", label: "Retrying", number: true, cell: (row) => number(row.retrying), sort: (row) => row.retrying },
  { key: "limit", label: "Limit", cell: limit, sort: (row) => (row.is_at_limit ? 1 : 0) },
  { key: "rate", label: "Completed", number: true, cell: (row) => rate(row.rates.completed), sort: (row) => row.rates.completed },
  { key: "failed", label: "Failed, 5 min", number: true, isBad: (row) => row.recent?.failed > 0, sort: share,
    cell: (row) => (row.recent ? (row.recent.failed ? `${number(row.recent.failed)} (${percent(share(row))})` : "0") : number(failed(row))) },
  { key: "p50", label: "Run p50", number: true, cell: (row) => seconds(row.recent?.run.p50), sort: (row) => row.recent?.run.p50 },
  { key: "p95", label: "Run p95", number: true, cell: (row) => seconds(row.recent?.run.p95), sort: (row) => row.recent?.run.p95 },
  { key: "wait", label: "Wait p95", number: true, cell: (row) => seconds(row.recent?.wait.p95), sort: (row) => row.recent?.wait.p95 },
];

/** The profile of a name, where it is on. */
const profile = [
  { key: "busy", label: "Busy", number: true, cell: (row) => (row.profile ? busyText(row.profile) : "–"), sort: (row) => row.profile && busyShare(row.profile) },
  { key: "slow", label: "Slow polls", number: true, cell: (row) => number(row.profile?.slow_polls), sort: (row) => row.profile?.slow_polls, isBad: (row) => row.profile?.slow_polls > 0 },
  { key: "poll", label: "Longest poll", number: true, cell: (row) => seconds(row.profile?.longest_poll), sort: (row) => row.profile?.longest_poll },
  { key: "bytes", label: "Allocated", number: true, isOptional: true, cell: (row) => bytes(row.profile?.allocated), sort: (row) => row.profile?.allocated },
];

/** The share of its time that a task spends inside its polls. A wait counts when it is over. */
function busyShare({ busy, idle, scheduled }) {
  const measured = busy + idle + scheduled;
  return measured < MEASURED ? null : busy / measured;
}

/** The share in words. */
function busyText(profile) {
  const share = busyShare(profile);
  return share === null ? "–" : percent(share);
}

/** What a profile says, as facts. */
export function profileFacts(profile) {
  if (!profile) return [];
  const { polls, slow_polls: slow, busy, idle, scheduled, longest_poll: longest, allocated, cpu, polling_for: polling } = profile;
  return [
    ["Busy", `${busyText(profile)}: ${seconds(busy)} in ${count(polls, "poll")}, ${seconds(idle)} idle, ${seconds(scheduled)} woken and not yet polled`],
    ["Longest poll", slow ? [seconds(longest), " ", badge(`${number(slow)} slow`, "slow")] : seconds(longest)],
    ["Processor time", seconds(cpu)],
    ["Allocated", bytes(allocated)],
    ["In a poll for", polling ? h("span", { class: "error" }, seconds(polling)) : null],
  ];
}

export function names(main) {
  let rows = [], count = 0, text = "", order = [], timer = null, readAt = 0;
  const sorting = { key: "failed", down: true };
  const list = h("div"), more = h("p", { class: "dim small", role: "status" });
  const filter = () => {
    text = search.value.toLowerCase();
    show();
    clearTimeout(timer);
    timer = setTimeout(all, 250);
  };
  const search = h("input", { type: "text", id: "text", oninput: filter, onchange: filter });
  const choice = sorter(list, sorting, () => show());
  main.append(h("h1", null, "Names"), h("div", { class: "tools" }, h("label", { for: "text" }, "Part of the name", search), choice.element), list, more);
  const show = () => {
    const shown = rows.some((row) => row.profile) ? [...columns, ...profile] : columns;
    const wanted = rows.filter((row) => row.name.toLowerCase().includes(text));
    choice.update(shown);
    order = patchRows(list, sorted(shown, wanted, sorting), order, (ordered) => [ordered.length ? table("Names", shown, ordered, sorting)
      : empty(count ? "No name has this text." : "No task has been added yet.")]);
    const least = !text && count > wanted.length ? ": those that fail, run or wait the most. A search looks at all of them" : "";
    say(more, count ? `Showing ${number(wanted.length)} of ${number(count)} names${least}` : "");
  };
  /** A snapshot has not all names of a service with many. */
  const all = async () => {
    if (!text || count <= snapshotted) return;
    readAt = Date.now();
    const wanted = text;
    const found = await get("names.json", { text, limit: 1000 }).catch((error) => { notify(error.message, "bad"); return null; });
    if (found && wanted === text) { rows = found.names; show(); }
  };
  let snapshotted = 0;
  return {
    title: "Names",
    update(snapshot) {
      count = snapshot.name_count;
      snapshotted = snapshot.names.length;
      if (text && count > snapshotted) { if (Date.now() - readAt > 5000) all(); return; }
      rows = snapshot.names;
      show();
    },
    close: () => clearTimeout(timer),
  };
}

/** One name: its charts, its last error, the ways to its tasks; pause and limit, if allowed. */
export function name(main, { name: wanted }) {
  const about = h("div"), graphs = h("div"), last = h("div"), path = `names/${encodeURIComponent(wanted)}`;
  let row = null;
  const pause = h("button", { type: "button", onclick: () => (row?.paused ? change("DELETE", "paused", "The name is resumed.") : stop()) }, "Pause");
  // What a person writes is left alone.
  let isTouched = false;
  const touch = () => { isTouched = true; };
  const tasks = h("input", { type: "number", id: "limit", min: "1", max: "1000000", step: "1", oninput: touch, onchange: touch });
  const set = h("button", { type: "button", onclick: () => change("PUT", "limit", "The limit is set.", { tasks: tasks.value }) }, "Set");
  const remove = h("button", { type: "button", onclick: () => change("DELETE", "limit", "The limit is removed.") }, "Remove the limit");
  const actions = h("div", { class: "tools", hidden: true }, pause, h("label", { for: "limit" }, "Tasks that may run at a time", tasks), set, remove);
  main.append(h("h1", null, foreign(wanted)),
    h("div", { class: "tools" }, link("tasks", { name: wanted }, "Live tasks"), link("history", { name: wanted }, "Outcomes"), link("history", { name: wanted, state: "failed" }, "Failures"), link("dead", { name: wanted }, "Dead letters")),
    actions, about, last, h("h2", null, "The last hour"), graphs);
  let snapshot = null;
  const timer = refresh(async () => draw(graphs, await get("samples.json", { name: wanted })));
  async function stop() {
    if (await ask("Pause this name?", "Its pending tasks do not start until it is resumed. Those that run go on.", "Pause")) change("PUT", "paused", "The name is paused.");
  }
  async function change(method, what, done, parameters) {
    try {
      row = { ...row, ...await act(method, `${path}/${what}`, parameters) };
      notify(done);
      show();
    } catch (error) { notify(error.message, "bad"); }
  }
  const show = () => {
    if (!row) { patch(about, [h("p", { class: "dim" }, "No task of this name is known to this process.")]); return; }
    pause.textContent = row.paused ? "Resume" : "Pause";
    remove.disabled = row.limit === null;
    if (!isTouched && row.limit !== null && document.activeElement !== tasks) tasks.value = String(row.limit);
    const fact = ([label, value]) => (value === null || value === undefined || value === "–" ? null : [h("dt", null, label), h("dd", null, value)]);
    const reasons = Object.entries(row.discarded_by ?? {}).filter(([, count]) => count > 0).map(([reason, count]) => `${number(count)} ${words(reason)}`).join(", ");
    const here = (view, parameters, text) => link(view, { name: wanted, ...parameters }, text);
    const live = (state, value) => here("tasks", { state }, `${number(value)} ${state}`);
    patch(about, [h("div", { class: "card" }, h("dl", null, [
      ["Live", [live("running", atWork(row)), ", ", live("pending", row.pending), ", ", live("retrying", row.retrying), row.stuck ? `, ${number(row.stuck)} stuck` : null]],
      ["The oldest", row.running + row.pending ? `running for ${seconds(row.oldest_running)}, pending for ${seconds(row.oldest_pending)}` : null],
      ["Limit", limit(row) ?? "none"],
      ["At the limit", row.is_at_limit ? [here("tasks", { state: "running" }, "Who holds the permits"), ", ", here("tasks", { state: "pending" }, "who waits for them")] : null],
      ["Ended", `${number(row.completed)} completed, ${number(failed(row))} failed, ${number(row.aborted)} aborted, ${number(row.discarded)} discarded${reasons ? ` (${reasons})` : ""}`],
      ["Lost", row.lost > failed(row) ? `${number(row.lost - failed(row))}: aborted, or discarded though nobody asked for it` : null],
      ["Dead letters", row.dead_letters || row.dead_letters_evicted ? [here("dead", {}, `${number(row.dead_letters)} kept`), row.dead_letters_evicted ? `, ${number(row.dead_letters_evicted)} evicted since the start, because ${number(snapshot?.totals.dead_letter_capacity)} of all names are kept at most` : null] : null],
      ["Run time since the start", `p50 ${seconds(row.ran.p50)}, p90 ${seconds(row.ran.p90)}, p99 ${seconds(row.ran.p99)}`],
      ...profileFacts(row.profile)].map(fact))), ...timeList(row),
      ...(row.recent ? [h("h2", null, "Lately"), windowTable([row.recent])] : [])]);
    const error = row.last_error;
    patch(last, error ? [h("h2", null, "The last failure"), h("div", { class: "card" },
      badge(error.state), ` ${seconds(error.ended_ago)} ago, `, link("task", { id: error.id }, "task ", h("code", null, shortId(error.id))), errorText(error.error))] : []);
  };
  return {
    title: visible(wanted),
    async update(next) {
      snapshot = next;
      actions.hidden = !snapshot.allowed.pause;
      row = snapshot.names.find((one) => one.name === wanted) ?? null;
      // A snapshot has the names of which most is to be told.
      if (!row && snapshot.name_count > snapshot.names.length) row = await get(path).catch(() => null);
      show();
    },
    close: () => clearInterval(timer),
  };
}
