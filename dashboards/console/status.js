"use strict";
document.getElementById("try").textContent = `OpenAI(base_url="${location.origin}/v1", api_key="...")`;

function row(name, state, ready) {
  const line = document.createElement("tr");
  const what = document.createElement("td");
  const how = document.createElement("td");
  what.textContent = name;
  how.textContent = state;
  how.className = ready ? "ready" : "other";
  line.append(what, how);
  return line;
}

async function refresh() {
  const status = document.getElementById("status");
  try {
    const health = await (await fetch("/readyz")).json();
    const { models, loops, ...others } = health.parts;
    status.textContent = health.status;
    const rows = Object.entries(models).map(([name, state]) => row(`model ${name}`, state, state === "ready"));
    for (const [name, error] of [...Object.entries(loops), ...Object.entries(others)]) rows.push(row(name, error, false));
    document.getElementById("parts").replaceChildren(...rows);
  } catch {
    status.textContent = "not reachable";
  }
}

refresh();
setInterval(refresh, 2000);
