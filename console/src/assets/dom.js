// Elements. Text is always a text node: nothing here parses markup.
import { visible } from "./format.js";

/** An element. `on*` properties are listeners, `class` and the others attributes; children are nodes or text. */
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "checked" || key === "value" && tagHasValue(element)) element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function tagHasValue(element) {
  return ["INPUT", "SELECT", "OPTION"].includes(element.tagName);
}

/** Text of a task or an error: isolated, with its control characters visible, and with places where a line may break. */
export function foreign(text, className) {
  const parts = visible(text).split(/(?<=[_./:\-])(?=\w)/);
  return h("bdi", { class: className ? `foreign ${className}` : "foreign" }, parts.map((part, index) => [index > 0 ? h("wbr") : null, part]));
}

export function errorText(text) {
  return text ? h("span", { class: "error" }, foreign(text)) : null;
}

export function badge(label, kind) {
  return h("span", { class: `badge ${kind ?? label}` }, String(label).replaceAll("_", " "));
}

export function link(view, parameters, ...children) {
  return h("a", { href: address(view, parameters) }, ...children);
}

export function address(view, parameters) {
  const query = new URLSearchParams(Object.entries(parameters ?? {}).filter(([, value]) => value)).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

export function nameLink(name) {
  return h("a", { href: address("name", { name }), class: "name" }, foreign(name));
}

export function empty(text) {
  return h("div", { class: "card empty" }, text);
}

/** Sets a text, if it differs: a screen reader reads each change. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Puts a filter into the address, without the view being made again. */
export function rewrite(view, parameters) {
  history.replaceState(null, "", address(view, parameters));
  dispatchEvent(new Event("rewritten"));
}

/** Whether text is selected in an element. */
export function isSelected(element) {
  const selection = getSelection();
  return !selection.isCollapsed && element.contains(selection.anchorNode);
}

/** Replaces the children of an element, and leaves the focus where it was: at what has the same name, or at the element. */
export function redraw(element, items) {
  const name = (one) => one.getAttribute("aria-label") ?? one.getAttribute("href") ?? one.textContent;
  const active = document.activeElement, had = element.contains(active) && active !== element;
  const focused = had ? name(active) : null;
  element.replaceChildren(...items);
  if (!had) return;
  const same = [...element.querySelectorAll("a, button, input, summary, [tabindex]")].find((one) => !one.disabled && name(one) === focused);
  if (!same) element.tabIndex = -1;
  (same ?? element).focus({ preventScroll: true });
}

/** Makes the children of an element equal to `items`, which have no listeners: what stays is not replaced, so that it keeps the focus and the selection. */
export function patch(element, items) {
  [...element.childNodes].slice(items.length).forEach((surplus) => surplus.remove());
  items.forEach((item, index) => {
    const old = element.childNodes[index];
    if (!old) element.append(item);
    else if (old.nodeType !== item.nodeType || old.nodeName !== item.nodeName) old.replaceWith(item);
    else if (old.nodeType === Node.TEXT_NODE) { if (old.data !== item.data) old.data = item.data; }
    else {
      for (const { name } of [...old.attributes]) if (!item.hasAttribute(name)) old.removeAttribute(name);
      for (const { name, value } of item.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      patch(old, [...item.childNodes]);
    }
  });
}

/** Says what an action has done, until it is closed or a while has passed. */
export function notify(text, kind = "good") {
  const close = h("button", { type: "button", "aria-label": "Close this message", onclick: () => notice.remove() }, "×");
  const notice = h("div", { class: `notice ${kind}` }, h("span", null, visible(text)), close);
  const notices = document.getElementById("notices");
  notices.append(notice);
  while (notices.children.length > 4) notices.firstChild.remove();
  if (kind === "good") setTimeout(() => notice.remove(), 8000);
}

/** Asks before something is done. */
export function ask(title, text, verb) {
  const dialog = document.getElementById("dialog");
  return new Promise((resolve) => {
    const close = (answer) => { dialog.close(); resolve(answer); };
    dialog.replaceChildren(
      h("h2", { id: "dialog-title" }, title), h("p", null, text),
      h("div", { class: "tools" },
        h("button", { type: "button", onclick: () => close(false), autofocus: true }, "Cancel"),
        h("button", { type: "button", class: "danger", onclick: () => close(true) }, verb)));
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
  });
}
