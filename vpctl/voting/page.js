"use strict";

// The page keeps nothing: it shows what the server says, and says a vote again until the server confirms it.
const AGAIN = 1000; // milliseconds between two attempts to reach the server
const MORE = 2000; // milliseconds between two questions whether more pictures have come

const $ = (id) => document.getElementById(id);
let view = null; // what the server said last
let ready = false; // whether all pictures of the ballot are there
let busy = false; // whether an answer of the server is awaited, so that no key may do anything
let ranks = []; // of the pictures of a list, 0 where there is none yet
let active = 0; // the picture of a list that a digit is for
let drawn = 0; // counts the ballots that were drawn, so that late pictures of an earlier one do not matter

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));
const letter = (index) => String.fromCharCode(65 + index);
const key = (text) => make("kbd", { textContent: text, ariaHidden: "true" });

function tell(text) {
  $("said").textContent = text;
}

// The answer of the server. Until there is one, the page says so and asks again.
async function ask(path, said) {
  const options = said === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said),
  };
  for (;;) {
    let answer = null;
    try {
      answer = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
      if (answer.status !== 503) {
        const found = answer.status === 403 ? { locked: true } : await answer.json();
        $("away").hidden = true;
        return found;
      }
    } catch {
      answer = null;
    }
    $("away").textContent = said && said.vote !== undefined
      ? "The server is away. Your last vote is not saved yet: keep this page open, it is sent as soon as the server is back."
      : "The server is away. This page goes on as soon as it is back.";
    $("away").hidden = false;
    await pause(AGAIN);
  }
}

async function load(path) {
  busy = true;
  const found = await ask(path);
  busy = false;
  show(found);
}

async function vote(said) {
  if (busy || !view.ballot || (!ready && said.refused === undefined)) return;
  busy = true;
  const { id, revision } = view.ballot;
  for (const button of document.querySelectorAll(".bar button")) button.disabled = true;
  const answer = await ask("vote", { ballot: id, revision, vote: said });
  busy = false;
  if (answer.error) {
    await load("state");
    tell(`Not counted: ${answer.error}.`);
  } else {
    show(answer);
    if (answer.counts === false) tell("These pictures were voted on in another window; here are the next ones.");
  }
}

async function back() {
  if (busy || !view || !view.back) return;
  await load(`state?before=${view.ballot ? view.ballot.id : ""}`);
  tell("This is your last vote. It stands until you vote again.");
}

async function forward() {
  if (!busy) await load("state");
}

function show(found) {
  view = found;
  drawn += 1;
  tell("");
  if ($("zoom").open) $("zoom").close();
  document.title = "Vote";
  const { done = 0, total = 0 } = found;
  $("bar").max = Math.max(total, 1);
  $("bar").value = done;
  $("count").textContent = found.name ? `${done} of ${total}${found.complete ? "" : " so far"}${left(found)}` : "";
  $("person").textContent = found.name || "";
  if (found.locked) return draw(end("This page is locked", "Open the address that vpctl printed in the terminal."));
  if (found.error) return draw(end("Something is wrong", found.error));
  if (!found.name) return draw(naming());
  if (!found.ballot) return draw(finished());
  document.title = `${done} of ${total} · Vote`;
  draw(...ballot());
  for (const name of found.ahead) new Image().src = `picture/${name}`;
}

function left({ seconds_left: seconds }) {
  if (seconds === null || seconds === undefined || seconds < 1) return "";
  const minutes = Math.round(seconds / 60);
  return minutes < 1 ? ", less than a minute left" : `, about ${minutes} minute${minutes === 1 ? "" : "s"} left`;
}

