// The collapsible panels: settings and the list of saved chats.
import { title } from "./chats.js";

/** Opens or closes a panel and updates its button. */
export function toggle(button, panel, open = panel.hidden) {
  panel.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
}

/** The settings form. Empty fields use the server's defaults. */
export class Settings {
  #form;
  #button;

  constructor(form, button) {
    [this.#form, this.#button] = [form, button];
  }

  /** The settings saved in the browser: all except the API key. */
  get values() {
    const { system, temperature, "max-tokens": limit, markdown } = this.#form.elements;
    return { system: system.value, temperature: temperature.value, maxTokens: limit.value, markdown: markdown.checked };
  }

  set values({ system = "", temperature = "0.7", maxTokens = "", markdown = true }) {
    const fields = this.#form.elements;
    Object.assign(fields.system, { value: system });
    Object.assign(fields.temperature, { value: temperature });
    Object.assign(fields["max-tokens"], { value: maxTokens });
    Object.assign(fields.markdown, { checked: markdown });
  }

  /** Returns the request's sampling fields without empty ones, or null if one is invalid. */
  sampling() {
    const options = {};
    for (const [name, field] of [["temperature", "temperature"], ["max_tokens", "max-tokens"]]) {
      const input = this.#form.elements[field];
      if (!input.checkValidity()) {
        toggle(this.#button, this.#form, true); // a hidden field can't show its error
        input.reportValidity();
        return null;
      }
      if (input.value !== "") options[name] = Number(input.value);
    }
    return options;
  }
}

/** Lists the saved chats. `actions` provides open(id) and forget(id), called by their buttons. */
export function listChats(panel, chats, current, actions) {
  const list = panel.querySelector("ul"), none = chats.length === 0;
  list.replaceChildren(...chats.map(chat => entry(chat, chat.id === current, actions)));
  panel.querySelector("p").hidden = !none;
  panel.querySelector("#delete-all").hidden = none;
}

function entry(chat, current, actions) {
  const item = document.createElement("li"), name = title(chat);
  const open = button(name, `${name}, ${new Date(chat.changed).toLocaleString()}`, () => actions.open(chat.id));
  if (current) open.setAttribute("aria-current", "true");
  const forget = button("✕", `Delete chat: ${name}`, () => {
    if (confirm(`Delete the chat “${name}”?`)) actions.forget(chat.id);
  });
  forget.setAttribute("aria-label", forget.title);
  item.append(open, forget);
  return item;
}

function button(text, title, pressed) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", textContent: text, title });
  element.addEventListener("click", pressed);
  return element;
}
