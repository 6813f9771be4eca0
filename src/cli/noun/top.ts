// lodge top: what every VM uses, live.
import { Command, Option } from 'commander';
import { parseDurationMs } from '../../lib/duration.ts';
import { documentFormats, parsedBy, verb, withDaemon } from '../command.ts';
import { sortKeys, type SortKey } from '../vm/usage.ts';

/** `lodge top`. */
export function topCommand(): Command {
  return verb(new Command('lodge'), 'top', 'Watch what every VM uses', {
    formats: documentFormats,
    description:
      'Watch what every VM uses, redrawn every second. Keys: c, m, d, n, a sort by CPU, memory, disk, network, name; space holds; q leaves. CPU is in percent of one host CPU.',
    examples: [
      ['lodge top', 'live'],
      ['lodge top --once -o json', 'one reading, for a script'],
    ],
  })
    .option('--once', 'print one table and end')
    .addOption(new Option('--sort <key>', 'sort by this first').choices(sortKeys).default('cpu'))
    .option('--interval <duration>', 'time between readings (default: 1s)', parsedBy(parseDurationMs))
    .action(
      withDaemon<[], { once?: boolean; sort: SortKey; interval?: number }>(async (session, options) => {
        const { showUsageOnce, watchUsage } = await import('../top.ts');
        if (options.once === true || session.format !== 'table') await showUsageOnce(session, [], options.sort);
        else await watchUsage(session, options.sort, Math.max(200, options.interval ?? 1000));
      }),
    );
}
