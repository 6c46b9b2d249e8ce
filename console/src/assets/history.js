// The last outcomes, the latest first.
import { address, badge, empty, errorText, h, nameLink } from "./dom.js";
import { seconds, shortId, words } from "./format.js";
import { table } from "./table.js";
import { filters, paged } from "./tasks.js";

const STATES = ["ended", "completed", "failed", "panicked", "timed_out", "aborted", "discarded"];

/** Why a task ended as it did. */
export function reason(task) {
  if (task.error) return errorText(task.error);
  if (task.state === "timed_out") return `its limit is ${seconds(task.limit)}`;
  if (task.state === "discarded") return reasons[task.reason] ?? words(task.reason);
  return null;
}

const reasons = {
  ending: "a condition on the end of its request said no", cleared: "its set was cleared", capacity: "the registry was at its capacity",
  closed: "the registry was closed", previous_failed: "an earlier task of its set failed", refused: "an admission check refused it",
  expired: "it was too old to start", duplicate: "another task had its key", runtime_ended: "its runtime ended",
};

export function history(main, parameters) {
  const state = STATES.includes(parameters.state) ? parameters.state : "ended";
  const columns = [
    { label: "Task", cell: (task) => h("a", { href: address("task", { id: task.id }) }, h("code", null, shortId(task.id))) },
    { label: "Name", cell: (task) => nameLink(task.name) },
    { label: "Outcome", cell: (task) => [badge(task.state), task.attempt > 1 ? h("span", { class: "dim small" }, ` attempt ${task.attempt}`) : null] },
    { label: "Ended", number: true, cell: (task) => `${seconds(task.ended_ago)} ago` },
    { label: "Waited", number: true, cell: (task) => seconds(task.queued_for) },
    { label: "Ran for", number: true, cell: (task) => seconds(task.ran_for) },
    { label: "Why", cell: reason },
  ];
  return paged(main, {
    title: "History", tools: filters("history", STATES, { state, name: parameters.name, text: parameters.text }), path: "tasks", items: "tasks",
    parameters: () => ({ state, name: parameters.name, text: parameters.text }),
    render: (items, hasMore) => (items.length ? table("Outcomes", columns, items)
      : empty(hasMore ? "None on this page: there are more." : "The registry remembers no such outcome.")),
  });
}
