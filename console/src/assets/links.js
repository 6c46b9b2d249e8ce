// What leads from one thing to another: from a task to what it waits for, from a finding to what helps.
import { h, link } from "./dom.js";
import { number, seconds, shortId } from "./format.js";

/** The set of a task, and the tasks in it. */
export function setLink(id, word = "set ") {
  return link("tasks", { set: id }, word, h("code", null, shortId(id)));
}

export function taskLink(id) {
  return link("task", { id }, h("code", null, shortId(id)));
}

/** How many tasks of a name run at a time; one between two attempts does not, and holds no permit. */
export function atWork({ running, retrying }) {
  return Math.max(0, running - retrying);
}

/** Whether a task waits for a permit, as far as the figures of its name tell. */
export function waitsForPermit(task, row) {
  const waits = task.state === "pending" || task.state === "retrying";
  return waits && !task.paused && !row?.paused && !(task.due_in > 0) && row?.is_at_limit === true;
}

/** What a task waits for, with a way there; `row` has the figures of its name. */
export function waitsFor(task, row) {
  if (task.state !== "pending" && task.state !== "retrying") return null;
  if (task.paused || row?.paused) return ["its name, which is ", link("name", { name: task.name }, "paused")];
  if (task.due_in > 0) return task.state === "retrying" ? `its next attempt, in ${seconds(task.due_in)}` : `its time, in ${seconds(task.due_in)}`;
  const before = task.set && task.state === "pending" ? ["the tasks before it in ", setLink(task.set), ", or its request"] : null;
  if (waitsForPermit(task, row)) return [before ? [before, ", or "] : null, permit(row)];
  return before ?? "its turn";
}

/** The permits that a name lacks, with a way to those who hold them. */
function permit(row) {
  const holders = link("tasks", { state: "running", name: row.name }, `${number(atWork(row))} of this name run`);
  const isOfName = row.limit !== null && row.limit !== undefined && row.in_use >= row.limit;
  if (isOfName) return ["a permit: ", holders, ", the limit is ", link("name", { name: row.name }, number(row.limit))];
  return ["a permit: ", holders, ", and no more may, by the limits of ", link("tasks", { state: "running" }, "all that run")];
}

/** The part of the runbook about each kind of finding. */
const PARTS = {
  failing: "a-dependency-fails", evicted: "a-dependency-fails", blocks_runtime: "the-runtime-is-blocked",
  hanging: "a-task-hangs", blocking: "a-task-hangs", long_running: "a-task-hangs", stuck: "a-closure-is-stuck",
  at_limit: "overload", growing: "overload", waiting: "overload", full: "overload", slow: "one-name-is-slow",
  paused: "a-dependency-fails", lost: "a-deploy-loses-work", closing: "a-deploy-loses-work", open: "sets-are-held",
};

/** Where a finding is seen, and what helps: links. */
export function steps({ kind, name, task }, allowed) {
  const tasks = (state, label) => link("tasks", { state, name }, label);
  const outcomes = (state, label) => link("history", { state, name }, label);
  const figures = (label) => name && link("name", { name }, label);
  const letters = (label) => link("dead", { name }, label);
  const toTask = task && link("task", { id: task }, allowed.abort && kind !== "blocks_runtime" ? "Abort task " : "Task ", h("code", null, shortId(task)));
  const acts = {
    failing: [outcomes("failed", "The failures"), letters("Dead letters"), allowed.pause && figures("Pause it")],
    blocks_runtime: [toTask, allowed.pause && figures("Pause it")],
    hanging: [toTask], blocking: [toTask],
    at_limit: [tasks("running", "Who holds the permits"), tasks("pending", "Who waits"), figures(allowed.pause ? "Change the limit" : "The limit")],
    slow: [figures("Where its time goes")],
    growing: [tasks("pending", "Who waits"), figures("Its figures")],
    waiting: [tasks("pending", "Who waits")],
    paused: [tasks("paused", "Who waits"), figures(allowed.pause ? "Resume it" : "Its figures")],
    lost: [outcomes("discarded", "Discarded tasks"), outcomes("aborted", "Aborted tasks")],
    evicted: [letters("The letters that are kept")],
    stuck: [link("names", {}, "The names")], full: [link("names", {}, "The names")],
    long_running: [tasks("running", "Who runs")], open: [tasks("pending", "Who waits")],
  }[kind] ?? [];
  return [...acts, link("runbook", { part: PARTS[kind] }, "What to do")].filter(Boolean);
}
