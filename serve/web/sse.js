/** Server-sent events from text that arrives in pieces, as the HTML standard reads an event stream. */
export class EventParser {
  #rest = ""; // the line that has not ended yet
  #data = []; // the data lines of the event that has not ended yet

  /** Takes the next piece of text; returns the data of each event that ends in it. */
  feed(text) {
    // a carriage return at the end of a piece may be half of a line end: it waits for the next piece
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.map(line => this.#line(line)).filter(data => data !== null);
  }

  /** The text has ended; returns the data of an event that has no empty line after it. */
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
    if (field === "data") this.#data.push(value); // a comment has an empty field; other fields are not used
    return null;
  }
}
