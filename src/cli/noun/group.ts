// lodge group: VMs that are started together in an order, and stopped in the opposite one.
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import type { Group } from '../../api/group.ts';
import type { Task } from '../../api/task.ts';
import { parseDurationS } from '../../lib/duration.ts';
import { collected, noun, objectFormats, parsedBy, verb, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { eachOf } from '../delete-each.ts';
import { parseMember } from '../group/member.ts';
import { pictureOf } from '../group/picture.ts';
import { parseLabels } from '../labels.ts';
import { listVerb, showVerb, withSuggestion, type FetchPage } from '../list.ts';
import { followItems } from '../output/items.ts';
import { printOne, type Printable } from '../output/print.ts';
import { painted, renderDetails } from '../output/table.ts';
import { applyChanges, parseChange } from '../set.ts';
import { usageError } from '../usage-error.ts';
import { ageColumn, colorState, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';

export const groupPrintable: Printable<Group> = {
  kind: 'Group',
  name: (group) => group.name,
  columns: [
    { header: 'NAME', value: (group) => group.name, minWidth: 12 },
    {
      header: 'STATE',
      value: (group) => group.status.state,
      color: (text, group, style) => colorState(text, group.status.state, style),
    },
    { header: 'RUNNING', value: (group) => runningText(group), side: 'right' },
    { header: 'STAGES', value: (group) => stagesText(group), minWidth: 16 },
    { header: 'AUTOSTART', value: (group) => (group.spec.autostart ? 'yes' : 'no'), isWide: true },
    { header: 'DESCRIPTION', value: (group) => group.spec.description, isWide: true, minWidth: 12 },
    ageColumn(),
    labelsColumn(),
    idColumn(),
  ],
};

export const fetchGroups: FetchPage<Group> = (client, query) => client.group.list({ query });

function runningText({ status }: Group): string {
  const running = status.members.filter(({ state }) => state === 'running').length;
  return `${running} of ${status.members.length}`;
}

/** "db1 → web1, web2 → lb1". */
function stagesText({ status }: Group): string {
  const orders = [...new Set(status.members.map(({ order }) => order))];
  const membersAt = (order: number): string =>
    status.members
      .filter((member) => member.order === order)
      .map(({ vm }) => vm)
      .join(', ');
  return orders.map(membersAt).join(' → ');
}

function getGroup(session: Session, name: string): Promise<Group> {
  return withSuggestion(session, name, fetchGroups, () =>
    session.client.group.get({ params: { group: name }, query: { project: session.project } }),
  );
}

function details(group: Group, session: Session): string[] {
  const { status, spec } = group;
  const { style } = session.terminal;
  return renderDetails(
    [
      ['Name', group.name],
      ['Project', group.project],
      ['State', painted(status.state, (text) => colorState(text, status.state, style))],
      ['Reason', status.reason],
      ['Task', status.taskId],
      ['Description', spec.description],
      ['Autostart', spec.autostart ? 'as a whole, when the node comes up' : 'those members whose own spec says so'],
      ['Labels', labelsText(group.labels)],
      ['Created', momentOf(group.createdAt)],
      ['Id', group.id],
      ['Start order', pictureOf(group, style)],
    ],
    session.terminal,
  );
}

interface CreateOptions {
  member?: string[];
  autostart?: boolean;
  description?: string;
  label?: string[];
}

interface SetOptions {
  add?: string[];
  remove?: string[];
}

interface PowerOptions {
  timeout?: number;
  wait: boolean;
}

const memberHelp =
  'VM,order=2,delay=30s,ready=agent|port:80|command:PROGRAM…,ready-timeout=5m,if-not-ready=stop|continue,stop-timeout=90s';

/** `lodge group` and its verbs. */
export function groupNoun(): Command {
  const group = noun('group', 'Groups: VMs that are started in an order, and stopped in the opposite one');
  listVerb(group, {
    kind: 'group',
    noun: 'group',
    plural: 'groups',
    printable: groupPrintable,
    fetch: fetchGroups,
    projectOf: (one) => one.project,
    empty: 'Make one: lodge group create shop --member db1,ready=port:5432 --member web1',
    examples: [['lodge group list', 'how many members run, and the order of the start']],
  });
  showVerb(group, {
    noun: 'group',
    printable: groupPrintable,
    get: getGroup,
    details,
    examples: [
      ['lodge group show shop', 'its stages, and the state of each member'],
      ['lodge group show shop -o yaml > shop.yaml', 'as lodge apply takes it'],
    ],
  });
  addChangeVerbs(group);
  addPowerVerbs(group);
  return group;
}

function addChangeVerbs(group: Command): void {
  verb(group, 'create <name>', 'Create a group', {
    formats: objectFormats,
    description:
      'Create a group. Members are started one after the other as they are given; those with the same order at once. The next stage begins when all of the stage before are ready: running, if nothing else is said. A VM is in one group at most.',
    examples: [
      ['lodge group create shop --member db1,ready=port:5432 --member web1', 'web1 starts when the database listens'],
      [
        'lodge group create shop --member db1,ready=agent --member web1,order=2,delay=5s --member web2,order=2',
        'web1 and web2 at once, web1 five seconds later',
      ],
      [
        "lodge group create db --member 'pg1,ready=command:/usr/bin/pg_isready -q,ready-timeout=2m' --autostart",
        'ready when a program in the guest succeeds; started with the node',
      ],
    ],
  })
    .option('--member <member>', `${memberHelp}; may be given several times`, collected)
    .option('--autostart', 'start all of it when the node comes up')
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .action(
      withDaemon<[name: string], CreateOptions>(async (session, options, name) => {
        const made = await session.client.group.create({
          body: {
            name,
            project: session.project,
            labels: parseLabels(options.label),
            spec: {
              description: options.description,
              members: (options.member ?? []).map(parseMember),
              autostart: options.autostart,
            },
          },
          idempotencyKey: randomUUID(),
        });
        await printOne(session, groupPrintable, made, (item) => [
          `Group ${name} is created:`,
          ...pictureOf(item, session.terminal.style).map((line) => `  ${line}`),
        ]);
      }),
    );

  verb(group, 'set <group> [change...]', 'Change fields and members of a group', {
    formats: objectFormats,
    description:
      'Change fields of a group, or its labels: field=value sets, field- removes. Members are added, replaced and taken out with --add and --remove.',
    examples: [
      ['lodge group set shop autostart=true description="the shop"', 'fields'],
      ['lodge group set shop --add web3,order=2 --remove web1', 'members; one that is there already is replaced'],
    ],
  })
    .option('--add <member>', `${memberHelp}; may be given several times`, collected)
    .option('--remove <vm>', 'a member that is to leave; may be given several times', collected)
    .action(
      withDaemon<[name: string, changes: string[]], SetOptions>(async (session, options, name, changes) => {
        const { add = [], remove = [] } = options;
        if (changes.length + add.length + remove.length === 0)
          throw usageError('nothing is to be changed', { hint: 'Give field=value, --add VM or --remove VM.' });
        const before = await getGroup(session, name);
        const members = changedMembers(before, add, remove);
        const body = applyChanges('group', { ...before, spec: { ...before.spec, members } }, changes.map(parseChange));
        const after = await session.client.group.update({
          params: { group: name },
          query: { project: session.project },
          body: { revision: before.revision, labels: body.labels, spec: body.spec },
        });
        await printOne(session, groupPrintable, after, () => [`Group ${name} is changed.`]);
      }),
    );

  verb(group, 'edit <group>', 'Change a group in an editor', {
    description: 'Change a group as YAML in $VISUAL or $EDITOR. What is not valid opens the editor again.',
    examples: [['EDITOR=nano lodge group edit shop', 'with another editor']],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const { editObject } = await import('../edit.ts');
      const changed = await editObject(session, {
        noun: 'group',
        label: 'Group',
        name,
        read: () => getGroup(session, name),
        update: ({ revision, labels, spec }) =>
          session.client.group.update({
            params: { group: name },
            query: { project: session.project },
            body: { revision, labels, spec },
          }),
      });
      if (changed) session.terminal.line(`Group ${name} is changed.`);
    }),
  );

  verb(group, 'delete <group...>', 'Delete groups; their VMs stay as they are', {
    aliases: ['rm'],
    examples: [['lodge group delete shop --yes', 'without being asked']],
  })
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[names: string[]], { yes?: boolean }>(async (session, options, names) => {
        const what = names.length === 1 ? `group ${names[0]}` : `${names.length} groups (${names.join(', ')})`;
        await confirm(session, `Delete ${what}? The VMs stay.`, options.yes === true);
        const deleted = await eachOf(session, names, (one) =>
          withSuggestion(session, one, fetchGroups, () =>
            session.client.group.delete({ params: { group: one }, query: { project: session.project } }),
          ),
        );
        for (const { name } of deleted) session.terminal.line(`Group ${name} is deleted.`);
        return Number(process.exitCode ?? 0);
      }),
    );
}

