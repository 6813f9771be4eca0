// lodge template: disks and spec of a VM, kept in versions, for new VMs to begin with.
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import type { LodgeClient } from '../../client/client.ts';
import type { Template, TemplateMemory } from '../../api/template.ts';
import { collected, noun, objectFormats, verb, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { parseLabels } from '../labels.ts';
import { listVerb, showVerb, withSuggestion, type ListRequest, type Page } from '../list.ts';
import { followTask } from '../output/follow.ts';
import { printOne, type Printable } from '../output/print.ts';
import { painted, renderDetails } from '../output/table.ts';
import { changeObject } from '../set.ts';
import { usageError } from '../usage-error.ts';
import { parseTemplateName } from '../vm/template-name.ts';
import { ageColumn, colorState, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';

const templatePrintable: Printable<Template> = {
  kind: 'Template',
  name: (one) => one.name,
  columns: [
    { header: 'NAME', value: (one) => one.name, minWidth: 12 },
    {
      header: 'STATE',
      value: (one) => one.status.state,
      color: (text, one, style) => colorState(text, one.status.state, style),
    },
    { header: 'VERSIONS', value: (one) => String(one.status.versions.length), side: 'right' },
    { header: 'NEWEST', value: (one) => String(one.status.versions.at(-1)?.version ?? ''), side: 'right' },
    { header: 'MADE FROM', value: (one) => one.status.versions.at(-1)?.vm ?? '' },
    { header: 'DESCRIPTION', value: (one) => one.spec.description, isWide: true, minWidth: 12 },
    ageColumn(),
    labelsColumn(),
    idColumn(),
  ],
};

export function fetchTemplates(client: LodgeClient, query: ListRequest): Promise<Page<Template>> {
  return client.template.list({ query });
}

function getTemplate(session: Session, name: string): Promise<Template> {
  return withSuggestion(session, name, fetchTemplates, () =>
    session.client.template.get({ params: { template: name }, query: { project: session.project } }),
  );
}

function memoryText({ state, image, version, savedMib, reason }: TemplateMemory): string {
  const from = image === null ? `version ${version ?? ''}` : `image ${image}`;
  return `booted from ${from}, ${savedMib} MiB of memory kept${state === 'ready' ? '' : `, ${state}: ${reason}`}`;
}

function versionLines({ status }: Template): [string, string][] {
  return status.versions.map((one) => [
    `Version ${one.version}`,
    [
      `from VM ${one.vm}`,
      ...(one.snapshot === null ? [] : [`snapshot ${one.snapshot}`]),
      ...(one.sealed === null ? [] : [`sealed (${one.sealed.join(', ') || 'there was nothing to take out'})`]),
      ...(one.memory ? [memoryText(one.memory)] : []),
      momentOf(one.createdAt) ?? '',
    ].join(', '),
  ]);
}

function details(one: Template, session: Session): string[] {
  const { style } = session.terminal;
  return renderDetails(
    [
      ['Name', one.name],
      ['State', painted(one.status.state, (text) => colorState(text, one.status.state, style))],
      ...versionLines(one),
      ['Description', one.spec.description],
      ['Labels', labelsText(one.labels)],
      ['Id', one.id],
    ],
    session.terminal,
  );
}

interface CreateOptions {
  vm: string;
  snapshot?: string;
  version?: boolean;
  seal?: boolean;
  description?: string;
  label?: string[];
}

/** `lodge template` and its verbs. */
export function templateNoun(): Command {
  const template = noun('template', 'Templates: disks and spec of a VM, in versions, for new VMs');
  listVerb(template, {
    kind: 'template',
    noun: 'template',
    plural: 'templates',
    printable: templatePrintable,
    fetch: fetchTemplates,
    projectOf: (one) => one.project,
    empty: 'Make one: lodge template create base --vm web1',
    examples: [['lodge template list', 'all templates of the project']],
  });
  showVerb(template, {
    noun: 'template',
    label: 'Template',
    printable: templatePrintable,
    get: getTemplate,
    details,
    examples: [['lodge template show base', 'its versions, and what each was made from']],
  });
  verb(template, 'create <name>', 'Make a template of a VM, or add a version to one', {
    formats: objectFormats,
    description:
      'Make a template of a VM, which may run and goes on. With --version, another version of a template that is there: new VMs are made of the newest. With --seal, a copy of the VM is started without network, and its guest agent asked to take out what no two systems should have in common (machine id, ssh host keys, cloud-init’s state, logs, histories); the VM itself stays as it is.',
    examples: [
      ['lodge template create base --vm web1', 'its first version'],
      ['lodge template create base --vm web1 --version', 'one more, as web1 is now'],
      ['lodge template create base --vm web1 --seal', 'without what tells of web1'],
      ['lodge vm create web2 --template base', 'a VM of the newest version'],
    ],
  })
    .requiredOption('--vm <vm>', 'VM whose disks and spec it has')
    .option('--snapshot <name>', 'as the VM was at this snapshot')
    .option('--seal', 'take out of its system what no other should have (Linux with a guest agent)')
    .option('--version', 'add a version to a template that is there')
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .action(
      withDaemon<[name: string], CreateOptions>(async (session, options, name) => {
        const { client, project } = session;
        const { vm, snapshot, seal: isSealed } = options;
        if (options.version && (options.description !== undefined || options.label !== undefined))
          throw usageError('--description and --label are for a new template, and --version adds to one');
        const idempotencyKey = randomUUID();
        const task = options.version
          ? await client.template.addVersion({
              params: { template: name },
              query: { project },
              body: { vm, snapshot, isSealed },
              idempotencyKey,
            })
          : await client.template.create({
              body: {
                name,
                project,
                labels: parseLabels(options.label),
                spec: { description: options.description },
                vm,
                snapshot,
                isSealed,
              },
              idempotencyKey,
            });
        await followTask(session, task, `template ${name} of VM ${vm}`, { done: 'made' });
        const made = await getTemplate(session, name);
        await printOne(session, templatePrintable, made, () => [
          `Template ${name} has version ${made.status.versions.at(-1)?.version}, of VM ${vm}.`,
        ]);
      }),
    );
  verb(template, 'set <template> <change...>', 'Change labels or description of a template', {
    formats: objectFormats,
    description: 'Change labels or description of a template: key=value sets, key- removes.',
    examples: [['lodge template set base description="Debian 12 with our agents" labels.team=shop', 'both']],
  }).action(
    withDaemon<[name: string, changes: string[]], object>(async (session, _options, name, changes) => {
      const after = await changeObject(session, 'template', await getTemplate(session, name), changes, (body) =>
        session.client.template.update({ params: { template: name }, query: { project: session.project }, body }),
      );
      if (after) await printOne(session, templatePrintable, after, () => [`Template ${name} is changed.`]);
    }),
  );
  verb(template, 'versions <template>', 'List the versions of a template', {
    examples: [['lodge template versions base', 'oldest first']],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const lines = renderDetails(versionLines(await getTemplate(session, name)), session.terminal);
      for (const line of lines) session.terminal.line(line);
    }),
  );
  verb(template, 'delete <template>', 'Delete a template, or one version of it', {
    aliases: ['rm'],
    description: 'Delete a template, or with NAME@VERSION that version. VMs that were made of it stay.',
    examples: [
      ['lodge template delete base@1', 'one version'],
      ['lodge template delete base --yes', 'all of it, without a question'],
    ],
  })
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[name: string], { yes?: boolean }>(async (session, options, given) => {
        const { name, version } = parseTemplateName(given);
        await getTemplate(session, name);
        await confirm(session, `Delete template ${given}?`, options.yes === true);
        const query = { project: session.project, ...(version === undefined ? {} : { version }) };
        const task = await session.client.template.delete({ params: { template: name }, query });
        await followTask(session, task, `delete template ${given}`, { done: 'deleted' });
        session.terminal.line(`Template ${given} is deleted.`);
      }),
    );
  return template;
}
