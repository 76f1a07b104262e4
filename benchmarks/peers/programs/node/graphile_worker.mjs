// graphile-worker: batches from PostgreSQL into a local queue, completions in batches too.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { account, allScheduled, asked, batches, begins, ended } from "./measuring.mjs";

const wanted = asked();
const { late, all, began } = account(wanted.number);
const preset = {
  worker: {
    connectionString: wanted.place,
    concurrentJobs: 24,
    maxPoolSize: 25,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    pollInterval: 10,
  },
};
const logger = new Logger(() => () => {});

const utils = await makeWorkerUtils({ preset, logger });
await utils.migrate();
for (const batch of batches(wanted.due)) {
  await utils.addJobs(batch.map((due) => ({ identifier: "tick", payload: { due }, runAt: new Date(due) })));
}
// As autovacuum does with a table that has been there for a while.
await utils.withPgClient((client) => client.query("VACUUM ANALYZE graphile_worker._private_jobs"));
await utils.release();
await allScheduled(wanted);

begins();
const taskList = { tick: async ({ due }) => began(due) };
const runner = await run({ preset, logger, taskList, noHandleSignals: true });
await all;
await runner.stop();
await ended(late);
