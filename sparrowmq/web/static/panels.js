// The panels that are made of elements: figures, tiles, deaths, jobs, probes, events.
import { UNKNOWN, bare, clock, count, dress, keyed, make, milliseconds, say, seconds, short } from "./words.js";

const byId = (id) => document.getElementById(id);
const LEADER = "assistant that leads"; // an id: it may be long
const SLOTS_DRAWN = 12;
const KIND = { good: "good", warn: "warn", bad: "bad", info: "" };

function figure(label, ...parts) {
  return { label, parts, flexible: label === LEADER };
}

export function header(head, ageMs) {
  const { workers } = head;
  const rows = [
    figure("jobs running", [count(head.jobs_running)], [` / ${short(head.jobs_done)} done`, "small"]),
    figure("tasks done", [short(head.tasks_done)], [` / ${short(head.tasks_incomplete)} incomplete`, "small"]),
    figure("tasks/s", [head.tasks_per_s === null ? UNKNOWN : short(head.tasks_per_s)]),
    figure("queueing p50 / p99", [milliseconds(head.queueing_p50_ms)], [` / ${milliseconds(head.queueing_p99_ms)}`, "small"]),
    figure("workers", [count(workers.alive + workers.draining), "", "good"], [" alive ", "small"],
      [count(workers.suspect), "", workers.suspect ? "warn" : "dim"], [" suspect ", "small"],
      [count(workers.dead), "", workers.dead ? "bad" : "dim"], [" dead", "small"]),
    figure("schedulers", [count(head.schedulers_answer)], [` of ${count(head.schedulers)}`, "small"]),
    figure(LEADER, [head.leader ? head.leader.replace(/^assistant-/, "") : "none", "", head.leader ? "" : "warn"],
      [head.assistants ? ` of ${count(head.assistants)}` : "", "small"]),
    figure("age of the data", [ageMs === null ? UNKNOWN : `${(ageMs / 1e3).toFixed(1)} s`]),
  ];
  keyed(byId("figures"), rows, (row) => row.label, (row) => make("div", row.flexible ? "flexible" : "", make("dt", "", row.label), make("dd")), (element, row) => {
    const value = element.lastChild;
    row.parts.forEach(([text, tag = "", colour = ""], index) => {
      const wanted = tag || "span";
      let part = value.children[index];
      if (!part) {
        part = make(wanted);
        value.append(part);
      }
      say(part, text);
      dress(part, colour);
    });
  });
  const name = [head.cluster, head.package].filter(Boolean).join("  \u00b7  ");
  say(byId("cluster"), name);
  document.title = head.cluster ? `sparrowmq \u00b7 ${head.cluster}` : "sparrowmq";
}

function makeTile() {
  const bar = make("div", "bar", make("i"), make("b"));
  return make("div", "tile", make("div", "top", make("span", "name"), make("span", "state")),
    make("div", "mid", make("span", "slots"), make("span", "queue")), bar);
}

function stateText(row) {
  if (row.rejoined) return "rejoined";
  if (row.state === "dead") return `dead ${row.for_s < 120 ? `${Math.round(row.for_s)} s` : seconds(row.for_s)}`;
  if (row.dropped) return "given up";
  return row.state;
}

function updateTile(element, row) {
  dress(element, `tile ${row.state}${row.rejoined ? " rejoined" : ""}`);
  const [top, mid, bar] = element.children;
  say(top.firstChild, bare(row.id));
  say(top.lastChild, stateText(row));
  element.title = `${row.id} on ${row.host || "?"}: ${row.running} of ${row.slots} slots busy, ${row.queued} queued, ${count(row.done)} done`;
  drawSlots(mid.firstChild, row);
  say(mid.lastChild, row.state === "dead" ? "" : `queue ${count(row.queued)}`);
  const limit = row.suspect_after_ms;
  const share = row.state === "dead" ? 1 : limit && row.silent_ms !== null ? Math.min(1, row.silent_ms / limit) : 0;
  const [level, mark] = bar.children;
  level.style.width = `${(share * 100).toFixed(1)}%`;
  dress(level, share >= 1 ? "over" : share > 0.66 ? "near" : "");
  mark.hidden = !limit || !row.interval_ms;
  if (limit) mark.style.left = `${Math.min(100, (row.interval_ms / limit) * 100).toFixed(1)}%`;
}

