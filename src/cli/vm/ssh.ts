// lodge vm ssh: signs in to a guest with the system's ssh, at the address Lodge knows, or through the daemon where that leads
// nowhere from here. Host keys are remembered by the
// VM's id and not by its address, so that a new VM at an old address is no alarm, and a changed key of the same VM is.
import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Vm } from '../../api/vm.ts';
import { LodgeError } from '../../api/errors.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { shellWord } from '../../lib/shell-word.ts';
import { serveTunnel } from './forward.ts';
import { addressesOf, fetchVms } from './view.ts';

export interface SshOptions {
  user?: string;
  address?: string;
  identity?: string;
  dryRun?: boolean;
  /** Through the daemon, also where the guest could be reached. */
  tunnel?: boolean;
}

/** Users that cloud images of distributions come with. */
const imageUsers: readonly (readonly [RegExp, string])[] = [
  [/debian/i, 'debian'],
  [/ubuntu/i, 'ubuntu'],
  [/fedora/i, 'fedora'],
  [/alma/i, 'almalinux'],
  [/rocky/i, 'rocky'],
  [/centos|rhel|red hat/i, 'cloud-user'],
  [/alpine/i, 'alpine'],
  [/arch/i, 'arch'],
  [/suse/i, 'opensuse'],
];

/** Who to sign in as: as asked for, as the VM was made with, or as images of its distribution have it. */
export function userOf(vm: Vm, wanted: string | undefined): string | null {
  if (wanted !== undefined) return wanted;
  if (vm.spec.cloudInit?.user !== undefined) return vm.spec.cloudInit.user;
  const facts = `${vm.status.guest?.osName ?? ''} ${vm.spec.image ?? ''}`;
  return imageUsers.find(([pattern]) => pattern.test(facts))?.[1] ?? null;
}

/** Arguments for ssh. */
export function sshArguments(
  vm: Pick<Vm, 'id'>,
  target: { address: string; port?: number | undefined; user: string | null; identity?: string | undefined },
  knownHosts: string,
  command: readonly string[],
): string[] {
  const { address, port, user, identity } = target;
  return [
    '-o',
    `HostKeyAlias=${vm.id}.lodge`,
    '-o',
    `UserKnownHostsFile=${knownHosts}`,
    '-o',
    'StrictHostKeyChecking=accept-new',
    ...(port === undefined ? [] : ['-p', String(port)]),
    ...(user === null ? [] : ['-l', user]),
    ...(identity === undefined ? [] : ['-i', identity]),
    '--',
    address,
    ...command,
  ];
}

export async function sshToVm(
  session: Session,
  options: SshOptions,
  name: string,
  command: readonly string[],
): Promise<number> {
  const vm = await withSuggestion(session, name, fetchVms, () =>
    session.client.vm.get({ params: { vm: name }, query: { project: session.project } }),
  );
  const address = options.address ?? addressesOf(vm)[0];
  // One inside QEMU is reached by the daemon alone, at whatever address it has.
  const isInside = vm.status.state === 'running' && vm.status.nics.some((nic) => nic.hostInterface === null);
  if (address === undefined && !isInside) {
    throw new LodgeError('wrong_state', `VM ${name} has no address that Lodge knows; it is ${vm.status.state}`, {
      hint:
        vm.status.state === 'running'
          ? `It may still be booting: lodge vm wait ${name} --for ssh. Or use its console: lodge vm console ${name}.`
          : `Start it: lodge vm start ${name}`,
    });
  }
  const isReached =
    session.isLocal &&
    vm.status.nics.some((nic) => nic.addresses.includes(address ?? '') && nic.hostInterface !== null);
  const isTunnel = options.tunnel === true || (!isReached && options.address === undefined);
  const knownHosts = join(homedir(), '.local', 'state', 'lodge', 'known_hosts');
  const target = { user: userOf(vm, options.user), identity: options.identity };
  const argsFor = (place: { address: string; port?: number }): string[] =>
    sshArguments(vm, { ...target, ...place }, knownHosts, command);
  if (isTunnel && options.dryRun !== true) {
    await mkdir(dirname(knownHosts), { recursive: true, mode: 0o700 });
    const tunnel = await serveTunnel(session, name, { address: '127.0.0.1', localPort: 0, guestPort: 22 });
    try {
      return await run('ssh', argsFor({ address: '127.0.0.1', port: tunnel.port }));
    } finally {
      tunnel.close();
    }
  }
  if (isTunnel) session.terminal.note(`This is through a tunnel: run lodge vm forward ${name} 2222:22 beside it.`);
  const args = argsFor(isTunnel ? { address: '127.0.0.1', port: 2222 } : { address: address ?? '' });
  if (options.dryRun === true) {
    session.terminal.line(['ssh', ...args].map(shellWord).join(' '));
    return 0;
  }
  await mkdir(dirname(knownHosts), { recursive: true, mode: 0o700 });
  return run('ssh', args);
}

/** Runs a program on this terminal; its exit code is ours. */
export async function run(program: string, args: readonly string[]): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  // Ctrl-C is for the program, which has the terminal.
  const ignore = (): void => undefined;
  process.on('SIGINT', ignore);
  const child = spawn(program, args, { stdio: 'inherit' });
  child.once('error', (cause) =>
    reject(
      new LodgeError(
        'host_failed',
        `${program} could not be started: ${'code' in cause ? String(cause.code) : cause.message}`,
        {
          hint: `Install ${program}, or check PATH.`,
          cause,
        },
      ),
    ),
  );
  child.once('exit', (code) => resolve(code ?? 1));
  try {
    return await promise;
  } finally {
    process.off('SIGINT', ignore);
  }
}
