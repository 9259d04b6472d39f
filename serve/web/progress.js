// The progress of an answer: how often it is drawn, and its status and statistics.

const SHARE = 4; // drawing takes at most 1/SHARE of the time
const SILENCE_S = 40; // more than two of the server's keep-alive comments

/** Returns a function that schedules a draw, at most once per frame, and less often if drawing is slow. */
export function painter(draw) {
  let scheduled = false, cost = 0;
  const paint = () => {
    scheduled = false;
    const began = performance.now();
    draw();
    cost = performance.now() - began;
  };
  return () => {
    if (scheduled) return;
    scheduled = true;
    setTimeout(() => requestAnimationFrame(paint), cost * (SHARE - 1));
  };
}

/** Returns the waiting time of an answer, or how long the server has been silent; times in ms. */
export function elapsed({ turn, began, heard }, now) {
  const silent = Math.floor((now - heard) / 1000), what = turn.content || turn.thought ? "Answering" : "Waiting";
  if (silent >= SILENCE_S) return `Nothing received from the server for ${silent} s.`;
  return `${what}, ${Math.floor((now - began) / 1000)} s.`;
}

/** Returns a finished answer's statistics on one line, or "" if the server sent no usage. */
export function figures({ usage, began, first, last }) {
  if (!usage) return "";
  const tokens = usage.completion_tokens, seconds = (last - first) / 1000;
  const cached = usage.prompt_tokens_details?.cached_tokens;
  return [
    `${tokens} tokens`,
    // the time of the first token includes the prompt
    ...(tokens > 1 && seconds > 0 ? [`${((tokens - 1) / seconds).toFixed(1)} tokens/s`] : []),
    ...(first ? [`first after ${((first - began) / 1000).toFixed(2)} s`] : []),
    `${usage.prompt_tokens} in the prompt${cached ? `, ${cached} of them cached` : ""}`,
  ].join(" · ");
}

/** Adds a piece of a tool call to an answer's calls. */
export function addCall(calls, piece) {
  const call = calls[piece.index ?? 0] ??= { name: "", given: "" };
  call.name += piece.function?.name ?? "";
  call.given += piece.function?.arguments ?? "";
}

/** Returns why an answer is incomplete, or "". */
export function shortfall({ finish, calls }, maxTokens) {
  const called = calls.map(({ name, given }) => `${name}(${given})`).join(", ");
  if (called) return `The model called ${called}. This page has no tools.`;
  const limit = maxTokens ? `Stopped at ${maxTokens} tokens (max tokens).` : "Stopped: the context is full.";
  if (finish === "length") return limit;
  return finish && finish !== "stop" ? `Stopped: ${finish}.` : "";
}
