// The page at work. Whatever comes from a model or a folder becomes text nodes, never markup.

const token = new URLSearchParams(location.search).get("token") ?? "";
const at = (id) => document.getElementById(id);
const make = (name, className = "", text = "") => {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
};
// 0 % and 100 % are said only of none and of all.
function percent(share) {
  if (share > 0.9995 && share < 1) return "> 99.9 %";
  if (share >= 0.0995) return `${(100 * share).toFixed(share > 0.99 && share < 1 ? 1 : 0)} %`;
  return share >= 0.0001 ? `${(100 * share).toFixed(2)} %` : "< 0.01 %";
}
// White space and what cannot be seen are shown as what they are.
const signs = new Map([[" ", "␣"], ["\n", "⏎"], ["\t", "⇥"]]);
const code = (sign) => `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const seen = (text) => (text === "" ? "(nothing)" : text.replace(/[\p{C}\p{Z}]/gu, (sign) => signs.get(sign) ?? code(sign)));

async function call(path, body, signal) {
  const reply = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-relearn-token": token },
    body: JSON.stringify(body),
    signal,
  });
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => ({}));
  throw new Error(said.error ?? `the page's server said ${reply.status}`);
}

function say(node, text, isError = false) {
  node.textContent = text;
  node.classList.toggle("error", isError);
}

const reason = (error) => (error instanceof TypeError ? "the page's server does not answer; is relearn ui still running?" : error.message);

// ---- facts ----

function filterFacts(part) {
  const wanted = part.querySelector("[aria-pressed='true']").dataset.filter;
  const words = part.querySelector("input[type='search']").value.trim().toLowerCase().split(/\s+/);
  let shown = 0;
  for (const fact of part.querySelectorAll(".fact")) {
    const question = fact.querySelector(".question").textContent.toLowerCase();
    const fits = (!wanted || fact.dataset.verdict === wanted) && words.every((word) => question.includes(word));
    fact.hidden = !fits;
    shown += fits;
  }
  part.querySelector(".none").hidden = shown > 0;
}

function setUpFacts() {
  at("which")?.addEventListener("change", (event) => {
    for (const part of document.querySelectorAll(".run-facts")) part.hidden = part.dataset.run !== event.target.value;
  });
  for (const part of document.querySelectorAll(".run-facts")) {
    for (const button of part.querySelectorAll("[data-filter]")) {
      button.addEventListener("click", () => {
        for (const other of part.querySelectorAll("[data-filter]")) other.setAttribute("aria-pressed", String(other === button));
        filterFacts(part);
      });
    }
    part.querySelector("input[type='search']")?.addEventListener("input", () => filterFacts(part));
    for (const button of part.querySelectorAll(".now")) button.addEventListener("click", () => askNow(button));
    for (const summary of part.querySelectorAll("summary")) summary.addEventListener("click", () => take(summary));
  }
}

function take(summary) {
  if (!at("question") || summary.parentElement.open) return;
  putIn(summary);
  for (const other of document.querySelectorAll(".fact details[open]")) if (!other.contains(summary)) other.open = false;
}

function askNow(button) {
  putIn(button.closest("details").querySelector("summary"));
  at("ask").scrollIntoView({ block: "start" });
  if (agreed) ask();
  else at("load").focus();
}

function putIn(summary) {
  const question = at("question");
  question.value = summary.dataset.question;
  at("as-text").checked = summary.dataset.form === "text";
  const reference = at("reference");
  reference.querySelector(".text").textContent = summary.dataset.reference;
  reference.hidden = false;
}

// ---- loading ----

let agreed = document.body.dataset.agreed === "yes";
let asking = null;
const lookHere = at("inside-hint")?.textContent;

function showLoaded() {
  at("consent").hidden = agreed;
  at("loaded").hidden = !agreed;
  at("send").disabled = !agreed || asking !== null;
  if (agreed && !asking) say(at("status"), "");
}

async function load() {
  at("load").disabled = true;
  say(at("load-status"), "loading …");
  try {
    await call("/api/load", {});
    agreed = true;
    showLoaded();
    at("question").focus();
  } catch (error) {
    say(at("load-status"), reason(error), true);
    at("load").disabled = false;
  }
}

// ---- asking ----

const column = (key) => document.querySelector(`.answer[data-column="${CSS.escape(key)}"]`);

function clearAnswers() {
  for (const answer of document.querySelectorAll(".answer")) {
    answer.querySelector(".said").replaceChildren();
    answer.querySelector(".said").classList.remove("writing");
    say(answer.querySelector(".hint"), "waiting");
  }
  at("inside-body").hidden = true;
  at("inside-hint").hidden = false;
  say(at("inside-hint"), lookHere);
}

