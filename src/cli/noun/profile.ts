// lodge profile: named sets of fields that VMs take over.
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import type { Profile } from '../../api/profile.ts';
import { formatPath, type Json } from '../../lib/field-path.ts';
import { shortValue } from '../apply/diff-text.ts';
import { collected, noun, objectFormats, verb, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { parseLabels } from '../labels.ts';
import { listVerb, showVerb, withSuggestion, type FetchPage } from '../list.ts';
import { printOne, type Printable } from '../output/print.ts';
import { renderDetails } from '../output/table.ts';
import { applyChanges, parseChange } from '../set.ts';
import { ageColumn, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';
import { addSourceVerbs } from './source-verbs.ts';

export const profilePrintable: Printable<Profile> = {
  kind: 'Profile',
  name: (profile) => profile.name,
  columns: [
    { header: 'NAME', value: (profile) => profile.name, minWidth: 12 },
    { header: 'VMS', value: (profile) => String(profile.status.usedBy.length), side: 'right' },
    { header: 'OUTDATED', value: (profile) => String(profile.status.outdated.length), side: 'right' },
    { header: 'SETS', value: (profile) => fieldLines(profile).join(', '), minWidth: 20 },
    ageColumn(),
    { header: 'DESCRIPTION', value: (profile) => profile.spec.description, isWide: true, minWidth: 12 },
    labelsColumn(),
    idColumn(),
  ],
};

export const fetchProfiles: FetchPage<Profile> = (client, query) => client.profile.list({ query });

/** Every field it sets: "cpu.count=2". */
function fieldLines({ spec: { description: _text, ...fields } }: Profile): string[] {
  return fieldsOf(fields as Json).map(
    ([field, value]) => `${field}=${field === 'cloudInit.userData' ? '(given)' : shortValue(value)}`,
  );
}

/** The fields of a document with their values; a list is one. */
function fieldsOf(document: Json, path: string[] = []): [field: string, value: Json][] {
  const isRecord = typeof document === 'object' && document !== null && !Array.isArray(document);
  const entries = isRecord ? Object.entries(document) : [];
  if (entries.length > 0) return entries.flatMap(([key, value]) => fieldsOf(value, [...path, key]));
  return path.length === 0 ? [] : [[formatPath(path), document]];
}

function getProfile(session: Session, name: string): Promise<Profile> {
  return withSuggestion(session, name, fetchProfiles, () =>
    session.client.profile.get({ params: { profile: name }, query: { project: session.project } }),
  );
}

function details(profile: Profile, session: Session): string[] {
  const { status, spec } = profile;
  return renderDetails(
    [
      ['Name', profile.name],
      ['Project', profile.project],
      ['Description', spec.description],
      ['Sets', fieldLines(profile)],
      ['Used by', status.usedBy.join(', ') || 'no VM'],
      [
        'Not taken over by',
        status.outdated.length === 0
          ? null
          : `${status.outdated.join(', ')} (lodge profile apply ${profile.name} --dry-run)`,
      ],
      ['Labels', labelsText(profile.labels)],
      ['Created', momentOf(profile.createdAt)],
      ['Id', profile.id],
    ],
    session.terminal,
  );
}

/** `lodge profile` and its verbs. */
export function profileNoun(): Command {
  const profile = noun('profile', 'Profiles: named sets of fields that VMs take over');
  listVerb(profile, {
    kind: 'profile',
    noun: 'profile',
    plural: 'profiles',
    printable: profilePrintable,
    fetch: fetchProfiles,
    projectOf: (one) => one.project,
    empty: 'Make one: lodge profile create web autostart=true',
    examples: [['lodge profile list', 'what each sets, and how many VMs name it']],
  });
  showVerb(profile, {
    noun: 'profile',
    printable: profilePrintable,
    get: getProfile,
    details,
    examples: [['lodge profile show web', 'what it sets, and the VMs that name it']],
  });
  verb(profile, 'create <name> [change...]', 'Create a profile', {
    formats: objectFormats,
    description:
      'Create a profile of field=value, the fields being those of a VM’s spec. A VM has what its profiles set where it says nothing itself (lodge vm create --profile); of several that set a field, the last counts. Not in a profile are image, disks, addresses and passwords.',
    examples: [
      ['lodge profile create web autostart=true restartPolicy.mode=on-failure', 'two fields'],
      ['lodge profile create secure tpm.isEnabled=true firmware.type=uefi', 'with a TPM, booted by UEFI'],
      ['lodge profile create lab \'nics=[{"network":"lab"}]\'', 'a list is given whole'],
      ['lodge vm create web1 --image debian-12 --profile web,lab', 'a VM with both'],
    ],
  })
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .action(
      withDaemon<[name: string, changes: string[]], { description?: string; label?: string[] }>(
        async (session, options, name, changes) => {
          const blank = { name, labels: parseLabels(options.label), spec: {}, revision: 0 };
          const { labels, spec } = applyChanges('profile', blank, changes.map(parseChange));
          const made = await session.client.profile.create({
            body: {
              name,
              project: session.project,
              labels,
              spec: { ...spec, ...(options.description === undefined ? {} : { description: options.description }) },
            },
            idempotencyKey: randomUUID(),
          });
          await printOne(session, profilePrintable, made, () => [`Profile ${name} is made.`]);
        },
      ),
    );
  addSourceVerbs(profile, {
    word: 'profile',
    noun: 'profile',
    label: 'profile',
    printable: profilePrintable,
    get: getProfile,
    update: (client, name, project, body) =>
      client.profile.update({ params: { profile: name }, query: { project }, body }),
    delete: (client, name, query) => client.profile.delete({ params: { profile: name }, query }),
    apply: (client, name, project, body) =>
      client.profile.apply({ params: { profile: name }, query: { project }, body }),
    isNamedBy: (vm, name) => vm.spec.profiles?.includes(name) ?? false,
    setExamples: [
      ['lodge profile set web stopTimeoutS=30 autostart-', 'one field set, another taken out'],
      ['lodge profile set web labels.team=shop', 'a label'],
    ],
  });
  return profile;
}
