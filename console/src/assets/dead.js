// Tasks that used up their attempts: why, and what to do with them.
import { act, get } from "./api.js";
import { ask, badge, empty, errorText, h, isSelected, nameLink, notify, redraw } from "./dom.js";
import { clock, count, number, seconds, shortId, visible } from "./format.js";
import { taskLink } from "./links.js";
import { addReplay, showReplays } from "./replays.js";
import { table } from "./table.js";
import { each, filters, paged } from "./tasks.js";

/** So many letters are looked at for the groups. */
const GROUPED = 1000;

/** Letters of one name with the same last error are one group. */
function keyOf({ name, attempts }) {
  return JSON.stringify([name, attempts.at(-1)?.error ?? attempts.at(-1)?.state]);
}

/** The letters by name and last error, the most frequent first. */
function groups(letters) {
  const found = new Map();
  for (const one of letters) {
    const { error, state, ended_at: at } = one.attempts.at(-1) ?? {};
    const key = keyOf(one);
    if (!found.has(key)) found.set(key, { name: one.name, error, state, letters: [], again: 0, first: at, last: at });
    const group = found.get(key);
    group.letters.push(one);
    group.again += one.replay_of ? 1 : 0;
    group.first = Math.min(group.first, at);
    group.last = Math.max(group.last, at);
  }
  return [...found.values()].sort((one, other) => other.letters.length - one.letters.length);
}

