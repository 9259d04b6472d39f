// The page: sends the user's messages and adds the answers to their chats.
import { Fault, answer } from "./api.js";
import { Chats, browserStorage, newChat, title } from "./chats.js";
import { Connection } from "./connection.js";
import { Settings, listChats, toggle } from "./panels.js";
import { addCall, elapsed, figures, painter, shortfall } from "./progress.js";
import { Conversation } from "./view.js";

const at = id => document.getElementById(id);
const chats = new Chats(browserStorage());
const view = new Conversation(at("log"), at("latest"), { edit, again });
const settings = new Settings(at("settings"), at("settings-toggle"));
const connection = new Connection(at("model"), at("problem"), locked);
const wide = matchMedia("(min-width: 48rem)"), touch = matchMedia("(pointer: coarse)");
let chat = newChat();
let run = null; // the running answer: its chat, turn and AbortController, and when the server last sent something

// ---- requests -------------------------------------------------------------------------------------------------------

function send() {
  const text = at("text").value.trim(), options = settings.sampling();
  if (!text || !options) return;
  const turn = { role: "user", content: text };
  at("text").value = "";
  if (!touch.matches) at("text").focus(); // not the button, which now stops the answer
  chat.turns.push(turn);
  view.add(turn);
  ask(options, own => {
    // no answer: put the text back into the input, unless the user has typed something else
    if (own !== chat || at("text").value) return;
    own.turns.pop();
    at("text").value = text;
  });
}

function again() {
  const options = settings.sampling(), before = [...chat.turns];
  if (run || !options) return;
  if (chat.turns.at(-1)?.role === "assistant") chat.turns.pop();
  view.show(chat);
  ask(options, own => { own.turns = before; });
}

function edit(turn, text) {
  const options = settings.sampling(), before = [...chat.turns], index = before.indexOf(turn);
  if (run || !text || !options) return;
  chat.turns = [...before.slice(0, index), { role: "user", content: text }];
  view.show(chat);
  ask(options, own => {
    own.turns = before;
    return () => view.edit(turn, text);
  });
}

/** Requests the next turn of the chat. `undo` restores the chat if no answer arrives. */
async function ask(options, undo) {
  const own = chat, turn = { role: "assistant", content: "", thought: "" };
  own.system = at("system").value.trim();
  const system = own.system ? [{ role: "system", content: own.system }] : [];
  const messages = [...system, ...own.turns.map(({ role, content }) => ({ role, content }))];
  keep(own);
  view.add(turn);
  const paint = painter(() => { if (run?.turn === turn && own === chat) view.update(turn); });
  const mine = begin(own, turn);
  let fault = null;
  try {
    const end = await receive({ model: "default", messages, ...options }, mine, paint);
    turn.note = figures(end);
    turn.warning = shortfall(end, options.max_tokens);
  } catch (error) {
    fault = error;
    turn.warning = error.name === "AbortError" ? "Stopped." : error.message;
  }
  finish(mine, fault, undo);
}

/** Adds an answer's chunks to its turn; returns how it ended. */
async function receive(request, { turn, controller }, paint) {
  const end = { began: performance.now(), first: 0, last: 0, usage: null, finish: null, calls: [] };
  const heard = () => { if (run?.turn === turn) run.heard = performance.now(); };
  for await (const chunk of answer(request, key(), controller.signal, heard)) {
    const choice = chunk.choices?.[0], text = choice?.delta?.content ?? "";
    const thought = choice?.delta?.reasoning_content ?? "";
    turn.content += text;
    turn.thought += thought;
    end.usage = chunk.usage ?? end.usage;
    end.finish = choice?.finish_reason ?? end.finish;
    choice?.delta?.tool_calls?.forEach(call => addCall(end.calls, call));
    if (!text && !thought) continue;
    end.last = performance.now();
    end.first ||= end.last;
    paint();
  }
  return end;
}

function begin(own, turn) {
  run = { chat: own, turn, controller: new AbortController(), began: performance.now(), heard: performance.now() };
  at("send").textContent = "Stop";
  at("status").textContent = "Waiting for the answer.";
  view.busy(true);
  run.clock = setInterval(showElapsed, 1000);
  return run;
}

/** Saves a finished answer in its chat, and updates the view if that chat is shown. */
function finish(mine, fault, undo) {
  const { chat: own, turn } = mine, stopped = fault?.name === "AbortError";
  const shown = own === chat, kept = turn.content || turn.thought || !fault;
  if (run === mine) end();
  clearInterval(mine.clock);
  if (!fault && !turn.content && !turn.thought) turn.warning ||= "The answer is empty.";
  if (kept) own.turns.push(turn);
  const then = kept ? null : undo(own);
  if (!mine.deleted) keep(own);
  if (shown) {
    kept ? view.update(turn) : view.show(own);
    if (fault && !stopped && !kept) view.fault(fault.message);
    then?.();
    at("status").textContent = fault ? "The answer is incomplete." : "The answer is complete.";
  }
  if (fault && !stopped && !(fault instanceof Fault)) console.error(fault);
  if (fault instanceof Fault && (fault.status === 0 || fault.status === 401)) connect();
}

