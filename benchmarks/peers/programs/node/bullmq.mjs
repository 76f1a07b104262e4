// BullMQ: delayed jobs in Redis, a hundred at once.

import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { account, allScheduled, asked, batches, begins, ended, now } from "./measuring.mjs";

const wanted = asked();
const { late, all, began } = account(wanted.number);
const connection = new Redis(wanted.place, { maxRetriesPerRequest: null });

const queue = new Queue("ticks", { connection });
for (const batch of batches(wanted.due)) {
  const timestamp = Math.floor(now());
  const job = (due) => ({
    name: "tick",
    data: { due },
    opts: { timestamp, delay: due - timestamp, removeOnComplete: true, removeOnFail: true },
  });
  await queue.addBulk(batch.map(job));
}
await allScheduled(wanted);

begins();
const worker = new Worker("ticks", async ({ data }) => began(data.due), { connection, concurrency: 100 });
await all;
await worker.close();
await ended(late);
