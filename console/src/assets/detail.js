// One task, live or ended.
import { act, get } from "./api.js";
import { ask, badge, errorText, foreign, h, link, nameLink, notify, patch } from "./dom.js";
import { number, seconds, shortId, visible } from "./format.js";
import { reason } from "./history.js";
import { setLink, taskLink, waitsFor, waitsForPermit } from "./links.js";
import { profileFacts } from "./names.js";
import { replayOf } from "./replays.js";

/** So many tasks are listed of a set, and of those that hold permits. */
const LISTED = 20;
const LIVE = ["pending", "running", "retrying"];

export function task(main, { id }) {
  let isClosed = false, timer = null, snapshot = null, state = null, shown = {};
  const about = h("div", { "aria-busy": "true" });
  const abort = h("button", { type: "button", class: "danger", hidden: true, onclick: stop }, "Abort");
  main.append(h("h1", null, "Task ", h("code", null, visible(shortId(id)))), about, h("div", { class: "tools" }, abort));
  async function read() {
    try {
      const found = await get(`tasks/${encodeURIComponent(id)}`);
      const others = await related(found).catch(() => []);
      if (isClosed) return;
      state = found.state;
      shown = found;
      patch(about, [h("div", { class: "card" }, facts(found, row(found.name), others.replay)), ...sections(found, others)]);
      if (LIVE.includes(state) || others.isOpen) timer = setTimeout(read, 1000);
    } catch (error) {
      if (isClosed) return;
      state = null;
      patch(about, [h("div", { class: "notice bad" }, visible(error.message))]);
      if (error.status === 0) timer = setTimeout(read, 3000);
    }
    about.removeAttribute("aria-busy");
    update();
  }
  const row = (name) => snapshot?.names.find((one) => one.name === name);
  /** What it has to do with: its set, those that hold the permit that it waits for, the task that its letter became. */
  async function related(found) {
    const list = async (parameters) => {
      const page = await get("tasks", { ...parameters, limit: LISTED });
      return { tasks: page.tasks, hasMore: page.next !== null };
    };
    const isLive = LIVE.includes(found.state);
    const set = found.set && isLive ? await list({ set: found.set }) : null;
    const holders = waitsForPermit(found, row(found.name)) ? await list({ state: "running", name: found.name }) : null;
    // It may have started meanwhile.
    if (holders) holders.tasks = holders.tasks.filter((task) => task.id !== found.id);
    let replay = null;
    if (["failed", "panicked", "timed_out"].includes(found.state)) {
      const known = replayOf(found.id);
      const replayed = known ? await get("tasks", { ids: known }) : { tasks: [] };
      for (const kind of ["live", "ended"]) if (!replayed.tasks.length) replayed.tasks = (await list({ state: kind, replay_of: found.id })).tasks;
      replay = replayed.tasks[0] ?? null;
    }
    return { set, holders, replay, isOpen: replay !== null && LIVE.includes(replay.state) };
  }
  function update() {
    abort.hidden = !snapshot?.allowed.abort || !LIVE.includes(state);
  }
  async function stop() {
    if (!await ask(`Abort task ${visible(shortId(id))}, “${visible(shown.name)}”?`, `An aborted task is dropped, with what it holds, and does not run again.${shown.set ? " Tasks that wait for it in its set go on." : ""}`, "Abort")) return;
    try {
      await act("DELETE", `tasks/${encodeURIComponent(id)}`);
      notify("The task is aborted.");
    } catch (error) { notify(error.message, "bad"); }
    clearTimeout(timer);
    read();
  }
  read();
  return {
    title: `Task ${visible(shortId(id))}`,
    update(next) { const isFirst = snapshot === null; snapshot = next; update(); if (isFirst && state) { clearTimeout(timer); read(); } },
    close() { isClosed = true; clearTimeout(timer); },
  };
}

/** Some tasks with their states; the one that is shown without a link. */
function taskList({ tasks, hasMore }, shown, more) {
  return h("ol", { class: "related" }, tasks.map((task) => h("li", null,
    task.id === shown ? h("b", null, h("code", null, shortId(task.id))) : taskLink(task.id), " ", nameLink(task.name), " ", badge(task.state), task.state === "running" ? ` for ${seconds(task.running_for)}` : null)),
    hasMore ? h("li", null, more) : null);
}

function sections(found, { set, holders }) {
  return [
    holders && [h("h2", null, "Who holds the permits that it waits for"), taskList(holders, found.id, link("tasks", { state: "running", name: found.name }, "All that run"))],
    set && [h("h2", null, "Its ", setLink(found.set), ", in this order"), taskList(set, found.id, link("tasks", { set: found.set }, "All of the set"))],
  ].flat().filter(Boolean);
}

function facts(found, row, replay) {
  const fact = (label, value) => (value === null || value === undefined || value === "–" ? null : [h("dt", null, label), h("dd", null, value)]);
  const at = found.progress;
  const waiting = row && found.state === "running" && row.is_at_limit ? [link("tasks", { state: "pending", name: found.name }, `${number(row.pending)} of its name`), " wait for a permit like the one that it holds"] : null;
  return h("dl", null,
    fact("Name", nameLink(found.name)),
    fact("State", badge(found.state)),
    found.error ? fact("Error", errorText(found.error)) : fact("Why", reason(found)),
    fact("Waits for", waitsFor(found, row)), fact("Holds up", waiting),
    fact("Attempt", number(found.attempt)),
    fact("Age", seconds(found.age)), fact("Running for", seconds(found.running_for)), fact("Due in", seconds(found.due_in)),
    fact("Waited", seconds(found.queued_for)), fact("Ran for", seconds(found.ran_for)),
    found.ended_ago === undefined ? null : fact("Ended", `${seconds(found.ended_ago)} ago`),
    at ? fact("Progress", [at.total ? `${number(at.done)} of ${number(at.total)} ` : "", at.message ? foreign(at.message) : ""]) : null,
    profileFacts(found.profile).map(([label, value]) => fact(label, value)),
    fact("Made at", h("code", null, foreign(found.location))),
    fact("Set", found.set ? [setLink(found.set), ", ", link("history", { set: found.set }, "those that have ended")] : null),
    fact("Replay of", found.replay_of ? taskLink(found.replay_of) : null),
    fact("Dead letter", ["failed", "panicked", "timed_out"].includes(found.state) && row?.dead_letters ? link("dead", { name: found.name }, "Those of its name") : null),
    fact("Replayed as", replay ? [taskLink(replay.id), " ", badge(replay.state)] : null),
    fact("Id", h("code", null, foreign(found.id))));
}
