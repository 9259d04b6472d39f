// Chats and settings in this browser's storage; the API key is never put there.

const CHAT = "burnish.chat.", SETTINGS = "burnish.settings";
const TITLE_LENGTH = 60;

/** Returns a chat without turns. A turn is {role, content}; an answer may have `thought`, `note` and `warning`. */
export function newChat() {
  // crypto.randomUUID is missing where the page comes over plain HTTP from another machine
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), byte => byte.toString(16).padStart(2, "0")).join("");
  return { id, changed: Date.now(), system: "", turns: [] };
}

/** Returns the first words of a chat. */
export function title(chat) {
  const text = chat.turns[0]?.content.trim().replace(/\s+/g, " ") ?? "";
  return text.length > TITLE_LENGTH ? `${text.slice(0, TITLE_LENGTH)}…` : text || "New chat";
}

/** The saved chats, one entry of the storage each: two tabs that save different chats do not overwrite each other. */
export class Chats {
  #storage;

  /** `storage`: localStorage, or null where the browser allows none. */
  constructor(storage) {
    this.#storage = storage;
  }

  /** Returns every chat, the newest first; entries that are not chats are left out. */
  list() {
    const keys = this.#storage ? Object.keys(this.#storage).filter(key => key.startsWith(CHAT)) : [];
    return keys.map(key => this.load(key.slice(CHAT.length))).filter(Boolean).sort((a, b) => b.changed - a.changed);
  }

  /** Returns one chat, or null where it is not there. */
  load(id) {
    const value = this.#read(CHAT + id);
    const valid = value !== null && value.id === id && Array.isArray(value.turns) && value.turns.length > 0 &&
      value.turns.every(turn => ["user", "assistant"].includes(turn?.role) && typeof turn.content === "string");
    return valid ? { ...value, system: String(value.system ?? ""), changed: Number(value.changed) || 0 } : null;
  }

  /** Keeps a chat; one without turns is forgotten. Returns false where the storage is full or not allowed. */
  save(chat) {
    if (chat.turns.length === 0) return this.remove(chat.id);
    return this.#write(CHAT + chat.id, chat);
  }

  /** Forgets a chat. */
  remove(id) {
    this.#storage?.removeItem(CHAT + id);
    return true;
  }

  /** Returns the kept settings. */
  settings() {
    return this.#read(SETTINGS) ?? {};
  }

  /** Keeps the settings. */
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

/** Returns the browser's storage, or null where the page may not use it. */
export function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}
