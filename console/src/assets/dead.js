// Tasks that used up their attempts: why, and what to do with them.
import { act, get } from "./api.js";
import { address, ask, badge, empty, errorText, h, nameLink } from "./dom.js";
import { clock, count, number, seconds, shortId, visible } from "./format.js";
import { refresh } from "./overview.js";
import { table } from "./table.js";
import { each, filters, paged } from "./tasks.js";

/** So many letters are looked at for the groups. */
const GROUPED = 1000;

/** The letters by name and last error, the most frequent first. */
function groups(letters) {
  const found = new Map();
  for (const one of letters) {
    const { error, state, ended_at: at } = one.attempts.at(-1) ?? {};
    const key = JSON.stringify([one.name, error]);
    if (!found.has(key)) found.set(key, { name: one.name, error, state, letters: [], first: at, last: at });
    const group = found.get(key);
    group.letters.push(one);
    group.first = Math.min(group.first, at);
    group.last = Math.max(group.last, at);
  }
  return [...found.values()].sort((one, other) => other.letters.length - one.letters.length);
}

export function dead(main, { name }) {
  let allowed = null;
  const actions = h("span", { class: "tools", hidden: true });
  const bar = filters("dead", null, { name });
  bar.append(h("span", { class: "spread" }), actions);
  const path = (id) => `dead-letters/${encodeURIComponent(id)}`;
  const replay = (id) => act("POST", `${path(id)}/replay`);
  const discard = (id) => act("DELETE", path(id));

  const letter = (one) => {
    const last = one.attempts.at(-1);
    const button = (label, verb, action, question) => h("button", { type: "button", "aria-label": `${label} task ${shortId(one.id)}`, class: question ? "danger" : null,
      disabled: label === "Replay" && !one.is_replayable, title: label === "Replay" && !one.is_replayable ? "It can't be made again: only a retrying task can" : null,
      onclick: async () => { if (!question || await ask(question, "It is forgotten, and can't be replayed.", label)) { await each([one.id], verb, action); view.read(); } } }, label);
    return h("article", { class: "card letter" },
      h("div", { class: "tools" }, nameLink(one.name), badge(last?.state ?? "failed"), h("span", { class: "dim small" }, last ? `at ${clock(last.ended_at)} after ${one.attempts.length} ${one.attempts.length === 1 ? "attempt" : "attempts"}` : ""),
        h("a", { href: address("task", { id: one.id }) }, h("code", null, shortId(one.id))),
        allowed ? h("span", { class: "pair" }, button("Replay", "replayed", replay), button("Discard", "discarded", discard, `Discard the letter of task ${shortId(one.id)}, “${visible(one.name)}”?`)) : null),
      errorText(last?.error),
      h("details", null, h("summary", { class: "small" }, "Attempts, and where it was made"),
        h("p", { class: "small" }, "Made at ", h("code", null, visible(one.location))),
        h("ol", { class: "small" }, one.attempts.map((attempt) => h("li", { value: attempt.number },
          `${clock(attempt.ended_at)}: ${attempt.state.replaceAll("_", " ")} after ${seconds(attempt.ran_for)}`, errorText(attempt.error))))));
  };
  const view = paged(main, {
    title: "Dead letters", tools: bar, path: "dead-letters", items: "dead_letters", parameters: () => ({}),
    render: (items, hasMore) => {
      const wanted = name ? items.filter((one) => one.name === name) : items;
      if (wanted.length) return wanted.map(letter);
      return empty(items.length || hasMore ? "No letter on this page has this name." : "There are no dead letters: no task has used up its attempts.");
    },
  });

  const same = h("div");
  bar.after(same);
  const groupButton = (group, label, verb, action, ids) => h("button", { type: "button", class: label === "Discard" ? "danger" : null, disabled: ids.length === 0,
    "aria-label": `${label} ${count(ids.length, "letter")} of ${visible(group.name)}`,
    onclick: () => many(label, verb, action, ids, ` of “${visible(group.name)}”`) }, label);
  const columns = () => [
    { label: "Name", cell: (group) => nameLink(group.name) },
    { label: "Error", cell: (group) => errorText(group.error) ?? badge(group.state) },
    { label: "Letters", number: true, cell: (group) => number(group.letters.length) },
    { label: "First", number: true, cell: (group) => clock(group.first) },
    { label: "Last", number: true, cell: (group) => clock(group.last) },
    ...(allowed ? [{ label: "All of them", cell: (group) => h("span", { class: "pair" },
      groupButton(group, "Replay", "replayed", replay, group.letters.filter((one) => one.is_replayable).map((one) => one.id)),
      groupButton(group, "Discard", "discarded", discard, group.letters.map((one) => one.id))) }] : []),
  ];
  async function group() {
    const page = await get("dead-letters", { limit: GROUPED });
    if (same.contains(document.activeElement)) return;
    const letters = name ? page.dead_letters.filter((one) => one.name === name) : page.dead_letters;
    const found = groups(letters);
    // Groups of one say no more than the letters.
    same.replaceChildren(...(found.length < letters.length ? [
      h("h2", null, page.next ? `The same error, among the latest ${number(GROUPED)}` : "The same error"), table("Letters by name and error", columns(), found),
      h("h2", null, "Each letter")] : []));
  }
  const timer = refresh(group);

  /** All letters of the name, or all: read page by page, then done one by one. */
  async function all(label, verb, action, isWanted) {
    const of = name ? ` of “${visible(name)}”` : "";
    const ids = [];
    let cursor = "";
    do {
      const page = await get("dead-letters", { limit: 1000, cursor });
      ids.push(...page.dead_letters.filter((one) => (!name || one.name === name) && isWanted(one)).map((one) => one.id));
      cursor = page.next;
    } while (cursor);
    await many(label, verb, action, ids, of);
  }
  async function many(label, verb, action, ids, of) {
    const text = label === "Replay" ? "Each becomes a new task, at once: mind what their receiver can take." : "They are forgotten, and can't be replayed.";
    if (ids.length && await ask(`${label} ${count(ids.length, "letter")}${of}?`, text, label)) {
      await each(ids, verb, action);
      document.activeElement?.blur();
      await group().catch(() => {});
      view.read();
    }
  }
  actions.append(
    h("button", { type: "button", onclick: () => all("Replay", "replayed", replay, (one) => one.is_replayable) }, name ? "Replay all of this name" : "Replay all"),
    h("button", { type: "button", class: "danger", onclick: () => all("Discard", "discarded", discard, () => true) }, name ? "Discard all of this name" : "Discard all"));
  return {
    ...view,
    update(snapshot) {
      if (allowed === snapshot.allowed.replay) return;
      allowed = snapshot.allowed.replay;
      actions.hidden = !allowed;
      view.read();
      group().catch(() => {});
    },
    close() {
      clearInterval(timer);
      view.close();
    },
  };
}
