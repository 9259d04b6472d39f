// What the page's head says of the server: the model's name, or what is wrong, until it is right again.
import { modelName } from "./api.js";

const RETRY_MS = 3000;

/** `locked` is called where the server wants another key. */
export class Connection {
  #model;
  #problem;
  #locked;
  #timer = 0;
  #tries = 0;

  constructor(model, problem, locked) {
    [this.#model, this.#problem, this.#locked] = [model, problem, locked];
  }

  /** Asks for the model's name, and again until there is an answer. */
  async check(key) {
    const mine = ++this.#tries;
    clearTimeout(this.#timer);
    const found = await modelName(key).catch(fault => fault);
    if (mine !== this.#tries) return; // asked again in the meantime, with another key
    const wrong = found instanceof Error, locked = found.status === 401;
    this.#model.textContent = !wrong ? found : locked ? "API key needed" : "Offline";
    this.#problem.hidden = !wrong;
    if (!wrong) return;
    this.#problem.textContent = `${found.message} ${locked ? "Enter a key in the settings." : "Trying again…"}`;
    if (locked) this.#locked();
    else this.#timer = setTimeout(() => this.check(key), RETRY_MS);
  }
}
