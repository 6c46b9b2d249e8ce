// What is live, and what it waits for.
import { act, get } from "./api.js";
import { address, ask, badge, empty, foreign, h, nameLink, notify } from "./dom.js";
import { number, seconds, shortId, visible } from "./format.js";
import { table } from "./table.js";

/** A page looks at some 10,000 tasks: so many pages are read on until there is one with a task that matches. */
const MAX_EMPTY = 100;
const STATES = ["live", "running", "pending", "retrying", "paused"];

/** A list that is read again every two seconds while nothing is selected in it. */
export function paged(main, { title, tools, path, parameters, render, items, cursorName = "cursor", heading = "h1" }) {
  let cursor = "", next = null, isClosed = false, timer = null, before = [], number = 0;
  const list = h("div", { "aria-busy": "true" });
  const back = h("button", { type: "button", disabled: true, onclick: () => go(before.pop()) }, "Back");
  const more = h("button", { type: "button", disabled: true, onclick: () => { before.push(cursor); go(next); } }, "Next page");
  main.append(h(heading, null, title), tools, list, h("div", { class: "tools pages" }, back, more));
  const go = (to) => { cursor = to ?? ""; read(true); };
  async function read(force) {
    clearTimeout(timer);
    const mine = number += 1;
    if (force || !isHeld()) {
      try {
        let page = null;
        for (let empty = 0; empty < MAX_EMPTY; empty += 1) {
          page = await get(path, { ...parameters(), limit: 50, [cursorName]: cursor });
          if (isClosed || mine !== number) return;
          if (!force || page[items].length || !page.next) break;
          cursor = page.next;
        }
        if (force || !isHeld()) {
          next = page.next;
          list.removeAttribute("aria-busy");
          list.replaceChildren(...[render(page[items], Boolean(next))].flat());
        }
      } catch (error) {
        if (isClosed || mine !== number) return;
        if (cursor && [400, 404].includes(error.status)) { before = []; cursor = ""; }
        list.replaceChildren(h("div", { class: "notice bad" }, visible(error.message)));
      }
      back.disabled = before.length === 0;
      more.disabled = next === null;
    }
    timer = setTimeout(read, 2000);
  }
  /** Nobody wants a row to move away from under a selection, a focus or an open detail. */
  const isHeld = () => list.querySelector("input:checked, details[open]") !== null || list.contains(document.activeElement) && document.activeElement.matches("a, button, summary, input");
  read(true);
  return { title, read: () => read(true), close: () => { isClosed = true; clearTimeout(timer); } };
}

/** A form of state, name and text, which are in the address. */
export function filters(view, states, { state, name, text: part }) {
  const choice = states ? h("select", { id: "state" }, states.map((one) => h("option", { value: one, selected: one === state }, one.replaceAll("_", " ")))) : null;
  const text = h("input", { type: "text", id: "name", value: name ?? "", placeholder: "all names" });
  const search = states ? h("input", { type: "text", id: "text", value: part ?? "", placeholder: "of name or place" }) : null;
  const change = () => { location.hash = address(view, { state: choice?.value, name: text.value, text: search?.value }); };
  for (const one of [choice, text, search]) one?.addEventListener("change", change);
  return h("div", { class: "tools" },
    choice ? h("label", { for: "state" }, "State", choice) : null, h("label", { for: "name" }, "Name", text),
    search ? h("label", { for: "text" }, "Text", search) : null);
}

/** Does something to each of `ids`, and says what became of it. A few at a time; ends at another process. */
export async function each(ids, verb, action) {
  let done = 0, failed = 0, first = null;
  for (const id of ids) {
    try {
      await action(id);
      done += 1;
    } catch (error) {
      failed += 1;
      first ??= error.message;
      if (error.message.includes("nothing was done") || [0, 403, 405].includes(error.status)) break;
    }
  }
  const left = ids.length - done - failed;
  if (done > 0) notify(failed + left > 0 ? `${number(done)} of ${number(ids.length)} ${verb}.` : `${number(done)} ${verb}.`);
  if (failed > 0) notify(`${failed > 1 ? `${number(failed)} were not ${verb}. The first: ` : ""}${first}${left > 0 ? ` (${number(left)} more were not tried)` : ""}`, "bad");
}

