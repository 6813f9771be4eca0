// Which ports of this machine programs listen on, as `ss` of iproute2 tells: TCP sockets that listen, UDP sockets that are
// bound without a peer.
import { run } from '../command.ts';
import { inScope, type NetworkScope } from './netns.ts';

/** A socket that waits for others. */
export interface Listener {
  readonly protocol: 'tcp' | 'udp';
  /** Null: all addresses, of both families where `family` is null. */
  readonly address: string | null;
  /** Of the socket; null: it takes both. */
  readonly family: 4 | 6 | null;
  readonly port: number;
  /** The program and its process, as far as they are known. */
  readonly program: string | null;
  readonly pid: number | null;
}

export async function listListeners(scope: NetworkScope = {}): Promise<Listener[]> {
  const { stdout } = await run(inScope(scope, ['ss', '-Hlntup']), { timeoutMs: 10_000 });
  return parseListeners(stdout);
}

/** Reads `ss -Hlntup`: protocol, state, two queues, local address, peer, and who holds it. */
export function parseListeners(text: string): Listener[] {
  return text.split('\n').flatMap((line): Listener[] => {
    const [protocol, , , , local = '', , ...rest] = line.trim().split(/\s+/);
    if (protocol !== 'tcp' && protocol !== 'udp') return [];
    const at = local.lastIndexOf(':');
    const port = Number(local.slice(at + 1));
    // An address may have the link that it is bound to, `127.0.0.53%lo`.
    const host = local
      .slice(0, at)
      .replace(/^\[|\]$/g, '')
      .replace(/%.*$/, '');
    if (!Number.isInteger(port)) return [];
    const holder = /"([^"]+)",pid=(\d+)/.exec(rest.join(' '));
    const isAny = host === '*' || host === '0.0.0.0' || host === '::';
    // `*` is a socket of IPv6 that takes IPv4 too; `[::]` one that doesn't.
    const family = host === '*' ? null : host.includes(':') ? 6 : 4;
    const [program = null, pid = null] = holder ? [holder[1]!, Number(holder[2])] : [];
    return [{ protocol, address: isAny ? null : host, family, port, program, pid }];
  });
}
