// Figures and foreign text as a reader sees them.

/** Makes characters visible that a browser would obey or hide: controls, directions, zero widths. */
export function visible(text) {
  return String(text ?? "").replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu,
    (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.0000005) return "0 s";
  if (value < 0.001) return `${digits(value * 1e6)} µs`;
  if (value < 1) return `${digits(value * 1e3)} ms`;
  if (value < 60) return `${digits(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 172800) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} days`;
}

function digits(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const whole = new Intl.NumberFormat("en");

export function number(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

export function rate(value) {
  if (!value) return "0 /s";
  return `${value >= 100 ? number(Math.round(value)) : value.toFixed(value >= 10 ? 1 : 2)} /s`;
}

export function percent(share) {
  if (!share) return "0 %";
  return share < 0.001 ? "< 0.1 %" : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 ? value : digits(value)} ${units[unit]}`;
}

export function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleTimeString("en-GB");
}

/** A number of things. */
export function count(value, one) {
  return `${number(value)} ${one}${value === 1 ? "" : one.endsWith("h") ? "es" : "s"}`;
}

/** The part of an id that a log line shows. */
export function shortId(id) {
  return String(id).split("-")[0];
}

export function words(label) {
  return String(label).replaceAll("_", " ");
}
