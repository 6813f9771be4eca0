// lodge firewall: the policy of a project, the rules that count for a VM, and why a connection is allowed or denied.
import type { Command } from 'commander';
import type { FirewallPolicy } from '../../api/firewall-policy.ts';
import type { EffectiveNic, EffectiveRule, Explanation, ProjectFirewall, RuleOrigin } from '../../api/firewall.ts';
import { formatBytes } from '../../lib/quantity.ts';
import { documentFormats, noun, verb, wholeNumber, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { printDocument } from '../output/print.ts';
import { renderDetails, renderTable, type Column } from '../output/table.ts';
import { usageError } from '../usage-error.ts';

const originText = ({ kind, name, via }: RuleOrigin): string => {
  if (kind === 'security-group') return via === 'nic' ? `group ${name}` : `group ${name}, by its ${via}`;
  return {
    'built-in': 'always so',
    'network-policy': `network ${name}`,
    'project-policy': 'project',
    default: 'default',
  }[kind];
};

const ruleColumns: readonly Column<EffectiveRule>[] = [
  { header: 'DIRECTION', value: ({ direction }) => direction },
  { header: 'PRIORITY', value: ({ priority }) => (priority === null ? '' : String(priority)), side: 'right' },
  { header: 'ACTION', value: ({ action }) => action },
  { header: 'RULE', value: ({ name }) => name },
  { header: 'OF', value: ({ origin }) => originText(origin) },
  { header: 'WHAT', value: ({ text }) => text, minWidth: 16 },
];

const countText = (count: number | null, format: (count: number) => string): string =>
  count === null ? '-' : format(count);

const countColumns: readonly Column<EffectiveRule>[] = [
  { header: 'PACKETS', value: ({ packets }) => countText(packets, String), side: 'right' },
  { header: 'BYTES', value: ({ bytes }) => countText(bytes, formatBytes), side: 'right' },
];

function nicLines(vm: string, nic: EffectiveNic, hasCounters: boolean, { terminal }: Session): string[] {
  const head = `${vm}, NIC ${nic.nic} on ${nic.network} (${nic.mac})`;
  if (nic.unfiltered !== null) return [`${head}: not filtered: ${nic.unfiltered}.`];
  const groups = nic.groups.length === 0 ? 'in no group' : `in ${nic.groups.join(', ')}`;
  const guard = nic.hasAntiSpoofing ? 'anti-spoofing on' : 'anti-spoofing OFF';
  return [
    `${head}: ${groups}; ${guard}; ${nic.addresses.join(', ') || 'no address known'}`,
    ...renderTable([...ruleColumns, ...(hasCounters ? countColumns : [])], nic.rules, {
      width: terminal.width,
      style: terminal.style,
    }),
  ];
}

function projectLines({ project, spec, status }: ProjectFirewall, { terminal }: Session): string[] {
  return renderDetails(
    [
      ['Project', project],
      ['State', `${status.state}: ${status.reason}`],
      ['Filtered NICs', `${status.nicCount} on this node`],
      ['Ingress', spec.ingress ?? 'deny for NICs in a group, else allow (default)'],
      ['Egress', spec.egress ?? 'deny for NICs with a rule that allows egress, else allow (default)'],
      ['Every NIC is in', spec.securityGroups.join(', ') || 'no group'],
      ['Host reaches guests', (spec.isHostAllowed ?? true) ? 'yes, whatever rules say' : 'as rules say'],
      ['Problems', status.problems],
      ['Not filtered', status.unfiltered.map(({ vm, nic, reason }) => `${vm}, NIC ${nic}: ${reason}`)],
    ],
    terminal,
  );
}

function explanationLines(found: Explanation, { terminal: { style } }: Session): string[] {
  const isAllowed = found.verdict === 'allowed';
  return [
    `${isAllowed ? style.green('allowed') : style.red('denied')}: ${found.from} to ${found.to}, ${found.connection}`,
    ...found.sides.map(({ reason }) => `  ${reason}`),
    ...(found.sides.some(({ verdict }) => verdict === 'deny') || isAllowed ? [] : [`  ${found.reason}`]),
    ...found.notes.map((note) => `  Note: ${note}`),
  ];
}

/** field=value of the policy: ingress, egress, isHostAllowed, securityGroups; field- takes one out. */
export function changePolicy(before: FirewallPolicy, changes: readonly string[]): FirewallPolicy {
  const after: Record<string, unknown> = { ...before };
  for (const change of changes) {
    const [, field = '', value] = /^(ingress|egress|isHostAllowed|securityGroups)(?:-|=(.*))$/s.exec(change) ?? [];
    if (field === '')
      throw usageError(`${change} is not a change`, {
        hint: 'Write field=value or field-: ingress=deny, egress=allow, isHostAllowed=false, securityGroups=base,admin',
      });
    if (value === undefined) after[field] = field === 'securityGroups' ? [] : undefined;
    else if (field === 'securityGroups') after[field] = value.split(',').filter(Boolean);
    else if (field === 'isHostAllowed') {
      if (value !== 'true' && value !== 'false') throw usageError('isHostAllowed is true or false');
      after[field] = value === 'true';
    } else {
      if (value !== 'allow' && value !== 'deny') throw usageError(`${field} is allow or deny`);
      after[field] = value;
    }
  }
  return after as FirewallPolicy;
}

/** `lodge firewall` and its verbs. */
export function firewallNoun(): Command {
  const firewall = noun('firewall', 'What the rules of security groups come to, and why');
  verb(firewall, 'show [vm]', 'Show the rules that count for a VM, or the policy of the project', {
    formats: documentFormats,
    description:
      'Show the rules that count for a VM, in the order in which they are looked at: the first that matches decides. Without a VM, the policy of the project, and how this node enforces it.',
    examples: [
      ['lodge firewall show web1', 'its rules, with the group that each is of'],
      ['lodge firewall show web1 --counters', 'and what each of them has decided on'],
      ['lodge firewall show', 'the policy of the project'],
    ],
  })
    .option('--counters', 'packets and bytes that each rule has decided on since it was loaded, without answers')
    .action(
      withDaemon<[vm: string | undefined], { counters?: boolean }>(async (session, { counters = false }, vm) => {
        const query = { project: session.project };
        if (vm === undefined) {
          if (counters) throw usageError('--counters goes with a VM', { hint: 'lodge firewall show VM --counters' });
          const found = await session.client.firewall.get({ query });
          await printDocument(session, found, () => projectLines(found, session));
          return;
        }
        const { items } = await session.client.firewall.rules({ params: { vm }, query: { ...query, counters } });
        await printDocument(session, items, () =>
          items.length === 0 ? [`VM ${vm} has no NIC.`] : items.flatMap((nic) => nicLines(vm, nic, counters, session)),
        );
      }),
    );
  verb(firewall, 'explain <from> <to> [connection]', 'Say whether a connection is allowed, by which rule, and why', {
    formats: documentFormats,
    description:
      'Say whether a connection is allowed, by which rule, and why. From and to are a VM, an address, “host” or “internet”. No packet is sent. Ends with 1 where it is denied.',
    examples: [
      ['lodge firewall explain web1 db1 tcp/5432', 'may web1 connect to the database?'],
      ['lodge firewall explain internet web1 tcp/443', 'may anybody?'],
      ['lodge firewall explain web1 10.1.2.3 icmp', 'may it be pinged?'],
    ],
  }).action(
    withDaemon<[from: string, to: string, connection: string | undefined], object>(
      async (session, _options, from, to, connection = 'tcp') => {
        const [protocol = 'tcp', detail] = connection.split('/');
        const number = detail === undefined ? undefined : wholeNumber(0, 65_535)(detail);
        const isIcmp = protocol === 'icmp' || protocol === 'icmpv6';
        const found = await session.client.firewall.explain({
          query: {
            project: session.project,
            from,
            to,
            protocol,
            ...(number === undefined ? {} : isIcmp ? { icmpType: number } : { port: number }),
          },
        });
        await printDocument(session, found, () => explanationLines(found, session));
        return found.verdict === 'allowed' ? 0 : 1;
      },
    ),
  );
  verb(firewall, 'set <change...>', 'Change the policy of the project', {
    formats: documentFormats,
    description:
      'Change what counts for the NICs of the project where no rule decides. A network can have a policy of its own, which comes first (lodge network set NETWORK firewall.ingress=deny).',
    examples: [
      ['lodge firewall set ingress=deny', 'NICs in no group are closed too'],
      ['lodge firewall set securityGroups=base', 'every NIC is in group base'],
      ['lodge firewall set ingress-', 'back to the default'],
    ],
  }).action(
    withDaemon<[changes: string[]], object>(async (session, _options, changes) => {
      const query = { project: session.project };
      const { revision, spec } = await session.client.firewall.get({ query });
      const after = await session.client.firewall.update({
        query,
        body: { revision, spec: changePolicy(spec, changes) },
      });
      await printDocument(session, after, () => projectLines(after, session));
    }),
  );
  return firewall;
}