async function* linesOf(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

async function ask() {
  const question = at("question").value.trim();
  if (asking || !agreed) return;
  if (!question) {
    say(at("status"), "the question is empty", true);
    return;
  }
  asking = new AbortController();
  at("send").disabled = true;
  at("stop").hidden = false;
  clearAnswers();
  say(at("status"), "asking …");
  try {
    const reply = await call("/api/ask", { question, form: at("as-text").checked ? "text" : "chat" }, asking.signal);
    let ended = false;
    for await (const line of linesOf(reply)) ended = hear(line) || ended;
    if (!ended) throw new Error("the answer broke off");
    say(at("status"), "");
  } catch (error) {
    leaveOff();
    say(at("status"), error.name === "AbortError" ? "stopped" : reason(error), error.name !== "AbortError");
  }
  asking = null;
  at("send").disabled = false;
  at("stop").hidden = true;
}

// One line of the stream; true for the last.
function hear(line) {
  if (line.error) throw new Error(line.error);
  if (line.end) return true;
  const answer = column(line.column);
  const said = answer.querySelector(".said");
  const hint = answer.querySelector(".hint");
  if (line.state) {
    say(hint, line.state === "loading" ? "loading its model …" : "");
    said.classList.toggle("writing", line.state === "answering");
    if (line.state === "answering" && !said.firstChild) said.append("");
  } else if (line.piece !== undefined) {
    said.append(line.piece);
  } else {
    said.classList.remove("writing");
    said.replaceChildren(...tokenNodes(line));
    say(hint, !line.text ? "(an empty answer)" : line.tokens.length ? "" : line.text);
  }
  return false;
}

function leaveOff() {
  for (const answer of document.querySelectorAll(".answer")) {
    const said = answer.querySelector(".said");
    const hint = answer.querySelector(".hint");
    if (said.classList.contains("writing")) say(hint, "broken off");
    else if (!said.querySelector(".token") && hint.textContent) say(hint, "no answer");
    said.classList.remove("writing");
  }
}

// ---- looking inside ----

const places = new Map();
let held = null;
let pointed = 0;

function tokenNodes(line) {
  const first = line.tokens.findIndex((text) => text);
  return line.tokens.map((text, number) => {
    const node = make("span", "token", text);
    if (!text) node.hidden = true;
    node.dataset.answer = line.answer;
    node.dataset.token = String(number);
    node.setAttribute("role", "button");
    node.tabIndex = number === first ? 0 : -1;
    return node;
  });
}

function placesOf(answer) {
  if (!places.has(answer)) {
    const found = call("/api/candidates", { answer }).then((reply) => reply.json()).then((said) => said.places);
    found.catch(() => places.delete(answer));
    places.set(answer, found);
  }
  return places.get(answer);
}

async function point(node) {
  const turn = ++pointed;
  if (asking) return;
  try {
    const found = await placesOf(node.dataset.answer);
    if (turn === pointed) showCandidates(node, found[Number(node.dataset.token)]);
  } catch (error) {
    if (turn === pointed) insideFailed(error);
  }
}

function insideFailed(error) {
  at("inside-body").hidden = true;
  at("inside-hint").hidden = false;
  say(at("inside-hint"), reason(error), true);
}

function bar(share, ...cells) {
  const node = make("div", "bar");
  const fill = make("i");
  fill.style.width = `${100 * share}%`;
  node.append(fill, ...cells.map((cell) => make("span", "", cell)));
  return node;
}

function showCandidates(node, place) {
  at("inside-hint").hidden = true;
  at("inside-body").hidden = false;
  at("inside-token").textContent = seen(node.textContent);
  at("inside-where").textContent = node.closest(".answer").getAttribute("aria-label");
  at("inside-own").textContent = `probability ${percent(place.probability)}, rank ${place.rank}`;
  at("candidates").replaceChildren(
    ...place.top.map((one) => {
      const row = bar(one.probability, seen(one.text), percent(one.probability));
      row.classList.toggle("is-said", one.said);
      return row;
    }),
  );
  if (held !== node) {
    at("layers").replaceChildren();
    at("layers-hint").textContent = "Click the token, or press Enter on it.";
  }
}

async function hold(node) {
  if (asking) return;
  held?.classList.remove("held");
  held = node;
  node.classList.add("held");
  await point(node);
  at("layers-hint").textContent = "looking …";
  at("layers").replaceChildren();
  try {
    const reply = await call("/api/layers", { answer: node.dataset.answer, token: Number(node.dataset.token) });
    const said = await reply.json();
    if (held === node) showLayers(node, said.layers);
  } catch (error) {
    if (held === node) insideFailed(error);
  }
}

function showLayers(node, layers) {
  at("layers-hint").textContent = `The last layer first; layer 0 is what goes into the first. Probability and rank are those of ‘${seen(node.textContent)}’.`;
  const head = make("div", "bar head");
  head.append(...["layer", "would say", "prob.", "rank"].map((cell) => make("span", "", cell)));
  at("layers").replaceChildren(
    head,
    ...layers.map((one) => {
      const row = bar(one.probability, String(one.layer), seen(one.likeliest), percent(one.probability), String(one.rank));
      row.classList.toggle("is-first", one.rank === 1);
      return row;
    }),
  );
}

function step(node, by) {
  const all = [...node.parentElement.querySelectorAll(".token:not([hidden])")];
  const next = all[all.indexOf(node) + by];
  if (!next) return;
  node.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function setUpAnswers() {
  const answers = document.querySelector(".answers");
  const tokenOf = (event) => event.target.closest?.(".token");
  answers.addEventListener("pointerover", (event) => tokenOf(event) && point(tokenOf(event)));
  answers.addEventListener("focusin", (event) => tokenOf(event) && point(tokenOf(event)));
  answers.addEventListener("click", (event) => tokenOf(event) && hold(tokenOf(event)));
  answers.addEventListener("pointerleave", () => held?.isConnected && point(held));
  answers.addEventListener("keydown", (event) => {
    const node = tokenOf(event);
    if (!node) return;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") step(node, event.key === "ArrowRight" ? 1 : -1);
    else if (event.key === "Enter" || event.key === " ") hold(node);
    else return;
    event.preventDefault();
  });
}

function setUpAsking() {
  at("load").addEventListener("click", load);
  at("send").addEventListener("click", ask);
  at("stop").addEventListener("click", () => asking?.abort());
  at("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask();
    }
  });
  at("question").addEventListener("input", () => (at("reference").hidden = true));
  at("form-label").hidden = !document.querySelector("summary[data-form='text']");
  setUpAnswers();
  showLoaded();
}

setUpFacts();
if (at("question")) setUpAsking();
