// lodge context: which daemons this command line can talk to. Speaks to none of them, except to test one.
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { documentFormats, listFormats, noun, offline, verb } from '../command.ts';
import { readStdin } from '../confirm.ts';
import { checkedContext, configPath, readConfig, writeConfig, type Context } from '../connect/config.ts';
import { chooseConnection, findContext } from '../connect/connection.ts';
import type { GlobalOptions } from '../connect/session.ts';
import { printDocument, printList, type Printable } from '../output/print.ts';
import { renderDetails } from '../output/table.ts';
import { processTerminal } from '../output/terminal.ts';
import { usageError } from '../usage-error.ts';

interface NamedContext extends Context {
  name: string;
  isCurrent: boolean;
}

const contextPrintable: Printable<NamedContext> = {
  kind: 'Context',
  name: (context) => context.name,
  columns: [
    { header: 'CURRENT', value: (context) => (context.isCurrent ? '*' : ' ') },
    { header: 'NAME', value: (context) => context.name },
    { header: 'DAEMON', value: (context) => context.server ?? context.socket ?? 'local socket', minWidth: 16 },
    { header: 'TOKEN', value: (context) => context.tokenFile ?? (context.token === undefined ? 'none' : 'kept') },
    { header: 'AUTHORITY', value: (context) => (context.caCertificate === undefined ? 'system' : 'own') },
    { header: 'PROJECT', value: (context) => context.project ?? 'default' },
  ],
};

const frame = (options: GlobalOptions) => ({
  format: options.output ?? ('table' as const),
  terminal: processTerminal(options.quiet === true),
});

interface AddOptions extends GlobalOptions {
  tokenStdin?: boolean;
  use?: boolean;
}

