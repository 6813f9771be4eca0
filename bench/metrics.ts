// What looking at guests each second costs the daemon, against the same daemon with its guests and without looking; and how
// long a question about a day takes. Run: node bench/metrics.ts [guests]
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { vmSeries } from '../src/api/metrics.ts';
import { MetricsHistory } from '../src/daemon/metrics/metrics-history.ts';
import { startDaemon } from '../test/support/daemon.ts';
import { networkNamespace } from '../test/support/namespace.ts';
import { temporaryFolder } from '../test/support/temporary.ts';
import { deleteIdleGuests, makeIdleGuests } from './idle-guests.ts';
import { benchmark, median, percentile } from './measure.ts';

const count = Number(process.argv[2] ?? 200);
const idleS = 30;

await benchmark(async (scope) => {
  const namespace = await networkNamespace(scope);
  const daemon = await startDaemon(scope, { driver: 'qemu', namespace });
  const { client } = daemon;
  const without = await idlePercent();
  await makeIdleGuests(client, count);
  await delay(10_000);
  const with200 = await idlePercent();
  const { series, count: steps } = await client.vm.metrics({
    params: { vm: 'vm-0' },
    query: { from: new Date(Date.now() - 30_000).toISOString(), stepS: 1 },
  });
  const measured = series.cpuPercent.filter((value) => value !== null).length;
  console.log(`\nThe daemon idle over ${idleS} s, percent of one processor\n`);
  console.log('| | |\n|---|---|');
  console.log(`| without guests | ${without.toFixed(2)} % |`);
  console.log(`| ${count} guests that are looked at each second | ${with200.toFixed(2)} % |`);
  console.log(`\nOf the last ${steps} seconds ${measured} were measured.`);

  // A day of 50 VMs, each minute of it measured.
  const history = new MetricsHistory(join(await temporaryFolder(scope), 'metrics'), () => true);
  const now = Math.floor(Date.now() / 1000);
  const ids = Array.from({ length: 50 }, (_, index) => `vm-${index}`);
  const values = Float32Array.from(Object.keys(vmSeries), (_, index) => index);
  for (const id of ids) {
    for (let atS = now - 86_400; atS < now; atS += 60) {
      history.note(id, atS, values);
      if (atS % 1800 < 60) await history.flush(atS + 60);
    }
  }
  await history.flush(now);
  const times: number[] = [];
  for (let round = 0; round < 100; round++) {
    const began = performance.now();
    const from = new Date((now - 86_400) * 1000).toISOString();
    await Promise.all(ids.map((id) => history.ofVm(id, { from }, now)));
    times.push(performance.now() - began);
  }
  console.log(
    `\nA day of ${ids.length} VMs at once: median ${median(times).toFixed(0)} ms, p99 ${percentile(times, 0.99).toFixed(0)} ms`,
  );
  await deleteIdleGuests(client, count);

  async function idlePercent(): Promise<number> {
    const before = cpuTicks();
    await delay(idleS * 1000);
    return (cpuTicks() - before) / idleS;
  }

  function cpuTicks(): number {
    const fields = readFileSync(`/proc/${daemon.pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    return Number(fields[11]) + Number(fields[12]);
  }
});
