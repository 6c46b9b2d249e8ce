// One task, live or ended.
import { act, get } from "./api.js";
import { ask, badge, errorText, foreign, h, link, nameLink, notify } from "./dom.js";
import { number, seconds, shortId, visible } from "./format.js";
import { reason } from "./history.js";
import { profileFacts } from "./names.js";

export function task(main, { id }) {
  let isClosed = false, timer = null, allowed = null, state = null, shown = {};
  const about = h("div", { "aria-busy": "true" });
  const abort = h("button", { type: "button", class: "danger", hidden: true, onclick: stop }, "Abort");
  main.append(h("h1", null, "Task ", h("code", null, visible(shortId(id)))), about, h("div", { class: "tools" }, abort));
  async function read() {
    try {
      const found = await get(`tasks/${encodeURIComponent(id)}`);
      if (isClosed) return;
      state = found.state;
      shown = found;
      about.replaceChildren(h("div", { class: "card" }, facts(found)));
      if (found.age !== undefined) timer = setTimeout(read, 1000);
    } catch (error) {
      if (isClosed) return;
      state = null;
      about.replaceChildren(h("div", { class: "notice bad" }, visible(error.message)));
      if (error.status === 0) timer = setTimeout(read, 3000);
    }
    about.removeAttribute("aria-busy");
    update();
  }
  function update() {
    abort.hidden = !allowed || !["pending", "running", "retrying"].includes(state);
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
    update(snapshot) { allowed = snapshot.allowed.abort; update(); },
    close() { isClosed = true; clearTimeout(timer); },
  };
}

function facts(found) {
  const fact = (label, value) => (value === null || value === undefined || value === "–" ? null : [h("dt", null, label), h("dd", null, value)]);
  const at = found.progress;
  return h("dl", null,
    fact("Name", nameLink(found.name)),
    fact("State", badge(found.state)),
    found.error ? fact("Error", errorText(found.error)) : fact("Why", reason(found)),
    fact("Attempt", number(found.attempt)),
    fact("Age", seconds(found.age)), fact("Running for", seconds(found.running_for)), fact("Due in", seconds(found.due_in)),
    fact("Waited", seconds(found.queued_for)), fact("Ran for", seconds(found.ran_for)),
    found.ended_ago === undefined ? null : fact("Ended", `${seconds(found.ended_ago)} ago`),
    at ? fact("Progress", [at.total ? `${number(at.done)} of ${number(at.total)} ` : "", at.message ? foreign(at.message) : ""]) : null,
    profileFacts(found.profile).map(([label, value]) => fact(label, value)),
    fact("Made at", h("code", null, foreign(found.location))),
    fact("Set", found.set ? h("code", null, foreign(shortId(found.set))) : null),
    fact("Replay of", found.replay_of ? link("task", { id: found.replay_of }, shortId(found.replay_of)) : null),
    fact("Id", h("code", null, foreign(found.id))));
}
