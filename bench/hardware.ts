// Emulated against paravirtual hardware: the same guest with the one and the other, turn by turn in one run. Boot time,
// disk and network throughput as the guest sees them, and the processor time that QEMU needs for it.
// Run: node bench/hardware.ts [rounds]
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Vm } from '../src/api/vm.ts';
import { type LodgeClient } from '../src/client/client.ts';
import { waitForTask } from '../src/client/follow.ts';
import { cacheDir } from '../src/host/image/cache.ts';
import { buildTiny } from '../src/host/image/tiny.ts';
import { startDaemon } from '../test/support/daemon.ts';
import { networkNamespace, type NetworkNamespace } from '../test/support/namespace.ts';
import { eventually } from '../test/support/wait.ts';
import { benchmark, median } from './measure.ts';

const rounds = Number(process.argv[2] ?? 3);
const kinds = ['emulated', 'paravirtual'] as const;
type Kind = (typeof kinds)[number];

const diskMib = 64;
const smallRequests = 8000;
const networkMs = 3000;
const query = { project: 'default' } as const;
/** Unit of the times in /proc/PID/stat: USER_HZ, 100 on every Linux of today. */
const ticksPerSecond = 100;

/**
 * A measurement in its unit, and the processors that QEMU kept busy meanwhile. On a machine that does other things too,
 * what a second of processor time gets done says more than what a second on the clock does.
 */
interface Value {
  value: number;
  cpu: number;
}

/** How much a higher value says: more is better, or less is. */
const units: Readonly<Record<string, 'ms' | 'MiB/s' | 'requests/s'>> = {
  'boot to userspace': 'ms',
  'disk read, 1 MiB': 'MiB/s',
  'disk write, 1 MiB': 'MiB/s',
  'disk read, 4 KiB': 'requests/s',
  'network to the guest': 'MiB/s',
  'network from the guest': 'MiB/s',
};

function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

async function exec(client: LodgeClient, vm: string, script: string): Promise<string> {
  let output = '';
  const body = { command: ['sh', '-c', script], timeoutS: 120 };
  for await (const event of await client.vm.exec({ params: { vm }, query, body })) {
    if (event.type === 'stdout' || event.type === 'stderr') output += Buffer.from(event.data, 'base64').toString();
    if (event.type === 'exit' && event.code !== 0) throw new Error(`"${script}" ended with ${event.code}: ${output}`);
  }
  return output;
}

/** Seconds of guest time that a command takes. */
async function secondsOf(client: LodgeClient, vm: string, command: string): Promise<number> {
  const read = 'read -r now idle < /proc/uptime; echo $now';
  const lines = (await exec(client, vm, `${read}; ${command} 2>/dev/null || exit 1; ${read}`)).trim().split('\n');
  return Number(lines.at(-1)) - Number(lines[0]);
}

/** Sends to, or receives from, a port of the guest for some seconds, from inside the network's namespace; MiB a second. */
async function transfer(
  namespace: NetworkNamespace,
  address: string,
  port: number,
  direction: 'to' | 'from',
): Promise<number> {
  const program = `
    const socket = require('node:net').connect({ port: ${port}, host: '${address}', allowHalfOpen: true });
    const block = Buffer.alloc(65536);
    let bytes = 0;
    const send = () => { while (socket.write(block)) bytes += block.length; bytes += block.length; };
    socket.on('error', (error) => { console.error(error.message); process.exit(1); });
    socket.on('connect', () => {
      const begin = performance.now();
      if ('${direction}' === 'to') { socket.on('drain', send); send(); }
      else socket.on('data', (data) => { bytes += data.length; });
      setTimeout(() => {
        const held = '${direction}' === 'to' ? socket.writableLength : 0;
        console.log((bytes - held) / 1048576 / ((performance.now() - begin) / 1000));
        process.exit(0);
      }, ${networkMs});
    });`;
  const [file, ...args] = namespace.command([process.execPath, '-e', program]);
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', (data: Buffer) => (text += data.toString()));
  const [code] = (await once(child, 'close')) as [number];
  if (code !== 0) throw new Error(`the transfer ${direction} the guest failed`);
  return Number(text);
}

