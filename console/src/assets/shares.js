// Where the time of the tasks of a name goes.
import { h, link } from "./dom.js";
import { percent, seconds } from "./format.js";

/** How long a name is measured, in seconds, until a share of it means something. */
export const MEASURED = 0.1;

/** Where the time of the tasks of a name goes, from what was measured since the start: shares, the largest first. */
export function timeShares({ total_queued: queued, total_time: ran, profile, limit }) {
  const waits = limit === null || limit === undefined ? ["waiting to start", "for a permit, for the tasks before it in its set, or for its own delay"]
    : ["waiting for a permit", "or for the tasks before it in its set, or for its own delay"];
  const parts = profile && profile.busy + profile.idle + profile.scheduled > 0 ? [
    [...waits, queued],
    ["idle", "awaiting something else, such as a service, a database, a lock or a timer", profile.idle],
    ["busy on the worker", "computing, or blocking", profile.busy],
    ["waiting to be polled", "woken, while the workers are busy or blocked", profile.scheduled],
  ] : [[...waits, queued], ["running", "what it does meanwhile is not measured: the registry has no profile", ran]];
  const all = parts.reduce((sum, part) => sum + part[2], 0);
  if (all < MEASURED) return [];
  return parts.map(([what, means, time]) => ({ what, means, time, share: time / all })).sort((one, other) => other.time - one.time);
}

/** Its shares, as a list with bars. */
export function timeList(row) {
  const shares = timeShares(row);
  if (!shares.length) return [];
  const [most] = shares;
  return [h("h2", null, "Where its time goes"), h("div", { class: "card", id: "time" },
    h("p", null, `Since the start, most of the time of its tasks (${percent(most.share)}) they are `, h("b", null, most.what), ` (${most.means}). `, link("runbook", { part: "one-name-is-slow" }, "What to do")),
    h("dl", { class: "shares" }, shares.map(({ what, means, time, share }) => [
      h("dt", null, what), h("dd", null, h("meter", { min: "0", max: "1", value: share.toFixed(3), "aria-label": what }), ` ${percent(share)}, ${seconds(time)} `, h("span", { class: "dim small" }, means))])))];
}
