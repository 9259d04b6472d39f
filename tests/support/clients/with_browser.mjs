// The official client in a web page: bundled for the browser, and called by a test through `client`
import OpenAI from "openai";

const ask = { model: "default", temperature: 0, max_tokens: 16, messages: [{ role: "user", content: "What is the capital of Italy?" }] };
const to = (baseURL, apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0, dangerouslyAllowBrowser: true });
const raised = promise => promise.then(() => null, error => ({ name: error.constructor.name, status: error.status ?? null, code: error.code ?? null }));

globalThis.client = {
  whole: async (url, key) => (await to(url, key).chat.completions.create(ask)).choices[0].message.content,

  streamed: async (url, key) => {
    const stream = await to(url, key).chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
    let text = "", tokens = 0;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      tokens = chunk.usage?.completion_tokens ?? tokens;
    }
    return { text, tokens };
  },

  // the stream helper, which sends a header of its own
  helper: async (url, key) => await to(url, key).chat.completions.stream(ask).finalContent(),

  models: async (url, key) => (await to(url, key).models.list()).data.map(model => model.id),
  requestId: async (url, key) => (await to(url, key).chat.completions.create(ask).withResponse()).request_id,
  refusal: async (url, key) => await raised(to(url, key).chat.completions.create({ ...ask, model: "other" })),
};
