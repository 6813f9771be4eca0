// lodge token: access tokens of remote clients.
import type { Command } from 'commander';
import type { Token } from '../../api/token.ts';
import { formatAge, parseDurationS } from '../../lib/duration.ts';
import { listFormats, noun, objectFormats, parsedBy, verb, withDaemon } from '../command.ts';
import { confirm } from '../confirm.ts';
import { eachOf } from '../delete-each.ts';
import { printList, printOne, type Printable } from '../output/print.ts';
import { ageColumn, ageOf, idColumn } from '../view.ts';
import { usageError } from '../usage-error.ts';

const tokenPrintable: Printable<Token> = {
  kind: 'Token',
  name: (token) => token.name,
  columns: [
    { header: 'NAME', value: (token) => token.name, minWidth: 12 },
    { header: 'ROLE', value: (token) => token.role },
    {
      header: 'EXPIRES IN',
      value: (token) => {
        if (token.expiresAt === null) return 'never';
        const leftMs = Date.parse(token.expiresAt) - Date.now();
        return leftMs <= 0 ? 'expired' : formatAge(leftMs);
      },
      color: (text, _token, style) => (text === 'expired' ? style.red(text) : text),
      side: 'right',
    },
    {
      header: 'LAST USED',
      value: (token) => (token.lastUsedAt === null ? 'never' : `${ageOf(token.lastUsedAt)} ago`),
      side: 'right',
    },
    ageColumn(),
    idColumn(),
  ],
};

/** `lodge token` and its verbs. */
export function tokenNoun(): Command {
  const token = noun('token', 'Access tokens of remote clients');

  verb(token, 'list', 'List access tokens', {
    aliases: ['ls'],
    formats: listFormats,
    examples: [['lodge token list', 'who may sign in, until when, and when they last did']],
  }).action(
    withDaemon<[], object>(async (session) => {
      const { items } = await session.client.token.list();
      await printList(session, tokenPrintable, items, 'No tokens. Make one: lodge token create laptop --role admin');
    }),
  );

  verb(token, 'create <name>', 'Create an access token; its secret is shown only now', {
    formats: objectFormats.filter((format) => format !== 'name'),
    examples: [
      ['lodge token create laptop --role admin', 'may do everything'],
      ['lodge token create dashboard --expires 90d', 'may read, for 90 days'],
      ['lodge token create ci --role admin -o json | jq -r .secret', 'the secret alone'],
    ],
  })
    .option('--role <role>', 'admin: everything; viewer: read, without consoles and guests', 'viewer')
    .option(
      '--expires <duration>',
      'how long it is valid, such as 90d (default: until it is deleted)',
      parsedBy(parseDurationS),
    )
    .action(
      withDaemon<[name: string], { role: string; expires?: number }>(async (session, options, name) => {
        if (options.role !== 'admin' && options.role !== 'viewer') {
          throw usageError(`there is no role ${JSON.stringify(options.role.slice(0, 40))}`, {
            hint: 'Roles: admin, viewer.',
          });
        }
        const made = await session.client.token.create({
          body: { name, role: options.role, expiresInS: options.expires },
        });
        await printOne(session, tokenPrintable, made, () => [made.secret]);
        session.terminal.note(
          `\nThis is the secret of token ${name} (${made.role}). It is not kept and can not be shown again.\nUse it from elsewhere: lodge context add NAME --server https://this-host:port --ca ca.pem --token-stdin`,
        );
      }),
    );

  verb(token, 'delete <token...>', 'Delete access tokens; they are refused from now on', {
    aliases: ['rm'],
    examples: [['lodge token delete laptop', 'that laptop was stolen']],
  })
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[names: string[]], { yes?: boolean }>(async (session, options, names) => {
        const what = names.length === 1 ? `token ${names[0]}` : `${names.length} tokens`;
        await confirm(session, `Delete ${what}? Whoever uses it is locked out.`, options.yes === true);
        const deleted = await eachOf(session, names, (one) => session.client.token.delete({ params: { token: one } }));
        for (const { name } of deleted) session.terminal.line(`token ${name} is deleted.`);
        return Number(process.exitCode ?? 0);
      }),
    );
  return token;
}