export function tasks(main, parameters) {
  const state = STATES.includes(parameters.state) ? parameters.state : "live";
  let snapshot = null;
  const filter = { state, name: parameters.name, text: parameters.text };
  const abort = h("button", { type: "button", class: "danger", onclick: () => abortSelected() }, "Abort the selected");
  const abortAll = h("button", { type: "button", class: "danger", onclick: () => abortMatching() }, "Abort all that match");
  const actions = h("span", { class: "tools", hidden: true }, abort, abortAll);
  const bar = filters("tasks", STATES, filter);
  bar.append(h("span", { class: "spread" }), actions);

  const atLimit = (name) => snapshot?.names.find((row) => row.name === name);
  const waitsFor = (task) => {
    if (task.state === "running") return null;
    if (task.paused || atLimit(task.name)?.paused) return "its name, which is paused";
    if (task.due_in !== null && task.due_in > 0) return task.state === "retrying" ? `its next attempt, in ${seconds(task.due_in)}` : `its time, in ${seconds(task.due_in)}`;
    const row = atLimit(task.name);
    if (row?.is_at_limit) return `a permit: ${number(row.running)} of this name run${row.limit ? `, the limit is ${number(row.limit)}` : ", and no more may"}`;
    return task.set ? h("span", null, "the tasks before it in set ", h("code", null, shortId(task.set)), ", or its request") : "its turn";
  };
  const progress = ({ progress: at }) => at && h("span", { class: "wide" },
    at.total ? h("progress", { max: at.total, value: String(at.done), "aria-label": `${number(at.done)} of ${number(at.total)}` }) : null,
    at.total ? ` ${number(at.done)} of ${number(at.total)} ` : " ", at.message ? foreign(at.message) : null);
  const select = (task) => h("input", { type: "checkbox", "data-id": task.id, "aria-label": `Select task ${shortId(task.id)}` });
  const columns = () => [
    { label: "Task", cell: (task) => [snapshot?.allowed.abort ? [select(task), " "] : null, h("a", { href: address("task", { id: task.id }) }, h("code", null, shortId(task.id)))] },
    { label: "Name", cell: (task) => nameLink(task.name) },
    { label: "State", cell: (task) => [badge(task.state), task.attempt > 1 ? h("span", { class: "dim small" }, ` attempt ${task.attempt}`) : null] },
    { label: "Age", number: true, cell: (task) => seconds(task.age) },
    { label: "Running for", number: true, cell: (task) => seconds(task.running_for) },
    { label: "Waits for", cell: (task) => waitsFor(task) },
    { label: "Progress", cell: progress },
    { label: "Made at", cell: (task) => h("code", { class: "small" }, foreign(task.location)) },
  ];
  const view = paged(main, {
    title: "Live tasks", tools: bar, path: "tasks", items: "tasks",
    parameters: () => filter,
    render: (items, hasMore) => (items.length ? table("Live tasks", columns().filter((column) => column.label !== "Progress" || items.some((item) => item.progress)), items)
      : empty(hasMore ? "None among those that were looked at: there are more." : parameters.name || parameters.text || state !== "live" ? "No live task matches." : "No task is live.")),
  });
  main.addEventListener("change", update, true);
  function update() {
    const count = main.querySelectorAll("[data-id]:checked").length;
    abort.disabled = count === 0;
    abort.textContent = count ? `Abort ${count} selected` : "Abort the selected";
  }
  async function abortSelected() {
    const ids = [...main.querySelectorAll("[data-id]:checked")].map((box) => box.dataset.id);
    if (!ids.length || !await ask(`Abort ${ids.length === 1 ? "this task" : `${ids.length} tasks`}?`, "An aborted task is dropped, with what it holds, and does not run again. Tasks that wait for it in its set go on.", "Abort")) return;
    await each(ids, "aborted", (id) => act("DELETE", `tasks/${encodeURIComponent(id)}`));
    main.querySelectorAll("[data-id]:checked").forEach((box) => { box.checked = false; });
    update();
    view.read();
  }
  async function abortMatching() {
    const which = [state === "live" ? "every state" : `the state “${state}”`, filter.name ? `the name “${visible(filter.name)}”` : "every name", filter.text ? `the text “${visible(filter.text)}”` : null].filter(Boolean).join(", ");
    if (!await ask("Abort all that match?", `All live tasks of ${which}, also those that are not on this page. They are dropped, with what they hold, and do not run again. Tasks that wait for them in their sets go on, unless they match.`, "Abort all")) return;
    let count = 0, cursor = "";
    try {
      do {
        const answer = await act("DELETE", "tasks", { ...filter, cursor });
        count += answer.aborted;
        cursor = answer.next;
      } while (cursor);
      notify(`${number(count)} aborted.`);
    } catch (error) { notify(`${count ? `${number(count)} aborted, then: ` : ""}${error.message}`, "bad"); }
    view.read();
  }
  update();
  return {
    ...view,
    update(next) { const isFirst = snapshot === null; snapshot = next; actions.hidden = !next.allowed.abort; if (isFirst) view.read(); },
    close() { main.removeEventListener("change", update, true); view.close(); },
  };
}
