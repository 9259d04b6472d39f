// The view of a conversation: messages, their buttons and scrolling. It is independent of the server.
import { made } from "./elements.js";
import { renderMarkdown } from "./markdown.js";

const END_PX = 48; // distances below this count as the end
const COPIED_MS = 1500;

/** `actions` provides edit(turn, text) and again(), called by message buttons. */
export class Conversation {
  markdown = true;
  #log;
  #latest;
  #actions;
  #following = true; // whether to keep the end in view while an answer grows
  #top = 0;

  constructor(log, latest, actions) {
    [this.#log, this.#latest, this.#actions] = [log, latest, actions];
    log.addEventListener("click", event => this.#clicked(event.target.closest("button")));
    log.addEventListener("scroll", () => this.#scrolled());
    latest.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#follow()).observe(log);
  }

  /** Shows a chat, scrolled to its end. */
  show(chat) {
    this.#log.replaceChildren(...chat.turns.map(turn => this.#message(turn)));
    this.toEnd();
  }

  /** Adds a turn at the end. */
  add(turn) {
    this.#log.querySelector(".fault")?.remove();
    this.#log.append(this.#message(turn));
    this.toEnd();
  }

  /** Shows the current content of a turn. */
  update(turn) {
    const article = this.#of(turn);
    if (article) this.#fill(article);
    this.#follow();
  }

  /** Shows an error at the end of the conversation. */
  fault(message) {
    const box = made("p", "fault", message);
    box.setAttribute("role", "alert");
    this.#log.append(box);
    this.toEnd();
  }

  /** Sets whether an answer is running: hides buttons that change the chat, and makes screen readers wait. */
  busy(state) {
    this.#log.setAttribute("aria-busy", String(state));
  }

  /** Replaces a user message with a text field; `text` is its initial content. */
  edit(turn, text = turn.content) {
    const article = this.#of(turn), body = article.querySelector(".body");
    const field = made("textarea"), save = button("Send", "save"), cancel = button("Cancel", "cancel");
    field.value = text;
    field.setAttribute("aria-label", "Edited message");
    field.addEventListener("keydown", event => {
      if (event.isComposing) return;
      if (event.key === "Escape") this.#fill(article);
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save.click();
      else return;
      event.stopPropagation();
      event.preventDefault();
    });
    body.replaceChildren(field, save, cancel);
    article.classList.add("editing");
    field.focus();
  }

  /** Scrolls to the end and stays there. */
  toEnd() {
    this.#following = true;
    this.#follow();
  }

  #follow() {
    if (this.#following) this.#log.scrollTop = this.#log.scrollHeight;
    this.#top = this.#log.scrollTop;
    this.#latest.hidden = this.#following;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#log, left = scrollHeight - scrollTop - clientHeight;
    // upward scrolling is caused by the user, or by the browser when the text has become shorter
    if (scrollTop < this.#top) this.#following = left < 1;
    else if (left < END_PX) this.#following = true;
    this.#top = scrollTop;
    this.#latest.hidden = this.#following;
  }

  #of(turn) {
    return [...this.#log.children].find(child => child.turn === turn);
  }

  #message(turn) {
    const article = made("article", turn.role), body = made("div", "body"), foot = made("footer");
    article.turn = turn;
    article.setAttribute("aria-label", turn.role === "user" ? "You" : "Answer");
    body.dir = "auto";
    article.append(body, foot);
    this.#fill(article);
    return article;
  }

  #fill(article) {
    const { turn } = article, body = article.querySelector(".body");
    article.classList.remove("editing");
    if (turn.role === "user") body.textContent = turn.content;
    else this.#answer(body, turn);
    const again = button(turn.role === "user" ? "Get an answer" : "Regenerate", "again");
    const buttons = [button("Copy", "copy"), ...(turn.role === "user" ? [button("Edit", "edit")] : []), again];
    const notices = [["warning", turn.warning], ["note", turn.note]].filter(([, text]) => text);
    article.querySelector("footer").replaceChildren(...notices.map(([name, text]) => made("span", name, text)), ...buttons);
  }

  #answer(body, turn) {
    const { thought, text, thinking } = thoughtOf(turn);
    if (!body.children.length) body.append(thoughtBox(), made("div", "text"));
    const [box, shown] = body.children;
    box.hidden = !thought;
    box.firstElementChild.textContent = thinking && !text ? "Thinking…" : "Thoughts";
    box.lastElementChild.textContent = thought;
    shown.classList.toggle("plain", !this.markdown);
    if (this.markdown) renderMarkdown(shown, text);
    else shown.textContent = text;
  }

  #clicked(target) {
    const { turn } = target?.closest("article") ?? {}, article = turn && this.#of(turn);
    switch (target?.dataset.do ?? target?.dataset.copy) {
      case "code": return copy(target.closest(".code").querySelector("pre").textContent, target);
      case "copy": return copy(turn.role === "user" ? turn.content : thoughtOf(turn).text, target);
      case "edit": return this.edit(turn);
      case "again": return this.#actions.again();
      case "cancel": return this.#fill(article);
      case "save": return this.#actions.edit(turn, article.querySelector("textarea").value.trim());
    }
  }
}

/** Splits an answer into reasoning and text: sent separately by the server, or in <think>…</think> at the start. */
export function thoughtOf({ content, thought = "" }) {
  const inside = /^\s*<think>([\s\S]*?)(<\/think>\s*|$)/.exec(content);
  if (!inside) return { thought, text: content, thinking: true };
  return { thought: thought + inside[1].trim(), text: content.slice(inside[0].length), thinking: !inside[2] };
}

function thoughtBox() {
  const box = made("details", "thought");
  box.append(made("summary"), made("div"));
  return box;
}

async function copy(text, target) {
  const label = target.textContent;
  target.textContent = await copied(text) ? "Copied" : "Not copied";
  setTimeout(() => { target.textContent = label; }, COPIED_MS);
}

/** Copies a text. The clipboard API is missing if the page is loaded over plain HTTP from another machine. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = made("textarea", "offscreen"), before = document.activeElement;
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    before?.focus();
    return done;
  }
}

function button(text, action) {
  const element = made("button", action, text);
  element.type = "button";
  element.dataset.do = action;
  return element;
}
