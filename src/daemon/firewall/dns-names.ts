// The addresses of the DNS names that rules name, looked up by this node again and again.
//
// Invariants:
// - A name is looked up when its shortest time to live has passed, no sooner than after 30 s and no later than after an hour.
// - While a name can't be looked up, it has the addresses that it had last; it is tried again after 30 s.
// - A name has at most 64 addresses, and one look-up ends after 10 s at most.
import { Resolver } from 'node:dns/promises';
import { formatIp, parseIp } from '../../lib/ip-address.ts';

/** An address with the seconds for which it holds. */
export interface Resolved {
  address: string;
  ttl: number;
}

export interface DnsNamesParts {
  /** The names that rules name now. */
  wanted: () => ReadonlySet<string>;
  /** Told when the addresses of a name have changed. */
  onChange: () => void;
  /** Both families; rejects where the name can't be looked up. Default: by the name servers of this machine. */
  resolve?: (name: string) => Promise<Resolved[]>;
  now?: () => number;
}

const leastMs = 30_000;
const mostMs = 3_600_000;
const maxAddresses = 64;

interface Entry {
  addresses: readonly string[];
  dueAt: number;
  isUnderWay: boolean;
}

export class DnsNames {
  readonly #parts: Required<DnsNamesParts>;
  readonly #entries = new Map<string, Entry>();
  #timer: NodeJS.Timeout | null = null;
  #isClosed = false;

  constructor(parts: DnsNamesParts) {
    this.#parts = { resolve: resolveBoth, now: () => Date.now(), ...parts };
  }

  get addresses(): ReadonlyMap<string, readonly string[]> {
    return new Map([...this.#entries].map(([name, { addresses }]) => [name, addresses]));
  }

  /** Begins to look names up. */
  start(): void {
    this.#timer = setInterval(() => this.look(), 5000).unref();
    this.look();
  }

  close(): void {
    this.#isClosed = true;
    if (this.#timer) clearInterval(this.#timer);
  }

  /** Looks up what is due, and forgets what nobody names any more. */
  look(): void {
    if (this.#isClosed) return;
    const wanted = this.#parts.wanted();
    for (const name of this.#entries.keys()) if (!wanted.has(name)) this.#entries.delete(name);
    for (const name of wanted) {
      const entry = this.#entries.get(name) ?? { addresses: [], dueAt: 0, isUnderWay: false };
      this.#entries.set(name, entry);
      if (!entry.isUnderWay && entry.dueAt <= this.#parts.now()) void this.#lookUp(name, entry);
    }
  }

  async #lookUp(name: string, entry: Entry): Promise<void> {
    const { resolve, now, onChange } = this.#parts;
    entry.isUnderWay = true;
    try {
      const found = await resolve(name);
      const ttlMs = Math.min(...found.map(({ ttl }) => ttl)) * 1000;
      entry.dueAt = now() + Math.max(leastMs, Math.min(mostMs, ttlMs));
      const addresses = [...new Set(found.map(({ address }) => canonical(address)))].toSorted().slice(0, maxAddresses);
      if (addresses.length === 0 || addresses.join() === entry.addresses.join()) return;
      entry.addresses = addresses;
      if (!this.#isClosed) onChange();
    } catch {
      entry.dueAt = now() + leastMs;
    } finally {
      entry.isUnderWay = false;
    }
  }
}

async function resolveBoth(name: string): Promise<Resolved[]> {
  const resolver = new Resolver({ timeout: 3000, tries: 3 });
  const deadline = setTimeout(() => resolver.cancel(), 10_000);
  try {
    const answers = await Promise.allSettled([
      resolver.resolve4(name, { ttl: true }),
      resolver.resolve6(name, { ttl: true }),
    ]);
    const found = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
    if (found.length > 0) return found;
    throw new Error(`${name} has no address`);
  } finally {
    clearTimeout(deadline);
  }
}

function canonical(text: string): string {
  const address = parseIp(text);
  return address ? formatIp(address) : text;
}
