// Markdown to DOM nodes. markdown-it reads the text, the nodes are made here one by one: no text is parsed as HTML.
import { made } from "./elements.js";
import MarkdownIt from "./vendor/markdown-it.js";

const parser = new MarkdownIt({ html: false, linkify: true });
// "README.md" and "e.g" are not links: only what is written with its scheme is
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

const CONTAINERS = new Set("p blockquote ul ol li em strong s thead tbody tr th td".split(" "));
const LINK = /^(?:https?:\/\/|mailto:)/i;

/**
 * Shows Markdown in an element. Blocks whose text has not changed since the last call keep their nodes, so that
 * what is selected, focused or scrolled in them stays so while an answer grows.
 */
export function renderMarkdown(element, text) {
  const blocks = split(text), nodes = [...element.children]; // a live list is slow to ask while it grows
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

/** Cuts a text into its outermost blocks: the tokens of each, and a key that is the same while the block is. */
function split(text) {
  const env = {}, tokens = parser.parse(text, env), lines = text.split(/\r\n|\r|\n/), blocks = [];
  // a link may get its address from a definition anywhere: once there is another one, all blocks are made again
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

/** Makes the element that a token opens and puts it into its parent; returns where its content goes. */
function opened(token, parent) {
  if (token.type === "link_open") return added(parent, link(token.attrGet("href")));
  if (token.tag === "table") return added(added(parent, made("div", "table")), made("table"));
  // the page has the heading of the first level
  const heading = /^h([1-6])$/.exec(token.tag);
  if (heading) return added(parent, made(`h${Math.min(6, Number(heading[1]) + 1)}`));
  const element = added(parent, made(CONTAINERS.has(token.tag) ? token.tag : "span"));
  if (token.tag === "ol") element.start = Number(token.attrGet("start") ?? 1);
  element.style.textAlign = /^text-align:(\w+)$/.exec(token.attrGet("style") ?? "")?.[1] ?? "";
  return element;
}

function leaf(token) {
  switch (token.type) {
    case "softbreak": // a line is a line, as the model wrote it
    case "hardbreak": return made("br");
    case "hr": return made("hr");
    case "code_inline": return made("code", "", token.content);
    case "fence": return code(token.content, token.info.trim().split(/\s+/)[0]);
    case "code_block": return code(token.content, "");
    case "image": return image(token);
    default: return document.createTextNode(token.content);
  }
}

/** A code block, with its language and a button that copies it; view.js handles the button. */
function code(text, language) {
  const box = made("div", "code"), bar = added(box, made("div", "bar"));
  added(bar, made("span", "", language));
  const button = added(bar, made("button", "copy", "Copy"));
  button.type = "button";
  button.dataset.copy = "code";
  const pre = added(box, made("pre"));
  pre.tabIndex = 0; // so that a long line can be scrolled by keyboard
  added(pre, made("code", "", text));
  return box;
}

/** A link that opens in a new tab, told nothing of this page; an address of any other kind stays plain text. */
function link(address) {
  if (!LINK.test(address ?? "")) return made("span");
  const element = made("a");
  Object.assign(element, { href: address, title: address, target: "_blank", rel: "noopener noreferrer" });
  return element;
}

/** An image is only linked to: loading it would tell another server what was said here. */
function image(token) {
  const element = link(token.attrGet("src"));
  element.textContent = `[image: ${token.content || token.attrGet("src")}]`;
  return element;
}

function added(parent, element) {
  parent.append(element);
  return element;
}
