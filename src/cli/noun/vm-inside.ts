// The verbs of lodge vm that look into a guest: consoles, screenshots and keys; and what its agent runs, reads and
// writes.
import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { parseDurationMs, parseDurationS } from '../../lib/duration.ts';
import { formatBytes, parseBytes } from '../../lib/quantity.ts';
import { collected, documentFormats, parsedBy, verb, wholeNumber, withDaemon } from '../command.ts';
import { withSuggestion } from '../list.ts';
import { fetchVms } from '../vm/view.ts';
import { parseDetachKey, type ConsoleOptions } from '../vm/console.ts';
import type { CopyOptions } from '../vm/copy.ts';
import type { ExecOptions } from '../vm/exec.ts';
import type { SerialLinesOptions } from '../vm/serial-lines.ts';
import type { SshOptions } from '../vm/ssh.ts';
import { usageError } from '../usage-error.ts';

/** Adds console, serial-log, screenshot and send-keys. */
export function addConsoleVerbs(vm: Command): void {
  verb(vm, 'console <vm>', 'Open the serial console of a VM in this terminal', {
    description:
      'Open the serial console of a VM in this terminal. It begins with the last 64 KiB of output. Ctrl-] leaves it; the VM goes on. A console that shows nothing may wait for Enter. In a pipe, what is read is typed and what the guest prints is written. What was printed earlier, also by a VM that is off: lodge vm serial-log.',
    examples: [
      ['lodge vm console web1', 'leave it with Ctrl-]'],
      ['lodge vm console web1 --detach-key ctrl-a', 'another key to leave it'],
      ['echo uptime | lodge vm console web1 --for 3s', 'type a line and watch for three seconds'],
    ],
  })
    .option('--detach-key <key>', 'key that leaves the console', parsedBy(parseDetachKey), parseDetachKey('ctrl-]'))
    .option('--for <duration>', 'leave it after so long', parsedBy(parseDurationMs))
    .action(
      withDaemon<[name: string], ConsoleOptions>(async (session, options, name) => {
        const { openConsole } = await import('../vm/console.ts');
        return openConsole(session, options, name);
      }),
    );
  // The default is a key, and not text: say it in the help.
  const detach = vm.commands.at(-1)?.options.find((option) => option.long === '--detach-key');
  if (detach) detach.defaultValueDescription = 'ctrl-]';

  verb(vm, 'serial-log <vm>', 'Print or search the kept output of the serial console', {
    description:
      'Print the kept output of the serial console as it came, also of a VM that is off; or, with one of the options for lines, as plain lines: searched, the last ones, those of the last minutes, or as they come. The time of a line is that at which its end was printed. With --grep it ends with 1 where nothing was found.',
    examples: [
      ['lodge vm serial-log web1 --bytes 4KiB', 'its end, as it came'],
      ['lodge vm serial-log web1 --grep "panic|BUG:"', 'lines that match a regular expression'],
      ['lodge vm serial-log web1 --grep error -i --tail 20', 'the last 20 with the word, in capitals or not'],
      ['lodge vm serial-log web1 --since 10m --timestamps', 'of the last ten minutes, with the time of each line'],
      ['lodge vm serial-log web1 --follow --grep "login:"', 'and what comes, until Ctrl-C'],
    ],
  })
    .option('--grep <pattern>', 'lines that match this regular expression')
    .option('-i, --ignore-case', 'capital and small letters are the same to --grep')
    .option('--tail <lines>', 'at most so many lines, the last ones', wholeNumber(1, 10_000))
    .option('--since <duration>', 'lines that were printed so long ago or later: 10m, 2h', parsedBy(parseDurationMs))
    .option('--follow', 'go on with what comes, while the VM runs')
    .option('--timestamps', 'put the time before each line')
    .option(
      '--bytes <size>',
      'at most this much, from the end (default: 64KiB; at most 4MiB)',
      parsedBy((text) => parseBytes(text, 'B')),
    )
    .action(
      withDaemon<[name: string], { bytes?: number } & SerialLinesOptions>(async (session, options, name) => {
        const { grep, tail, since, timestamps, follow } = options;
        if ([grep, tail, since].some((option) => option !== undefined) || timestamps === true || follow === true) {
          const { printSerialLines } = await import('../vm/serial-lines.ts');
          return printSerialLines(session, options, name);
        }
        const log = await withSuggestion(session, name, fetchVms, () =>
          session.client.vm.serialLog({
            params: { vm: name },
            query: { project: session.project, bytes: options.bytes },
          }),
        );
        let length = 0;
        for await (const chunk of log) {
          length += chunk.length;
          session.terminal.raw(chunk);
        }
        if (length === 0) session.terminal.note(`The serial console of ${name} has printed nothing.`);
        return 0;
      }),
    );

  verb(vm, 'screenshot <vm>', 'Take a picture of the display of a VM', {
    examples: [
      ['lodge vm screenshot web1', 'to web1.png'],
      ['lodge vm screenshot web1 --width 320', 'smaller'],
      ['lodge vm screenshot web1 -f - | display', 'to stdout'],
    ],
  })
    .option('-f, --file <path>', 'PNG file to write, or - for stdout (default: <vm>.png)')
    .option('--width <pixels>', 'make a wider display so small', wholeNumber(16, 4096))
    .action(
      withDaemon<[name: string], { file?: string; width?: number }>(async (session, options, name) => {
        const path = options.file ?? `${name}.png`;
        if (path === '-' && process.stdout.isTTY) {
          throw usageError('a picture would make a mess of this terminal', {
            hint: 'Give a file: -f web1.png',
          });
        }
        const answer = await withSuggestion(session, name, fetchVms, () =>
          session.client.vm.screenshot({
            params: { vm: name },
            query: { project: session.project, width: options.width },
          }),
        );
        const picture = await answer.bytes();
        if (path === '-') session.terminal.raw(picture);
        else {
          await writeFile(path, picture).catch((cause: unknown) => {
            throw usageError(`${path} can not be written`, { cause });
          });
          session.terminal.line(`${path} (${formatBytes(picture.length)})`);
        }
      }),
    );

  verb(vm, 'send-keys <vm> <keys...>', 'Press keys on the keyboard of a VM', {
    description:
      'Press keys on the keyboard of a VM, one combination after another. Keys are named as QEMU names them: ctrl, alt, delete, ret, spc, a, f1.',
    examples: [
      ['lodge vm send-keys web1 ctrl-alt-delete', 'three at once'],
      ['lodge vm send-keys web1 r o o t ret', 'one after another'],
    ],
  })
    .option('--hold <milliseconds>', 'how long each is held', wholeNumber(1, 10_000))
    .action(
      withDaemon<[name: string, keys: string[]], { hold?: number }>(async (session, options, name, keys) => {
        await withSuggestion(session, name, fetchVms, () =>
          session.client.vm.sendKeys({
            params: { vm: name },
            query: { project: session.project },
            body: { combinations: keys.map((one) => one.toLowerCase().split(/[-+]/)), holdMs: options.hold },
          }),
        );
        session.terminal.note(
          `Sent ${keys.length === 1 ? 'one combination' : `${keys.length} combinations`} to ${name}.`,
        );
      }),
    );
}

