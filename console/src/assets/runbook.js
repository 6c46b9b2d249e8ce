// The runbook of the documentation, as far as it is for the person on call. Its text becomes elements, never markup.
import { getText } from "./api.js";
import { h, link } from "./dom.js";
import { visible } from "./format.js";

/** Where the part for the day before begins. */
const REST = "\n## The operator's routes";

/** The anchor of a heading, as in the documentation. */
const anchor = (heading) => heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-");

/** The parts of a line: code, bold text, links. A link to the documentation of an item is its text. */
function inline(text) {
  const parts = [];
  let from = 0;
  for (const found of text.matchAll(/`([^`]+)`|\*\*([^*]+)\*\*|\[((?:`[^`]*`|[^\[\]`])+)\]\(([^)]+)\)/g)) {
    parts.push(text.slice(from, found.index));
    from = found.index + found[0].length;
    const [, code, bold, label, target] = found;
    if (code) parts.push(h("code", null, code));
    else if (bold) parts.push(h("b", null, bold));
    else if (target.startsWith("#") && !AFTER.has(target.slice(1))) parts.push(link("runbook", { part: target.slice(1) }, inline(label)));
    else parts.push(inline(label));
  }
  return [...parts, text.slice(from)];
}

/** Sections of the documentation that are not shown here. */
const AFTER = new Set(["the-operators-routes", "probes", "alerts"]);

function row(line, tag) {
  return h("tr", null, line.replace(/^\||\|$/g, "").split(" | ").map((cell) => h(tag, null, inline(cell.trim()))));
}

/** Blocks of Markdown: headings, code, tables, lists, paragraphs. */
function blocks(lines) {
  const made = [];
  /** The lines of a list's item, without its indentation. */
  const items = (pattern, tag, indentation) => {
    const found = [], isInside = (line) => /^ +\S/.test(line ?? "");
    while (lines.length && (pattern.test(lines[0]) || isInside(lines[0]) || lines[0] === "" && isInside(lines[1]))) {
      const line = lines.shift();
      if (pattern.test(line)) found.push([line.replace(pattern, "")]);
      else found.at(-1).push(line.replace(indentation, ""));
    }
    made.push(h(tag, null, found.map((item) => h("li", null, blocks(item)))));
  };
  const bullet = /^- /, step = /^\d+\. /, others = /^(#|```|\||- |\d+\. )/;
  while (lines.length) {
    const line = lines[0];
    if (line.startsWith("#")) {
      const title = lines.shift().replace(/^#+ /, "");
      made.push(line.startsWith("## ") ? h("h2", { id: anchor(title), tabindex: "-1" }, inline(title)) : h("h1", null, inline(title)));
    } else if (line.startsWith("```")) {
      lines.shift();
      const code = [];
      while (lines.length && !lines[0].startsWith("```")) code.push(lines.shift());
      lines.shift();
      made.push(h("pre", { class: "card", tabindex: "0" }, h("code", null, code.join("\n"))));
    } else if (line.startsWith("|")) {
      const head = lines.shift(), body = [];
      lines.shift();
      while (lines.length && lines[0].startsWith("|")) body.push(lines.shift());
      made.push(h("div", { class: "scroll", role: "region", "aria-label": "Table", tabindex: "0" },
        h("table", null, h("thead", null, row(head, "th")), h("tbody", null, body.map((one) => row(one, "td"))))));
    } else if (bullet.test(line)) items(bullet, "ul", /^ {0,2}/);
    else if (step.test(line)) items(step, "ol", /^ {0,3}/);
    else if (line.trim() === "") lines.shift();
    else {
      const text = [];
      while (lines.length && lines[0].trim() !== "" && (text.length === 0 || !others.test(lines[0]))) text.push(lines.shift());
      made.push(h("p", null, inline(text.join(" "))));
    }
  }
  return made;
}

export function runbook(main, { part }) {
  const text = h("div", { class: "prose", "aria-busy": "true" });
  main.append(text);
  getText("assets/runbook.md").then((source) => {
    text.replaceChildren(...blocks(source.split(REST)[0].split("\n")));
    const heading = part && [...text.querySelectorAll("h2")].find(({ id }) => id === part);
    if (heading) { heading.scrollIntoView(); heading.focus({ preventScroll: true }); }
  }).catch((error) => text.replaceChildren(h("div", { class: "notice bad" }, visible(error.message)))).finally(() => text.removeAttribute("aria-busy"));
  return { title: "Runbook" };
}
