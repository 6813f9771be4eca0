// The real daemon with real guests for a test: in a network namespace of its own, with the image `tiny` and a network
// that needs nothing of the host. What the tests ask of it is said in short words here.
import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext } from 'node:test';
import { LodgeError } from '../../src/api/errors.ts';
import { type Event } from '../../src/api/event.ts';
import { type Node } from '../../src/api/node.ts';
import { type Task } from '../../src/api/task.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type VmSpec, type VmSpecInput } from '../../src/api/vm-spec.ts';
import { type LodgeClient } from '../../src/client/client.ts';
import { waitForTask, waitForTaskEnd } from '../../src/client/follow.ts';
import { type TinyVariant } from '../../src/host/image/tiny.ts';
import { prepareDaemon, type DaemonOptions, type TestDaemon } from './daemon.ts';
import { networkNamespace, type NetworkNamespace } from './namespace.ts';
import { tinyImage } from './qemu.ts';
import { temporaryFolder } from './temporary.ts';
import { eventually } from './wait.ts';

const taskMs = 120_000;
/** A guest under emulation on a busy machine with two processors. */
const bootMs = 120_000;
const query = { project: 'default' } as const;

export interface QemuDaemonOptions {
  config?: DaemonOptions['config'];
  /** Leaves the start of the daemon to the test. */
  isStarted?: boolean;
  /** The images of kernels that there are. Default: only `tiny`. */
  images?: readonly TinyVariant[];
  /** Makes the kernel look as one without userfaultfd to the daemon and its guests. */
  withoutUserfaultfd?: boolean;
}

/** A daemon with real guests. */
export class QemuDaemon {
  readonly daemon: TestDaemon;
  readonly namespace: NetworkNamespace;

  constructor(daemon: TestDaemon, namespace: NetworkNamespace) {
    this.daemon = daemon;
    this.namespace = namespace;
  }

  get client(): LodgeClient {
    return this.daemon.client;
  }

  /** Makes the images of kernels and the network `user`, which most tests need. */
  async provide(images: readonly TinyVariant[] = ['tiny']): Promise<void> {
    for (const recipe of images) {
      const source = { type: 'build', recipe } as const;
      await this.done(this.client.image.create({ body: { name: recipe, spec: { source } } }));
    }
    await this.client.network.create({ body: { name: 'user', spec: { mode: 'user' } } });
  }

  /** Waits until a task has succeeded. */
  async done(started: Promise<Task>): Promise<Task> {
    return waitForTask(this.client, (await started).id, { timeoutMs: taskMs });
  }

  /** Waits until a task has ended, which must be by an error; tells that. */
  async failed(started: Promise<Task>): Promise<LodgeError> {
    const task = await waitForTaskEnd(this.client, (await started).id, { timeoutMs: taskMs });
    assert.equal(task.state, 'failed', `task ${task.type} ended as ${task.state}`);
    assert.ok(task.error);
    return LodgeError.fromBody({ error: task.error });
  }

  /** Creates a VM of `tiny` without NICs, unless the spec says otherwise. */
  async create(name: string, spec: VmSpecInput = {}, isStarted = true): Promise<Vm> {
    const body = { name, spec: { image: 'tiny', memoryMib: 128, nics: [], ...spec } };
    await this.done(this.client.vm.create({ query: { start: isStarted }, body }));
    return this.vm(name);
  }

  /** The node, when it has looked at itself. */
  node(): Promise<Node> {
    return eventually(
      async () => {
        const node = await this.client.node.get({ params: { node: 'self' } });
        return node.status.state === 'starting' ? null : node;
      },
      { timeoutMs: 60_000, describe: 'the node has looked at itself' },
    );
  }

  vm(name: string): Promise<Vm> {
    return this.client.vm.get({ params: { vm: name }, query });
  }

  /** Changes a VM's spec, and waits until its guest has what can change while it runs. */
  async change(name: string, change: (spec: VmSpec) => VmSpec): Promise<Vm> {
    const { spec } = await this.vm(name);
    const body = { spec: change(spec) };
    const { taskId } = (await this.client.vm.update({ params: { vm: name }, query, body })).status;
    if (taskId !== null) await waitForTask(this.client, taskId, { timeoutMs: taskMs });
    return this.vm(name);
  }

