// Requests and the live stream. EventSource can't send a bearer token, so the stream is read with fetch.

const KEY = "telltale-token";

export class SignInNeeded extends Error {}

export const signIn = (token) => sessionStorage.setItem(KEY, token);

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(KEY);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    throw new SignInNeeded(token ? "The token is not known." : "This server asks for a bearer token.");
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail ?? `${response.status} ${response.statusText}`);
  }
  return response;
}

export const get = async (path) => (await send(path)).json();

export const post = async (path, body) =>
  (await send(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })).json();

// Calls back for every alert that changes, for ever; comes back by itself from where it was. `onState`: live or offline.
export async function follow(onAlert, onState) {
  let last = null;
  for (;;) {
    try {
      const response = await send("api/v1/alerts/stream", { headers: last === null ? {} : { "Last-Event-ID": last } });
      onState("live");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const fields = Object.fromEntries(block.split("\n").map((l) => [l.slice(0, l.indexOf(":")), l.slice(l.indexOf(":") + 1).trim()]));
          if (fields.id) last = fields.id;
          if (fields.event === "alert") onAlert(JSON.parse(fields.data));
        }
      }
    } catch (error) {
      if (error instanceof SignInNeeded) throw error;
    }
    onState("offline");
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
