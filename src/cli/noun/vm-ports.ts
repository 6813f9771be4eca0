// Verbs of lodge vm about ports of guests: published on the node for as long as the VM has them, or forwarded here for as
// long as the command runs.
import type { Command } from 'commander';
import { parsedBy, verb, wholeNumber, withDaemon } from '../command.ts';
import { parseDurationS } from '../../lib/duration.ts';
import { parseBytes } from '../../lib/quantity.ts';
import type { CaptureOptions } from '../vm/capture.ts';
import type { ChangeOptions } from '../vm/change.ts';

/** Adds publish, unpublish and forward. */
export function addPortVerbs(vm: Command): void {
  verb(vm, 'publish <vm> <ports...>', 'Have ports of the node lead to a VM', {
    description:
      'Have ports of the node lead to ports of a VM, also while it runs: ADDRESS:PORT:GUEST-PORT/PROTOCOL, of which only PORT is needed. Without an address it is all addresses of the node, without a protocol TCP. lodge vm show lists them.',
    examples: [
      ['lodge vm publish web1 8080:80', 'port 8080 of the node leads to port 80 of web1'],
      ['lodge vm publish web1 127.0.0.1:5432 5353:53/udp', 'for the node alone; UDP'],
      ['lodge vm publish web1 8000-8010', 'a range'],
    ],
  })
    .option('--nic <nic>', 'which NIC: its number, address or network', '0')
    .option('--no-wait', 'do not wait until the guest has it')
    .action(
      withDaemon<[name: string, ports: string[]], ChangeOptions & { nic: string }>(
        async (session, options, name, ports) => {
          const [{ changeVm, keptNics, nicIndex }, { parseForward, withForward }] = await Promise.all([
            import('../vm/change.ts'),
            import('../vm/publish.ts'),
          ]);
          const forwards = ports.map(parseForward);
          await changeVm(session, name, options, (spec, before) => {
            const index = nicIndex(before, options.nic);
            return { ...spec, nics: forwards.reduce((nics, one) => withForward(nics, index, one), keptNics(before)) };
          });
          await tellPublished(session, name);
        },
      ),
    );
  verb(vm, 'unpublish <vm> <ports...>', 'Take published ports back', {
    examples: [
      ['lodge vm unpublish web1 8080', 'connections that are open go on'],
      ['lodge vm unpublish web1 all', 'all of them'],
    ],
  })
    .option('--no-wait', 'do not wait until the guest has it')
    .action(
      withDaemon<[name: string, ports: string[]], ChangeOptions>(async (session, options, name, ports) => {
        const [{ changeVm, keptNics }, { withoutForward }] = await Promise.all([
          import('../vm/change.ts'),
          import('../vm/publish.ts'),
        ]);
        await changeVm(session, name, options, (spec, before) => ({
          ...spec,
          nics: ports.reduce(withoutForward, keptNics(before)),
        }));
      }),
    );
  verb(vm, 'forward <vm> <ports...>', 'Reach ports of a VM from here, through the daemon', {
    description:
      'Have ports of this machine lead to TCP ports of a VM, through the daemon and as long as the command runs: also from another machine, and also where the VM has no address that is reached from outside. Any number of connections at once, up to 60.',
    examples: [
      ['lodge vm forward web1 8080:80', 'then: curl http://127.0.0.1:8080'],
      ['lodge --context office vm forward db1 5432 0:8080', 'of another daemon; any free port here for the second'],
    ],
  })
    .option('--address <address>', 'address of this machine to listen on', '127.0.0.1')
    .option(
      '--for <duration>',
      'end after so long',
      parsedBy((text: string) => parseDurationS(text) * 1000),
    )
    .action(
      withDaemon<[name: string, ports: string[]], { address: string; for?: number }>(
        async (session, options, name, ports) => {
          const { forwardToVm } = await import('../vm/forward.ts');
          return forwardToVm(session, options, name, ports);
        },
      ),
    );
}

/** Adds capture, which needs the permission of what runs inside. */
export function addCaptureVerb(vm: Command): void {
  verb(vm, 'capture <vm>', 'Capture the packets of a NIC', {
    description:
      'Capture the packets of a NIC as pcap, into a file or to standard output, until --count packets, --time or --bytes are reached, or Ctrl-C. Wireshark and tcpdump read it.',
    examples: [
      ["lodge vm capture web1 --filter 'port 53' -w dns.pcap", 'into a file'],
      ['lodge vm capture web1 --count 20 | tcpdump -nr -', 'to be read at once'],
      ['lodge --context office vm capture db1 --nic 1 | wireshark -k -i -', 'of another daemon'],
    ],
  })
    .option('--nic <nic>', 'which NIC: its number, address or network', '0')
    .option('--filter <filter>', 'as tcpdump takes it (pcap-filter): port 53 and not host 10.88.0.1')
    .option('--count <count>', 'most packets', wholeNumber(1, 10_000_000))
    .option('--time <duration>', 'longest time (default: 1m, at most 1h)', parsedBy(parseDurationS))
    .option(
      '--bytes <size>',
      'most bytes (default: 10MiB, at most 1GiB)',
      parsedBy((text: string) => parseBytes(text, 'B')),
    )
    .option('-w, --file <file>', 'file to write (default: standard output)')
    .action(
      withDaemon<[name: string], CaptureOptions>(async (session, options, name) => {
        const { captureVm } = await import('../vm/capture.ts');
        return captureVm(session, options, name);
      }),
    );
}

/** What is published now, or why it isn't yet. */
async function tellPublished(session: Parameters<Parameters<typeof withDaemon>[0]>[0], name: string): Promise<void> {
  const { publishedText } = await import('../vm/publish.ts');
  const vm = await session.client.vm.get({ params: { vm: name }, query: { project: session.project } });
  for (const one of vm.status.publishedPorts) session.terminal.line(`  ${publishedText(one)}`);
}
