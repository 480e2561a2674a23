// Calls of the admin address, and the stream of its status.

// A refused call; `status` is 0 where the edge does not answer.
export class CallError extends Error {
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

// Sends JSON, returns JSON. Throws CallError. A 401 also fires "login" on the document.
export async function call(method, path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new CallError(0, "the edge does not answer");
  }
  const document_ = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (response.ok && document_ !== null) return document_;
  if (response.status === 401 && path !== "/login") document.dispatchEvent(new Event("login"));
  const reason = document_ && typeof document_.error === "string" ? document_.error : `status ${response.status}`;
  throw new CallError(response.status, reason, document_);
}

export const get = (path, signal) => call("GET", path, undefined, signal);

// Calls `work` now and `pause_ms` after each end, or the milliseconds that `work` returned, while the
// page is visible. Returns a function that calls it at once, and one that ends this. `work` gets an
// AbortSignal.
export function poll(work, pause_ms) {
  const aborter = new AbortController();
  let timer = 0;
  let isRunning = false;
  async function run() {
    if (isRunning || aborter.signal.aborted || document.hidden) return;
    isRunning = true;
    let next_ms = pause_ms;
    try {
      next_ms = (await work(aborter.signal)) ?? pause_ms;
    } catch (error) {
      if (error.name !== "AbortError") console.warn(error.message);
    }
    isRunning = false;
    if (!aborter.signal.aborted) timer = setTimeout(run, next_ms);
  }
  function resume() {
    clearTimeout(timer);
    run();
  }
  document.addEventListener("visibilitychange", resume);
  run();
  return {
    now: resume,
    stop() {
      aborter.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", resume);
    },
  };
}

// The status of the edge once a second, for all views. It is not read while the page is hidden.
export class StatusStream {
  constructor() {
    this.latest = null;
    this.listeners = new Set();
    this.source = null;
    this.isStopped = true;
    document.addEventListener("visibilitychange", () => this.#follow());
  }

  start() {
    this.isStopped = false;
    this.#follow();
  }

  stop() {
    this.isStopped = true;
    this.#follow();
  }

  // Calls `listener(document)`, or with null when the edge does not answer; returns its end.
  subscribe(listener) {
    this.listeners.add(listener);
    if (this.latest) listener(this.latest);
    return () => this.listeners.delete(listener);
  }

  #follow() {
    const isNeeded = !this.isStopped && !document.hidden;
    if (isNeeded && !this.source) this.#open();
    if (!isNeeded && this.source) {
      this.source.close();
      this.source = null;
    }
  }

  #open() {
    const source = new EventSource("/status/stream");
    this.source = source;
    source.onmessage = (event) => {
      this.latest = JSON.parse(event.data);
      this.#publish(this.latest);
    };
    source.onerror = () => {
      this.#publish(null);
      if (source.readyState !== EventSource.CLOSED || this.source !== source) return;
      this.source = null;
      // A refused stream shows no status: the session tells whether a login is needed.
      get("/session").catch(() => null);
      setTimeout(() => this.#follow(), 2000);
    };
  }

  #publish(document_) {
    for (const listener of this.listeners) listener(document_);
  }
}
