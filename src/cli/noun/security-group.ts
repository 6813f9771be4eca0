// lodge security-group: rules for the NICs of VMs.
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import type { RulePeer, SecurityGroup, SecurityRule, SecurityRuleInput } from '../../api/security-group.ts';
import { collected, noun, objectFormats, verb, wholeNumber, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { eachOf } from '../delete-each.ts';
import { parseLabels } from '../labels.ts';
import { listVerb, showVerb, withSuggestion, type FetchPage } from '../list.ts';
import { printOne, type Printable } from '../output/print.ts';
import { renderDetails, renderTable, type Column } from '../output/table.ts';
import { changeObject } from '../set.ts';
import { usageError } from '../usage-error.ts';
import { ageColumn, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';

export const securityGroupPrintable: Printable<SecurityGroup> = {
  kind: 'SecurityGroup',
  name: (group) => group.name,
  columns: [
    { header: 'NAME', value: (group) => group.name, minWidth: 12 },
    { header: 'RULES', value: (group) => String(group.spec.rules.length), side: 'right' },
    { header: 'NICS', value: (group) => String(group.status.members.length), side: 'right' },
    { header: 'INCLUDES', value: (group) => group.spec.includes.join(', ') },
    { header: 'DESCRIPTION', value: (group) => group.spec.description, minWidth: 12 },
    ageColumn(),
    labelsColumn(),
    idColumn(),
  ],
};

export const fetchSecurityGroups: FetchPage<SecurityGroup> = (client, query) => client.securityGroup.list({ query });

export function getSecurityGroup(session: Session, name: string): Promise<SecurityGroup> {
  return withSuggestion(session, name, fetchSecurityGroups, () =>
    session.client.securityGroup.get({ params: { securityGroup: name }, query: { project: session.project } }),
  );
}

const ruleColumns: readonly Column<SecurityRule>[] = [
  { header: 'RULE', value: ({ name, isEnabled }) => (isEnabled ? name : `${name} (off)`) },
  { header: 'PRIORITY', value: ({ priority }) => String(priority), side: 'right' },
  { header: 'DIRECTION', value: ({ direction }) => direction },
  { header: 'ACTION', value: ({ action }) => action },
  {
    header: 'WHAT',
    value: ({ protocol, ports, icmpTypes }) => {
      const detail = [...ports, ...icmpTypes.map(String)].join(',');
      return `${protocol}${detail === '' ? '' : `/${detail}`}`;
    },
  },
  { header: 'PEERS', value: ({ peers }) => peers.map(peerWord).join(', ') || 'anybody' },
];

/** A peer as it is typed. */
function peerWord({ cidr, addressSet, securityGroup, selector, dnsName }: RulePeer): string {
  if (securityGroup !== undefined) return `group:${securityGroup}`;
  if (addressSet !== undefined) return `set:${addressSet}`;
  if (selector !== undefined) return `vms:${selector}`;
  return dnsName === undefined ? (cidr ?? '') : `name:${dnsName}`;
}

/** A peer as it was typed: a prefix or address, group:NAME, set:NAME, vms:SELECTOR, name:DNS-NAME. */
export function parsePeer(word: string): RulePeer {
  const at = /^(group|set|vms|name):/.exec(word)?.[1];
  const rest = at === undefined ? word : word.slice(at.length + 1);
  if (at === 'group') return { securityGroup: rest };
  if (at === 'set') return { addressSet: rest };
  if (at === 'vms') return { selector: rest };
  if (at === 'name') return { dnsName: rest };
  if (/^[0-9a-fA-F:.]+(\/\d+)?$/.test(word)) return { cidr: word };
  throw usageError(`${word} is no peer`, {
    hint: 'Write a prefix or an address, group:NAME, set:NAME, vms:app=web, or name:deb.debian.org.',
  });
}

type What = Pick<SecurityRuleInput, 'protocol' | 'ports' | 'icmpTypes'>;

/** What a rule is about, as it was typed: tcp/443,8000-8080, udp, icmp/echo-request, any. */
export function parseWhat(word: string): What {
  const [name = '', detail] = word.split('/');
  const known = ['any', 'tcp', 'udp', 'icmp', 'icmpv6', 'sctp'] as const;
  const protocol = known.find((one) => one === name) ?? (/^\d{1,3}$/.test(name) ? Number(name) : null);
  if (protocol === null)
    throw usageError(`${word} is nothing that a rule could be about`, {
      hint: `Write a protocol (${known.join(', ')}, or its number), with ports or types behind it: tcp/443,8000-8080, icmp/echo-request.`,
    });
  if (detail === undefined) return { protocol };
  const parts = detail.split(',');
  if (protocol === 'icmp' || protocol === 'icmpv6')
    return { protocol, icmpTypes: parts.map((part) => (/^\d+$/.test(part) ? Number(part) : part)) };
  return { protocol, ports: parts };
}

/** A name for a rule that nobody named, and that no other has. */
export function ruleName(what: string, action: string, taken: ReadonlySet<string>): string {
  const base = `${action}-${what}`
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '')
    .slice(0, 36);
  for (let count = 1; ; count++) {
    const name = count === 1 ? base : `${base}-${count}`;
    if (!taken.has(name)) return name;
  }
}

function details(group: SecurityGroup, session: Session): string[] {
  const { spec, status } = group;
  const { style } = session.terminal;
  return renderDetails(
    [
      ['Name', group.name],
      ['Project', group.project],
      ['Description', spec.description],
      ['Includes', spec.includes.join(', ')],
      ['Rules', spec.rules.length === 0 ? 'none' : renderTable(ruleColumns, spec.rules, { width: null, style })],
      ['NICs', status.members.map(({ vm, nic }) => `${vm} (NIC ${nic})`).join(', ') || 'none'],
      ['Addresses', status.addresses.join(', ') || 'none known'],
      ['Named by', status.usedBy.join(', ') || 'nothing'],
      ['Labels', labelsText(group.labels)],
      ['Created', momentOf(group.createdAt)],
      ['Id', group.id],
    ],
    session.terminal,
  );
}

interface RuleOptions {
  from?: string[];
  to?: string[];
  name?: string;
  priority?: number;
  limit?: number;
  log?: boolean;
  description?: string;
}

function addRuleVerb(parent: Command, action: 'allow' | 'deny'): void {
  const made = verb(
    parent,
    `${action} <security-group> <what>`,
    `Add a rule that ${action === 'allow' ? 'allows' : 'denies'}`,
    {
      formats: objectFormats,
      description: `Add a rule that ${action === 'allow' ? 'allows' : 'denies'} connections to the NICs in a group, or with --to from them. It counts at once, for open connections too. A peer is a prefix or an address, group:NAME, set:NAME, vms:app=web (a label selector), or name:deb.debian.org (a DNS name). Without one, anybody is meant.`,
      examples: [
        [`lodge security-group ${action} web tcp/80,443`, 'from anybody'],
        [`lodge security-group ${action} db tcp/5432 --from group:web`, 'from the NICs in group web'],
        [`lodge security-group ${action} web tcp/22 --from 10.0.0.0/8 --from set:office`, 'from a prefix and a set'],
        [`lodge security-group ${action} web tcp/443 --to name:deb.debian.org`, 'from the NICs to a DNS name'],
      ],
    },
  )
    .option('--from <peer>', 'who may be at the other side; may be given several times', collected)
    .option('--to <peer>', 'the rule is for what leaves the NICs: where to; any: anywhere', collected)
    .option('--name <name>', 'name of the rule; without it, one is made')
    .option('--priority <number>', 'the lowest comes first; 1000 by default', wholeNumber(0, 65_535))
    .option('--log', 'log what it decides')
    .option('--description <text>', 'what it is for');
  if (action === 'allow') made.option('--limit <number>', 'most connections at a time', wholeNumber(1, 1_000_000));
  made.action(
    withDaemon<[name: string, what: string], RuleOptions>(async (session, options, name, what) => {
      if (options.from && options.to) throw usageError('a rule has either --from or --to');
      const peers = (options.to ?? options.from ?? []).filter((word) => word !== 'any').map(parsePeer);
      const group = await getSecurityGroup(session, name);
      const taken = new Set(group.spec.rules.map((rule) => rule.name));
      const rule: SecurityRuleInput = {
        ...parseWhat(what),
        name: options.name ?? ruleName(what, action, taken),
        action,
        direction: options.to ? 'egress' : 'ingress',
        peers,
        priority: options.priority,
        connectionLimit: options.limit,
        isLogged: options.log,
        description: options.description,
      };
      const after = await session.client.securityGroup.update({
        params: { securityGroup: group.name },
        query: { project: session.project },
        body: { revision: group.revision, spec: { ...group.spec, rules: [...group.spec.rules, rule] } },
      });
      await printOne(session, securityGroupPrintable, after, () => [
        `Security group ${group.name} has rule ${rule.name} now, for ${after.status.members.length} NICs.`,
        ...(after.status.members.length === 0
          ? [`Put a VM into it: lodge security-group attach ${group.name} VM`]
          : []),
      ]);
    }),
  );
}

function addMemberVerb(parent: Command, name: 'attach' | 'detach', summary: string): void {
  verb(parent, `${name} <security-group> <vm...>`, summary, {
    description: `${summary}: all NICs of the VMs, or one of them. It counts at once, also while they run.`,
    examples: [[`lodge security-group ${name} web web1 web2`, 'two VMs']],
  })
    .option('--nic <number>', 'only this NIC, counted from 0', wholeNumber(0, 31))
    .action(
      withDaemon<[group: string, vms: string[]], { nic?: number }>(async (session, { nic }, group, vms) => {
        await getSecurityGroup(session, group);
        const query = { project: session.project };
        const changed = await eachOf(session, vms, async (vm) => {
          const { spec, revision } = await session.client.vm.get({ params: { vm }, query });
          if (nic !== undefined && !spec.nics[nic]) throw usageError(`VM ${vm} has no NIC ${nic}`);
          const nics = spec.nics.map((one, index) => {
            if (nic !== undefined && nic !== index) return one;
            const others = (one.securityGroups ?? []).filter((named) => named !== group);
            return { ...one, securityGroups: name === 'attach' ? [...others, group] : others };
          });
          return session.client.vm.update({ params: { vm }, query, body: { revision, spec: { ...spec, nics } } });
        });
        for (const vm of changed)
          session.terminal.line(`VM ${vm.name} is ${name === 'attach' ? 'in' : 'no more in'} security group ${group}.`);
        return Number(process.exitCode ?? 0);
      }),
    );
}

/** `lodge security-group` and its verbs. */
export function securityGroupNoun(): Command {
  const group = noun('security-group', 'Security groups: which connections of VMs are allowed');
  listVerb(group, {
    kind: 'security-group',
    noun: 'security-group',
    plural: 'security groups',
    printable: securityGroupPrintable,
    fetch: fetchSecurityGroups,
    projectOf: (one) => one.project,
    empty: 'Make one: lodge security-group create web',
    examples: [['lodge security-group list', 'all groups with their rules and NICs counted']],
  });
  showVerb(group, {
    noun: 'security-group',
    printable: securityGroupPrintable,
    get: getSecurityGroup,
    details,
    examples: [['lodge security-group show web', 'its rules, NICs, and what names it']],
  });
  verb(group, 'create <name>', 'Create a security group', {
    formats: objectFormats,
    description:
      'Create a security group, without rules. NICs in it are closed for connections from outside, but for those that rules allow.',
    examples: [
      ['lodge security-group create web --description "web servers"', 'without rules'],
      ['lodge security-group allow web tcp/80,443', 'a rule for it'],
      ['lodge security-group attach web web1', 'a VM for it'],
    ],
  })
    .option(
      '--include <security-group>',
      'its rules count as those of the new one; may be given several times',
      collected,
    )
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .action(
      withDaemon<[name: string], { include?: string[]; description?: string; label?: string[] }>(
        async (session, options, name) => {
          const made = await session.client.securityGroup.create({
            body: {
              name,
              project: session.project,
              labels: parseLabels(options.label),
              spec: { description: options.description, includes: options.include },
            },
            idempotencyKey: randomUUID(),
          });
          await printOne(session, securityGroupPrintable, made, () => [
            `Security group ${name} is made.`,
            `Give it rules: lodge security-group allow ${name} tcp/80,443`,
          ]);
        },
      ),
    );
  addRuleVerb(group, 'allow');
  addRuleVerb(group, 'deny');
  verb(group, 'remove-rule <security-group> <rule...>', 'Take rules out of a security group', {
    description: 'Take rules out of a security group. Connections that only they allowed are cut at once.',
    examples: [['lodge security-group remove-rule web allow-tcp-80', 'as lodge security-group show web names it']],
  }).action(
    withDaemon<[name: string, rules: string[]], object>(async (session, _options, name, rules) => {
      const { spec, revision } = await getSecurityGroup(session, name);
      const unknown = rules.find((rule) => !spec.rules.some((one) => one.name === rule));
      if (unknown !== undefined)
        throw usageError(`security group ${name} has no rule ${unknown}`, {
          hint: `It has ${spec.rules.map((one) => one.name).join(', ') || 'none'}.`,
        });
      await session.client.securityGroup.update({
        params: { securityGroup: name },
        query: { project: session.project },
        body: { revision, spec: { ...spec, rules: spec.rules.filter((one) => !rules.includes(one.name)) } },
      });
      session.terminal.line(`Security group ${name} has no rule ${rules.join(', ')} any more.`);
    }),
  );
  addMemberVerb(group, 'attach', 'Put VMs into a security group');
  addMemberVerb(group, 'detach', 'Take VMs out of a security group');
  verb(group, 'set <security-group> <change...>', 'Change fields of a security group', {
    formats: objectFormats,
    description: 'Change fields of a security group by field=value; field- removes one.',
    examples: [
      ['lodge security-group set web rules.allow-tcp-80.isEnabled=false', 'one rule switched off'],
      ['lodge security-group set web description="web servers"', 'what it is for'],
    ],
  }).action(
    withDaemon<[name: string, changes: string[]], object>(async (session, _options, name, changes) => {
      const before = await getSecurityGroup(session, name);
      const after = await changeObject(session, 'securityGroup', before, changes, (body) =>
        session.client.securityGroup.update({
          params: { securityGroup: name },
          query: { project: session.project },
          body,
        }),
      );
      if (after) await printOne(session, securityGroupPrintable, after, () => [`Security group ${name} is changed.`]);
    }),
  );
  verb(group, 'edit <security-group>', 'Change a security group in an editor', {
    description: 'Change a security group as YAML in $VISUAL or $EDITOR. What is not valid opens the editor again.',
    examples: [['EDITOR=nano lodge security-group edit web', 'with another editor']],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const { editObject } = await import('../edit.ts');
      const after = await editObject(session, {
        noun: 'securityGroup',
        label: 'security group',
        name,
        read: () => getSecurityGroup(session, name),
        update: (body) =>
          session.client.securityGroup.update({
            params: { securityGroup: name },
            query: { project: session.project },
            body,
          }),
      });
      if (after) session.terminal.line(`Security group ${name} is changed.`);
    }),
  );
  verb(group, 'delete <security-group...>', 'Delete security groups that nothing names', {
    aliases: ['rm'],
    examples: [['lodge security-group delete web --yes', 'without being asked']],
  })
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[names: string[]], { yes?: boolean }>(async (session, options, names) => {
        const what = names.length === 1 ? `security group ${names[0]}` : `${names.length} security groups`;
        await confirm(session, `Delete ${what}?`, options.yes === true);
        const deleted = await eachOf(session, names, (one) =>
          session.client.securityGroup.delete({ params: { securityGroup: one }, query: { project: session.project } }),
        );
        for (const { name } of deleted) session.terminal.line(`security group ${name} is deleted.`);
        return Number(process.exitCode ?? 0);
      }),
    );
  return group;
}
