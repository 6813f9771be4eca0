// Taking over guests after the daemon was killed: how long a new daemon needs from its start until it has control of all
// of them, against what looking at as many QEMU monitors one by one takes by itself. Run: node bench/adoption.ts [guests]
import { readFileSync } from 'node:fs';
import { QmpClient } from '../src/drivers/qemu/qmp/client.ts';
import { startDaemon } from '../test/support/daemon.ts';
import { networkNamespace } from '../test/support/namespace.ts';
import { deleteIdleGuests, makeIdleGuests } from './idle-guests.ts';
import { benchmark, median } from './measure.ts';

const count = Number(process.argv[2] ?? 100);
const rounds = Number(process.argv[3] ?? 7);

await benchmark(async (scope) => {
  const namespace = await networkNamespace(scope);
  const daemon = await startDaemon(scope, { driver: 'qemu', namespace });
  const { client } = daemon;
  await makeIdleGuests(client, count);
  const before = await states();
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    await daemon.kill();
    const startedAt = performance.now();
    await daemon.start();
    times.push(performance.now() - startedAt);
    const after = await states();
    if (JSON.stringify(after) !== JSON.stringify(before)) throw new Error('a guest was lost, started twice or changed');
  }
  await daemon.kill();
  const sockets = [...before.values()].map(([id]) => `${daemon.folder}/data/vms/${id}/qemu/qmp.sock`);
  const plainStart = performance.now();
  for (const path of sockets) {
    const monitor = await QmpClient.connect(path);
    await monitor.execute('query-status');
    monitor.close();
  }
  const plainMs = performance.now() - plainStart;
  await daemon.start();
  console.log(
    `\nAdoption of ${count} guests, from the start of the daemon's process until it is ready and has control of all\n`,
  );
  console.log(`| | median of ${rounds} | worst |\n|---|---|---|`);
  console.log(`| Lodge | ${median(times).toFixed(0)} ms | ${Math.max(...times).toFixed(0)} ms |`);
  console.log(`| connecting to ${count} monitors one by one, without any daemon | ${plainMs.toFixed(0)} ms | |`);
  await deleteIdleGuests(client, count);

  /** Id, state, process and start of that process for every VM, by name. */
  async function states(): Promise<[string, string, number | null, string][]> {
    const items: [string, string, number | null, string][] = [];
    for (let token: string | null | undefined; token !== null;) {
      const page = await client.vm.list({ query: { limit: 500, ...(token ? { continue: token } : {}) } });
      for (const vm of page.items) {
        const stat =
          vm.status.pid === null
            ? ''
            : readFileSync(`/proc/${vm.status.pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[19]!;
        items.push([vm.id, vm.status.state, vm.status.pid, stat]);
      }
      token = page.continue;
    }
    return items;
  }
});
