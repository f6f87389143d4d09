// Takes snapshots as they come and has the panels show them; says so when none come any more.
import { charts, strip } from "./drawing.js";
import { deaths, events, funnel, header, jobs, tiles } from "./panels.js";
import { make, say, seconds } from "./words.js";

const VERSION = 1;
const SILENT_MS = 2500; // without a snapshot for so long what is shown is old
const DRAW_MS = 50;

const banner = document.getElementById("banner");
const canvas = document.getElementById("strip");
let newest = null;
let cameMs = performance.now();
let drawnMs = 0;
let stopped = "";

function show(snapshot) {
  const { feed } = snapshot;
  header(snapshot.header, feed.schedulers.age_ms);
  tiles(snapshot.tiles, snapshot.header, feed.schedulers.state === "waiting");
  deaths(snapshot.incidents, snapshot.header.detector);
  jobs(snapshot.jobs);
  funnel(snapshot.funnel);
  events(snapshot.events);
  charts(document.getElementById("charts"), snapshot.load);
  const beyond = snapshot.strip.more ? ` \u00b7 ${snapshot.strip.more} more workers are not drawn` : "";
  const shading = snapshot.header.detector ? `blue: the next beat is expected, up to suspicion (${snapshot.header.detector.name})` : "blue: the next beat is expected";
  document.getElementById("no-beats").hidden = snapshot.strip.rows.some((row) => row.last_ms !== null);
  say(document.getElementById("beats-note"), snapshot.strip.rows.length ? `${shading}${beyond}` : "");
}

/** Return what is wrong with the data, and whether all of it is old; "" if nothing is. */
function trouble() {
  if (stopped) return [stopped, true];
  const quietMs = performance.now() - cameMs;
  if (quietMs > SILENT_MS) return [`Stale: no data from this page's server for ${seconds(quietMs / 1e3)}`, true];
  if (newest === null) return ["", false];
  const { schedulers, store } = newest.feed;
  if (schedulers.state !== "live") {
    const age = schedulers.age_ms === null ? "" : ` for ${seconds(schedulers.age_ms / 1e3)}`;
    if (!schedulers.why && schedulers.state === "waiting") return ["", false];
    return [`${schedulers.state === "waiting" ? "No data yet" : `Stale${age}`}: ${schedulers.why || "no scheduler has been heard"}`, true];
  }
  if (store.state === "stale") return [`Redis tells nothing, so silence is not judged; schedulers go on: ${store.why}`, false];
  return ["", false];
}

function turn(nowMs) {
  requestAnimationFrame(turn);
  if (nowMs - drawnMs < DRAW_MS) return;
  drawnMs = nowMs;
  const [text, stale] = trouble();
  say(banner, text);
  banner.hidden = !text;
  banner.className = stale ? "" : "partly";
  document.body.classList.toggle("stale", stale);
  if (newest !== null) strip(canvas, newest.strip, performance.now() - cameMs);
}

function listen() {
  const source = new EventSource("events");
  source.onmessage = (message) => {
    const snapshot = JSON.parse(message.data);
    if (snapshot.version !== VERSION) {
      stopped = "The server is another version now: load this page again";
      source.close();
      return;
    }
    newest = snapshot;
    cameMs = performance.now();
    show(snapshot);
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000); // an answer that is no stream: no place, a proxy
  };
}

document.getElementById("tiles").append(make("p", "empty", "reading the cluster"));
listen();
requestAnimationFrame(turn);
