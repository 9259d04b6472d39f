// The server's API: the model's name, and one streamed answer. Addresses are relative, so the page works below any path.
import { EventParser } from "./sse.js";

const NAME_TIMEOUT_MS = 10_000;

/** A fault with a message for the person at the page. `status`: the reply's HTTP status, 0 where there was no reply. */
export class Fault extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Returns the name of the model that is served. Throws Fault. */
export async function modelName(key) {
  const reply = await call("v1/models", key, { signal: AbortSignal.timeout(NAME_TIMEOUT_MS) });
  if (!reply.ok) throw await refusal(reply);
  const name = parsed(await reply.text().catch(() => ""))?.data?.[0]?.id;
  if (typeof name !== "string") throw new Fault("This is not a model server's reply.", reply.status);
  return name;
}

/**
 * Asks for a streamed answer and yields its chunks as they come. `onBytes` is called whenever something arrives.
 * Throws Fault where the server refuses, fails or breaks off, and an AbortError once `signal` aborts.
 */
export async function* answer(request, key, signal, onBytes) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const reply = await call("v1/chat/completions", key, { method: "POST", body, signal });
  if (!reply.ok) throw await refusal(reply);
  if (!/^text\/event-stream\b/i.test(reply.headers.get("content-type") ?? "")) throw await stranger(reply);
  for await (const data of events(reply.body, onBytes)) {
    if (data === "[DONE]") return;
    const chunk = parsed(data);
    if (chunk === null) throw new Fault("The server sent something that is not JSON. The answer may be incomplete.");
    if (chunk.error) throw new Fault(chunk.error.message ?? String(chunk.error), reply.status);
    yield chunk;
  }
  throw new Fault("The connection ended before the answer did. The answer may be incomplete.");
}

async function call(path, key, options) {
  if (!/^[\x21-\x7e]*$/.test(key)) throw new Fault("The API key contains a character that no key can have.", 401);
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    return await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") throw new Fault("The server does not answer.");
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

/** The error of a reply that is not a success: the server's own message, or what a proxy before it said. */
async function refusal(reply) {
  const text = await reply.text().catch(() => "");
  const said = parsed(text)?.error?.message;
  const wait = Number(reply.headers.get("retry-after"));
  const later = wait ? ` Try again in ${wait} s.` : "";
  if (typeof said === "string" && said) return new Fault(said + later, reply.status);
  const status = [`HTTP ${reply.status}`, reply.statusText].filter(Boolean).join(" ");
  const stranger = `This reply did not come from the model server${pageTitle(text, status)}.`;
  return new Fault(`${status}. ${stranger}${later}`, reply.status);
}

/** The error of a success that is not a stream of events, such as a proxy's login page. */
async function stranger(reply) {
  const type = reply.headers.get("content-type") || "of no type";
  const text = await reply.text().catch(() => "");
  const message = `Expected a stream of events, but the reply is ${type}${pageTitle(text)}. Is a proxy in between?`;
  return new Fault(message, reply.status);
}

function pageTitle(text, known = "") {
  const title = /<title[^>]*>([^<]*)/i.exec(text)?.[1].replace(/\s+/g, " ").trim().slice(0, 100);
  return title && !known.includes(title) ? `, it is a page titled “${title}”` : "";
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}
