// Test the tools of the official Node client: node with_node.mjs URL PACKAGE_DIRECTORY
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";
import assert from "node:assert/strict";

const [url, packages] = process.argv.slice(2);
const entry = createRequire(path.join(packages, "x.js")).resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(entry));
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const called = [];
const run = ({ order }) => { called.push(order); return `${order} is ready`; };
const parameters = { type: "object", properties: { order: { type: "string" } }, required: ["order"] };
const definition = { name: "get_order", description: "Status of an order.", parameters };
const ask = { model: "default", temperature: 0, messages: [{ role: "user", content: "Where is order H-12 and where is order H-34" }] };
const tools = [{ type: "function", function: definition }];

// whole
const { message, finish_reason } = (await client.chat.completions.create({ ...ask, tools })).choices[0];
assert.equal(finish_reason, "tool_calls");
assert.deepEqual(message.tool_calls.map(call => JSON.parse(call.function.arguments).order), ["H-12", "H-34"]);
const results = message.tool_calls.map(call => ({ role: "tool", tool_call_id: call.id, content: run(JSON.parse(call.function.arguments)) }));
const answer = await client.chat.completions.create({ ...ask, tools, messages: [...ask.messages, message, ...results] });
assert.equal(answer.choices[0].message.content, "H-34 is ready");

// streamed: the helper joins the pieces and checks the order of its events
const helper = client.chat.completions.stream({ ...ask, tools });
const done = [];
helper.on("tool_calls.function.arguments.done", call => done.push([call.index, call.name, JSON.parse(call.arguments).order]));
const final = (await helper.finalChatCompletion()).choices[0];
assert.equal(final.finish_reason, "tool_calls");
assert.deepEqual(done, [[0, "get_order", "H-12"], [1, "get_order", "H-34"]]);

// the client's own loops
const runnable = [{ type: "function", function: { ...definition, parse: JSON.parse, function: run } }];
for (const stream of [false, true]) {
  const runner = client.chat.completions.runTools({ ...ask, stream, tools: runnable });
  assert.equal(await runner.finalContent(), "H-34 is ready");
}
assert.deepEqual(called, ["H-12", "H-34", "H-12", "H-34", "H-12", "H-34"]);

await assert.rejects(client.chat.completions.create({ ...ask, tools: [{ type: "web_search" }] }), error => error.status === 400);
console.log("ok");
