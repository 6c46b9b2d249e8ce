// What the page asks its service for. All addresses are relative to the routes, wherever they are nested.

/** The routes are the folder above that of this file. */
const base = new URL("../", import.meta.url);

/** The process whose figures the page shows. */
let instance = null;

export function setInstance(id) {
  instance = id;
}

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options) {
  try {
    const response = await fetch(new URL(path, base), { cache: "no-cache", signal: AbortSignal.timeout(20000), ...options });
    return { response, text: await response.text() };
  } catch {
    throw new ApiError(0, "The service does not answer.");
  }
}

/** A file of the page. */
export async function getText(path) {
  const { response, text } = await ask(path);
  if (!response.ok) throw new ApiError(response.status, `The answer is ${response.status} ${response.statusText}`);
  return text;
}

async function answer(path, options = {}) {
  const { response, text } = await ask(path, options);
  let body = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    if (response.ok) throw new ApiError(response.status, "The answer is not JSON: does a proxy or a login page stand between?");
  }
  if (!response.ok) throw new ApiError(response.status, body?.error ?? `The answer is ${response.status} ${response.statusText}`);
  return body;
}

export function get(path, parameters) {
  return answer(path + query(parameters));
}

/** So many tasks are asked for at a time. */
const IDS = 100;

/** The tasks of these ids, as far as the service still knows them. */
export async function tasksOf(ids) {
  const found = [];
  for (let from = 0; from < ids.length; from += IDS) found.push(...(await get("tasks", { ids: ids.slice(from, from + IDS).join() })).tasks);
  return found;
}

function query(parameters) {
  const given = Object.entries(parameters ?? {}).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** Acts in the process that the page shows, and in no other. */
export function act(method, path, parameters) {
  const headers = { "x-requested-with": "postlude" };
  if (instance) headers["x-postlude-instance"] = instance;
  return answer(path + query(parameters), { method, headers });
}

/**
 * Reads the stream, or polls where there is none. Calls `onSnapshot`, `onTasks` if the tail is wanted, and `onState`
 * with `live`, `polling` or `lost`. Returns a function that ends it.
 */
export function watch({ tail, onSnapshot, onTasks, onState }) {
  let source = null, timer = null, after = 0, failures = 0, heard = Date.now(), patience = 5000, stopped = false;
  const poll = async () => {
    clearTimeout(timer);
    try {
      onSnapshot(await get("snapshot.json"));
      if (tail) {
        const events = await get("events.json", { after });
        after = events.next;
        onTasks(events);
      }
      if (!stopped) onState("polling");
      failures = 0;
    } catch (error) {
      failures += 1;
      if (!stopped) onState("lost", error);
    }
    if (!stopped) {
      timer = setTimeout(poll, Math.min(2000 * 2 ** Math.min(failures, 4), 15000));
      if (failures === 0 && Date.now() - opened > 30000) open();
    }
  };
  let opened = 0;
  const open = () => {
    clearTimeout(timer);
    opened = heard = Date.now();
    patience = 5000;
    const url = new URL("events", base);
    if (tail) url.search = `tail=on&after=${after}`;
    source?.close();
    source = new EventSource(url);
    source.addEventListener("snapshot", (event) => {
      heard = Date.now();
      clearTimeout(timer);
      timer = null;
      const snapshot = JSON.parse(event.data);
      // A service whose snapshots take long takes few.
      patience = 5000 + 2000 * snapshot.next_in;
      onSnapshot(snapshot);
      onState("live");
    });
    source.addEventListener("tasks", (event) => {
      const events = JSON.parse(event.data);
      after = events.next;
      onTasks?.(events);
    });
    // The browser opens the stream again by itself; one that stays away is replaced by polling.
    source.onerror = () => { if (source?.readyState === EventSource.CLOSED) fall(); };
  };
  const fall = () => {
    source?.close();
    source = null;
    if (!timer && !stopped) poll();
  };
  const check = setInterval(() => { if (source && Date.now() - heard > patience) fall(); }, 1000);
  open();
  return () => { stopped = true; source?.close(); clearTimeout(timer); clearInterval(check); };
}
