// lodge version: of this command line and of the daemon.
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { LodgeError } from '../../api/errors.ts';
import { documentFormats, verb, withDaemon } from '../command.ts';
import { printDocument } from '../output/print.ts';
import { renderDetails } from '../output/table.ts';

/** Version of this command line. */
export function ownVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'));
  return (manifest as { version: string }).version;
}

/** `lodge version`. */
export function versionCommand(): Command {
  return verb(new Command('lodge'), 'version', 'Print the versions of this command line and of the daemon', {
    formats: documentFormats,
    examples: [
      ['lodge version', 'both; works without a daemon too'],
      ['lodge --version', 'this command line alone, at once'],
    ],
  }).action(
    withDaemon<[], object>(async (session) => {
      const client = ownVersion();
      const daemon = await session.client.server.get({}, { timeoutMs: 5000 }).then(
        (info) => ({ version: info.version, apiVersion: info.apiVersion, node: info.node }),
        (failure: unknown) => {
          if (failure instanceof LodgeError) return failure.message;
          throw failure;
        },
      );
      const document = { client, node: process.version, daemon: typeof daemon === 'string' ? null : daemon };
      await printDocument(session, document, () =>
        renderDetails([
          ['Command line', `${client} (Node ${process.version})`],
          ['Daemon', typeof daemon === 'string' ? daemon : `${daemon.version} on ${daemon.node} (${session.target})`],
        ]),
      );
    }),
  );
}