export function dead(main, parameters) {
  const filter = { name: parameters.name, text: parameters.text };
  let allowed = null, snapshot = null;
  const actions = h("span", { class: "tools", hidden: true });
  const bar = filters("dead", null, filter, "Part of the name", () => { view.restart(); group(true); label(); });
  bar.append(h("span", { class: "spread" }), actions);
  const path = (id) => `dead-letters/${encodeURIComponent(id)}`;
  const replay = (one) => act("POST", `${path(one.id)}/replay`);
  const discard = (one) => act("DELETE", path(one.id));
  const replays = showReplays();
  /** Does something to letters, and shows at once what is left of them and what they became. */
  async function does(letters, verb, action) {
    await each(letters, verb, action, (one, answer) => { if (action === replay) addReplay(one, answer.id); });
    replays.begin();
    view.read();
    await group(true);
  }

  const letter = (one) => {
    const last = one.attempts.at(-1);
    const button = (label, verb, action, question) => h("button", { type: "button", "aria-label": `${label} task ${shortId(one.id)}`, class: question ? "danger" : null,
      disabled: label === "Replay" && !one.is_replayable, title: label === "Replay" && !one.is_replayable ? "It can't be made again: only a retrying task can" : null,
      onclick: async () => { if (!question || await ask(question, "It is forgotten, and can't be replayed.", label)) does([one], verb, action); } }, label);
    return h("article", { class: "card letter" },
      h("div", { class: "tools" }, nameLink(one.name), badge(last?.state ?? "failed"), h("span", { class: "dim small" }, last ? `at ${clock(last.ended_at)} after ${one.attempts.length} ${one.attempts.length === 1 ? "attempt" : "attempts"}` : ""),
        taskLink(one.id), one.replay_of ? h("span", { class: "dim small" }, "a replay of ", taskLink(one.replay_of)) : null,
        allowed ? h("span", { class: "pair" }, button("Replay", "replayed", replay), button("Discard", "discarded", discard, `Discard the letter of task ${shortId(one.id)}, “${visible(one.name)}”?`)) : null),
      errorText(last?.error),
      h("details", null, h("summary", { class: "small" }, "Attempts, and where it was made"),
        h("p", { class: "small" }, "Made at ", h("code", null, visible(one.location))),
        h("ol", { class: "small" }, one.attempts.map((attempt) => h("li", { value: attempt.number },
          `${clock(attempt.ended_at)}: ${attempt.state.replaceAll("_", " ")} after ${seconds(attempt.ran_for)}`, errorText(attempt.error))))));
  };
  /** How many letters there are, if the figures tell it. */
  function total() {
    if (filter.text) return null;
    return filter.name ? snapshot?.names.find((row) => row.name === filter.name)?.dead_letters : snapshot?.totals.dead_letters;
  }
  const view = paged(main, {
    title: "Dead letters", tools: bar, path: "dead-letters", items: "dead_letters", parameters: () => filter, total,
    render: (items, hasMore) => (items.length ? items.map(letter)
      : empty(filter.name || filter.text || hasMore ? "No letter has this name." : "There are no dead letters: no task has used up its attempts.")),
  });

  const same = h("div");
  let timer = null, reads = 0, shown = "", isClosed = false;
  bar.after(replays.element, same);
  const isReplayable = (one) => one.is_replayable;
  const groupButton = (group, label, verb, action, isWanted) => h("button", { type: "button", class: label === "Discard" ? "danger" : null, disabled: !group.letters.some(isWanted),
    "aria-label": `${label} the letters of ${visible(group.name)}: ${visible(group.error ?? group.state)}`,
    onclick: () => all(label, verb, action, (one) => isWanted(one) && keyOf(one) === keyOf(group.letters[0]), ` of “${visible(group.name)}”`) }, label);
  const columns = () => [
    { label: "Name", cell: (group) => nameLink(group.name) },
    { label: "Error", cell: (group) => errorText(group.error) ?? badge(group.state) },
    { label: "Letters", number: true, cell: (group) => [number(group.letters.length), group.again ? h("span", { class: "dim small again" }, `${number(group.again)} failed again`) : null] },
    { label: "First", number: true, cell: (group) => clock(group.first) },
    { label: "Last", number: true, cell: (group) => clock(group.last) },
    ...(allowed ? [{ label: "All of them", cell: (group) => h("span", { class: "pair" },
      groupButton(group, "Replay", "replayed", replay, isReplayable), groupButton(group, "Discard", "discarded", discard, () => true)) }] : []),
  ];
  /** Reads the groups again if there may be other letters. */
  async function group(force) {
    clearTimeout(timer);
    const mine = reads += 1, now = state();
    if (force || now !== shown && !isSelected(same)) {
      const page = await get("dead-letters", { ...filter, limit: GROUPED }).catch(() => null);
      if (isClosed || mine !== reads) return;
      if (page) { shown = now; draw(page); }
    }
    timer = setTimeout(group, 2000);
  }
  /** Changes when a letter comes or goes. */
  function state() {
    if (!snapshot) return null;
    const { dead_letters: kept, dead_letters_evicted: evicted, failed, panicked, timed_out: late } = snapshot.totals;
    return [kept, evicted, failed + panicked + late, allowed].join();
  }
  function draw(page) {
    const letters = page.dead_letters;
    const found = groups(letters);
    // Groups of one say no more than the letters.
    redraw(same, found.length < letters.length ? [
      h("h2", null, page.next ? `The same error, among the latest ${number(GROUPED)}` : "The same error"), table("Letters by name and error", columns(), found),
      h("p", { class: "dim small" }, `${count(letters.length, "letter")} in ${count(found.length, "group")}`),
      h("h2", null, "Each letter")] : []);
  }

  /** All letters that match: read page by page, then done one by one. */
  async function all(label, verb, action, isWanted, of) {
    const letters = [];
    let cursor = "";
    try {
      do {
        const page = await get("dead-letters", { ...filter, limit: 1000, cursor });
        letters.push(...page.dead_letters.filter(isWanted));
        cursor = page.next;
      } while (cursor);
    } catch (error) { notify(error.message, "bad"); return; }
    const text = label === "Replay" ? "Each becomes a new task, at once: mind what their receiver can take." : "They are forgotten, and can't be replayed.";
    if (letters.length && await ask(`${label} ${count(letters.length, "letter")}${of}?`, text, label)) await does(letters, verb, action);
  }
  const matching = () => [filter.name ? ` of “${visible(filter.name)}”` : "", filter.text ? ` with “${visible(filter.text)}” in the name` : ""].join("");
  const replayAll = h("button", { type: "button", onclick: () => all("Replay", "replayed", replay, isReplayable, matching()) });
  const discardAll = h("button", { type: "button", class: "danger", onclick: () => all("Discard", "discarded", discard, () => true, matching()) });
  actions.append(replayAll, discardAll);
  function label() {
    const which = filter.text ? "all that match" : filter.name ? "all of this name" : "all";
    [replayAll.textContent, discardAll.textContent] = [`Replay ${which}`, `Discard ${which}`];
  }
  label();
  return {
    ...view,
    update(next) {
      snapshot = next;
      replays.update(next);
      if (allowed === next.allowed.replay) return;
      allowed = next.allowed.replay;
      actions.hidden = !allowed;
      view.read();
      group(true);
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
      replays.close();
      view.close();
    },
  };
}
