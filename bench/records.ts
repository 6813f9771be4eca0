// Many VM records: lists, reads, memory and idle processor time of the daemon with 10,000 of them, against a bare Fastify
// server that answers a page of the same size from memory. Run: node bench/records.ts [records]
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import fastify from 'fastify';
import { uuidv7 } from 'uuidv7';
import { connect } from '../src/client/node-transport.ts';
import { vmSpec } from '../src/api/vm-spec.ts';
import { SqliteStore } from '../src/daemon/store/sqlite.ts';
import { initialVmStatus } from '../src/daemon/vm/vm-records.ts';
import { networkNamespace } from '../test/support/namespace.ts';
import { prepareDaemon } from '../test/support/daemon.ts';
import { benchmark, median, percentile } from './measure.ts';

const count = Number(process.argv[2] ?? 10_000);
const requests = 400;

await benchmark(async (scope) => {
  const namespace = await networkNamespace(scope);
  const daemon = await prepareDaemon(scope, { driver: 'fake', namespace });
  await fill(`${daemon.folder}/data/lodge.db`);
  await daemon.start();
  const { client } = daemon;
  const page = await client.vm.list({ query: { limit: 100 } });
  if (page.total !== count) throw new Error(`${page.total} records instead of ${count}`);

  const bare = fastify();
  bare.get('/v1/vms', async () => page);
  bare.get('/v1/vms/one', async () => page.items[0]);
  const address = await bare.listen({ port: 0, host: '127.0.0.1' });
  const plain = connect({ baseUrl: address }).client;

  const rows: [string, number[], number[]][] = [
    [
      'list page of 100, by name',
      await time(() => client.vm.list({ query: { limit: 100 } })),
      await time(() => plain.vm.list()),
    ],
    [
      'list page of 100, filtered by label and state, sorted by age',
      await time(() =>
        client.vm.list({
          query: { limit: 100, selector: 'tier=web', filter: 'status.state=stopped', sort: '-createdAt' },
        }),
      ),
      await time(() => plain.vm.list()),
    ],
    [
      'single read',
      await time((index) => client.vm.get({ params: { vm: `vm-${(index * 7919) % count}` } })),
      await time(() => plain.vm.get({ params: { vm: 'one' } })),
    ],
  ];
  console.log(`\n${count} VM records, ${requests} requests each, one after the other over one client\n`);
  console.log('| | median | p99 | p99 of bare Fastify | ratio of medians |\n|---|---|---|---|---|');
  for (const [name, own, peer] of rows) {
    console.log(
      `| ${name} | ${median(own).toFixed(1)} ms | ${percentile(own, 0.99).toFixed(1)} ms | ${percentile(peer, 0.99).toFixed(1)} ms | ${(median(own) / median(peer)).toFixed(2)} |`,
    );
  }
  await bare.close();

  const rssMib = (): number =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${daemon.pid}/status`, 'utf8'))![1]) / 1024;
  const cpuTicks = (): number => {
    const fields = readFileSync(`/proc/${daemon.pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    return Number(fields[11]) + Number(fields[12]);
  };
  console.log(`\nResident memory after these requests: ${rssMib().toFixed(0)} MiB`);
  await delay(5000);
  const before = cpuTicks();
  await delay(60_000);
  console.log(
    `Idle over 60 s: ${((cpuTicks() - before) / 60).toFixed(2)} % of one processor, ${rssMib().toFixed(0)} MiB`,
  );
});

async function time(work: (index: number) => Promise<unknown>): Promise<number[]> {
  const times: number[] = [];
  for (let index = 0; index < requests + 20; index++) {
    const startedAt = performance.now();
    await work(index);
    if (index >= 20) times.push(performance.now() - startedAt);
  }
  return times;
}

/** Writes the records straight into the store, as the daemon would have them. */
async function fill(file: string): Promise<void> {
  const store = await SqliteStore.open({ file });
  const spec = vmSpec.parse({
    memoryMib: 2048,
    cpu: { count: 2 },
    disks: [{ name: 'root', sizeMib: 20_480 }],
    nics: [{}],
  });
  for (let start = 0; start < count; start += 40) {
    const success = Array.from({ length: Math.min(40, count - start) }, (_, offset) => start + offset).flatMap(
      (index) => {
        const id = uuidv7();
        const name = `vm-${index}`;
        const createdAt = new Date(1_700_000_000_000 + index * 1000).toISOString();
        const labels = { tier: ['web', 'db', 'cache'][index % 3]!, rack: `r${index % 40}` };
        const status = {
          ...initialVmStatus(createdAt),
          state: 'stopped',
          reason: 'It has been created.',
          node: 'vm',
          uid: 1_900_000_000 + index,
          nics: [
            {
              network: 'default',
              model: 'virtio',
              mac: `52:54:00:${(index >> 16).toString(16).padStart(2, '0')}:${((index >> 8) & 255).toString(16).padStart(2, '0')}:${(index & 255).toString(16).padStart(2, '0')}`,
              hostInterface: null,
              addresses: [],
            },
          ],
          disks: [{ name: 'root', volume: null, image: null, sizeMib: 20_480 }],
        };
        return [
          { put: `/lodge/vms/${id}`, value: JSON.stringify({ id, name, project: 'default', labels, spec, createdAt }) },
          { put: `/lodge/vms-status/${id}`, value: JSON.stringify(status) },
          { put: `/lodge/names/vm/default/${name}`, value: id },
        ];
      },
    );
    await store.transact({ success });
  }
  await store.close();
}
