// lodge vm forward: ports of this machine that lead through the daemon to ports of a guest, for as long as the command runs.
// Each connection is one of its own through the daemon, so that none holds up another.
import { once } from 'node:events';
import { createServer, isIP, type AddressInfo, type Server, type Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { LodgeError } from '../../api/errors.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { usageError } from '../usage-error.ts';
import { fetchVms } from './view.ts';

export interface ForwardOptions {
  address: string;
  /** Ends after so long, in milliseconds. */
  for?: number;
}

export interface TunnelMapping {
  /** 0: any that is free. */
  localPort: number;
  guestPort: number;
}

/** Connections through one command at once; the daemon has a limit of its own. */
const maxConnections = 60;

/** "8080:80", "80", "0:80". */
export function parseTunnel(text: string): TunnelMapping {
  const [, local, guest] = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(text.trim()) ?? [];
  const mapping = { localPort: Number(local), guestPort: Number(guest ?? local) };
  const isPort = (port: number, least: number): boolean => port >= least && port <= 65_535;
  if (local === undefined || !isPort(mapping.localPort, 0) || !isPort(mapping.guestPort, 1))
    throw usageError(`${JSON.stringify(text)} is not a pair of ports`, {
      hint: 'Write PORT-HERE:GUEST-PORT, such as 8080:80; 0:80 takes any port here that is free.',
    });
  return mapping;
}

export async function forwardToVm(
  session: Session,
  options: ForwardOptions,
  name: string,
  ports: readonly string[],
): Promise<number> {
  const { terminal } = session;
  if (isIP(options.address) === 0) throw usageError(`--address: ${options.address} is no IP address`);
  const mappings = ports.map(parseTunnel);
  const vm = await withSuggestion(session, name, fetchVms, () =>
    session.client.vm.get({ params: { vm: name }, query: { project: session.project } }),
  );
  if (!liveVmStates.has(vm.status.state))
    throw new LodgeError('wrong_state', `VM ${name} is ${vm.status.state}, and has no ports`, {
      hint: `Start it: lodge vm start ${name}`,
    });
  const servers: TunnelServer[] = [];
  try {
    for (const mapping of mappings) {
      const server = await serveTunnel(session, name, { ...mapping, address: options.address });
      servers.push(server);
      const host = options.address.includes(':') ? `[${options.address}]` : options.address;
      terminal.line(`${host}:${server.port} → ${name} port ${mapping.guestPort}`);
    }
    if (options.for === undefined) terminal.note(terminal.noteStyle.dim('Ctrl-C ends it.'));
    await untilAsked(options.for);
    return 0;
  } finally {
    for (const server of servers) server.close();
  }
}

export interface TunnelServer {
  port: number;
  /** Takes no more connections, and ends those that are open. */
  close(): void;
}

/** Listens here, and connects each that comes with a port of the guest. */
export async function serveTunnel(
  session: Session,
  name: string,
  { address, localPort, guestPort }: TunnelMapping & { address: string },
): Promise<TunnelServer> {
  const open = new Set<Socket>();
  // A client that has said all may still wait for the answer.
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    if (open.size >= maxConnections) {
      socket.destroy();
      return;
    }
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    carry(session, name, guestPort, socket).catch((failure: unknown) => {
      socket.destroy();
      const text = failure instanceof LodgeError ? `${failure.message} ${failure.hint}` : String(failure);
      session.terminal.note(`${session.terminal.noteStyle.yellow('warning:')} ${text}`);
    });
  });
  await listening(server, address, localPort);
  return {
    port: (server.address() as AddressInfo).port,
    close: () => {
      server.close();
      for (const socket of open) socket.destroy();
    },
  };
}

async function listening(server: Server, address: string, port: number): Promise<void> {
  try {
    server.listen(port, address);
    await once(server, 'listening');
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
    const why =
      code === 'EADDRINUSE'
        ? 'is in use'
        : code === 'EACCES'
          ? 'needs privileges'
          : code === 'EADDRNOTAVAIL'
            ? 'is not on an address of this machine'
            : `can not be had (${code})`;
    throw new LodgeError('host_conflict', `port ${port} at ${address} ${why}`, {
      hint: 'Choose another port here, or 0 for any that is free: 0:80.',
      cause,
    });
  }
}

async function carry(session: Session, name: string, guestPort: number, socket: Socket): Promise<void> {
  const query = new URLSearchParams({ port: String(guestPort), project: session.project });
  const gone = new AbortController();
  socket.once('close', () => gone.abort(new LodgeError('cancelled', 'the connection was closed')));
  socket.on('error', () => gone.abort(new LodgeError('cancelled', 'the connection broke')));
  const path = `/v1/vms/${encodeURIComponent(name)}/tunnel?${query.toString()}`;
  const { stream } = await session.openWebSocket(path, { signal: gone.signal }).catch((failure: unknown) => {
    if (gone.signal.aborted) return { stream: null };
    throw failure;
  });
  if (stream === null) return;
  stream.on('error', () => socket.destroy());
  socket.once('close', () => stream.destroy());
  // The tunnel has no half-closed state: what the client sends no more is told to the guest when the client has gone.
  socket.pipe(stream, { end: false });
  await pipeline(stream, socket).catch(() => socket.destroy());
}

function untilAsked(afterMs: number | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = afterMs === undefined ? undefined : setTimeout(done, afterMs);
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
    for (const signal of signals) process.once(signal, done);
    function done(): void {
      clearTimeout(timer);
      for (const signal of signals) process.off(signal, done);
      resolve();
    }
  });
}
