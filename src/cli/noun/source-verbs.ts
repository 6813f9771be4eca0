// What the nouns profile and instance-type have in common: verbs on named sets of fields that VMs take over.
import type { Command } from 'commander';
import type { SourceApplied } from '../../api/profile.ts';
import type { Vm } from '../../api/vm.ts';
import type { LodgeClient } from '../../client/client.ts';
import { documentFormats, collected, objectFormats, verb, withDaemon, type Example } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { eachOf } from '../delete-each.ts';
import { followTasks } from '../output/follow.ts';
import { describeError, exitCodeFor } from '../output/print-error.ts';
import { printDocument, printOne, type Printable } from '../output/print.ts';
import { LodgeError } from '../../api/errors.ts';
import { changeObject, type Changeable, type ChangeableNoun } from '../set.ts';
import { changedLines } from '../vm/change.ts';
import { fetchVms, profileChangeText } from '../vm/view.ts';
import { collect } from '../list.ts';

interface Source extends Changeable {
  project: string;
  status: { usedBy: string[]; outdated: string[] };
}

export interface SourceNoun<Item extends Source> {
  /** As it is typed: instance-type. */
  word: string;
  /** As the contract calls it. */
  noun: Extract<ChangeableNoun, 'profile' | 'instanceType'>;
  /** In a sentence: instance type. */
  label: string;
  printable: Printable<Item>;
  get: (session: Session, name: string) => Promise<Item>;
  update: (
    client: LodgeClient,
    name: string,
    project: string,
    body: { revision: number; labels: Record<string, string>; spec: never },
  ) => Promise<Item>;
  delete: (client: LodgeClient, name: string, query: { project: string; force: boolean }) => Promise<Item>;
  apply: (client: LodgeClient, name: string, project: string, body: { vms?: string[] }) => Promise<SourceApplied>;
  /** Which VMs name it. */
  isNamedBy: (vm: Vm, name: string) => boolean;
  setExamples: readonly Example[];
}

/** Adds set, edit, apply and delete. */
export function addSourceVerbs<Item extends Source>(parent: Command, definition: SourceNoun<Item>): void {
  const { word, label, noun, printable } = definition;
  const title = `${label.charAt(0).toUpperCase()}${label.slice(1)}`;
  const told = async (session: Session, changed: Item): Promise<void> =>
    printOne(session, printable, changed, (item) => [
      `${title} ${item.name} is changed.`,
      ...outdatedLines(word, item),
    ]);

  verb(parent, `set <${word}> <change...>`, `Change fields of ${withArticle(label)}`, {
    formats: objectFormats,
    description: `Change fields of ${withArticle(label)}, or its labels: field=value sets, field- removes. VMs that name it stay what they are until lodge ${word} apply.`,
    examples: definition.setExamples,
  }).action(
    withDaemon<[name: string, changes: string[]], object>(async (session, _options, name, changes) => {
      const before = await definition.get(session, name);
      const after = await changeObject(session, noun, before, changes, (body) =>
        definition.update(session.client, name, before.project, body),
      );
      if (after) await told(session, after);
    }),
  );

  verb(parent, `edit <${word}>`, `Change ${withArticle(label)} in an editor`, {
    description: `Change ${withArticle(label)} as YAML in $VISUAL or $EDITOR. What is not valid opens the editor again.`,
    examples: [[`EDITOR=nano lodge ${word} edit ${word === 'profile' ? 'web' : 'db'}`, 'with another editor']],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const { editObject } = await import('../edit.ts');
      const after = await editObject(session, {
        noun,
        label,
        name,
        read: () => definition.get(session, name),
        update: (body) =>
          definition.update(session.client, name, session.project, { ...body, spec: body.spec as never }),
      });
      if (after) await told(session, after);
    }),
  );

  const example = word === 'profile' ? 'web' : 'db';
  verb(parent, `apply <${word}>`, `Bring VMs that name ${withArticle(label)} up to date`, {
    formats: documentFormats,
    description: `Bring VMs that name ${withArticle(label)} up to date: they take over all their profiles and their instance type as these are now. What a VM has of its own stays. What can change while a VM runs is changed at once; the rest takes effect at its next start.`,
    examples: [
      [`lodge ${word} apply ${example} --dry-run`, 'what would change at which VM'],
      [`lodge ${word} apply ${example}`, 'all VMs that name it'],
      [`lodge ${word} apply ${example} --vm web1 --vm web2`, 'only these'],
    ],
  })
    .option('--vm <name>', 'only this VM; may be given several times', collected)
    .option('--dry-run', 'show what would be changed, and do nothing')
    .action(
      withDaemon<[name: string], { vm?: string[]; dryRun?: boolean }>(async (session, options, name) => {
        const found = await definition.get(session, name);
        if (options.dryRun === true) return showOutdated(session, definition, found.name, options.vm);
        const body = options.vm === undefined ? {} : { vms: options.vm };
        const { items } = await definition.apply(session.client, name, found.project, body);
        return tellApplied(session, `${label} ${found.name}`, items);
      }),
    );

  verb(parent, `delete <${word}...>`, `Delete ${label}s`, {
    aliases: ['rm'],
    description: `Delete ${label}s. One that VMs name takes --force: they keep what they have of it, as their own.`,
    examples: [
      [`lodge ${word} delete ${example}`, 'asks first; refused while VMs name it'],
      [`lodge ${word} delete ${example} --force --yes`, 'VMs keep what they have of it'],
    ],
  })
    .option('-f, --force', 'also where VMs name it')
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[names: string[]], { force?: boolean; yes?: boolean }>(async (session, options, names) => {
        const what = names.length === 1 ? `${label} ${names[0]}` : `${names.length} ${label}s`;
        await confirm(session, `Delete ${what}?`, options.yes === true);
        const query = { project: session.project, force: options.force === true };
        const deleted = await eachOf(session, names, (one) => definition.delete(session.client, one, query));
        for (const { name } of deleted) session.terminal.line(`${title} ${name} is deleted.`);
        return Number(process.exitCode ?? 0);
      }),
    );
}