function drawSlots(element, row) {
  const drawn = row.slots > SLOTS_DRAWN ? 0 : row.slots;
  if (!drawn) {
    if (element.children.length) element.replaceChildren();
    say(element, row.slots ? `${count(row.running)} of ${count(row.slots)} busy` : "");
    return;
  }
  if (element.children.length !== drawn) element.replaceChildren(...Array.from({ length: drawn }, () => make("span", "slot")));
  Array.from(element.children).forEach((slot, index) => dress(slot, index < row.running ? "slot busy" : "slot"));
}

/** How large tiles are that all of them fit. */
function size(number) {
  if (number <= 15) return number <= 4 ? "large four" : "large";
  if (number <= 24) return "";
  return number <= 72 ? "small" : "tiny";
}

export function tiles(found, head, waiting) {
  const box = byId("tiles");
  const { rows, more } = found;
  dress(box, `body ${size(rows.length)}`);
  keyed(box, rows, (row) => row.id, makeTile, updateTile, waiting ? "reading the cluster" : "no worker has registered yet");
  const beyond = more ? `, ${count(more)} more that are alive are not drawn` : "";
  const judged = head.detector || waiting ? "" : " \u00b7 no assistant judges silence";
  say(byId("workers-note"), rows.length ? `${count(found.running)} of ${count(found.slots)} slots busy${beyond}${judged} \u00b7 bar: silence, up to suspicion` : "");
}

export function deaths(rows, detector) {
  const { name, deaths: own, refuted, fixed_timeout_ms: fixedMs, fixed_deaths: fixed, fixed_refuted: wrong } = detector ?? {};
  say(byId("incidents-note"), detector
    ? `${name}: ${count(own)}, refuted ${count(refuted)} \u00b7 fixed ${milliseconds(fixedMs)}: ${count(fixed)}, refuted ${count(wrong)}` : "");
  keyed(byId("cards"), rows, (row) => row.n, makeCard, updateCard, "nobody has died since this page looks");
}

const STEPS = [["given_up_unix_s", "given up", "given"], ["last_again_unix_s", "last task again", "again"],
  ["suspected_unix_s", "suspected", "doubted"], ["declared_unix_s", "declared dead", "declared"]];

function makeCard() {
  const steps = STEPS.map(([, text, colour]) => make("div", "", make("span", "", make("i", colour), text), make("b")));
  const dots = STEPS.map(([, , colour]) => make("i", colour));
  return make("div", "card", make("div", "head", make("span", "name"), make("span", "outcome")), make("div", "when"),
    make("div", "moments", ...dots), make("div", "steps", ...steps));
}

function updateCard(element, row) {
  dress(element, row.rejoined_unix_s === null ? "card" : "card back");
  const [head, when, moments, steps] = element.children;
  say(head.firstChild, bare(row.worker));
  const [text, colour] = outcome(row);
  say(head.lastChild, text);
  dress(head.lastChild, `outcome ${colour}`);
  const start = row.silent_unix_s;
  say(when, `${start === null ? "last beat not known" : `last beat ${clock(start, 3)}`}${row.why ? ` \u00b7 ${row.why}` : ""}`);
  const known = STEPS.map(([name]) => row[name]).filter((moment) => moment !== null);
  const spanS = start === null ? 0 : Math.max(0.001, ...known.map((moment) => moment - start));
  STEPS.forEach(([name], index) => {
    const moment = row[name];
    const dot = moments.children[index];
    dot.hidden = moment === null || !spanS;
    if (!dot.hidden) dot.style.left = `${((Math.max(0, moment - start) / spanS) * 100).toFixed(1)}%`;
    const value = steps.children[index].lastChild;
    const none = name === "last_again_unix_s" && !row.tasks_lost;
    say(value, none ? "none lost" : since(start, moment));
    dress(value, moment === null ? "unknown" : "");
  });
  moments.hidden = !spanS || !known.length;
}

