// What happens to tasks, as it happens: the last few hundred events.
import { address, badge, errorText, h, nameLink } from "./dom.js";
import { clock, number, seconds, shortId } from "./format.js";

const KEPT = 300;

export function events(main) {
  let isPaused = false, waiting = [];
  const list = h("tbody");
  const none = h("div", { class: "card empty" }, "Nothing has happened since the page was opened.");
  const state = h("span", { class: "dim", role: "status" });
  const pause = h("button", { type: "button", "aria-pressed": "false", onclick: toggle }, "Pause");
  const clear = h("button", { type: "button", onclick: () => { list.replaceChildren(); waiting = []; show(); } }, "Clear");
  const hide = () => { for (const row of list.children) row.hidden = !isWanted(row); };
  const onlyFailures = h("input", { type: "checkbox", id: "only-failures", onchange: hide });
  const part = h("input", { type: "text", id: "text", oninput: hide, onchange: hide });
  const isWanted = ({ dataset }) => dataset.name === undefined
    || (!onlyFailures.checked || dataset.failure !== undefined) && dataset.name.toLowerCase().includes(part.value.toLowerCase());
  const head = h("thead", null, h("tr", null, ["Task", "Name", "Event", "At", "After", "Why"].map((label) => h("th", { scope: "col" }, label))));
  const whole = h("div", { class: "scroll", role: "region", "aria-label": "Events", tabindex: "0" }, h("table", { class: "rows" }, head, list));
  main.append(h("h1", null, "Events"), h("div", { class: "tools" }, h("label", { for: "text" }, "Part of the name", part), pause, clear, h("label", { class: "check", for: "only-failures" }, onlyFailures, "Failures only"), state), none, whole);

  function toggle() {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(isPaused));
    if (!isPaused) { add(waiting); waiting = []; }
    show();
  }
  function add(events) {
    list.prepend(...events.slice(-KEPT).map(row).reverse());
    hide();
    while (list.children.length > KEPT) list.lastChild.remove();
  }
  function show() {
    none.hidden = list.children.length > 0;
    whole.hidden = list.children.length === 0;
    state.textContent = isPaused ? `paused, ${number(waiting.length)}${waiting.length >= KEPT ? " or more" : ""} waiting` : "";
  }
  function row({ event, task, count, at }) {
    if (!task) {
      const text = event === "missed" ? `${number(count)} events were missed` : "More happened than a page can follow: some events are not shown";
      return h("tr", null, h("td", { colspan: "6", class: "dim" }, text));
    }
    const isFailure = ["failed", "panicked", "timed_out"].includes(task.state) || event === "attempt_failed";
    const label = event === "finished" ? task.state : event;
    const cell = (heading, content) => h("td", { "data-label": heading, class: content && content !== "–" ? null : "none" }, content);
    return h("tr", { "data-failure": isFailure, "data-name": task.name },
      h("th", { scope: "row" }, h("a", { href: address("task", { id: task.id }) }, h("code", null, shortId(task.id)))),
      cell("Name", nameLink(task.name)), cell("Event", badge(label)), cell("At", clock(at)),
      cell("After", seconds(event === "finished" || event === "attempt_failed" ? task.ran_for : event === "started" ? task.age : null)),
      cell("Why", errorText(task.error)));
  }
  show();
  return {
    title: "Events",
    onTasks({ missed, events: all }) {
      const now = Date.now() / 1000;
      const news = all.map((event) => ({ ...event, at: now }));
      if (missed) news.unshift({ event: "too_many" });
      if (isPaused) waiting = [...waiting, ...news].slice(-KEPT);
      else add(news);
      show();
    },
  };
}
