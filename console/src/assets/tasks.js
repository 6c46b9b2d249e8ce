// What is live, and what it waits for.
import { act, get } from "./api.js";
import { address, ask, badge, empty, foreign, h, isSelected, nameLink, notify, redraw, rewrite, say } from "./dom.js";
import { number, seconds, shortId, visible } from "./format.js";
import { atWork, setLink, taskLink, waitsFor } from "./links.js";
import { table } from "./table.js";

/** A page looks at some 10,000 tasks: so many pages are read on until there is one with a task that matches. */
const MAX_EMPTY = 100;
const STATES = ["live", "running", "pending", "retrying", "paused"];

/**
 * A list that is read again every two seconds while nothing is selected in it. `total()` is how many items there are in
 * all, if that is known.
 */
export function paged(main, { title, tools, path, parameters, render, items, total = () => null, cursorName = "cursor", heading = "h1" }) {
  let cursor = "", next = null, isClosed = false, timer = null, before = [], first = 0, number = 0;
  const list = h("div", { "aria-busy": "true" });
  const back = h("button", { type: "button", disabled: true, onclick: () => { [cursor, first] = before.pop(); read(true); } }, "Back");
  const more = h("button", { type: "button", disabled: true, onclick: () => { before.push([cursor, first]); first += count; cursor = next; read(true); } }, "Next page");
  const shown = h("span", { class: "dim small shown", role: "status" });
  let count = 0;
  main.append(h(heading, null, title), tools, list, h("div", { class: "tools pages" }, back, more, shown));
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
          count = page[items].length;
          list.removeAttribute("aria-busy");
          redraw(list, [render(page[items], Boolean(next))].flat());
          say(shown, howMany(first, count, Boolean(next), total()));
        }
      } catch (error) {
        if (isClosed || mine !== number) return;
        if (cursor && [400, 404].includes(error.status)) restart();
        list.replaceChildren(h("div", { class: "notice bad" }, visible(error.message)));
        say(shown, "");
      }
      back.disabled = before.length === 0;
      more.disabled = next === null;
    }
    timer = setTimeout(read, 2000);
  }
  function restart() { [before, cursor, first] = [[], "", 0]; }
  /** Nobody wants a row to move away from under a selection, a focus or an open detail. */
  const isHeld = () => list.querySelector("input:checked, details[open]") !== null || isSelected(list)
    || list.contains(document.activeElement) && document.activeElement.matches("a, button, summary, input");
  read(true);
  return { title, read: () => read(true), restart() { restart(); read(true); }, close: () => { isClosed = true; clearTimeout(timer); } };
}

/** Which items of how many a page shows. The total may be a second older than the page. */
function howMany(first, count, hasMore, total) {
  if (count === 0) return "";
  const last = first + count, range = first > 0 ? `${number(first + 1)} to ${number(last)}` : number(last);
  if (!hasMore) return `Showing ${range} of ${number(last)}`;
  return total === null || total === undefined ? `Showing ${range}: there are more` : `Showing ${range} of ${number(Math.max(total, last + 1))}`;
}

/**
 * A form of state and text, which are in the address. A name that a link gave is exact, and can be taken away. What is
 * written is applied at once: `filter` is changed, and `change` called.
 */
export function filters(view, states, filter, label, change) {
  let timer = null;
  const apply = () => {
    clearTimeout(timer);
    filter.text = text.value;
    rewrite(view, filter);
    change();
  };
  const choice = states ? h("select", { id: "state", onchange: () => { filter.state = choice.value; apply(); } },
    states.map((one) => h("option", { value: one, selected: one === filter.state }, one.replaceAll("_", " ")))) : null;
  const write = (wait) => {
    clearTimeout(timer);
    if ((filter.text ?? "") !== text.value) timer = setTimeout(apply, wait);
  };
  const text = h("input", { type: "text", id: "text", value: filter.text ?? "", oninput: () => write(250), onchange: () => write(0) });
  const exact = (key, what, shown) => {
    if (!filter[key]) return null;
    const remove = h("button", { type: "button", "aria-label": `Any ${what}`, title: `Any ${what}`, onclick: () => { filter[key] = ""; chip.remove(); text.focus(); apply(); } }, "×");
    const chip = h("span", { class: "chip" }, `${what} `, shown, " ", remove);
    return chip;
  };
  return h("div", { class: "tools" },
    choice ? h("label", { for: "state" }, "State", choice) : null, h("label", { for: "text" }, label, text),
    exact("name", "name", nameLink(filter.name)), exact("set", "set", h("code", null, foreign(shortId(filter.set ?? "")))));
}

