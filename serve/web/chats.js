// Chats and settings in the browser's storage; the API key is never stored.

const CHAT = "burnish.chat.", SETTINGS = "burnish.settings";
const TITLE_LENGTH = 60;

/** Returns an empty chat. A turn is {role, content}; an answer may also have `thought`, `note` and `warning`. */
export function newChat() {
  // crypto.randomUUID is missing if the page is loaded over plain HTTP from another machine
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), byte => byte.toString(16).padStart(2, "0")).join("");
  return { id, changed: Date.now(), system: "", turns: [] };
}

/** Returns a title for a chat: its first words. */
export function title(chat) {
  const text = chat.turns[0]?.content.trim().replace(/\s+/g, " ") ?? "";
  return text.length > TITLE_LENGTH ? `${text.slice(0, TITLE_LENGTH)}…` : text || "New chat";
}

/** The saved chats, one storage entry each, so that tabs with different chats don't overwrite each other. */
export class Chats {
  #storage;

  /** `storage`: localStorage, or null if the browser blocks it. */
  constructor(storage) {
    this.#storage = storage;
  }

  /** Returns all chats, newest first; invalid entries are skipped. */
  list() {
    const keys = this.#storage ? Object.keys(this.#storage).filter(key => key.startsWith(CHAT)) : [];
    return keys.map(key => this.load(key.slice(CHAT.length))).filter(Boolean).sort((a, b) => b.changed - a.changed);
  }

  /** Returns one chat, or null if it does not exist. */
  load(id) {
    const value = this.#read(CHAT + id);
    const valid = value !== null && value.id === id && Array.isArray(value.turns) && value.turns.length > 0 &&
      value.turns.every(turn => ["user", "assistant"].includes(turn?.role) && typeof turn.content === "string");
    return valid ? { ...value, system: String(value.system ?? ""), changed: Number(value.changed) || 0 } : null;
  }

  /** Saves a chat, or removes it if it is empty. Returns false if the storage is full or blocked. */
  save(chat) {
    if (chat.turns.length === 0) return this.remove(chat.id);
    return this.#write(CHAT + chat.id, chat);
  }

  /** Removes a chat. */
  remove(id) {
    this.#storage?.removeItem(CHAT + id);
    return true;
  }

  /** Returns the saved settings. */
  settings() {
    return this.#read(SETTINGS) ?? {};
  }

  /** Saves the settings. */
  saveSettings(settings) {
    return this.#write(SETTINGS, settings);
  }

  #read(key) {
    try {
      const value = JSON.parse(this.#storage?.getItem(key) ?? "null");
      return typeof value === "object" ? value : null;
    } catch {
      return null;
    }
  }

  #write(key, value) {
    try {
      this.#storage?.setItem(key, JSON.stringify(value));
      return this.#storage !== null;
    } catch {
      return false;
    }
  }
}

/** Returns the browser's storage, or null if it is blocked. */
export function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}
