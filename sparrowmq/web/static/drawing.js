// What is drawn on canvases: the heartbeats, and load over time.
import { UNKNOWN, bare, keyed, make, say, short } from "./words.js";

const COLOURS = { alive: "#3ddc97", draining: "#62c6ff", suspect: "#ffb84d", dead: "#ff6b6b" };
const DIM = "#9db0c4";
// Beats are drawn so much later than they came: then all that had come by that moment have been read, and what is missing is.
const BEHIND_MS = 700;
const AHEAD_MS = 700;

/** Return the canvas' context in CSS pixels, and its size. */
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

/** Draw the beats as of `elapsedMs` after the snapshot was made. */
export function strip(canvas, found, elapsedMs) {
  const { pen, width, height } = prepare(canvas);
  const size = rem();
  const rows = found.rows;
  if (!rows.length || !width) return;
  const left = 9.5 * size;
  const foot = 1.4 * size;
  const pitch = Math.min(2.6 * size, (height - foot) / rows.length);
  const spanMs = found.window_ms - BEHIND_MS;
  const scale = (width - left) / (spanMs + AHEAD_MS);
  const behindMs = Math.max(BEHIND_MS, (found.seen_ms ?? 0) + elapsedMs); // never ahead of what has been read
  const at = (agoMs) => left + (spanMs - (agoMs + elapsedMs - behindMs)) * scale;
  const nowX = left + spanMs * scale;
  pen.font = `${Math.min(size, pitch * 0.72)}px Inter, system-ui, sans-serif`;
  pen.textBaseline = "middle";
  pen.textRendering = "optimizeSpeed"; // no ligatures: ids are shown as they are
  rows.forEach((row, index) => beats(pen, row, index * pitch, pitch, left, at, nowX, behindMs - elapsedMs, scale));
  const bottom = rows.length * pitch;
  pen.fillStyle = "#ffffffa0";
  pen.fillRect(nowX, 0, 1.5, bottom);
  pen.fillStyle = DIM;
  pen.font = `${0.9 * size}px Inter, system-ui, sans-serif`;
  for (let second = 2; second * 1e3 < spanMs; second += 2) {
    pen.textAlign = "center";
    pen.fillText(`-${second} s`, left + (spanMs - second * 1e3) * scale, bottom + foot / 2);
  }
  pen.textAlign = "right";
  pen.fillText("now", Math.min(width, nowX + 1.2 * size), bottom + foot / 2);
}

function beats(pen, row, top, pitch, left, at, nowX, seenAgoMs, scale) {
  const middle = top + pitch / 2;
  const tall = Math.max(3, pitch * 0.62);
  const colour = COLOURS[row.state] ?? DIM;
  const shown = row.beats_ms.filter((ago) => ago >= seenAgoMs);
  pen.textAlign = "left";
  pen.fillStyle = row.state === "dead" ? "#77838f" : "#d5e0ea";
  pen.fillText(bare(row.id).slice(0, 18), 0, middle, left - 8);
  pen.fillStyle = "#16202b";
  pen.fillRect(left, middle - tall / 2, nowX - left, tall);
  const limit = row.suspect_after_ms || row.interval_ms * 3;
  for (let index = 1; index < shown.length; index += 1) {
    if (limit && shown[index] - shown[index - 1] > limit) gap(pen, at(shown[index]) + limit * scale, at(shown[index - 1]), middle, tall, left);
  }
  const last = shown.length ? shown[0] : null;
  const lastX = last === null ? left : at(last);
  if (row.interval_ms && row.state !== "dead" && last !== null) {
    pen.fillStyle = "#62c6ff40"; // where the next beat is expected, up to suspicion
    const from = Math.max(left, lastX + row.interval_ms * scale);
    pen.fillRect(from, middle - tall / 2, Math.max(0, lastX + limit * scale - from), tall);
  }
  const overdue = lastX + limit * scale;
  if (limit && (overdue < nowX || row.state === "dead")) gap(pen, last === null ? left : overdue, nowX, middle, tall, left, row.state === "dead");
  pen.fillStyle = colour;
  const thick = Math.max(1.5, Math.min(3, row.interval_ms * scale * 0.3 || 2));
  for (const ago of shown) {
    const x = at(ago);
    if (x >= left) pen.fillRect(x - thick / 2, middle - tall / 2, thick, tall);
  }
}

function gap(pen, from, to, middle, tall, left, dead = false) {
  const start = Math.max(left, from);
  if (to <= start) return;
  pen.fillStyle = dead ? "#ff6b6b55" : "#ffb84d70";
  pen.fillRect(start, middle - tall / 2, to - start, tall);
}

const CHARTS = [["tasks_per_s", "tasks/s", "#3ddc97"], ["running", "running", "#62c6ff"], ["waiting", "queued", "#b79cff"]];

export function charts(box, load) {
  const rows = CHARTS.map(([name, label, colour]) => ({ name, label, colour, values: load[name], agoS: load.ago_s }));
  keyed(box, rows, (row) => row.name, (row) => make("div", "chart", make("p", "", make("span", "", row.label), make("b")), make("div", "", make("canvas"))),
    (element, row) => {
      const known = row.values.filter((value) => value !== null);
      const most = Math.max(0, ...known);
      say(element.firstChild.firstChild, known.length ? `${row.label}, at most ${short(most)}` : row.label);
      say(element.firstChild.lastChild, known.length ? short(row.values.at(-1)) : UNKNOWN);
      requestAnimationFrame(() => line(element.querySelector("canvas"), row, most));
    });
}

function line(canvas, row, most) {
  const { pen, width, height } = prepare(canvas);
  if (!width) return;
  pen.fillStyle = "#0d141c";
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = "#1d2936";
  for (const share of [0.25, 0.5, 0.75]) pen.fillRect(width * share, 0, 1, height);
  const x = (agoS) => width - (agoS / 120) * width;
  const y = (value) => height - 1 - (value / Math.max(1, most)) * (height - 6);
  let run = [];
  const finish = () => {
    if (run.length > 1) {
      pen.beginPath();
      run.forEach(([px, py], index) => (index ? pen.lineTo(px, py) : pen.moveTo(px, py)));
      pen.strokeStyle = row.colour;
      pen.lineWidth = 2;
      pen.lineJoin = "round";
      pen.stroke();
      pen.lineTo(run.at(-1)[0], height);
      pen.lineTo(run[0][0], height);
      pen.fillStyle = `${row.colour}2e`;
      pen.fill();
    }
    run = [];
  };
  row.values.forEach((value, index) => {
    if (value === null) finish();
    else run.push([x(row.agoS[index]), y(value)]);
  });
  finish();
}
