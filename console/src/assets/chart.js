// Small line charts of the last hour.
import { h, svg } from "./dom.js";

const WIDTH = 600, HEIGHT = 130;

/** `lines`: `{ label, colour, dashed, values }`; `ago`: seconds, the oldest first. */
export function chart(title, ago, lines, format) {
  const span = Math.max(ago[0] ?? 0, 60);
  const largest = Math.max(0, ...lines.flatMap((line) => line.values.filter((value) => value !== null)));
  const top = nice(largest);
  const last = lines.map((line) => `${line.label} ${format(latest(line.values))}`).join(", ");
  const paths = lines.map((line) => {
    const { joined, dots } = path(ago, line.values, span, top);
    return [svg("path", { class: `${line.colour}${line.dashed ? " dashed" : ""}`, d: joined }), svg("path", { class: `${line.colour} dots`, d: dots })];
  });
  const grid = [0.5, 1].map((share) => svg("line", { x1: 0, x2: WIDTH, y1: y(share * top, top), y2: y(share * top, top) }));
  return h("figure", { class: "card" },
    h("figcaption", null, h("b", null, title),
      lines.map((line) => h("span", { class: `key ${line.colour}${line.dashed ? " dashed" : ""}` }, `${line.label} ${format(latest(line.values))}`))),
    h("div", { class: "axis" }, h("span", null, format(top))),
    svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: now ${last}; at most ${format(largest)}` }, grid, paths),
    h("div", { class: "axis" }, h("span", null, span < 120 ? `${Math.round(span)} s ago` : `${Math.round(span / 60)} min ago`), h("span", null, "now")));
}

function latest(values) {
  return values.findLast((value) => value !== null) ?? null;
}

function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? value;
}

function y(value, top) {
  return HEIGHT - 2 - (value / top) * (HEIGHT - 4);
}

/** A gap of more than a minute, or without a value, is left open. A value without a neighbour is a dot. */
function path(ago, values, span, top) {
  const runs = [];
  let before = null;
  values.forEach((value, index) => {
    if (value === null) return;
    const at = `${(WIDTH * (1 - ago[index] / span)).toFixed(1)} ${y(value, top).toFixed(1)}`;
    if (before !== null && before - ago[index] < 60) runs.at(-1).push(at);
    else runs.push([at]);
    before = ago[index];
  });
  // A line of no length has round ends.
  return {
    joined: runs.filter((run) => run.length > 1).map((run) => `M${run.join("L")}`).join(""),
    dots: runs.filter((run) => run.length === 1).map(([at]) => `M${at}h0`).join(""),
  };
}

/** The four charts of a name, or of all. */
export function charts(samples, formats) {
  const { ago, pending, running, completed, failed, run, wait } = samples;
  return h("div", { class: "charts" },
    chart("Ended per second", ago, [{ label: "completed", colour: "green", values: completed }, { label: "failed", colour: "red", dashed: true, values: failed }], formats.rate),
    chart("Live tasks", ago, [{ label: "running", colour: "blue", values: running }, { label: "pending", colour: "orange", dashed: true, values: pending }], formats.number),
    chart("Run time", ago, [{ label: "p50", colour: "blue", values: run.p50 }, { label: "p95", colour: "orange", dashed: true, values: run.p95 }], formats.seconds),
    chart("Wait before the start", ago, [{ label: "p50", colour: "blue", values: wait.p50 }, { label: "p95", colour: "orange", dashed: true, values: wait.p95 }], formats.seconds));
}
