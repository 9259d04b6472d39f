// Test the official Node client: node with_node.mjs URL PACKAGE_DIRECTORY
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";
import assert from "node:assert/strict";

const [url, packages] = process.argv.slice(2);
const entry = createRequire(path.join(packages, "x.js")).resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(entry));
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const ask = { model: "default", temperature: 0, max_tokens: 16, messages: [{ role: "user", content: "What is the capital of Italy?" }] };

const whole = await client.chat.completions.create(ask);
let text = "", usage = null;
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

// three turns with their history: the message of a whole reply, and of the stream helper
const messages = [];
for (const question of ["What is the capital of Italy?", "And of France?", "Thank you."]) {
  messages.push({ role: "user", content: question });
  const reply = await client.chat.completions.create({ ...ask, messages });
  const helper = client.chat.completions.stream({ ...ask, messages, stop: [" "] });
  messages.push(messages.length < 2 ? reply.choices[0].message : await helper.finalMessage());
  await helper.done();
}

const stopped = await client.chat.completions.create({ ...ask, stream: true, max_tokens: 400 });
for await (const chunk of stopped) if (chunk.choices[0]?.delta?.content) break; // disconnects: the server must free its slot

await assert.rejects(client.chat.completions.create({ ...ask, model: "other" }), error => error.status === 404 && error.code === "model_not_found");
await assert.rejects(client.chat.completions.create({ ...ask, messages: [] }), error => error.status === 400 && error.param === "messages");
assert.ok((await client.models.list()).data.some(model => model.id === "default"));
console.log("ok");
