// What became of the letters that were replayed from this page: the tasks that they became, and how those end.
import { tasksOf } from "./api.js";
import { badge, errorText, h, nameLink, patch, say } from "./dom.js";
import { count, number } from "./format.js";
import { taskLink } from "./links.js";
import { table } from "./table.js";

/** So many tasks are listed, and without being asked for. All are counted. */
const LISTED = 20, OPENED = 5;
const ENDED = ["completed", "failed", "panicked", "timed_out", "aborted", "discarded", "forgotten"];
/** In this order they are told and listed. */
const WORDS = {
  failed: "failed again", panicked: "panicked", timed_out: "timed out", aborted: "aborted", discarded: "discarded",
  running: "running", retrying: "waiting for their next attempt", pending: "waiting to start", unknown: "just begun",
  forgotten: "no longer remembered", completed: "completed",
};

/** The tasks by id, with the letter that each was. They stay while the page is open, also if another view is. */
const replays = new Map();
let process = null;

export function addReplay(letter, id) {
  replays.set(id, { id, name: letter.name, letter: letter.id, state: "unknown" });
}

/** The task that a letter became, if it was replayed from this page. */
export function replayOf(letter) {
  return [...replays.values()].findLast((one) => one.letter === letter)?.id;
}

async function read() {
  const open = [...replays.values()].filter(({ state }) => !ENDED.includes(state));
  if (!open.length) return;
  const found = new Map((await tasksOf(open.map(({ id }) => id))).map((task) => [task.id, task]));
  for (const one of open) {
    const task = found.get(one.id);
    Object.assign(one, task ? { state: task.state, error: task.error } : { state: "forgotten" });
  }
}

/** Draws them into an element, and again while it is shown. */
export function showReplays() {
  let timer = null, reads = 0, isClosed = false;
  const text = h("p", { role: "status" }), list = h("div"), summary = h("summary"), details = h("details", null, summary, list);
  const element = h("section", { class: "card", id: "replays", "aria-label": "Replayed", tabindex: "-1", hidden: true },
    h("div", { class: "tools" }, h("b", null, "What became of the replayed letters"), h("span", { class: "spread" }),
      h("button", { type: "button", onclick: () => { replays.clear(); draw(); } }, "Forget this list")), text, details);
  function draw() {
    const all = [...replays.values()];
    element.hidden = all.length === 0;
    const counts = Object.entries(WORDS).map(([state, words]) => [all.filter((one) => one.state === state).length, words]).filter(([found]) => found > 0);
    const order = Object.keys(WORDS);
    const shown = [...all].sort((one, other) => order.indexOf(one.state) - order.indexOf(other.state)).slice(0, LISTED);
    const said = `${count(all.length, "letter")} replayed: ${counts.map(([found, words]) => `${number(found)} ${words}`).join(", ")}.`;
    say(text, said);
    say(summary, all.length > shown.length ? `${number(shown.length)} of the ${number(all.length)} tasks` : "The tasks");
    patch(list, all.length ? [table("Replayed letters", [
      { label: "Task", cell: ({ id }) => taskLink(id) },
      { label: "Name", cell: ({ name }) => nameLink(name) },
      { label: "State", cell: ({ state }) => badge(state === "failed" ? "failed again" : state === "unknown" ? "just begun" : state === "forgotten" ? "no longer remembered" : state, state) },
      { label: "Replay of", cell: ({ letter }) => taskLink(letter) },
      { label: "Error", cell: ({ error }) => errorText(error) },
    ], shown)] : []);
  }
  async function follow() {
    clearTimeout(timer);
    const mine = reads += 1;
    await read().catch(() => {});
    if (isClosed || mine !== reads) return;
    draw();
    timer = setTimeout(follow, 1000);
  }
  /** Of many, the counts say more than the tasks. */
  function begin() {
    details.open = replays.size <= OPENED;
    draw();
    follow();
  }
  begin();
  return {
    element, begin,
    /** Those of another process are not known to this one. */
    update({ instance }) {
      if (process !== null && process !== instance) { replays.clear(); draw(); }
      process = instance;
    },
    close() { isClosed = true; clearTimeout(timer); },
  };
}
