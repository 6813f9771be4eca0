// Open vSwitch of a test's own: its database and switch run in a namespace, with the datapath in user space.
import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { type NetworkNamespace } from './namespace.ts';
import { eventually } from './wait.ts';

const schema = '/usr/share/openvswitch/vswitch.ovsschema';

export interface OpenVswitch {
  /** Asks it, and answers with what it says. */
  vsctl: (...args: string[]) => Promise<string>;
  stop: () => Promise<void>;
}

/** Starts it, with its files in a folder: whose path is OVS_RUNDIR for those who talk to it. */
export async function startOpenVswitch(
  test: Cleanup,
  namespace: NetworkNamespace,
  folder: string,
): Promise<OpenVswitch> {
  const database = join(folder, 'conf.db');
  const socket = join(folder, 'db.sock');
  const env = { ...process.env, OVS_RUNDIR: folder, OVS_LOGDIR: folder };
  await run(['ovsdb-tool', 'create', database, schema]);
  const stops: (() => Promise<void>)[] = [];
  const stop = async (): Promise<void> => {
    for (const one of stops.splice(0).reverse()) await one();
  };
  atEnd(test, stop);
  const start = (argv: string[]): void => {
    const [command, ...args] = namespace.command(argv);
    const child = spawn(command, args, { stdio: 'ignore', env });
    const ended = once(child, 'exit');
    stops.push(async () => {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
      await ended;
      clearTimeout(timer);
    });
  };
  const vsctl = async (...args: string[]): Promise<string> =>
    (
      await run(['ovs-vsctl', '--timeout=60', ...args], { env: { OVS_RUNDIR: folder }, timeoutMs: 90_000 })
    ).stdout.trim();
  start(['ovsdb-server', database, `--remote=punix:${socket}`, `--unixctl=${join(folder, 'db.ctl')}`]);
  await eventually(() => vsctl('--no-wait', 'init').then(() => true), { describe: 'the database answers' });
  start(['ovs-vswitchd', `unix:${socket}`, `--unixctl=${join(folder, 'switch.ctl')}`]);
  await vsctl('list-br');
  return { vsctl, stop };
}