function since(from, moment) {
  if (moment === null) return "not known";
  return from === null ? clock(moment, 3) : `+${milliseconds(Math.max(0, (moment - from) * 1e3))}`;
}

function outcome(row) {
  if (row.rejoined_unix_s !== null) return [`rejoined ${clock(row.rejoined_unix_s)}`, "good"];
  const open = row.tasks_lost - row.tasks_again - row.tasks_ended;
  if (open > 0) return [`${count(row.tasks_again)} of ${count(row.tasks_lost)} lost tasks run again`, "warn"];
  return row.tasks_lost ? [`${count(row.tasks_again)} of ${count(row.tasks_lost)} lost tasks re-placed`, "good"] : ["no task seen lost", "dim"];
}

const SHARES = ["succeeded", "failed", "cancelled", "running"];

function makeJob() {
  const stack = make("div", "stack", ...SHARES.map((name) => make("i", name)));
  return make("div", "job", make("div", "name", make("span"), make("small")), make("div", "sum"), stack, make("div", "ledger"));
}

function updateJob(element, row) {
  const [name, sum, stack, ledger] = element.children;
  say(name.firstChild, row.name || row.id);
  say(name.lastChild, `  ${row.policy}`);
  const over = row.succeeded + row.failed + row.cancelled;
  const took = row.response_s ? ` in ${seconds(row.response_s)}` : "";
  say(sum, `${count(over)} of ${count(row.tasks)} ${row.response_s ? row.state + took : row.state}`);
  dress(sum, `sum ${row.state === "failed" ? "bad" : row.state === "done" ? "good" : ""}`.trim());
  SHARES.forEach((part, index) => {
    stack.children[index].style.width = `${((row[part] / Math.max(1, row.tasks)) * 100).toFixed(2)}%`;
  });
  const parts = [`succeeded ${count(row.succeeded)}`, `failed ${count(row.failed)}`];
  if (row.cancelled) parts.push(`cancelled ${count(row.cancelled)}`);
  parts.push(`incomplete ${count(row.running + row.waiting)}`);
  if (row.relaunches) parts.push(`relaunched ${count(row.relaunches)}`);
  if (row.queueing_p99_ms) parts.push(`queueing p99 ${milliseconds(row.queueing_p99_ms)}`);
  if (!row.balanced) parts.push("the ledger does not add up");
  say(ledger, parts.join("  \u00b7  "));
}

export function jobs(rows) {
  say(byId("jobs-note"), rows.length ? "running first, then the newest" : "");
  keyed(byId("job-rows"), rows, (row) => row.id, makeJob, updateJob, "no job yet; try: sparrowmq run -n 200 -- sleep 0.1");
}

const PROBES = [["sent", "probes sent", "#62c6ff"], ["bound", "tasks bound", "#3ddc97"], ["no_ops", "no-ops", "#ffb84d"], ["cancelled", "cancelled", "#b79cff"]];

export function funnel(sums) {
  const most = Math.max(1, ...PROBES.map(([name]) => sums[name]));
  const rows = PROBES.map(([name, label, colour]) => ({ name, label, colour, value: sums[name] }));
  keyed(byId("funnel"), rows, (row) => row.name, (row) => make("div", "step", make("p", "", make("span", "", row.label), make("b")), make("div", "track", make("i"))),
    (element, row) => {
      say(element.firstChild.lastChild, short(row.value));
      const level = element.lastChild.firstChild;
      level.style.width = `${((row.value / most) * 100).toFixed(1)}%`;
      level.style.background = row.colour;
    });
}

export function events(rows) {
  keyed(byId("event-rows"), rows, (row) => row.n, (row) =>
    make("li", "", make("time", "", clock(row.unix_s, 1)), make("span", `what ${KIND[row.level] ?? ""}`, row.text), make("span", "who", row.name)), () => {});
}