/** The members with some taken out, and others added or replaced at their places. */
function changedMembers(group: Group, add: readonly string[], remove: readonly string[]): object[] {
  const members: { vm: string }[] = [...group.spec.members];
  for (const vm of remove) {
    const at = members.findIndex((member) => member.vm === vm);
    if (at === -1)
      throw usageError(`VM ${vm} is no member of group ${group.name}`, {
        hint: `It has ${group.spec.members.map((member) => member.vm).join(', ') || 'none'}.`,
      });
    members.splice(at, 1);
  }
  for (const member of add.map(parseMember)) {
    const at = members.findIndex(({ vm }) => vm === member.vm);
    if (at === -1) members.push(member);
    else members[at] = member;
  }
  return members;
}

function addPowerVerbs(group: Command): void {
  const noWait = ['--no-wait', 'do not wait until it is done'] as const;
  const follow = async (
    session: Session,
    name: string,
    verbWord: string,
    task: Task,
    wait: boolean,
  ): Promise<number> => {
    if (wait) return followItems(session, task, `${verbWord} group ${name}`);
    session.terminal.line(`Group ${name}: ${verbWord} has begun (task ${task.id}).`);
    return 0;
  };
  const ask = (session: Session, name: string, body: () => Promise<Task>): Promise<Task> =>
    withSuggestion(session, name, fetchGroups, body);

  verb(group, 'start <group>', 'Start the members of a group in their order', {
    description:
      'Start the members of a group in their order. What runs already is left alone. When a member is not ready in time, nothing after it is started, unless that member says continue. Cancelling (lodge task cancel) keeps what was started.',
    examples: [['lodge group start shop', 'ends when every member is ready']],
  })
    .option(...noWait)
    .action(
      withDaemon<[name: string], PowerOptions>(async (session, options, name) => {
        const { client, project } = session;
        const params = { group: name };
        const task = await ask(session, name, () => client.group.start({ params, query: { project } }));
        return follow(session, name, 'start', task, options.wait);
      }),
    );

  const stopping = [
    ['stop', 'Stop the members of a group in the opposite order', 'each stage when those after it are down'],
    ['restart', 'Stop all members of a group, and start them in their order', 'all are down before the first comes up'],
  ] as const;
  for (const [action, summary, what] of stopping) {
    verb(group, `${action} <group>`, summary, {
      examples: [
        [`lodge group ${action} shop`, what],
        [`lodge group ${action} shop --timeout 30s`, 'each is switched off after half a minute'],
      ],
    })
      .option(
        '--timeout <duration>',
        'how long a guest may take before it is switched off (default: as member and VM say)',
        parsedBy(parseDurationS),
      )
      .option(...noWait)
      .action(
        withDaemon<[name: string], PowerOptions>(async (session, options, name) => {
          const { client, project } = session;
          const request = { params: { group: name }, query: { project }, body: { timeoutS: options.timeout } };
          const task = await ask(session, name, () => client.group[action](request));
          return follow(session, name, action, task, options.wait);
        }),
      );
  }
}
