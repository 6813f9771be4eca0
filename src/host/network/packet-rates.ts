// How many packets a second go through ports of bridges: a table of nftables in the family of bridges, since queues (shaping.ts)
// count bytes. What is above is dropped. Promises: the table is replaced in one transaction, and only where it differs: the
// name of an empty chain in it is a hash of what it does.
import { createHash } from 'node:crypto';
import { CommandError, run } from '../command.ts';
import { firewallTableName } from './firewall.ts';
import { isLinkName } from './link.ts';
import { NftablesError } from './nftables.ts';
import { inScope, type NetworkScope } from './netns.ts';

/** Packets a second through a port of a bridge, as this machine sees it; null: any number. */
export interface PacketRate {
  readonly link: string;
  readonly sent: number | null;
  readonly received: number | null;
}

/** The text for `nft -f`. */
export function renderPacketRates(instance: string, rates: readonly PacketRate[]): { text: string; mark: string } {
  const name = packetTableName(instance);
  const chains: string[] = [];
  const maps: Record<'sent' | 'received', string[]> = { sent: [], received: [] };
  for (const rate of rates.toSorted((one, other) => (one.link < other.link ? -1 : 1))) {
    if (!isLinkName(rate.link)) throw new RangeError(`${JSON.stringify(rate.link)} is no name of a link`);
    for (const direction of ['sent', 'received'] as const) {
      const perSecond = rate[direction];
      if (perSecond === null) continue;
      if (!Number.isInteger(perSecond) || perSecond < 1)
        throw new RangeError(`${perSecond} packets a second are no rate`);
      // A tenth of a second's may come at once.
      const burst = Math.max(5, Math.round(perSecond / 10));
      chains.push(
        `  chain ${direction}_${rate.link} {\n    limit rate over ${perSecond}/second burst ${burst} packets counter drop\n  }`,
      );
      maps[direction].push(`"${rate.link}" : jump ${direction}_${rate.link}`);
    }
  }
  const base = (direction: 'sent' | 'received', hook: string, key: string): string[] =>
    maps[direction].length === 0
      ? []
      : [
          `  chain ${direction} {\n    type filter hook ${hook}; policy accept;\n    ${key} vmap { ${maps[direction].join(', ')} }\n  }`,
        ];
  const body = [
    ...chains,
    // Before anybody else has work with them, and after all others.
    ...base('received', 'prerouting priority -310', 'iifname'),
    ...base('sent', 'postrouting priority 310', 'oifname'),
  ];
  const mark = `is_${createHash('sha256').update(body.join('\n')).digest('hex').slice(0, 16)}`;
  const text = [
    `table bridge ${name}`,
    `delete table bridge ${name}`,
    `table bridge ${name} {`,
    `  chain ${mark} {\n  }`,
    ...body,
    '}',
    '',
  ];
  return { text: text.join('\n'), mark };
}

export function packetTableName(instance: string): string {
  return `${firewallTableName(instance)}.rates`;
}

/** Makes the rates of an instance be these; none removes the table. Answers with what was different, in words. */
export async function ensurePacketRates(
  instance: string,
  rates: readonly PacketRate[],
  scope: NetworkScope = {},
): Promise<string[]> {
  const name = packetTableName(instance);
  if (rates.length === 0)
    return (await nft(['delete', 'table', 'bridge', name], scope, null))
      ? [`the table bridge ${name} was there without a rate`]
      : [];
  const { text, mark } = renderPacketRates(instance, rates);
  if (await nft(['list', 'chain', 'bridge', name, mark], scope, null)) return [];
  await nft(['-f', '-'], scope, text);
  return [`the table bridge ${name} held other rates`];
}

/** False: what is meant is not there. */
async function nft(args: string[], scope: NetworkScope, input: string | null): Promise<boolean> {
  try {
    await run(inScope(scope, ['nft', ...args]), { timeoutMs: 20_000, ...(input === null ? {} : { input }) });
    return true;
  } catch (error) {
    if (!(error instanceof CommandError) || error.reason !== 'exit') throw error;
    const said = error.stderr.trim().slice(0, 1000);
    if (input === null && /No such file or directory/.test(said)) return false;
    throw new NftablesError('bridge', 'other', `nft ${args.join(' ')} for packet rates failed: ${said}`, {
      cause: error,
    });
  }
}