/** `lodge context` and its verbs. */
export function contextNoun(): Command {
  const context = noun('context', 'Daemons this command line can talk to');

  verb(context, 'list', 'List the contexts', {
    isOffline: true,
    aliases: ['ls'],
    formats: listFormats,
    examples: [['lodge context list', 'which there are, and which is current']],
  }).action(
    offline<[], object>(async (options) => {
      const { config, warning } = await readConfig(configPath());
      const { terminal, format } = frame(options);
      if (warning !== null) terminal.note(`${terminal.noteStyle.yellow('warning:')} ${warning}`);
      const contexts = Object.entries(config.contexts).map(([name, one]) => ({
        name,
        isCurrent: name === config.current,
        ...one,
        // The secret is for the daemon alone.
        ...(one.token === undefined ? {} : { token: '(kept)' }),
      }));
      await printList(
        { format, terminal },
        contextPrintable,
        contexts,
        'No contexts: the local socket is used. Add one: lodge context add prod --server https://host:7443 --token-stdin',
      );
    }),
  );

  verb(context, 'show', 'Show which daemon is used now, and what decided it', {
    formats: documentFormats,
    examples: [['lodge context show', 'after options, environment and configuration']],
  }).action(
    offline<[], object>(async (options) => {
      const { config } = await readConfig(configPath());
      const choice = chooseConnection(options, process.env, config);
      const document = {
        origin: choice.origin,
        daemon: choice.server ?? choice.socketPath ?? '',
        project: choice.project ?? 'default',
        config: configPath(),
      };
      await printDocument(frame(options), document, () =>
        renderDetails([
          ['Daemon', document.daemon],
          ['Decided by', document.origin],
          [
            'Token',
            choice.token !== undefined
              ? 'given'
              : (choice.tokenFile ?? (choice.server === undefined ? 'not needed' : 'none')),
          ],
          ['Project', document.project],
          ['Configuration', document.config],
        ]),
      );
    }),
  );

  verb(context, 'add <name>', 'Add or replace a context', {
    isOffline: true,
    description:
      'Add or replace a context. The token is kept in the configuration, readable only by you; with --token-file only the path is kept. The first context becomes the current one.',
    examples: [
      [
        'lodge context add prod --server https://10.0.0.5:7443 --ca ca.pem --token-stdin < token.txt',
        'a daemon elsewhere',
      ],
      ['lodge context add lab --socket /run/lodge-lab/lodge.sock --project lab', 'another daemon of this machine'],
    ],
  })
    .option('--server <url>', 'HTTPS address of the daemon')
    .option('--socket <path>', 'unix socket of the daemon')
    .option('--ca <path>', 'PEM certificate of the daemon’s own authority; its content is kept')
    .option('--token-stdin', 'read the access token from stdin')
    .option('--token-file <path>', 'file with the access token; only its path is kept')
    .option('-p, --project <name>', 'project in which names are looked up')
    .option('--use', 'make it the current one')
    .action(
      offline<[name: string], AddOptions>(async (options, name) => {
        if ((options.server === undefined) === (options.socket === undefined)) {
          throw usageError('a context needs either --server or --socket');
        }
        if (options.tokenStdin === true && options.tokenFile !== undefined) {
          throw usageError('both --token-stdin and --token-file are given', {
            hint: 'Give one of them.',
          });
        }
        const caCertificate =
          options.ca === undefined
            ? undefined
            : await readFile(options.ca, 'utf8').catch((cause: unknown) => {
                throw usageError(`the certificate ${options.ca} can not be read`, { cause });
              });
        if (caCertificate !== undefined && !caCertificate.includes('-----BEGIN CERTIFICATE-----')) {
          throw usageError(`${options.ca} is not a PEM certificate`);
        }
        const token = options.tokenStdin === true ? (await readStdin(10_000, 'the token')).trim() : undefined;
        const added = checkedContext(name, {
          ...(options.server === undefined ? {} : { server: options.server }),
          ...(options.socket === undefined ? {} : { socket: resolve(options.socket) }),
          ...(token === undefined ? {} : { token }),
          ...(options.tokenFile === undefined ? {} : { tokenFile: resolve(options.tokenFile) }),
          ...(caCertificate === undefined ? {} : { caCertificate }),
          ...(options.project === undefined ? {} : { project: options.project }),
        });
        const path = configPath();
        const { config } = await readConfig(path);
        const isNew = !Object.hasOwn(config.contexts, name);
        const current = options.use === true ? name : (config.current ?? name);
        await writeConfig(path, { current, contexts: { ...config.contexts, [name]: added } });
        const { terminal } = frame(options);
        terminal.line(`Context ${name} is ${isNew ? 'added' : 'replaced'}${current === name ? ' and current' : ''}.`);
        if (current !== name) terminal.note(`Use it: lodge context use ${name}`);
      }),
    );

  verb(context, 'use <context>', 'Make a context the current one', {
    isOffline: true,
    examples: [
      ['lodge context use prod', 'for all that follows'],
      ['lodge context use -', 'none: the local socket again'],
    ],
  }).action(
    offline<[name: string], object>(async (options, name) => {
      const path = configPath();
      const { config } = await readConfig(path);
      if (name !== '-') findContext(config, name);
      const { current: _before, ...rest } = config;
      await writeConfig(path, name === '-' ? rest : { current: name, ...rest });
      frame(options).terminal.line(
        name === '-' ? 'No context is current: the local socket is used.' : `Context ${name} is current.`,
      );
    }),
  );

  verb(context, 'delete <context>', 'Remove a context', {
    isOffline: true,
    aliases: ['rm'],
    examples: [['lodge context delete prod', 'its token is removed with it']],
  }).action(
    offline<[name: string], object>(async (options, name) => {
      const path = configPath();
      const { config } = await readConfig(path);
      findContext(config, name);
      const contexts = Object.fromEntries(Object.entries(config.contexts).filter(([one]) => one !== name));
      await writeConfig(path, { ...(config.current === name ? {} : { current: config.current }), contexts });
      frame(options).terminal.line(`Context ${name} is removed.`);
    }),
  );
  return context;
}