function withArticle(label: string): string {
  return `${/^[aeiou]/.test(label) ? 'an' : 'a'} ${label}`;
}

/** Which VMs have not taken a change, and what to do. */
export function outdatedLines(word: string, { name, status: { outdated } }: Pick<Source, 'name' | 'status'>): string[] {
  if (outdated.length === 0) return [];
  const shown = outdated.slice(0, 10).join(', ') + (outdated.length > 10 ? ` and ${outdated.length - 10} more` : '');
  return [`${outdated.length === 1 ? 'VM' : 'VMs'} ${shown} can take it over: lodge ${word} apply ${name}`];
}

async function showOutdated<Item extends Source>(
  session: Session,
  { isNamedBy, label }: SourceNoun<Item>,
  name: string,
  only: readonly string[] | undefined,
): Promise<void> {
  const vms = await collect((query) => fetchVms(session.client, query), { project: session.project });
  const outdated = vms.filter(
    (vm) => isNamedBy(vm, name) && vm.status.profileChanges.length > 0 && (only?.includes(vm.name) ?? true),
  );
  const document = outdated.map((vm) => ({ vm: vm.name, changes: vm.status.profileChanges }));
  await printDocument(session, document, () =>
    outdated.flatMap((vm) => [
      `VM ${vm.name} would be changed:`,
      ...vm.status.profileChanges.map((change) => `  ${profileChangeText(change)}`),
    ]),
  );
  if (outdated.length === 0 && session.format === 'table')
    session.terminal.note(`All VMs that name ${label} ${name} have what it says.`);
}

/** Follows what was begun, and says of each VM what became of it. Gives the exit code. */
async function tellApplied(session: Session, source: string, items: SourceApplied['items']): Promise<number> {
  const { client, project, terminal } = session;
  const begun = await Promise.all(
    items.flatMap(({ taskId, name }) =>
      taskId === null
        ? []
        : [client.task.get({ params: { task: taskId } }).then((task) => ({ task, title: `change VM ${name}` }))],
    ),
  );
  await followTasks(session, begun);
  const failed = items.flatMap(({ name, error }) => (error === null ? [] : [{ name, error }]));
  if (session.format !== 'table') {
    await printDocument(session, items, () => []);
  } else {
    if (items.length === 0) terminal.note(`No VM names ${source}.`);
    for (const { name, result } of items) {
      if (result === 'unchanged') terminal.line(`VM ${name} has what it says already.`);
      if (result !== 'changed') continue;
      const vm = await client.vm.get({ params: { vm: name }, query: { project } });
      for (const line of changedLines(vm)) terminal.line(line);
    }
  }
  const failures = failed.map(({ name, error }) => ({ name, error: LodgeError.fromBody({ error }) }));
  for (const { name, error } of failures)
    for (const line of describeError(error, terminal.noteStyle, `VM ${name}`)) process.stderr.write(`${line}\n`);
  return failures[0] === undefined ? 0 : exitCodeFor(failures[0].error);
}