function end() {
  run = null;
  at("send").textContent = "Send";
  at("elapsed").textContent = "";
  view.busy(false);
}

/** Stops the running answer, which stays in its chat. */
function stop() {
  run?.controller.abort();
}

function leave() {
  stop();
  if (run) end();
  at("status").textContent = "";
}

function showElapsed() {
  if (run) at("elapsed").textContent = elapsed(run, performance.now()) + (touch.matches ? "" : " Press Escape to stop.");
}

// ---- the server -----------------------------------------------------------------------------------------------------

const key = () => at("key").value.trim();

function connect() {
  return connection.check(key());
}

function locked() {
  toggle(at("settings-toggle"), at("settings"), true);
  if (!at("text").value) at("key").focus();
}

// ---- saved chats ----------------------------------------------------------------------------------------------------

function keep(own) {
  own.changed = Date.now();
  const saved = chats.save(own);
  at("unsaved").hidden = saved;
  if (own === chat) address(own);
  listed();
}

/** Puts the chat's id into the URL, so that reloading the page shows the same chat. */
function address(own) {
  history.replaceState(null, "", own.turns.length ? `#${own.id}` : location.pathname + location.search);
}

function open(next) {
  leave();
  chat = next;
  if (chat.turns.length) at("system").value = chat.system;
  address(chat);
  view.show(chat);
  listed();
  if (!wide.matches) toggle(at("chats-toggle"), at("chats"), false);
  if (!touch.matches) at("text").focus();
}

/** Opens a saved chat; does nothing to the shown one, which may have a running answer. */
function openSaved(id) {
  if (id !== chat.id) open(chats.load(id) ?? newChat());
  else if (!wide.matches) toggle(at("chats-toggle"), at("chats"), false);
}

function forget(id) {
  if (run?.chat.id === id) run.deleted = true;
  chats.remove(id);
  if (chat.id === id) open(newChat());
  else listed();
}

function forgetAll() {
  if (!confirm("Delete all chats saved in this browser?")) return;
  for (const { id } of chats.list()) forget(id);
}

function listed() {
  document.title = chat.turns.length ? `${title(chat)} – Burnish` : "Burnish chat";
  listChats(at("chats"), chats.list(), chat.id, { open: openSaved, forget });
}

// ---- events ---------------------------------------------------------------------------------------------------------

at("form").addEventListener("submit", event => {
  event.preventDefault();
  run ? stop() : send();
});
at("text").addEventListener("keydown", event => {
  // on a touch keyboard, Enter is the only way to insert a line break
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch.matches) return;
  event.preventDefault();
  if (!run) send();
});
document.addEventListener("keydown", event => {
  if (event.key !== "Escape" || event.isComposing) return;
  if (run) stop();
  else if (!wide.matches) toggle(at("chats-toggle"), at("chats"), false);
});
for (const name of ["chats", "settings"]) {
  at(`${name}-toggle`).addEventListener("click", event => toggle(event.currentTarget, at(name)));
}
at("new").addEventListener("click", () => open(newChat()));
at("delete-all").addEventListener("click", forgetAll);
at("settings").addEventListener("submit", event => event.preventDefault());
at("settings").addEventListener("change", () => {
  chats.saveSettings(settings.values);
  if (view.markdown === settings.values.markdown) return;
  view.markdown = settings.values.markdown;
  view.show(run ? { turns: [...chat.turns, run.turn] } : chat);
});
at("key").addEventListener("change", connect);
window.addEventListener("storage", listed); // another tab has saved or deleted a chat
window.addEventListener("hashchange", () => openSaved(location.hash.slice(1)));
window.addEventListener("pagehide", () => {
  if (run?.turn.content) chats.save({ ...run.chat, turns: [...run.chat.turns, { ...run.turn, warning: "Stopped." }] });
});

at("text").placeholder = touch.matches ? "Ask something" : "Ask something (Enter to send, Shift+Enter for a new line)";
settings.values = chats.settings();
view.markdown = settings.values.markdown;
toggle(at("settings-toggle"), at("settings"), wide.matches);
toggle(at("chats-toggle"), at("chats"), wide.matches && chats.list().length > 0);
open(chats.load(location.hash.slice(1)) ?? newChat());
connect();
