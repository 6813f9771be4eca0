// lodge console: a link that signs a browser in to the web console, once.
import { Command } from 'commander';
import { documentFormats, verb, withDaemon } from '../command.ts';
import { printDocument } from '../output/print.ts';
import { LodgeError } from '../../api/errors.ts';

/** `lodge console`. */
export function consoleCommand(): Command {
  return verb(new Command('lodge'), 'console', 'Print a link that signs a browser in to the web console, once', {
    formats: documentFormats,
    description:
      'Print a link that signs a browser in to the web console. Whoever opens it within ten minutes may do what you may; a second time it opens nothing. The consoles of VMs are: lodge vm console, lodge vm vnc.',
    examples: [
      ['lodge console', 'open what it prints in a browser'],
      ['lodge console -o json | jq -r .url', 'the link alone'],
    ],
  }).action(
    withDaemon<[], object>(async (session) => {
      const { httpsAddress, httpsAddresses } = await session.client.server.get();
      if (httpsAddress === null) {
        throw new LodgeError('unavailable', 'the daemon listens on its unix socket only, which no browser can open', {
          hint: 'Set listen in its configuration, such as 127.0.0.1:7443, and start it again.',
        });
      }
      const { path, expiresAt } = await session.client.session.createLink();
      const urls = [...new Set([httpsAddress, ...httpsAddresses])].map((address) => `${address}${path}`);
      await printDocument(session, { url: urls[0], urls, expiresAt }, () => urls.slice(0, 1));
      session.terminal.note(
        '\nOpen it in a browser within ten minutes; it signs in once. The browser does not know the certificate of Lodge’s own authority and warns of it: lodge server show tells where that is.',
      );
    }),
  );
}
