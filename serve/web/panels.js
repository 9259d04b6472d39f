// What can be folded away: the settings and the list of saved chats.
import { title } from "./chats.js";

/** Opens or closes a panel and tells its button. */
export function toggle(button, panel, open = panel.hidden) {
  panel.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
}

/** The form of the settings. What is left empty is left to the server. */
export class Settings {
  #form;
  #button;

  constructor(form, button) {
    [this.#form, this.#button] = [form, button];
  }

  /** What is kept in the browser: all but the API key. */
  get values() {
    const { system, temperature, "max-tokens": most, markdown } = this.#form.elements;
    return { system: system.value, temperature: temperature.value, maxTokens: most.value, markdown: markdown.checked };
  }

  set values({ system = "", temperature = "0.7", maxTokens = "", markdown = true }) {
    const fields = this.#form.elements;
    Object.assign(fields.system, { value: system });
    Object.assign(fields.temperature, { value: temperature });
    Object.assign(fields["max-tokens"], { value: maxTokens });
    Object.assign(fields.markdown, { checked: markdown });
  }

  /** Returns the request's sampling fields, without those that are left empty; null where one is not valid. */
  sampling() {
    const options = {};
    for (const [name, field] of [["temperature", "temperature"], ["max_tokens", "max-tokens"]]) {
      const input = this.#form.elements[field];
      if (!input.checkValidity()) {
        toggle(this.#button, this.#form, true); // what is folded away can't show what is wrong
        input.reportValidity();
        return null;
      }
      if (input.value !== "") options[name] = Number(input.value);
    }
    return options;
  }
}

/** Lists the saved chats. `actions`: open(id) and forget(id) are called for their buttons. */
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
