// Where the daemon listens: a unix socket that only root and one group may use, and HTTPS with TLS 1.3.
//
// Who may use the unix socket is decided by the kernel: connecting needs write permission on the socket's file (unix(7)),
// which is root:lodge 0660. That takes all groups of the peer into account, which SO_PEERCRED does not tell.
import { once } from 'node:events';
import { chmod, chown, lstat, unlink } from 'node:fs/promises';
import {
  createServer as createHttpServer,
  type IncomingMessage,
  type Server as HttpServer,
  type ServerResponse,
} from 'node:http';
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https';
import { connect, isIPv6, type AddressInfo, type Socket } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import type { Duplex } from 'node:stream';
import { LodgeError } from '../../api/errors.ts';
import { groupId } from '../../host/peer-credentials.ts';

/**
 * Key exchange groups. Hybrid post-quantum X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) comes first, in a tuple of its
 * own: then a client that has it is asked for it also when it has only sent a share of another (SSL_CTX_set1_groups_list
 * of OpenSSL 3.5, "tuples"). After it what older clients have.
 */
export const keyExchangeGroups = 'X25519MLKEM768/X25519:P-256:P-384';

/** sun_path of unix(7) has 108 bytes, one of them the end. */
const maxSocketPathBytes = 107;

/** Key and certificates, which may be renewed while the server runs. */
export interface TlsCredentials {
  /** PEM: private key, and the certificate with the authority's after it. */
  current(): { key: string; cert: string };
  /** Calls back after each renewal; the function it gives ends that. */
  onRenewal(listener: () => void): () => void;
}

/** What a listener does with what comes in. */
export interface ListenerHandlers {
  onRequest: (request: IncomingMessage, response: ServerResponse) => void;
  onUpgrade: (request: IncomingMessage, socket: Duplex, head: Buffer) => void;
  /** Whether a request with an Upgrade header is one for `onUpgrade`; else it is served as an ordinary request. */
  isUpgrade: (request: IncomingMessage) => boolean;
  onParserError: (failure: Error, socket: Duplex) => void;
}

export interface Listener {
  readonly server: HttpServer | HttpsServer;
  /** Where clients reach it: the socket's path, or https://host:port. */
  readonly address: string;
  /** All names and addresses by which clients reach it now; `address` is the first. */
  addresses(): string[];
  readonly port: number | null;
  /** Takes no new connections, and removes the socket's file. Resolves when the last connection has ended. */
  stop(): Promise<void>;
  /** Ends every connection at once, upgraded ones included. */
  cut(): void;
}

const serverOptions = {
  // Node's default of 300 s would cut long uploads; bodies have deadlines of their own (request-body.ts).
  requestTimeout: 0,
  headersTimeout: 15_000,
  keepAliveTimeout: 75_000,
  connectionsCheckingInterval: 5_000,
  maxHeaderSize: 16_384,
  noDelay: true,
} as const;

/** Gives the function that ends all connections. Node's own forgets those that were upgraded. */
function attach(server: HttpServer | HttpsServer, handlers: ListenerHandlers, maxConnections: number): () => void {
  const connections = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  server.maxConnections = maxConnections;
  server.on('upgrade', handlers.onUpgrade);
  server.on('clientError', handlers.onParserError);
  return () => {
    for (const socket of connections) socket.destroy();
  };
}

/** Listens on a unix socket. A socket left by a daemon that died is replaced; one that answers is not. */
export async function listenOnSocket(
  path: string,
  handlers: ListenerHandlers,
  options: { group: string | null; maxConnections: number },
): Promise<Listener> {
  if (Buffer.byteLength(path) > maxSocketPathBytes) {
    throw new LodgeError('invalid_request', `the socket path ${path} is longer than ${maxSocketPathBytes} bytes`, {
      hint: 'Choose a shorter socketPath in the configuration.',
    });
  }
  await removeStaleSocket(path);
  const server = createHttpServer({ ...serverOptions, shouldUpgradeCallback: handlers.isUpgrade }, handlers.onRequest);
  const cut = attach(server, handlers, options.maxConnections);
  // Until the mode is set below, the usual umask lets only the owner connect.
  server.listen({ path });
  await listening(server, path);
  const group = options.group === null ? null : await groupId(options.group);
  if (group !== null) {
    // Only root may give a file to another group; a daemon of an ordinary user serves that user.
    await chown(path, process.getuid?.() ?? 0, group).catch(() => undefined);
  }
  await chmod(path, 0o660);
  return {
    server,
    address: path,
    addresses: () => [path],
    port: null,
    // Closing a server that listens on a path removes the file.
    stop: () => stop(server),
    cut,
  };
}

