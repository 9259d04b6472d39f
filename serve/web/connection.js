// The connection status in the page's header: the model's name, or the problem until it is solved.
import { modelName } from "./api.js";

const RETRY_MS = 3000;

/** Calls `locked` if the server rejects the API key. */
export class Connection {
  #model;
  #problem;
  #locked;
  #timer = 0;
  #tries = 0;

  constructor(model, problem, locked) {
    [this.#model, this.#problem, this.#locked] = [model, problem, locked];
  }

  /** Requests the model's name, and retries until the server responds. */
  async check(key) {
    const mine = ++this.#tries;
    clearTimeout(this.#timer);
    const found = await modelName(key).catch(fault => fault);
    if (mine !== this.#tries) return; // a newer check has started, with another key
    const wrong = found instanceof Error, locked = found.status === 401;
    this.#model.textContent = !wrong ? found : locked ? "API key needed" : "Offline";
    this.#problem.hidden = !wrong;
    if (!wrong) return;
    this.#problem.textContent = `${found.message} ${locked ? "Enter a key in the settings." : "Trying again…"}`;
    if (locked) this.#locked();
    else this.#timer = setTimeout(() => this.check(key), RETRY_MS);
  }
}