  /** Waits until a VM is as it should be. */
  async until(name: string, what: string, isSo: (vm: Vm) => boolean, timeoutMs = bootMs): Promise<Vm> {
    let last: Vm | null = null;
    const look = async (): Promise<Vm | null> => {
      last = await this.vm(name);
      return isSo(last) ? last : null;
    };
    try {
      return await eventually(look, { timeoutMs, describe: `VM ${name} ${what}`, intervalMs: 50 });
    } catch (error) {
      const { state, reason, isUp, lastExit, restarts } = (last as Vm | null)?.status ?? {};
      const seen = JSON.stringify({ state, reason, isUp, lastExit, restarts });
      const console = await this.console(name).catch(() => '');
      throw new Error(
        `${(error as Error).message}; it was ${seen}; its console ended with ${JSON.stringify(console)}`,
        {
          cause: error,
        },
      );
    }
  }

  /** The end of what its serial console has shown. */
  async console(name: string): Promise<string> {
    return (await this.client.vm.serialLog({ params: { vm: name }, query: { ...query, bytes: 1000 } })).text();
  }

  untilUp(name: string): Promise<Vm> {
    return this.until(name, 'is up', (vm) => vm.status.isUp);
  }

  /** Runs a program in the guest and gives its output and exit code. */
  async exec(
    name: string,
    command: string[],
    input?: string | Uint8Array,
  ): Promise<{ output: string; code: number | null }> {
    const body = { command, ...(input === undefined ? {} : { input: Buffer.from(input).toString('base64') }) };
    let output = '';
    for await (const event of await this.client.vm.exec({ params: { vm: name }, query, body })) {
      if (event.type === 'stdout') output += Buffer.from(event.data, 'base64').toString();
      if (event.type === 'exit') return { output, code: event.code };
    }
    throw new Error(`the program ended without an exit: ${output}`);
  }

  /** What was recorded of a VM, oldest first. */
  async events(vm: Vm): Promise<Event[]> {
    const { items } = await this.client.event.list({ query: { limit: 500 } });
    return items.filter(({ subject }) => subject?.id === vm.id).toSorted((a, b) => a.at.localeCompare(b.at));
  }
}

/**
 * Into the namespace with a /sys that shows its links, as `ip netns exec` does, but also with the machine's control groups,
 * which that hides.
 */
function withControlGroups(
  { name }: NetworkNamespace,
  mountPoint: string,
  argv: readonly string[],
  hidden: string | null,
): [string, ...string[]] {
  const hide = hidden === null ? '' : `mount --bind ${hidden} /dev/userfaultfd && `;
  const script = `${hide}mount --rbind /sys/fs/cgroup "$1" && mount -t sysfs sysfs /sys && mount --rbind "$1" /sys/fs/cgroup && shift && exec "$@"`;
  const enter = ['--net=/run/netns/' + name, 'unshare', '--mount', 'sh', '-c', script, 'sh', mountPoint];
  return ['nsenter', ...enter, ...argv];
}

/** Starts the daemon with the image `tiny` at hand; everything goes with the test. */
export async function qemuDaemon(test: TestContext, options: QemuDaemonOptions = {}): Promise<QemuDaemon> {
  const { images = ['tiny'] } = options;
  const cache = await temporaryFolder(test);
  await mkdir(join(cache, 'images'));
  for (const image of images) await symlink((await tinyImage(image)).folder, join(cache, 'images', image));
  const namespace = await networkNamespace(test);
  const mountPoint = await temporaryFolder(test);
  let hidden: string | null = null;
  if (options.withoutUserfaultfd === true) {
    hidden = join(await temporaryFolder(test), 'no-device');
    await writeFile(hidden, '');
  }
  const daemon = await prepareDaemon(test, {
    driver: 'qemu',
    namespace: { ...namespace, command: (argv) => withControlGroups(namespace, mountPoint, argv, hidden) },
    env: { LODGE_CACHE_DIR: cache },
    readyTimeoutMs: 60_000,
    config: { isDevelopment: true, ...options.config },
  });
  const host = new QemuDaemon(daemon, namespace);
  if (options.isStarted === false) return host;
  await daemon.start();
  await host.provide(images);
  return host;
}
