// openai for Node with only baseURL and apiKey changed; prints what it saw as one JSON object.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey });
const messages = [{ role: "user", content: "Say hello." }];
const wish = { model: "small", messages, max_tokens: 6, temperature: 0 };
const seen = {};

const { data: chat, request_id, response } = await client.chat.completions.create(wish).withResponse();
seen.chat = { text: chat.choices[0].message.content, model: chat.model, usage: chat.usage, request_id };
seen.header = response.headers.get("x-switchgear-model");

seen.stream = { text: "", chunks: 0 };
for await (const chunk of await client.chat.completions.create({
  ...wish,
  stream: true,
  stream_options: { include_usage: true },
})) {
  seen.stream.chunks += 1;
  seen.stream.text += chunk.choices[0]?.delta?.content ?? "";
  seen.stream.usage = chunk.usage ?? seen.stream.usage;
}

const helper = client.chat.completions.stream(wish);
seen.helper = (await helper.finalChatCompletion()).choices[0].message.content;

const completion = { model: "small", prompt: "The capital of France is", max_tokens: 3, temperature: 0 };
seen.completion = (await client.completions.create(completion)).choices[0].text;
seen.completionStream = "";
for await (const chunk of await client.completions.create({ ...completion, stream: true })) {
  seen.completionStream += chunk.choices[0].text;
}

const embed = { model: "embed", input: "hello" };
seen.embedding = (await client.embeddings.create(embed)).data[0].embedding;
seen.floats = (await client.embeddings.create({ ...embed, encoding_format: "float" })).data[0].embedding;

seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);
seen.model = (await client.models.retrieve("small")).id;

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const { status, code, param, type } = error;
    return { kind: error.constructor.name, status, code, param, type, request_id: error.requestID };
  }
}
const stranger = new OpenAI({ baseURL, apiKey: "sk-wrong" });
seen.errors = [
  await failure(client.chat.completions.create({ ...wish, temperature: -1 })),
  await failure(stranger.chat.completions.create(wish)),
  await failure(client.chat.completions.create({ ...wish, model: "none", stream: true })),
  await failure(client.embeddings.create({ ...embed, dimensions: 128 })),
];
console.log(JSON.stringify(seen));
