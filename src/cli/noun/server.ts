// lodge server: the daemon itself.
import type { Command } from 'commander';
import type { Session } from '../connect/session.ts';
import { documentFormats, noun, verb, withDaemon } from '../command.ts';
import { printDocument } from '../output/print.ts';
import { renderDetails } from '../output/table.ts';

/** `lodge server` and its verbs. */
export function serverNoun(): Command {
  const server = noun('server', 'The daemon itself');

  verb(server, 'show', 'Show which daemon answers, and who you are to it', {
    formats: documentFormats,
    aliases: ['get'],
    examples: [
      ['lodge server show', 'its version, address, and your role'],
      ['lodge server show -o json | jq -r .caCertificate > ca.pem', 'the certificate that remote clients need'],
    ],
  }).action(
    withDaemon<[], object>(async (session) => {
      const info = await session.client.server.get();
      await printDocument(session, info, () =>
        renderDetails(
          [
            ['Daemon', session.target],
            ['Version', `${info.version} (API ${info.apiVersion})`],
            ['Installation', info.instance],
            ['Node', info.node],
            ['You are', `${info.caller}, ${info.role}`],
            ['For remote clients', info.httpsAddresses.join(', ') || 'does not listen for them'],
            ['Own authority', info.caCertificate === null ? 'none' : 'yes; its certificate: lodge server ca'],
            ['Store revision', String(info.revision)],
          ],
          session.terminal,
        ),
      );
    }),
  );

  verb(server, 'ca', 'Print the certificate that remote clients verify the daemon with', {
    examples: [['lodge server ca > ca.pem', 'then on the client: lodge context add NAME --server URL --ca ca.pem']],
  }).action(
    withDaemon<[], object>(async (session) => {
      const { caCertificate } = await session.client.server.get();
      if (caCertificate === null) {
        session.terminal.note('This daemon has no authority of its own.');
        return 3;
      }
      session.terminal.raw(caCertificate.endsWith('\n') ? caCertificate : `${caCertificate}\n`);
    }),
  );

  verb(server, 'metrics', 'Print metrics in the Prometheus text format', {
    examples: [['lodge server metrics | grep lodge_', 'what a scrape would see']],
  }).action(
    withDaemon<[], object>(async (session) => {
      for await (const chunk of await session.client.server.metrics()) session.terminal.raw(chunk);
    }),
  );

  verb(server, 'health', 'Say whether the daemon is alive and ready', {
    formats: documentFormats,
    examples: [['lodge server health -q', 'only the exit code: 0 when ready']],
  }).action(withDaemon<[], object>(health));
  return server;
}

async function health(session: Session): Promise<number> {
  const ready = await session.client.server.readyz();
  await printDocument(session, ready, () =>
    session.terminal.isQuiet
      ? []
      : [`The daemon is ${ready.status}.`, ...ready.problems.map((problem) => `  ${problem}`)],
  );
  return ready.status === 'ok' ? 0 : 5;
}
