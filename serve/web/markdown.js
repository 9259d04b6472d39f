// Markdown to DOM nodes. markdown-it parses the text; nodes are created here one by one, so no text is parsed as HTML.
import { made } from "./elements.js";
import MarkdownIt from "./vendor/markdown-it.js";

const parser = new MarkdownIt({ html: false, linkify: true });
// only addresses with a scheme are links, not "README.md" or "e.g"
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

const CONTAINERS = new Set("p blockquote ul ol li em strong s thead tbody tr th td".split(" "));
const LINK = /^(?:https?:\/\/|mailto:)/i;

/**
 * Renders Markdown into an element. Blocks whose text has not changed since the last call keep their nodes, so that
 * selection, focus and scroll position in them survive while an answer grows.
 */
export function renderMarkdown(element, text) {
  const blocks = split(text), nodes = [...element.children]; // indexing the live list is slow while it grows
  blocks.forEach(({ key, tokens }, index) => {
    const old = nodes[index];
    if (old?.blockKey === key) return;
    const node = document.createElement("div");
    node.className = "block";
    node.blockKey = key;
    build(tokens, node);
    old ? old.replaceWith(node) : element.append(node);
  });
  nodes.slice(blocks.length).forEach(node => node.remove());
}

/** Splits a text into its outermost blocks: the tokens of each, and a key that changes only with the block. */
function split(text) {
  const env = {}, tokens = parser.parse(text, env), lines = text.split(/\r\n|\r|\n/), blocks = [];
  // link definitions can be anywhere in the text: a new one rebuilds all blocks
  const known = Object.keys(env.references ?? {}).length;
  let open = [], depth = 0;
  for (const token of tokens) {
    open.push(token);
    depth += token.nesting;
    if (depth > 0) continue;
    const [from, to] = open[0].map ?? [0, lines.length];
    blocks.push({ tokens: open, key: `${known} ${open[0].type} ${lines.slice(from, to).join("\n")}` });
    open = [];
  }
  return blocks;
}

function build(tokens, into) {
  const path = [into];
  for (const token of tokens) {
    const parent = path.at(-1);
    if (token.nesting < 0) path.pop();
    else if (token.nesting > 0) path.push(token.hidden ? parent : opened(token, parent));
    else if (token.type === "inline") build(token.children, parent);
    else parent.append(leaf(token));
  }
}

/** Creates the element that a token opens and appends it to its parent; returns where its content goes. */
function opened(token, parent) {
  if (token.type === "link_open") return added(parent, link(token.attrGet("href")));
  if (token.tag === "table") return added(added(parent, made("div", "table")), made("table"));
  // h1 is the page's own heading
  const heading = /^h([1-6])$/.exec(token.tag);
  if (heading) return added(parent, made(`h${Math.min(6, Number(heading[1]) + 1)}`));
  const element = added(parent, made(CONTAINERS.has(token.tag) ? token.tag : "span"));
  if (token.tag === "ol") element.start = Number(token.attrGet("start") ?? 1);
  element.style.textAlign = /^text-align:(\w+)$/.exec(token.attrGet("style") ?? "")?.[1] ?? "";
  return element;
}

function leaf(token) {
  switch (token.type) {
    case "softbreak": // keep the model's line breaks
    case "hardbreak": return made("br");
    case "hr": return made("hr");
    case "code_inline": return made("code", "", token.content);
    case "fence": return code(token.content, token.info.trim().split(/\s+/)[0]);
    case "code_block": return code(token.content, "");
    case "image": return image(token);
    default: return document.createTextNode(token.content);
  }
}

/** Returns a code block with its language and a copy button, which view.js handles. */
function code(text, language) {
  const box = made("div", "code"), bar = added(box, made("div", "bar"));
  added(bar, made("span", "", language));
  const button = added(bar, made("button", "copy", "Copy"));
  button.type = "button";
  button.dataset.copy = "code";
  const pre = added(box, made("pre"));
  pre.tabIndex = 0; // lets the keyboard scroll long lines
  added(pre, made("code", "", text));
  return box;
}

/** Returns a link that opens in a new tab without a referrer; for any other kind of address, a plain span. */
function link(address) {
  if (!LINK.test(address ?? "")) return made("span");
  const element = made("a");
  Object.assign(element, { href: address, title: address, target: "_blank", rel: "noopener noreferrer" });
  return element;
}

/** Returns a link to an image: loading it could leak the conversation to another server. */
function image(token) {
  const element = link(token.attrGet("src"));
  element.textContent = `[image: ${token.content || token.attrGet("src")}]`;
  return element;
}

function added(parent, element) {
  parent.append(element);
  return element;
}
