// Durable jobs, of the routes of postlude-jobs: how many there are, and those that are dead.
import { act, get } from "./api.js";
import { address, ask, badge, empty, errorText, foreign, h, notify, redraw } from "./dom.js";
import { clock, count, number, seconds, visible } from "./format.js";
import { sorted, sorter, table } from "./table.js";
import { each, paged } from "./tasks.js";

export function queues(main, { name }) {
  let base = null, allowed = false, rows = [], text = "", timer = null, isClosed = false, view = null;
  const engine = h("p", { class: "dim" }), list = h("div", { "aria-busy": "true" }), letters = h("div");
  const sorting = { key: "dead", down: true };
  const filter = () => { text = search.value.toLowerCase(); show(); };
  const search = h("input", { type: "text", id: "text", oninput: filter, onchange: filter });
  const choice = sorter(list, sorting, () => show());
  main.append(h("h1", null, "Queues"), engine, h("div", { class: "tools" }, h("label", { for: "text" }, "Part of the name", search), choice.element), list, letters);
  const one = (label, row) => `${label} ${visible(row.name)}`;

  const columns = () => [
    { key: "name", label: "Name", cell: (row) => h("a", { href: address("queues", { name: row.name }), class: "name" }, foreign(row.name)), sort: (row) => row.name },
    ...["waiting", "scheduled", "running", "dead"].map((state) => ({ key: state, label: state[0].toUpperCase() + state.slice(1), number: true,
      cell: (row) => number(row[state]), sort: (row) => row[state], isBad: (row) => state === "dead" && row.dead > 0 })),
    { key: "oldest", label: "Oldest waiting", number: true, cell: (row) => seconds(row.oldest_waiting), sort: (row) => row.oldest_waiting },
    { label: "State", cell: (row) => (row.paused ? badge("paused") : null) },
    ...(allowed ? [{ label: "Action", cell: (row) => h("button", { type: "button", "aria-label": one(row.paused ? "Resume" : "Pause", row), onclick: () => pause(row) }, row.paused ? "Resume" : "Pause") }] : []),
  ];
  function show() {
    list.removeAttribute("aria-busy");
    choice.update(columns());
    const wanted = rows.filter((row) => row.name.toLowerCase().includes(text));
    redraw(list, [wanted.length ? table("Queues", columns(), sorted(columns(), wanted, sorting), sorting) : empty(rows.length ? "No name has this text." : "There are no jobs: none waits, runs or is dead.")]);
  }
  async function read() {
    clearTimeout(timer);
    try {
      const queue = await get(`${base}/queue`);
      if (isClosed) return;
      const could = allowed;
      allowed = queue.allows_actions === true;
      engine.textContent = `stored in ${queue.engine}`;
      rows = Object.entries(queue.names).map(([of, figures]) => ({ name: of, ...figures }));
      show();
      if (view === null || could !== allowed) drawLetters();
    } catch (error) {
      if (isClosed) return;
      list.removeAttribute("aria-busy");
      list.replaceChildren(h("div", { class: "notice bad" }, visible(error.message)));
    }
    timer = setTimeout(read, 2000);
  }
  async function pause(row) {
    if (!row.paused && !await ask("Pause this name?", `No worker starts jobs of the name “${visible(row.name)}” until it is resumed.`, "Pause")) return;
    try {
      await act(row.paused ? "DELETE" : "PUT", `${base}/paused/${encodeURIComponent(row.name)}`);
      notify(row.paused ? "The name is resumed." : "The name is paused.");
    } catch (error) { notify(error.message, "bad"); }
    read();
  }

  const path = (id) => `${base}/dead/${encodeURIComponent(id)}`;
  const replay = (id) => act("POST", `${path(id)}/replay`);
  const discard = (id) => act("DELETE", path(id));
  async function does(ids, verb, action) {
    await each(ids, verb, action);
    view.read();
    read();
  }
  const job = (dead) => {
    const last = dead.errors.at(-1);
    const button = (label, verb, action, question) => h("button", { type: "button", "aria-label": `${label} job ${dead.id}`, class: question ? "danger" : null,
      onclick: async () => { if (!question || await ask(question, "It is deleted, and can't be replayed.", label)) does([dead.id], verb, action); } }, label);
    return h("article", { class: "card letter" },
      h("div", { class: "tools" }, h("span", { class: "name" }, foreign(dead.name)),
        h("span", { class: "dim small" }, `died at ${clock(dead.died_at / 1000)}: ${count(dead.failures, "failure")}, ${count(dead.crashes, "crash")}${dead.replays ? `, ${count(dead.replays, "replay")}` : ""}`),
        allowed ? h("span", { class: "pair" }, button("Replay", "replayed", replay), button("Discard", "discarded", discard, "Discard this job?")) : null),
      errorText(last?.message),
      h("details", null, h("summary", { class: "small" }, "Attempts"),
        h("p", { class: "small" }, "Job ", h("code", null, foreign(dead.id)), `, pushed at ${clock(dead.pushed_at / 1000)}`),
        h("ol", { class: "small" }, dead.errors.map((error) => h("li", { value: error.attempt }, clock(error.at / 1000), errorText(error.message))))));
  };
  /** All dead jobs of the name, or all: read page by page, then done one by one. */
  async function all(label, verb, action) {
    const ids = [];
    let after = "";
    do {
      const page = await get(`${base}/dead`, { name, limit: 1000, after });
      ids.push(...page.dead.map((dead) => dead.id));
      after = page.next;
    } while (after);
    const of = name ? ` of “${visible(name)}”` : "";
    const text = label === "Replay" ? "Each waits again, at once: mind what their receiver can take." : "They are deleted, and can't be replayed.";
    if (ids.length && await ask(`${label} ${count(ids.length, "dead job")}${of}?`, text, label)) await does(ids, verb, action);
  }
  function drawLetters() {
    view?.close();
    letters.replaceChildren();
    const button = (label, verb, action) => h("button", { type: "button", class: label === "Discard" ? "danger" : null,
      onclick: () => all(label, verb, action).catch((error) => notify(error.message, "bad")) }, `${label} all${name ? " of this name" : ""}`);
    const tools = h("div", { class: "tools" }, name ? h("a", { href: address("queues") }, "Those of all names") : null, h("span", { class: "spread" }),
      allowed ? [button("Replay", "replayed", replay), button("Discard", "discarded", discard)] : null);
    view = paged(letters, {
      title: name ? `Dead jobs of “${visible(name)}”` : "Dead jobs", heading: "h2", tools, path: `${base}/dead`, items: "dead", cursorName: "after", parameters: () => ({ name }), total: () => (name ? rows.find((row) => row.name === name)?.dead : rows.reduce((sum, row) => sum + row.dead, 0)),
      render: (items) => (items.length ? items.map(job) : empty("There are no dead jobs: none has used up its attempts.")),
    });
  }
  return {
    title: "Queues",
    update(snapshot) {
      if (base !== null) return;
      base = snapshot.jobs;
      if (base === null) list.replaceChildren(empty("This service does not say where the routes of its jobs are."));
      else read();
    },
    close() { isClosed = true; clearTimeout(timer); view?.close(); },
  };
}
