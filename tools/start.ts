// `npm start`: from a prepared machine to a running guest. Starts the daemon, and through its API, as any client would,
// builds the image `tiny`, creates the VM `hello` on the network `default`, and waits until the guest itself has
// reported that it is up.
//
//   npm start                            all of it
//   npm start -- --no-guest              only the daemon
//   npm start -- --config FILE           a daemon with a configuration of its own
//   npm start -- --launcher PATH         where the command lodge is linked; default /usr/local/bin/lodge
//
// Promises: what exists already stays as it is, so that a second run takes seconds; every failure ends with what to do.
import { mkdir, readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs, styleText } from 'node:util';
import { LodgeError } from '../src/api/errors.ts';
import { type Image } from '../src/api/image.ts';
import { type Network } from '../src/api/network.ts';
import { type Task } from '../src/api/task.ts';
import { type Vm } from '../src/api/vm.ts';
import { type LodgeClient } from '../src/client/client.ts';
import { waitForTask } from '../src/client/follow.ts';
import { run } from '../src/host/command.ts';
import { buildConsole } from './build-console.ts';
import { linkLauncher } from './launcher.ts';
import {
  connectTo,
  daemonPlace,
  isListening,
  startDaemon,
  stopDaemon,
  typedIn,
  type DaemonPlace,
} from './local-daemon.ts';
import { lodgeCommand, stopCommand } from './next-steps.ts';
import { Steps, type StepProgress } from './steps.ts';

type Report = (progress: StepProgress) => void;

const root = dirname(import.meta.dirname);
const IMAGE = 'tiny';
const VM = 'hello';
const NETWORK = 'default';
/** How long a network may show that it failed until that is believed, in milliseconds. */
const FAILED_MS = 10_000;
/** Building downloads some 80 MB of Debian packages; a slow line is no failure. In milliseconds. */
const BUILD_TIMEOUT_MS = 30 * 60_000;
/** Emulated on a busy machine, the guest takes seconds until it is up; minutes mean that it never will be. In milliseconds. */
const UP_TIMEOUT_MS = 180_000;

const { values: options } = parseArgs({
  options: {
    config: { type: 'string' },
    launcher: { type: 'string', default: '/usr/local/bin/lodge' },
    'no-guest': { type: 'boolean', default: false },
  },
});

/** Answers with the object, or null where there is none of that name. */
async function orNull<T>(read: Promise<T>): Promise<T | null> {
  try {
    return await read;
  } catch (error) {
    if (error instanceof LodgeError && error.code === 'not_found') return null;
    throw error;
  }
}

