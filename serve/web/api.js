// The server's API: the model's name and streamed answers. URLs are relative, so the page works under any path.
import { EventParser } from "./sse.js";

const NAME_TIMEOUT_MS = 10_000;

/** An error with a message for the user. `status`: the HTTP status of the reply, 0 if there was none. */
export class Fault extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Returns the name of the served model. Throws Fault. */
export async function modelName(key) {
  const reply = await call("v1/models", key, { signal: AbortSignal.timeout(NAME_TIMEOUT_MS) });
  if (!reply.ok) throw await refusal(reply);
  const name = parsed(await reply.text().catch(() => ""))?.data?.[0]?.id;
  if (typeof name !== "string") throw new Fault("The reply is not from a model server.", reply.status);
  return name;
}

/**
 * Requests a streamed answer and yields its chunks as they arrive. `onBytes` is called for everything received.
 * Throws Fault if the server rejects the request, fails or disconnects, and an AbortError when `signal` aborts.
 */
export async function* answer(request, key, signal, onBytes) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const reply = await call("v1/chat/completions", key, { method: "POST", body, signal });
  if (!reply.ok) throw await refusal(reply);
  if (!/^text\/event-stream\b/i.test(reply.headers.get("content-type") ?? "")) throw await notAStream(reply);
  for await (const data of events(reply.body, onBytes)) {
    if (data === "[DONE]") return;
    const chunk = parsed(data);
    if (chunk === null) throw new Fault("The server sent invalid JSON. The answer may be incomplete.");
    if (chunk.error) throw new Fault(chunk.error.message ?? String(chunk.error), reply.status);
    yield chunk;
  }
  throw new Fault("The connection closed before the end of the answer. The answer may be incomplete.");
}

async function call(path, key, options) {
  if (!/^[\x21-\x7e]*$/.test(key)) throw new Fault("The API key contains an invalid character.", 401);
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    return await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") throw new Fault("The server does not respond.");
    throw new Fault("The server can't be reached. Check that it is running.");
  }
}

async function* events(body, onBytes) {
  const reader = body.getReader(), decoder = new TextDecoder(), parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      onBytes();
      yield* parser.feed(decoder.decode(value, { stream: !done }));
      if (done) return yield* parser.end();
    }
  } catch (error) {
    if (error.name !== "TypeError") throw error;
    throw new Fault("The connection to the server was lost. The answer may be incomplete.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Returns the error of an unsuccessful reply: the server's message, or a description of a proxy's reply. */
async function refusal(reply) {
  const text = await reply.text().catch(() => "");
  const message = parsed(text)?.error?.message;
  const wait = Number(reply.headers.get("retry-after"));
  const later = wait ? ` Try again in ${wait} s.` : "";
  if (typeof message === "string" && message) return new Fault(message + later, reply.status);
  const status = [`HTTP ${reply.status}`, reply.statusText].filter(Boolean).join(" ");
  return new Fault(`${status}. This reply is not from the model server${pageTitle(text, status)}.${later}`, reply.status);
}

/** Returns the error of a successful reply that is not an event stream, such as a proxy's login page. */
async function notAStream(reply) {
  const type = reply.headers.get("content-type") || "without a content type";
  const text = await reply.text().catch(() => "");
  const message = `Expected an event stream, but the reply is ${type}${pageTitle(text)}. Check for a proxy in between.`;
  return new Fault(message, reply.status);
}

function pageTitle(text, known = "") {
  const title = /<title[^>]*>([^<]*)/i.exec(text)?.[1].replace(/\s+/g, " ").trim().slice(0, 100);
  return title && !known.includes(title) ? ` (a page titled “${title}”)` : "";
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}
