// lodge vm: the verbs that switch VMs. What they do is in vm/power.ts, loaded when it is asked for.
import { Option, type Command } from 'commander';
import { parseDurationMs, parseDurationS } from '../../lib/duration.ts';
import { parsedBy, verb, withDaemon } from '../command.ts';
import { withSuggestion } from '../list.ts';
import { usageError } from '../usage-error.ts';
import { selecting, type ManyOptions } from '../vm/many.ts';
import type { PowerOptions, PowerWords } from '../vm/power.ts';
import { fetchVms } from '../vm/view.ts';

/** Adds the verbs that switch VMs. */
export function addPowerVerbs(vm: Command): void {
  const noWait = ['--no-wait', 'do not wait until it is done'] as const;
  const bootOnceOption = [
    '--boot-once <device>',
    'boot from this first, only this once: cdrom, disk, network, or the name of a disk or CD-ROM',
  ] as const;
  const load = () => import('../vm/power.ts');

  selecting(
    verb(vm, 'start [vm...]', 'Start VMs, or resume them from disk', {
      examples: [
        ['lodge vm start web1', 'ends when it runs'],
        ['lodge vm start web1 --wait-for ssh', 'ends when ssh answers'],
        ['lodge vm start -l app=web', 'all with a label that are off'],
        ['lodge vm start web1 --boot-once cdrom', 'this once from its CD-ROM'],
      ],
    }),
  )
    .option(...noWait)
    .option(...bootOnceOption)
    .addOption(new Option('--wait-for <state>', 'wait for more than that it runs').choices(['up', 'ssh']))
    .option('--timeout <duration>', 'longest wait for the guest (default: 15m)', parsedBy(parseDurationMs))
    .action(
      withDaemon<[names: string[]], PowerOptions>(async (session, options, names) => {
        const { powerTask } = await load();
        const words = {
          action: { type: 'start', bootOnce: options.bootOnce },
          verb: 'start',
          done: 'is running',
          doing: 'is starting',
        } as const;
        return powerTask(session, names, options, words, (name) =>
          session.client.vm.start({
            params: { vm: name },
            query: { project: session.project },
            body: { bootOnce: options.bootOnce },
          }),
        );
      }),
    );

  const timeoutOption = [
    '--timeout <duration>',
    'how long the guest may take before it is switched off (default: as its spec says)',
    parsedBy(parseDurationS),
  ] as const;
  selecting(
    verb(vm, 'stop [vm...]', 'Shut VMs down, and switch them off when they take too long', {
      examples: [
        ['lodge vm stop web1', 'asks the guest by ACPI, as its power button would'],
        ['lodge vm stop web1 --timeout 10s', 'switched off after ten seconds'],
        ['lodge vm stop -l role=web --parallel 4', 'all with a label, four at a time'],
        ['lodge vm stop --all --dry-run', 'which VMs that would be'],
        ['lodge vm stop --all --force', 'everything off at once'],
      ],
    }),
  )
    .option('-f, --force', 'switch off at once, as lodge vm force-off')
    .option('-y, --yes', 'with --force, of several: do not ask')
    .option(...timeoutOption)
    .option(...noWait)
    .action(
      withDaemon<[names: string[]], PowerOptions>(async (session, options, names) => {
        if (options.force === true && options.timeout !== undefined) {
          throw usageError('--force switches off at once, so --timeout says nothing', {
            hint: 'Give one of them.',
          });
        }
        const { powerTask } = await load();
        const query = { project: session.project };
        const isForced = options.force === true;
        const words: PowerWords = {
          action: isForced ? { type: 'forceOff' } : { type: 'stop', timeoutS: options.timeout },
          verb: 'stop',
          done: 'is stopped',
          doing: 'is stopping',
          ...(isForced ? { question: 'Switch off' } : {}),
        };
        return powerTask(session, names, options, words, (name) =>
          options.force === true
            ? session.client.vm.forceOff({ params: { vm: name }, query })
            : session.client.vm.stop({ params: { vm: name }, query, body: { timeoutS: options.timeout } }),
        );
      }),
    );

  selecting(
    verb(vm, 'force-off [vm...]', 'Switch VMs off at once, as pulling the plug', {
      description: 'Switch VMs off at once, as pulling the plug. For a suspended VM its saved memory is discarded.',
      examples: [['lodge vm force-off web1', 'when nothing else helps']],
    }),
  )
    .option('-y, --yes', 'of several: do not ask')
    .option(...noWait)
    .action(
      withDaemon<[names: string[]], PowerOptions>(async (session, options, names) => {
        const { powerTask } = await load();
        const words = {
          action: { type: 'forceOff' },
          verb: 'switch off',
          done: 'is switched off',
          doing: 'is being switched off',
          question: 'Switch off',
        } as const;
        return powerTask(session, names, options, words, (name) =>
          session.client.vm.forceOff({ params: { vm: name }, query: { project: session.project } }),
        );
      }),
    );

  selecting(
    verb(vm, 'restart [vm...]', 'Shut VMs down and start them again with their current spec', {
      examples: [
        ['lodge vm restart web1', 'changes that wait for the next start take effect'],
        ['lodge vm restart web1 --boot-once network', 'this once over the network'],
      ],
    }),
  )
    .option(...timeoutOption)
    .option(...bootOnceOption)
    .option(...noWait)
    .action(
      withDaemon<[names: string[]], PowerOptions>(async (session, options, names) => {
        const { powerTask } = await load();
        const words = {
          action: { type: 'restart', timeoutS: options.timeout, bootOnce: options.bootOnce },
          verb: 'restart',
          done: 'is restarted',
          doing: 'is restarting',
        } as const;
        return powerTask(session, names, options, words, (name) =>
          session.client.vm.restart({
            params: { vm: name },
            query: { project: session.project },
            body: { timeoutS: options.timeout, bootOnce: options.bootOnce },
          }),
        );
      }),
    );

  const atOnce = [
    ['reset', 'Reset VMs, as their reset button would', 'is reset', 'the guest is not asked'],
    ['pause', 'Stop the vCPUs of VMs; their memory stays', 'is paused', 'it stands still until resume'],
    ['resume', 'Let paused VMs run on', 'runs on', 'after pause; a suspended VM is resumed by start'],
  ] as const;
  for (const [action, summary, done, what] of atOnce) {
    const command = selecting(
      verb(vm, `${action} [vm...]`, summary, { examples: [[`lodge vm ${action} web1`, what]] }),
    );
    if (action === 'reset') command.option('-y, --yes', 'of several: do not ask');
    command.action(
      withDaemon<[names: string[]], ManyOptions>(async (session, options, names) => {
        const { powerAtOnce } = await load();
        const question = action === 'reset' ? 'Reset' : undefined;
        const words = { action: { type: action }, verb: action, done, doing: '', question };
        return powerAtOnce(session, names, options, words, (name) =>
          session.client.vm[action]({ params: { vm: name }, query: { project: session.project } }),
        );
      }),
    );
  }

  selecting(
    verb(vm, 'suspend [vm...]', 'Save the memory of VMs to disk and switch them off', {
      description: 'Save the memory of VMs to disk and switch them off. lodge vm start resumes them where they were.',
      examples: [['lodge vm suspend web1', 'then lodge vm start web1 goes on']],
    }),
  )
    .option(...noWait)
    .action(
      withDaemon<[names: string[]], PowerOptions>(async (session, options, names) => {
        const { powerTask } = await load();
        const words = {
          action: { type: 'suspend' },
          verb: 'suspend',
          done: 'is suspended',
          doing: 'is being suspended',
        } as const;
        return powerTask(session, names, options, words, (name) =>
          session.client.vm.suspend({ params: { vm: name }, query: { project: session.project } }),
        );
      }),
    );

  verb(vm, 'nmi <vm...>', 'Send a non-maskable interrupt to VMs', {
    examples: [['lodge vm nmi web1', 'a Linux guest that hangs may write a crash dump']],
  }).action(
    withDaemon<[names: string[]], object>(async (session, _options, names) => {
      const { eachOf } = await import('../delete-each.ts');
      const sent = await eachOf(session, names, (name) =>
        withSuggestion(session, name, fetchVms, () =>
          session.client.vm.injectNmi({ params: { vm: name }, query: { project: session.project } }),
        ),
      );
      for (const { name } of sent) session.terminal.line(`VM ${name} got a non-maskable interrupt.`);
      return Number(process.exitCode ?? 0);
    }),
  );
}