await benchmark(async (scope) => {
  // The daemon's namespace has no way out: what it would download is put into its cache before.
  await buildTiny({ outDir: join(cacheDir(), 'images/tiny-pc'), cacheDir: cacheDir(), variant: 'tiny-pc' });
  const namespace = await networkNamespace(scope);
  const daemon = await startDaemon(scope, { driver: 'qemu', namespace });
  const { client } = daemon;
  const source = { type: 'build', recipe: 'tiny-pc' } as const;
  await waitForTask(client, (await client.image.create({ body: { name: 'tiny-pc', spec: { source } } })).id);
  const results = new Map<string, Record<Kind, Value[]>>(
    Object.keys(units).map((name) => [name, { emulated: [], paravirtual: [] }]),
  );
  const loads: number[] = [];

  const measure = async (kind: Kind, round: number): Promise<void> => {
    const name = `${kind}-${round}`;
    const note = (what: string, value: Value): void => void results.get(what)![kind].push(value);
    const startedAt = performance.now();
    const task = await client.vm.create({
      query: { start: true },
      body: {
        name,
        spec: {
          image: 'tiny-pc',
          memoryMib: 256,
          hardware: kind,
          disks: [{ name: 'data', sizeMib: diskMib, cache: 'writeback' }],
        },
      },
    });
    await waitForTask(client, task.id);
    await eventually(
      async () => {
        const log = await client.vm.serialLog({ params: { vm: name }, query: { ...query, bytes: 4096 } });
        return (await log.text()).includes('lodge: ready');
      },
      { timeoutMs: 120_000, intervalMs: 20, describe: `${name} is up` },
    );
    const bootMs = performance.now() - startedAt;
    const vm = await eventually(
      async (): Promise<Vm | null> => {
        const found = await client.vm.get({ params: { vm: name }, query });
        return found.status.isUp && found.status.nics[0]?.addresses[0] && found.status.pid ? found : null;
      },
      { timeoutMs: 120_000, intervalMs: 100, describe: `${name} has an address` },
    );
    const pid = vm.status.pid!;
    const bootCpu = cpuSeconds(pid);
    const address = vm.status.nics[0]!.addresses[0]!;
    note('boot to userspace', { value: bootMs, cpu: bootCpu / (bootMs / 1000) });
    const during = async (work: () => Promise<number>): Promise<Value> => {
      const [cpuBefore, before] = [cpuSeconds(pid), performance.now()];
      const value = await work();
      return { value, cpu: (cpuSeconds(pid) - cpuBefore) / ((performance.now() - before) / 1000) };
    };
    const disk = kind === 'emulated' ? '/dev/sda' : '/dev/vda';
    const megabytes = async (command: string): Promise<number> => diskMib / (await secondsOf(client, name, command));
    note(
      'disk write, 1 MiB',
      await during(() => megabytes(`dd if=/dev/zero of=${disk} bs=1M count=${diskMib} oflag=direct conv=fsync`)),
    );
    note(
      'disk read, 1 MiB',
      await during(() => megabytes(`dd if=${disk} of=/dev/null bs=1M count=${diskMib} iflag=direct`)),
    );
    note(
      'disk read, 4 KiB',
      await during(
        async () =>
          smallRequests /
          (await secondsOf(client, name, `dd if=${disk} of=/dev/null bs=4k count=${smallRequests} iflag=direct`)),
      ),
    );
    await exec(client, name, 'nc -l -p 5000 >/dev/null 2>&1 </dev/null & nc -l -p 5001 </dev/zero >/dev/null 2>&1 &');
    await delay(500);
    note('network to the guest', await during(() => transfer(namespace, address, 5000, 'to')));
    note('network from the guest', await during(() => transfer(namespace, address, 5001, 'from')));
    loads.push(loadavg()[0]!);
    await waitForTask(client, (await client.vm.delete({ params: { vm: name }, query: { force: true } })).id);
  };

  for (let round = 0; round < rounds; round++) for (const kind of kinds) await measure(kind, round);

  const vmAccelerator = (await client.node.get({ params: { node: 'self' } })).status.accelerator?.rung;
  console.log(
    `\nThe same guest with emulated and paravirtual hardware: ${vmAccelerator}, ${rounds} rounds, medians; load average ${median(loads).toFixed(1)}\n`,
  );
  console.log('| | emulated | paravirtual | ratio | per processor second: emulated | paravirtual | ratio |');
  console.log('|---|---|---|---|---|---|---|');
  for (const [name, unit] of Object.entries(units)) {
    const values = (kind: Kind): Value[] => results.get(name)![kind];
    const byClock = (kind: Kind): number => median(values(kind).map(({ value }) => value));
    // Of a boot: the processor time itself.
    const byCpu = (kind: Kind): number =>
      median(values(kind).map(({ value, cpu }) => (unit === 'ms' ? value * cpu : value / cpu)));
    const columns = [byClock, byCpu].map((of) => {
      const [emulated, paravirtual] = [of('emulated'), of('paravirtual')];
      const better = unit === 'ms' ? emulated / paravirtual : paravirtual / emulated;
      return `${emulated.toFixed(0)} ${unit} | ${paravirtual.toFixed(0)} ${unit} | ${better.toFixed(2)}`;
    });
    console.log(`| ${name} | ${columns.join(' | ')} |`);
  }
  console.log('\nA ratio above 1: paravirtual is better.');
});