/** Looks again and again until `look` answers; the daemon's own deadlines are shorter than this one. */
async function until<T>(look: () => Promise<T | null>, timeoutMs: number, describe: () => string): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await look();
    if (value !== null) return value;
    if (performance.now() > deadline) throw new Error(`${describe()} (waited ${timeoutMs / 1000} s)`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function follow(client: LodgeClient, task: Task, report: Report, timeoutMs: number): Promise<Task> {
  return waitForTask(client, task.id, {
    timeoutMs,
    onProgress: ({ progress }) => report({ message: progress.message, percent: progress.percent }),
  });
}

/** The version of this clone. */
async function ownVersion(): Promise<string> {
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
  return version;
}

/** Makes the group whose members may use the daemon's socket without being root. */
async function ensureGroup(name: string): Promise<void> {
  const { exitCode } = await run(['getent', 'group', name], { okExitCodes: [0, 2] });
  if (exitCode !== 0) await run(['groupadd', '--system', name]);
}

async function ensureDaemon(steps: Steps, place: DaemonPlace): Promise<void> {
  if (await isListening(place)) {
    const connection = connectTo(place);
    const { version } = await connection.client.server.get().finally(() => connection.close());
    const own = await ownVersion();
    if (version === own) {
      steps.already(`The daemon runs (${version})`);
      return;
    }
    await steps.step(`Ending the daemon of version ${version}; guests run on`, () => stopDaemon(place));
  }
  await steps.step(
    'Starting the daemon',
    (report) => startDaemon(place, (message) => report({ message })),
    (by) =>
      by === 'systemd' ? 'Started the daemon (systemd unit lodge)' : `Started the daemon; it logs to ${place.logPath}`,
  );
}

/** What the daemon serves to browsers. A console that can't be built is no reason to have no daemon. */
async function ensureConsole(steps: Steps): Promise<void> {
  let wasBuilt = false;
  try {
    await steps.step(
      'Building the web console',
      async () => {
        wasBuilt = await buildConsole();
      },
      () => (wasBuilt ? 'Built the web console' : 'The web console is built'),
    );
  } catch (error) {
    steps.already(`Going on without the web console: ${error instanceof Error ? error.message : String(error)}`);
  }
}

async function ensureNetwork(steps: Steps, client: LodgeClient): Promise<void> {
  const params = { network: NETWORK };
  const found = await orNull(client.network.get({ params }));
  if (found?.status.state === 'ready') {
    steps.already(describeNetwork(found));
    return;
  }
  await steps.step(
    `Bringing up the network ${NETWORK}`,
    async (report) => {
      if (found === null) await client.network.create({ body: { name: NETWORK, spec: {} } });
      let last = '';
      let failedSince: number | null = null;
      return until(
        async () => {
          const { status, ...network } = await client.network.get({ params });
          last = [...new Set([status.reason, ...status.problems])].filter((text) => text !== '').join('; ');
          report({ message: last });
          // A daemon that has just started may still show what the last one saw, until it has tried again.
          failedSince = status.state === 'failed' ? (failedSince ?? performance.now()) : null;
          if (failedSince !== null && performance.now() - failedSince > FAILED_MS) {
            throw new Error(`The network ${NETWORK} failed: ${last}`);
          }
          return status.state === 'ready' ? { ...network, status } : null;
        },
        60_000,
        () => `The network ${NETWORK} is not ready: ${last}`,
      );
    },
    describeNetwork,
  );
}

function describeNetwork({ status }: Network): string {
  return `The network ${NETWORK} is up (${[status.bridge, status.ipv4Cidr].filter((text) => text !== null).join(', ')})`;
}

async function ensureImage(steps: Steps, client: LodgeClient): Promise<void> {
  const params = { image: IMAGE };
  const found = await orNull(client.image.get({ params }));
  if (found?.status.state === 'ready') {
    steps.already(describeImage(found));
    return;
  }
  await steps.step(
    `Building the image ${IMAGE} from Debian's packages`,
    async (report) => {
      // What failed before is built afresh; what is being built by somebody else is waited for.
      if (found?.status.state === 'failed') {
        await follow(client, await client.image.delete({ params }), report, 60_000);
      }
      if (found === null || found.status.state === 'failed') {
        const body = { name: IMAGE, spec: { source: { type: 'build', recipe: 'tiny' } } } as const;
        await follow(client, await client.image.create({ body }), report, BUILD_TIMEOUT_MS);
      }
      let last = '';
      return until(
        async () => {
          const image = await client.image.get({ params });
          last = image.status.reason;
          report({ message: last });
          if (image.status.state === 'failed') throw new Error(`The image ${IMAGE} could not be built: ${last}`);
          return image.status.state === 'ready' ? image : null;
        },
        BUILD_TIMEOUT_MS,
        () => `The image ${IMAGE} is not ready: ${last}`,
      );
    },
    describeImage,
  );
}

function describeImage({ status }: Image): string {
  const size = status.sizeBytes === null ? '' : `, ${Math.ceil(status.sizeBytes / 2 ** 20)} MiB`;
  return `The image ${IMAGE} is there (${status.version ?? 'built here'}${size})`;
}

async function ensureVm(steps: Steps, client: LodgeClient): Promise<Vm> {
  const params = { vm: VM };
  let vm = await orNull(client.vm.get({ params }));
  if (vm === null) {
    await steps.step(
      `Creating the virtual machine ${VM}`,
      async (report) => {
        const body = { name: VM, spec: { image: IMAGE, memoryMib: 256, description: 'Made by npm start' } };
        await follow(client, await client.vm.create({ body }), report, 120_000);
      },
      () => `Created the virtual machine ${VM}`,
    );
    vm = await client.vm.get({ params });
  }
  if (vm.status.state === 'stopped' || vm.status.state === 'suspended') {
    await steps.step(
      `Starting ${VM}`,
      async (report) => follow(client, await client.vm.start({ params }), report, 120_000),
      () => `Started ${VM}`,
    );
  } else if (vm.status.isUp) {
    steps.already(`${VM} is up`);
    return vm;
  } else if (vm.status.state === 'paused') {
    steps.already(`${VM} is paused, and stays so (lodge vm resume ${VM})`);
    return vm;
  }
  return steps.step(
    `Waiting until the guest reports that it is up`,
    (report) =>
      until(
        async () => {
          const { status, ...rest } = await client.vm.get({ params });
          report({ message: status.reason });
          if (status.state === 'stopped' || status.state === 'crashed') {
            throw new Error(`${VM} ended before it was up: ${status.lastExit?.message ?? status.reason}`);
          }
          return status.isUp ? { ...rest, status } : null;
        },
        UP_TIMEOUT_MS,
        () => `The guest ${VM} did not report that it is up; look at its console with: lodge vm console ${VM}`,
      ),
    (up) => `The guest reported that it is up${startDuration(up)}`,
  );
}

function startDuration({ status }: Vm): string {
  if (status.startedAt === null || status.upAt === null) return '';
  const seconds = (Date.parse(status.upAt) - Date.parse(status.startedAt)) / 1000;
  const how = status.pinned === null ? '' : `, ${status.pinned.rung === 'tcg' ? 'emulated (TCG)' : status.pinned.rung}`;
  return `: ${seconds.toFixed(1)} s after its start${how}`;
}

/** How whoever called sudo gets to use `lodge` without it; null where there is nothing to say. */
async function groupHint(group: string | null): Promise<string | null> {
  const user = process.env['SUDO_USER'];
  if (group === null || user === undefined || user === 'root') return null;
  const { stdout } = await run(['id', '-nG', user], { okExitCodes: [0, 1] });
  if (stdout.trim().split(' ').includes(group)) return null;
  return `  Without sudo, after signing in again: ${styleText('bold', `sudo usermod -aG ${group} ${user}`)}`;
}

/** What to do next, in the words to type. */
function nextSteps(lodge: string, stop: string, vm: Vm | null, web: { address: string; path: string } | null): string {
  const rows: [string, string][] = [
    [`${lodge} vm list`, 'what runs'],
    ...(vm === null
      ? []
      : ([
          [`${lodge} vm console ${VM}`, 'its serial console in this terminal; it says which key leaves it'],
          [`${lodge} vm exec ${VM} -- uname -a`, 'runs a command in the guest'],
          [`${lodge} vm stop ${VM}`, 'shuts it down'],
        ] satisfies [string, string][])),
    [`${lodge} --help`, 'everything else'],
    [stop, 'ends the daemon; guests run on'],
  ];
  const width = Math.max(...rows.map(([words]) => words.length)) + 3;
  const lines = rows.map(([words, what]) => `  ${styleText('bold', words.padEnd(width))}${what}`);
  if (web !== null) {
    lines.push(
      '',
      `  The web console, signed in by this link once within ten minutes (another: ${styleText('bold', `${lodge} console`)}):`,
      `  ${styleText('bold', `${web.address}${web.path}`)}`,
      '',
      `  In the browser, the API to read: ${styleText('bold', `${web.address}/docs`)}`,
      `  Access token for remote clients: ${styleText('bold', `${lodge} token create me --role admin`)}`,
    );
  }
  return lines.join('\n');
}

async function main(): Promise<void> {
  const place = await daemonPlace(options.config);
  const steps = new Steps();
  console.log(styleText('bold', '\nLodge'));
  if (place.socketGroup !== null) await ensureGroup(place.socketGroup);

  const launcher = join(root, 'bin/lodge');
  const linkPath = resolve(typedIn, options.launcher);
  await mkdir(dirname(linkPath), { recursive: true });
  const link = await linkLauncher(launcher, linkPath);
  if (link.outcome === 'linked') steps.already(`The command lodge is in ${dirname(linkPath)}`);
  if (link.outcome === 'refused') steps.already(`The command is ${launcher}: ${link.reason}`);

  await ensureConsole(steps);
  await ensureDaemon(steps, place);
  const connection = connectTo(place);
  try {
    const { client } = connection;
    let vm: Vm | null = null;
    if (!options['no-guest']) {
      await ensureNetwork(steps, client);
      await ensureImage(steps, client);
      vm = await ensureVm(steps, client);
    }
    const { httpsAddress } = await client.server.get();
    const web =
      httpsAddress === null ? null : { address: httpsAddress, path: (await client.session.createLink()).path };
    const addresses = vm?.status.nics.flatMap((nic) => nic.addresses) ?? [];
    const headline =
      vm === null
        ? 'Lodge is running.'
        : `Lodge is running, and so is its guest ${VM}${addresses.length > 0 ? ` (${addresses.join(', ')})` : ''}.`;
    const started = {
      ...place,
      launcher: link.outcome === 'refused' ? launcher : linkPath,
      searchPath: process.env['PATH'] ?? '',
    };
    const command = lodgeCommand(started);
    const hint = await groupHint(place.socketGroup);
    const words = hint === null ? command : `sudo ${command}`;
    console.log(`\n${styleText('bold', headline)}\n\n${nextSteps(words, stopCommand(started), vm, web)}\n`);
    if (hint !== null) console.log(`${hint}\n`);
  } finally {
    connection.close();
  }
}

try {
  await main();
} catch (error) {
  const hint = error instanceof LodgeError ? `\n  ${error.hint}` : '';
  console.error(`\n${styleText('red', error instanceof Error ? error.message : String(error))}${hint}\n`);
  process.exitCode = 1;
}
