/** Parses server-sent events from text that arrives in pieces, as the HTML standard specifies. */
export class EventParser {
  #rest = ""; // the unfinished line
  #data = []; // the data lines of the unfinished event

  /** Adds the next piece of text; returns the data of each event that it completes. */
  feed(text) {
    // a carriage return at the end of a piece may be the first half of a line break: wait for the next piece
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.map(line => this.#line(line)).filter(data => data !== null);
  }

  /** Ends the text; returns the data of a final event that no empty line follows. */
  end() {
    return this.feed("\n\n");
  }

  #line(line) {
    if (line === "") {
      const data = this.#data;
      this.#data = [];
      return data.length ? data.join("\n") : null;
    }
    const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
    if (field === "data") this.#data.push(value); // comments have an empty field name; other fields are not used
    return null;
  }
}