function draw(...children) {
  $("main").replaceChildren(...children);
  const title = $("main").querySelector("[data-focus]");
  if (title) title.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function heading(text) {
  const made = make("h1", { textContent: text, tabIndex: -1 });
  made.dataset.focus = "";
  return made;
}

function end(title, text, ...more) {
  return make("div", { className: "end" }, heading(title), make("p", { textContent: text }), ...more);
}

function naming() {
  const wrong = make("p", { className: "wrong", role: "alert" });
  const send = async (name) => {
    const answer = await ask("name", { name });
    if (answer.error) wrong.textContent = `${answer.error[0].toUpperCase()}${answer.error.slice(1)}.`;
    else show(answer);
  };
  if (view.names.length) {
    const people = make("div", { className: "people" });
    for (const name of view.names) people.append(make("button", { type: "button", textContent: name, onclick: () => send(name) }));
    const made = end("Who are you?", "Your votes are kept under your name.", people, wrong);
    return made;
  }
  const input = make("input", { id: "name", maxLength: 40, required: true, autocomplete: "username", autocapitalize: "none", spellcheck: false });
  input.dataset.focus = "";
  const form = make("form", { onsubmit: (event) => { event.preventDefault(); send(input.value); } },
    make("label", { htmlFor: "name", textContent: "Your name" }), input, wrong,
    make("button", { className: "main", textContent: "Begin" }));
  const made = end("Who are you?", "Your votes are kept under this name. With the same name you can go on later, on any device.", form);
  delete made.querySelector("h1").dataset.focus;
  return made;
}

function finished() {
  const minor = make("div", { className: "minor" }, ...steps());
  if (!view.complete) {
    setTimeout(() => view && !view.ballot && view.name && forward(), MORE);
    return end("Wait a moment", "More pictures are being made. This page shows them as soon as they are there.", minor);
  }
  document.title = "Done · Vote";
  if (!view.total) return end("Nothing to vote on", "There are no pictures to vote on.");
  const close = make("button", { className: "main", id: "finish", type: "button", onclick: finish }, "Finish ", key("Enter"));
  return end("All done. Thank you!", `You have cast all ${view.total} votes, and they are saved.`, close, minor);
}

async function finish() {
  if (busy) return;
  busy = true;
  try {
    await fetch("finish", { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
  } catch {
    // The server has ended already, as it does a minute after the last vote.
  }
  draw(end("Good-bye", "You can close this page."));
  view = null;
}

const titles = {
  preference: {
    pair: "Which picture do you like better for this prompt?",
    list: "Order the pictures: 1 is the one that you like best for this prompt.",
    point: "How good is this picture for this prompt?",
  },
};

function question({ mode, aspect }) {
  if (titles[aspect.name]) return titles[aspect.name][mode];
  if (mode === "pair") return `${aspect.title}: which picture is better?`;
  return mode === "list" ? `${aspect.title}: order the pictures, 1 is the best.` : `${aspect.title}: which level fits best?`;
}

function ballot() {
  const one = view.ballot;
  ready = false;
  ranks = one.mode === "list" ? (Array.isArray(one.vote) ? [...one.vote] : one.pictures.map(() => 0)) : [];
  active = 0;
  const parts = [heading(question(one))];
  if (one.prompt !== null) parts.push(make("p", { className: "prompt", dir: "auto", textContent: one.prompt }));
  const pictures = make("div", { className: `pictures ${one.mode}` }, ...one.pictures.map((name, index) => figure(one, name, index)));
  const rubric = about(one);
  if (one.mode === "point" && rubric) {
    rubric.open = matchMedia("(min-width: 64rem)").matches;
    parts.push(make("div", { className: "side" }, pictures, rubric));
  } else {
    parts.push(pictures);
    if (rubric) parts.splice(1, 0, rubric);
  }
  parts.push(make("div", { className: "bar" }, choices(one), make("div", { className: "minor" }, ...refusals(one), ...steps())));
  loaded(pictures);
  return parts;
}

// The rubric of the aspect. Whether somebody likes a picture better needs no rules.
function about({ mode, aspect }) {
  if (titles[aspect.name] && mode !== "point") return null;
  const made = make("div", { className: "rubric" });
  for (const text of aspect.rubric.split(/\n\s*\n/)) {
    const levels = text.split(/\n(?=\d+\. )/).filter((line) => /^\d+\. /.test(line));
    if (levels.length > 1) {
      made.append(make("ol", {}, ...levels.map((line) => make("li", { textContent: line.replace(/^\d+\. /, "") }))));
    } else {
      made.append(make("p", { textContent: text.replace(/\s*\n\s*/g, " ") }));
    }
  }
  return make("details", {}, make("summary", { textContent: `What counts: ${aspect.title}` }), made);
}

function figure(one, name, index) {
  const title = one.pictures.length > 1 ? `Picture ${letter(index)}` : "The picture";
  const picture = make("img", { alt: title, decoding: "async" });
  picture.dataset.name = name;
  const frame = make("button", { type: "button", className: "frame", ariaLabel: `${title}: show in full size`, onclick: () => zoom(index) }, picture);
  const made = make("figure", {}, frame);
  if (one.pictures.length === 1) return made;
  const caption = make("figcaption", {}, make("span", { className: "letter", textContent: letter(index), ariaHidden: "true" }));
  made.append(caption);
  if (one.mode === "list") {
    const group = make("div", { className: "ranks", role: "group", ariaLabel: `Place of picture ${letter(index)}` });
    for (let rank = 1; rank <= one.pictures.length; rank += 1) {
      group.append(make("button", { type: "button", textContent: rank, onclick: () => place(index, rank) }));
    }
    caption.append(group);
  }
  return made;
}

// Load the pictures, and allow a vote once all of them are there. One that fails is asked for again.
function loaded(pictures) {
  const now = drawn;
  const images = [...pictures.querySelectorAll("img")];
  let there = 0;
  for (const image of images) {
    image.onload = () => {
      if (now !== drawn) return;
      image.classList.add("there");
      there += 1;
      if (there === images.length) enable();
    };
    image.onerror = async () => {
      await pause(AGAIN);
      if (now !== drawn) return;
      const found = await ask("state"); // waits for the server, which then knows the pictures again
      if (now !== drawn) return;
      if (found.locked) show(found);
      else image.src = `picture/${image.dataset.name}?${Date.now()}`;
    };
    image.src = `picture/${image.dataset.name}`;
  }
}

function enable() {
  ready = true;
  for (const button of document.querySelectorAll(".choices button")) button.disabled = false;
  mark();
}

function choices(one) {
  const made = make("div", { className: "choices", role: "group", ariaLabel: "Your vote" });
  const add = (said, text, shortcut, more = {}) => {
    const pressed = one.vote === null ? null : String(JSON.stringify(said) === JSON.stringify(one.vote));
    made.append(make("button", { type: "button", disabled: true, ariaPressed: pressed, onclick: () => vote(said), ...more }, ...text, key(shortcut)));
  };
  if (one.mode === "pair") {
    add("left", ["A is better"], "←");
    add("tie", ["Equal"], "↓");
    add("right", ["B is better"], "→");
  } else if (one.mode === "point") {
    made.classList.add("levels");
    one.aspect.levels.forEach((level, index) => {
      const [number, ...name] = level.split(" ");
      add(index + 1, [make("span", { textContent: number }), make("small", { textContent: name.join(" ") })], number, { ariaLabel: level });
    });
  } else {
    made.append(make("button", { type: "button", id: "send", className: "main", disabled: true, onclick: sendRanks }, "Send ", key("Enter")));
  }
  return made;
}

function refusals(one) {
  const reasons = [["cannot judge", one.pictures.length > 1 ? "Cannot judge these" : "Cannot judge this", "x"], ["harmful", "Harmful", "h"]];
  return reasons.map(([refused, text, shortcut]) => {
    const pressed = one.vote === null ? null : String(one.vote.refused === refused);
    return make("button", { type: "button", ariaPressed: pressed, onclick: () => vote({ refused }) }, `${text} `, key(shortcut));
  });
}

function steps() {
  const made = [];
  made.push(make("button", { type: "button", id: "back", disabled: !view.back, onclick: back }, "Last vote ", key("u")));
  if (view.ballot && view.ballot.vote !== null) made.push(make("button", { type: "button", onclick: forward }, "Go on ", key("g")));
  if (view.names.length !== 1) {
    made.push(make("button", { type: "button", onclick: async () => show(await ask("name", { name: "" })) }, `Not ${view.name}?`));
  }
  return made;
}

function place(index, rank) {
  ranks[index] = ranks[index] === rank ? 0 : rank;
  active = index;
  mark();
}

// Show the ranks. Equal ranks are ties.
function mark() {
  if (!view || !view.ballot || view.ballot.mode !== "list") return;
  document.querySelectorAll("figure").forEach((one, index) => {
    one.classList.toggle("active", index === active);
    one.querySelectorAll(".ranks button").forEach((button, at) => { button.ariaPressed = String(ranks[index] === at + 1); });
  });
  const missing = ranks.filter((rank) => !rank).length;
  $("send").disabled = !ready || missing > 0;
  tell(missing ? "Give every picture a place. Pictures with the same place are equal." : "");
}

function sendRanks() {
  if (ranks.every((rank) => rank)) vote([...ranks]);
}

function zoom(index) {
  active = index;
  const image = document.querySelectorAll(".frame img")[index];
  if (!image.classList.contains("there")) return;
  $("zoom-picture").src = image.src;
  $("zoom-picture").alt = image.alt;
  $("zoom-name").textContent = image.alt;
  if (!$("zoom").open) $("zoom").showModal();
}

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

function inZoom(event) {
  const number = view.ballot.pictures.length;
  if (event.key in STEPS) zoom((active + STEPS[event.key] + number) % number);
  else if (event.key === "z") $("zoom").close();
  else return false;
  return true;
}

function inBallot(event) {
  const { mode, pictures } = view.ballot;
  const digit = Number(event.key);
  if (event.key === "x") vote({ refused: "cannot judge" });
  else if (event.key === "h") vote({ refused: "harmful" });
  else if (event.key === "z") zoom(active);
  else if (event.key === "g" && view.ballot.vote !== null) forward();
  else if (mode === "pair") {
    const said = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", " ": "tie", 3: "tie" }[event.key];
    if (!said) return false;
    vote(said);
  } else if (mode === "point") {
    if (!(digit >= 1 && digit <= 5)) return false;
    vote(digit);
  } else if (event.key in STEPS) {
    active = (active + STEPS[event.key] + pictures.length) % pictures.length;
    mark();
    document.querySelectorAll("figure")[active].scrollIntoView({ block: "nearest" });
  } else if (digit >= 1 && digit <= pictures.length) {
    ranks[active] = digit;
    const next = ranks.findIndex((rank) => !rank);
    if (next >= 0) active = next;
    mark();
  } else if (event.key === "Enter") sendRanks();
  else return false;
  return true;
}

addEventListener("keydown", (event) => {
  if (!view || busy || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const onControl = event.target.closest && event.target.closest("button, summary, input");
  if (onControl && (event.target.tagName === "INPUT" || event.key === " " || event.key === "Enter")) return;
  let used = true;
  if ($("zoom").open) used = inZoom(event);
  else if (event.key === "u" && view.name) back();
  else if (view.ballot) used = inBallot(event);
  else if (event.key === "Enter" && $("finish")) finish();
  else used = false;
  if (used) event.preventDefault();
});

$("zoom-close").onclick = () => $("zoom").close();
$("zoom-picture").onclick = () => $("zoom").close();
load("state");