async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(() => null);
  if (found === null) return;
  if (!found.isSocket()) {
    throw new LodgeError('host_conflict', `${path} exists and is no socket`, {
      hint: 'Remove it, or choose another socketPath in the configuration.',
    });
  }
  if (await answers(path)) {
    throw new LodgeError('host_conflict', `another process already listens on ${path}`, {
      hint: 'Stop the other daemon (systemctl stop lodge), or choose another socketPath in the configuration.',
    });
  }
  await unlink(path).catch(() => undefined);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const settle = (isAnswered: boolean): void => {
      socket.destroy();
      resolve(isAnswered);
    };
    socket.setTimeout(1_000, () => settle(true));
    socket.once('connect', () => settle(true));
    socket.once('error', () => settle(false));
  });
}

/** Listens for HTTPS. Renewed certificates are taken over without a restart; connections keep theirs. */
export async function listenOnHttps(
  listen: { address: string; port: number },
  credentials: TlsCredentials,
  handlers: ListenerHandlers,
  options: { maxConnections: number },
): Promise<Listener> {
  const tls = { minVersion: 'TLSv1.3', ecdhCurve: keyExchangeGroups, honorCipherOrder: true } as const;
  const server = createHttpsServer(
    {
      ...serverOptions,
      ...tls,
      ...credentials.current(),
      handshakeTimeout: 15_000,
      shouldUpgradeCallback: handlers.isUpgrade,
    },
    handlers.onRequest,
  );
  const cut = attach(server, handlers, options.maxConnections);
  // A client that doesn't trust the certificate, or speaks no TLS 1.3, ends here; that is its affair.
  server.on('tlsClientError', (_failure, socket) => socket.destroy());
  server.listen({ host: listen.address, port: listen.port });
  await listening(server, `${listen.address} port ${listen.port}`);
  const stopRenewal = credentials.onRenewal(() => server.setSecureContext({ ...tls, ...credentials.current() }));
  const { port } = server.address() as AddressInfo;
  const addresses = (): string[] => reachableHosts(listen.address).map((host) => `https://${host}:${port}`);
  return {
    server,
    address: addresses()[0] ?? '',
    addresses,
    port,
    stop: () => {
      stopRenewal();
      return stop(server);
    },
    cut,
  };
}

/**
 * Host parts of the URLs that reach what listens on an address. 0.0.0.0 and :: are no addresses to connect to: they stand
 * for the machine, by its name and by each address it has (ip(7), INADDR_ANY; for ::, IPv4 too, ipv6(7), IPV6_V6ONLY).
 */
export function reachableHosts(address: string): string[] {
  const bracketed = (host: string): string => (isIPv6(host) ? `[${host}]` : host);
  const isAnyIpv6 = /^[0:]+$/.test(address) && isIPv6(address);
  if (address !== '0.0.0.0' && !isAnyIpv6) return [bracketed(address)];
  const own = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    // Link-local addresses need a zone, which URLs can't have.
    .filter((one) => !one.internal && !one.address.startsWith('fe80:') && (isAnyIpv6 || one.family === 'IPv4'))
    .map((one) => bracketed(one.address));
  return [hostname(), ...own];
}

async function listening(server: HttpServer | HttpsServer, where: string): Promise<void> {
  try {
    await once(server, 'listening');
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
    const why =
      {
        EADDRINUSE: 'another program uses it',
        EACCES: 'this user may not',
        EADDRNOTAVAIL: 'the machine has no such address',
        ENOENT: 'its folder does not exist',
      }[code] ?? code;
    throw new LodgeError('host_conflict', `can not listen on ${where}: ${why}`, {
      hint: 'Choose another address, port or path in the configuration, or stop what uses it.',
      cause,
    });
  }
}

async function stop(server: HttpServer | HttpsServer): Promise<void> {
  const closed = once(server, 'close');
  server.close();
  // A kept-alive connection that served a request when the server stopped becomes idle later.
  const idle = setInterval(() => server.closeIdleConnections(), 50);
  await closed;
  clearInterval(idle);
}
