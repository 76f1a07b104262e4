// What each program of a peer in JavaScript is asked, and how it tells what it saw; measuring.py and main.go do the same.

import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

export const BATCH = 1000;
// Jobs that are scheduled in one call.

/** Jobs to schedule: `number`, the first due at `first`, the others evenly over `spread` from then on; milliseconds. */
export function asked() {
  const text = { type: "string" };
  const options = { place: text, number: text, "due-in": text, spread: text, ahead: text };
  const { values } = parseArgs({ options });
  const number = Number(values.number);
  const first = Math.round(now() / 1000 + Number(values["due-in"])) * 1000;
  const spread = Number(values.spread) * 1000;
  const due = Array.from({ length: number }, (_, index) => Math.round(first + (spread * index) / number));
  return { place: values.place, number, first, due, ahead: Number(values.ahead) * 1000 };
}

/** Milliseconds since the epoch, and fractions of them, which Date.now() leaves out. */
export function now() {
  return performance.timeOrigin + performance.now();
}

export function* batches(due) {
  for (let start = 0; start < due.length; start += BATCH) yield due.slice(start, start + BATCH);
}

/** Wait until it is `ahead` before the first is due: then the worker is to be started. */
export async function allScheduled({ first, ahead }) {
  const left = first - ahead - now();
  if (left < 0) throw new Error(`scheduling took ${-left} ms longer than expected: give more --due-in`);
  await sleep(left);
}

/** The worker is up, and looks for work from now on: CPU counts. */
export function begins() {
  process.stdout.write("begins\n");
}

/** A handler's account of how many milliseconds after its due time it began; `all` is kept once there are `number`. */
export function account(number) {
  const late = [];
  let tell;
  const all = new Promise((resolve) => (tell = resolve));
  const began = (due) => {
    late.push(now() - due);
    if (late.length === number) tell();
  };
  return { late, all, began };
}

/** All has run and is written: whoever measures reads the CPU of this process now, and then lets it go on. */
export async function ended(late) {
  process.stdout.write("ended\n");
  await once(process.stdin, "data");
  process.stdout.write(`${JSON.stringify(late)}\n`, () => process.exit(0));
}
