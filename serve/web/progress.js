// An answer while it grows and once it has ended: how often it is drawn, and what is said of it.

const SHARE = 4; // of the time, drawing gets at most one part in so many
const SILENCE_S = 40; // more than two of the server's keep-alive comments

/** Returns a function that draws soon, at most once a frame, and less often where drawing takes long. */
export function painter(draw) {
  let asked = false, cost = 0;
  const paint = () => {
    asked = false;
    const began = performance.now();
    draw();
    cost = performance.now() - began;
  };
  return () => {
    if (asked) return;
    asked = true;
    setTimeout(() => requestAnimationFrame(paint), cost * (SHARE - 1));
  };
}

/** Returns how long an answer has been waited for, and whether its server has fallen silent; times in ms. */
export function elapsed({ turn, began, heard }, now) {
  const silent = Math.floor((now - heard) / 1000), what = turn.content || turn.thought ? "Answering" : "Waiting";
  if (silent >= SILENCE_S) return `Nothing has come from the server for ${silent} s.`;
  return `${what}, ${Math.floor((now - began) / 1000)} s.`;
}

/** Returns the figures of an answer that has ended, as one line; nothing where the server counted nothing. */
export function figures({ usage, began, first, last }) {
  if (!usage) return "";
  const tokens = usage.completion_tokens, seconds = (last - first) / 1000;
  const cached = usage.prompt_tokens_details?.cached_tokens;
  return [
    `${tokens} tokens`,
    // the first token's time is the prompt's
    ...(tokens > 1 && seconds > 0 ? [`${((tokens - 1) / seconds).toFixed(1)} tokens/s`] : []),
    ...(first ? [`first after ${((first - began) / 1000).toFixed(2)} s`] : []),
    `${usage.prompt_tokens} in the prompt${cached ? `, ${cached} of them cached` : ""}`,
  ].join(" · ");
}

/** Puts a piece of a tool call to the calls that an answer makes. */
export function addCall(calls, piece) {
  const call = calls[piece.index ?? 0] ??= { name: "", given: "" };
  call.name += piece.function?.name ?? "";
  call.given += piece.function?.arguments ?? "";
}

/** Returns why an answer is not a whole one, or nothing. */
export function shortfall({ finish, calls }, maxTokens) {
  const called = calls.map(({ name, given }) => `${name}(${given})`).join(", ");
  if (called) return `The model called ${called}. This page has no tools.`;
  const limit = maxTokens ? `Stopped at ${maxTokens} tokens (max tokens).` : "Stopped: the context is full.";
  if (finish === "length") return limit;
  return finish && finish !== "stop" ? `Stopped: ${finish}.` : "";
}
