// Connections from this node to TCP ports of guests, for clients that don't reach them themselves.
//
// Invariants:
// - A guest is connected to at an address that its network has given it. What a guest tells of itself counts only on networks
//   that Lodge gives no addresses on, and never where it is an address of this host: a tunnel leads into the guest.
// - A VM has at most `maxPerVm` at once; what one took is given back however it ends.
import { once } from 'node:events';
import { connect, createServer, isIP, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { LodgeError } from '../../api/errors.ts';
import { type Network } from '../../api/network.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { type PortForwards } from '../network/port-forwards.ts';

export interface TunnelsParts {
  ports: Pick<PortForwards, 'addressesOf' | 'hold'>;
  network: (project: string, reference: string) => Network | null;
  guest: (vm: Vm) => Guest;
}

export interface Tunnel {
  socket: Socket;
  /** To be called when it has ended, whichever way. */
  release: () => Promise<void>;
}

const maxPerVm = 64;
const connectMs = 10_000;

export class Tunnels {
  readonly #parts: TunnelsParts;
  readonly #open = new Map<string, number>();

  constructor(parts: TunnelsParts) {
    this.#parts = parts;
  }

  /** Connects to a port of a guest. Throws `wrong_state` where it has no address, `unavailable` where nobody answers. */
  async open(vm: Vm, port: number, signal: AbortSignal): Promise<Tunnel> {
    const guest = this.#parts.guest(vm);
    const count = this.#open.get(vm.id) ?? 0;
    if (count >= maxPerVm)
      throw new LodgeError('rate_limited', `VM ${vm.name} has ${maxPerVm} tunnels at once, and that many are open.`);
    this.#open.set(vm.id, count + 1);
    const undo: (() => Promise<void>)[] = [
      async () => {
        const left = (this.#open.get(vm.id) ?? 1) - 1;
        if (left === 0) this.#open.delete(vm.id);
        else this.#open.set(vm.id, left);
      },
    ];
    const release = async (): Promise<void> => {
      for (let next = undo.pop(); next !== undefined; next = undo.pop()) await next().catch(() => {});
    };
    try {
      const places = await this.#placesOf(vm, guest, port, undo);
      let failure: unknown = null;
      for (const place of places) {
        try {
          return { socket: await connected(place, signal), release };
        } catch (error) {
          failure ??= error;
        }
      }
      const tried = places.map(({ host, port: at }) => `${host} port ${at}`).join(', ');
      throw new LodgeError('unavailable', `Port ${port} of VM ${vm.name} does not answer (${tried}).`, {
        hint: 'Check that a program in the guest listens there, on all addresses, and that no firewall in it forbids it.',
        cause: failure,
      });
    } catch (error) {
      await release();
      throw error;
    }
  }

  async #placesOf(
    vm: Vm,
    guest: Guest,
    port: number,
    undo: (() => Promise<void>)[],
  ): Promise<{ host: string; port: number }[]> {
    const { ports, network: networkOf } = this.#parts;
    const places: { host: string; port: number }[] = [];
    const users: string[] = [];
    for (const nic of vm.status.nics) {
      const network = networkOf(vm.project, nic.network);
      if (!network) continue;
      if (network.spec.mode === 'user') users.push(nic.mac);
      else
        places.push(...(await ports.addressesOf(network, vm, nic)).filter(isForeign).map((host) => ({ host, port })));
    }
    const [mac] = users;
    if (places.length === 0 && mac !== undefined) {
      const held = await ports.hold(guest, mac, port, freePort);
      undo.push(held.release);
      places.push({ host: '127.0.0.1', port: held.port });
    }
    if (places.length > 0) return places;
    throw new LodgeError('wrong_state', `VM ${vm.name} has no address that it could be reached at.`, {
      hint:
        vm.status.nics.length === 0
          ? `It has no NIC. Use lodge vm console ${vm.name}.`
          : `It may still be booting: lodge vm wait ${vm.name}. Or use lodge vm console ${vm.name}.`,
    });
  }
}

/** An address that is not this host's, nor one that means "here". */
function isForeign(address: string): boolean {
  if (
    isIP(address) === 0 ||
    /^(127\.|0\.|169\.254\.|22[4-9]\.|23\d\.|24\d\.|25\d\.|::1?$|::ffff:|fe80:|ff)/i.test(address)
  )
    return false;
  return !Object.values(networkInterfaces()).some((own) => own?.some((one) => one.address === address));
}

async function connected(place: { host: string; port: number }, signal: AbortSignal): Promise<Socket> {
  const socket = connect(place);
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(connectMs)]);
  try {
    await once(socket, 'connect', { signal: deadline });
  } catch (error) {
    socket.destroy();
    throw error;
  }
  socket.setNoDelay(true);
  socket.setKeepAlive(true, 60_000);
  return socket;
}

/** A port of 127.0.0.1 that is free at this moment. */
async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('a socket has no port');
  return address.port;
}
