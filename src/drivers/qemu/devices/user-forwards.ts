// Ports of the host that lead into a network inside QEMU. There is no command of QMP for them: they are added, removed and
// listed by the human monitor (hmp-commands.hx: hostfwd_add, hostfwd_remove, info usernet), whose answers are read here.
import { isIPv4 } from 'node:net';
import { LodgeError } from '../../../api/errors.ts';
import { type UserForward } from '../../driver.ts';
import { netdevId } from '../device-arguments.ts';
import { type QmpConnection } from '../qmp/connection.ts';

type Monitor = Pick<QmpConnection, 'execute'>;

/** The forwards of one back end in the text of `info usernet` (slirp_connection_info of libslirp); null: there is no such one. */
export function parseUsernet(text: string, netdev: string): UserForward[] | null {
  let isMine = false;
  let isFound = false;
  const forwards: UserForward[] = [];
  for (const line of text.split('\n')) {
    const header = /^Hub -?\d+ \((.+)\):\s*$/.exec(line);
    if (header) {
      isMine = header[1] === netdev;
      isFound ||= isMine;
      continue;
    }
    const forward = /^\s*(TCP|UDP)\[HOST_FORWARD\]\s+-?\d+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)\s/.exec(line);
    if (!isMine || !forward) continue;
    const [, protocol, address, hostPort, , guestPort] = forward;
    forwards.push({
      protocol: protocol === 'TCP' ? 'tcp' : 'udp',
      hostAddress: address === '*' || address === '0.0.0.0' ? null : address!,
      hostPort: Number(hostPort),
      guestPort: Number(guestPort),
    });
  }
  return isFound ? forwards : null;
}

/** What `hostfwd_add` and `hostfwd_remove` take for the host's side. */
function hostSide({ protocol, hostAddress, hostPort }: UserForward): string {
  if (hostAddress !== null && !isIPv4(hostAddress))
    throw new LodgeError('unsupported', `A network inside QEMU is reached by IPv4 only, not at ${hostAddress}.`);
  for (const port of [hostPort])
    if (!Number.isInteger(port) || port < 1 || port > 65_535) throw new RangeError(`${port} is no port`);
  return `${protocol}:${hostAddress ?? ''}:${hostPort}`;
}

export async function listForwards(qmp: Monitor, mac: string): Promise<UserForward[]> {
  const text = await qmp.execute('human-monitor-command', { 'command-line': 'info usernet' });
  const found = parseUsernet(text, netdevId(mac));
  if (found) return found;
  throw new LodgeError('unsupported', `NIC ${mac} is not on a network inside QEMU.`);
}

export async function addForward(qmp: Monitor, mac: string, forward: UserForward): Promise<void> {
  if (await hasForward(qmp, mac, forward)) return;
  const line = `hostfwd_add ${netdevId(mac)} ${hostSide(forward)}-:${forward.guestPort}`;
  const answer = await qmp.execute('human-monitor-command', { 'command-line': line });
  // What counts is what is there afterwards; the answer's words say why it isn't.
  if (await hasForward(qmp, mac, forward)) return;
  const why = forward.hostPort < 1024 ? 'QEMU has no privileges, and so no ports below 1024' : answer.trim();
  throw new LodgeError(
    'host_conflict',
    `Port ${forward.hostPort}/${forward.protocol} can not be forwarded: ${why || 'it is in use'}.`,
    { hint: 'Choose another port of the node (1024 or above), or see who has it: ss -lntup.' },
  );
}

export async function removeForward(qmp: Monitor, mac: string, forward: UserForward): Promise<void> {
  if (!(await hasForward(qmp, mac, forward))) return;
  const line = `hostfwd_remove ${netdevId(mac)} ${hostSide(forward)}`;
  const answer = await qmp.execute('human-monitor-command', { 'command-line': line });
  if (await hasForward(qmp, mac, forward))
    throw new LodgeError('hypervisor_failed', `A forwarded port could not be taken back: ${answer.trim()}.`);
}

async function hasForward(qmp: Monitor, mac: string, forward: UserForward): Promise<boolean> {
  return (await listForwards(qmp, mac)).some(
    (one) =>
      one.protocol === forward.protocol &&
      one.hostAddress === forward.hostAddress &&
      one.hostPort === forward.hostPort &&
      one.guestPort === forward.guestPort,
  );
}