/** Adds ssh, exec, cp, guest, freeze and thaw. */
export function addGuestVerbs(vm: Command): void {
  verb(vm, 'ssh <vm> [command...]', 'Sign in to a guest with ssh, at the address Lodge knows', {
    takesCommand: true,
    description:
      'Sign in to a guest with the ssh of this machine, at the address Lodge knows, or through the daemon where that is not reached from here. Everything behind the name goes to ssh as the command. Host keys are remembered by VM, not by address.',
    examples: [
      ['lodge vm ssh web1', 'a shell'],
      ['lodge vm ssh web1 --user root -- journalctl -b', 'a command as another user'],
    ],
  })
    .option('--user <name>', 'who to sign in as (default: the user the VM was made with, or its image’s)')
    .option('-i, --identity <file>', 'private key to sign in with (default: those ssh takes by itself)')
    .option('--address <address>', 'use this address')
    .option('--tunnel', 'go through the daemon, also where the guest could be reached from here')
    .option('--dry-run', 'print the command line of ssh instead')
    .action(
      withDaemon<[name: string, command: string[]], SshOptions>(async (session, options, name, command) => {
        const { sshToVm } = await import('../vm/ssh.ts');
        return sshToVm(session, options, name, command);
      }),
    );

  verb(vm, 'exec <vm> <command...>', 'Run a program in a guest, through its agent', {
    takesCommand: true,
    description:
      'Run a program in a guest, through its agent; no shell in between. Its output streams through and its exit code becomes that of this command; 125 says that Lodge could not run it, 124 that it ran longer than --timeout. Options of this command stand before the program.',
    examples: [
      ['lodge vm exec web1 -- ls -l /', 'a program with arguments'],
      ["lodge vm exec web1 -- sh -c 'df -h | grep vda'", 'with a shell in the guest'],
      ['lodge vm exec -i web1 -- tee /etc/motd < motd', 'with standard input, up to 768 KiB'],
    ],
  })
    .option('-i, --stdin', 'pass standard input on')
    .option('-e, --env <name=value>', 'environment variable; may be given several times', collected)
    .option('--timeout <duration>', 'longest run (default: 10m)', parsedBy(parseDurationS))
    .action(
      withDaemon<[name: string, command: string[]], ExecOptions>(async (session, options, name, command) => {
        const { execInVm } = await import('../vm/exec.ts');
        return execInVm(session, options, name, command);
      }),
    );

  verb(vm, 'cp <path...>', 'Copy files into a guest and out of it, through its agent', {
    // commander takes several words only as the last argument, so sources and target are one list for it.
    usage: '[options] <source...> <target>',
    description:
      'Copy files and, with -r, folders into a guest and out of it, through its agent. A path in a guest is written VM:/path; "-" is standard input or output. The last path is the target: a folder that is there takes what is copied under its name, else what is copied becomes the target. FOLDER/. means what is in the folder. Permissions and symbolic links are kept, owners are not.',
    examples: [
      ['lodge vm cp app.conf web1:/etc/app.conf', 'into the guest'],
      ['lodge vm cp web1:/var/log/syslog .', 'out of it, into this folder'],
      ['lodge vm cp -r site web1:/srv/', 'a folder, to /srv/site'],
      ['lodge vm cp -r web1:/etc etc-of-web1', 'a folder out of it'],
      ['pg_dump shop | lodge vm cp - web1:/tmp/shop.sql', 'from a pipe'],
    ],
  })
    .option('-r, --recursive', 'copy folders with all that is in them')
    .action(
      withDaemon<[paths: string[]], CopyOptions>(async (session, options, paths) => {
        const { copyFiles } = await import('../vm/copy.ts');
        await copyFiles(session, options, paths);
      }),
    );

  verb(vm, 'guest <vm>', 'Show what a guest tells of itself, through its agent', {
    formats: documentFormats,
    description:
      'Show what a guest tells of itself, through its agent: system, clock, vCPUs, who is signed in, addresses, file systems with what is really used of them, and disks beside the room they take on the node. With --metrics what it measures from inside; lodge vm top measures from outside.',
    examples: [
      ['lodge vm guest web1', 'system, addresses, file systems, disks, users'],
      ['lodge vm guest web1 --metrics', 'load, memory, vCPU time, disks and traffic as the guest counts them'],
      ["lodge vm guest web1 -o json | jq '.fileSystems[] | {mountPoint, usedBytes, totalBytes}'", 'for a script'],
    ],
  })
    .option('--metrics', 'what it measures instead of what it is')
    .action(
      withDaemon<[name: string], { metrics?: boolean }>(async (session, options, name) => {
        const { showGuest } = await import('../vm/guest.ts');
        await showGuest(session, options, name);
      }),
    );

  const freezing = [
    [
      'freeze',
      'Freeze the file systems of a guest',
      'Frozen',
      'before a snapshot by other means; do not forget to thaw',
    ],
    ['thaw', 'Thaw the file systems of a guest', 'Thawed', 'after freeze'],
  ] as const;
  for (const [action, summary, done, what] of freezing) {
    verb(vm, `${action} <vm>`, summary, { examples: [[`lodge vm ${action} web1`, what]] }).action(
      withDaemon<[name: string], object>(async (session, _options, name) => {
        const { fileSystems } = await withSuggestion(session, name, fetchVms, () =>
          session.client.vm[action]({ params: { vm: name }, query: { project: session.project } }),
        );
        session.terminal.line(`${done} in ${name}: ${fileSystems} file ${fileSystems === 1 ? 'system' : 'systems'}.`);
      }),
    );
  }
}
