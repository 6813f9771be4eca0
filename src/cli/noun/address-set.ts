// lodge address-set: named lists of addresses for the rules of security groups.
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import type { AddressSet } from '../../api/address-set.ts';
import { noun, objectFormats, verb, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { eachOf } from '../delete-each.ts';
import { listVerb, showVerb, withSuggestion, type FetchPage } from '../list.ts';
import { printOne, type Printable } from '../output/print.ts';
import { renderDetails } from '../output/table.ts';
import { ageColumn, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';

const printable: Printable<AddressSet> = {
  kind: 'AddressSet',
  name: (set) => set.name,
  columns: [
    { header: 'NAME', value: (set) => set.name, minWidth: 12 },
    { header: 'ADDRESSES', value: (set) => String(set.spec.addresses.length), side: 'right' },
    { header: 'NAMED BY', value: (set) => set.status.usedBy.join(', '), minWidth: 12 },
    { header: 'DESCRIPTION', value: (set) => set.spec.description, minWidth: 12 },
    ageColumn(),
    labelsColumn(),
    idColumn(),
  ],
};

/** A page of address sets. */
export const fetchAddressSets: FetchPage<AddressSet> = (client, query) => client.addressSet.list({ query });

function getSet(session: Session, name: string): Promise<AddressSet> {
  return withSuggestion(session, name, fetchAddressSets, () =>
    session.client.addressSet.get({ params: { addressSet: name }, query: { project: session.project } }),
  );
}

function addChangeVerb(parent: Command, name: 'add' | 'remove'): void {
  const isAdding = name === 'add';
  const summary = isAdding ? 'Add addresses to a set' : 'Take addresses out of a set';
  verb(parent, `${name} <address-set> <address...>`, summary, {
    description: `${summary}. It counts at once for all rules that name the set.`,
    examples: [[`lodge address-set ${name} office 198.51.100.0/24 2001:db8::/32`, 'two prefixes']],
  }).action(
    withDaemon<[set: string, addresses: string[]], object>(async (session, _options, set, addresses) => {
      const { spec, revision } = await getSet(session, set);
      const others = spec.addresses.filter((one) => !addresses.includes(one));
      const after = await session.client.addressSet.update({
        params: { addressSet: set },
        query: { project: session.project },
        body: { revision, spec: { ...spec, addresses: isAdding ? [...others, ...addresses] : others } },
      });
      session.terminal.line(`Address set ${set} has ${after.spec.addresses.length} entries now.`);
    }),
  );
}

/** `lodge address-set` and its verbs. */
export function addressSetNoun(): Command {
  const set = noun('address-set', 'Address sets: lists of addresses for the rules of security groups');
  listVerb(set, {
    kind: 'address-set',
    noun: 'address-set',
    plural: 'address sets',
    printable,
    fetch: fetchAddressSets,
    projectOf: (one) => one.project,
    empty: 'Make one: lodge address-set create office 198.51.100.0/24',
    examples: [['lodge address-set list', 'all sets']],
  });
  showVerb(set, {
    noun: 'address-set',
    printable,
    get: getSet,
    details: (one, session) =>
      renderDetails(
        [
          ['Name', one.name],
          ['Project', one.project],
          ['Description', one.spec.description],
          ['Addresses', one.spec.addresses],
          ['Named by', one.status.usedBy.join(', ') || 'nothing'],
          ['Labels', labelsText(one.labels)],
          ['Created', momentOf(one.createdAt)],
          ['Id', one.id],
        ],
        session.terminal,
      ),
    examples: [['lodge address-set show office', 'its addresses, and what names it']],
  });
  verb(set, 'create <name> [address...]', 'Create an address set', {
    formats: objectFormats,
    examples: [
      ['lodge address-set create office 198.51.100.0/24 2001:db8::/32', 'two prefixes'],
      ['lodge security-group allow web tcp/22 --from set:office', 'a rule that names it'],
    ],
  })
    .option('--description <text>', 'what it is for')
    .action(
      withDaemon<[name: string, addresses: string[]], { description?: string }>(
        async (session, { description }, name, addresses) => {
          const made = await session.client.addressSet.create({
            body: { name, project: session.project, spec: { description, addresses } },
            idempotencyKey: randomUUID(),
          });
          await printOne(session, printable, made, () => [`Address set ${name} is made.`]);
        },
      ),
    );
  addChangeVerb(set, 'add');
  addChangeVerb(set, 'remove');
  verb(set, 'delete <address-set...>', 'Delete address sets that no rule names', {
    aliases: ['rm'],
    examples: [['lodge address-set delete office --yes', 'without being asked']],
  })
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[names: string[]], { yes?: boolean }>(async (session, options, names) => {
        const what = names.length === 1 ? `address set ${names[0]}` : `${names.length} address sets`;
        await confirm(session, `Delete ${what}?`, options.yes === true);
        const deleted = await eachOf(session, names, (one) =>
          session.client.addressSet.delete({ params: { addressSet: one }, query: { project: session.project } }),
        );
        for (const { name } of deleted) session.terminal.line(`address set ${name} is deleted.`);
        return Number(process.exitCode ?? 0);
      }),
    );
  return set;
}