/** Does something to each item, one after another, and says what became of it: `onDone` is told each answer. Ends at another process. */
export async function each(items, verb, action, onDone = () => {}) {
  let done = 0, failed = 0, first = null;
  for (const item of items) {
    try {
      onDone(item, await action(item));
      done += 1;
    } catch (error) {
      failed += 1;
      first ??= error.message;
      if (error.message.includes("nothing was done") || [0, 403, 405].includes(error.status)) break;
    }
  }
  const left = items.length - done - failed;
  if (done > 0) notify(failed + left > 0 ? `${number(done)} of ${number(items.length)} ${verb}.` : `${number(done)} ${verb}.`);
  if (failed > 0) notify(`${failed > 1 ? `${number(failed)} were not ${verb}. The first: ` : ""}${first}${left > 0 ? ` (${number(left)} more were not tried)` : ""}`, "bad");
}

export function tasks(main, parameters) {
  let snapshot = null;
  const filter = { state: STATES.includes(parameters.state) ? parameters.state : "live", name: parameters.name, set: parameters.set, text: parameters.text };
  const abort = h("button", { type: "button", class: "danger", onclick: () => abortSelected() }, "Abort the selected");
  const abortAll = h("button", { type: "button", class: "danger", onclick: () => abortMatching() }, "Abort all that match");
  const actions = h("span", { class: "tools", hidden: true }, abort, abortAll);
  const bar = filters("tasks", STATES, filter, "Part of the name or place", () => view.restart());
  if (filter.set) bar.append(h("a", { href: address("history", { set: filter.set }) }, "Its tasks that have ended"));
  bar.append(h("span", { class: "spread" }), actions);

  const row = (name) => snapshot?.names.find((one) => one.name === name);
  /** How many there are, if the figures tell it: of a set and a text they don't. */
  function total() {
    const of = filter.name ? row(filter.name) : snapshot?.totals;
    if (!of || filter.set || filter.text) return null;
    return { live: of.pending + of.running, running: atWork(of), pending: of.pending, retrying: of.retrying }[filter.state];
  }
  const progress = ({ progress: at }) => at && h("span", { class: "wide" },
    at.total ? h("progress", { max: at.total, value: String(at.done), "aria-label": `${number(at.done)} of ${number(at.total)}` }) : null,
    at.total ? ` ${number(at.done)} of ${number(at.total)} ` : " ", at.message ? foreign(at.message) : null);
  const select = (task) => h("input", { type: "checkbox", "data-id": task.id, "aria-label": `Select task ${shortId(task.id)}` });
  const columns = () => [
    { label: "Task", cell: (task) => [snapshot?.allowed.abort ? [select(task), " "] : null, taskLink(task.id)] },
    { label: "Name", cell: (task) => nameLink(task.name) },
    { label: "State", cell: (task) => [badge(task.state), task.attempt > 1 ? h("span", { class: "dim small" }, ` attempt ${task.attempt}`) : null] },
    { label: "Age", number: true, cell: (task) => seconds(task.age) },
    { label: "Running for", number: true, cell: (task) => seconds(task.running_for) },
    { label: "Waits for", cell: (task) => waitsFor(task, row(task.name)) },
    { label: "Set", isOptional: true, cell: (task) => (task.set && !filter.set ? setLink(task.set, "") : null) },
    { label: "Progress", cell: progress },
    { label: "Made at", cell: (task) => h("code", { class: "small" }, foreign(task.location)) },
  ];
  const view = paged(main, {
    title: "Live tasks", tools: bar, path: "tasks", items: "tasks",
    parameters: () => filter, total,
    render: (items, hasMore) => (items.length ? table("Live tasks", columns().filter((column) => column.label !== "Progress" || items.some((item) => item.progress)), items)
      : empty(hasMore ? "None among those that were looked at: there are more." : filter.name || filter.text || filter.set || filter.state !== "live" ? "No live task matches." : "No task is live.")),
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
    const wanted = { ...filter };
    const which = [filter.state === "live" ? "every state" : `the state “${filter.state}”`, filter.name ? `the name “${visible(filter.name)}”` : "every name", filter.set ? `the set ${visible(shortId(filter.set))}` : null, filter.text ? `the text “${visible(filter.text)}”` : null].filter(Boolean).join(", ");
    if (!await ask("Abort all that match?", `All live tasks of ${which}, also those that are not on this page. They are dropped, with what they hold, and do not run again. Tasks that wait for them in their sets go on, unless they match.`, "Abort all")) return;
    let count = 0, cursor = "";
    try {
      do {
        const answer = await act("DELETE", "tasks", { ...wanted, cursor });
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
