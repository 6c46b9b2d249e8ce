// The last outcomes, the latest first.
import { badge, empty, errorText, h, nameLink } from "./dom.js";
import { seconds, words } from "./format.js";
import { setLink, taskLink } from "./links.js";
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
  const filter = { state: STATES.includes(parameters.state) ? parameters.state : "ended", name: parameters.name, set: parameters.set, text: parameters.text };
  const columns = [
    { label: "Task", cell: (task) => taskLink(task.id) },
    { label: "Name", cell: (task) => nameLink(task.name) },
    { label: "Outcome", cell: (task) => [badge(task.state), task.attempt > 1 ? h("span", { class: "dim small" }, ` attempt ${task.attempt}`) : null] },
    { label: "Ended", number: true, cell: (task) => `${seconds(task.ended_ago)} ago` },
    { label: "Waited", number: true, cell: (task) => seconds(task.queued_for) },
    { label: "Ran for", number: true, cell: (task) => seconds(task.ran_for) },
    { label: "Why", cell: reason },
    { label: "Set", isOptional: true, cell: (task) => (task.set && !filter.set ? setLink(task.set, "") : null) },
  ];
  const view = paged(main, {
    title: "History", tools: filters("history", STATES, filter, "Part of the name or place", () => view.restart()), path: "tasks", items: "tasks",
    parameters: () => filter,
    render: (items, hasMore) => (items.length ? table("Outcomes", columns, items)
      : empty(hasMore ? "None on this page: there are more." : "The registry remembers no such outcome.")),
  });
  return view;
}
