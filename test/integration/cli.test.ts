// The command line as people and scripts use it: its real process against the real daemon with the fake driver.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { appendFile, chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseAllDocuments } from 'yaml';
import { type NodeChecks } from '../../src/api/node-hardware.ts';
import { run as runProgram } from '../../src/host/command.ts';
import { startDaemon } from '../support/daemon.ts';
import { CommandLine, commandLine, ended } from '../support/command-line.ts';
import { networkNamespace } from '../support/namespace.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

test('the command line with a daemon', async (t) => {
  const daemon = await startDaemon(t, { driver: 'fake', namespace: await networkNamespace(t) });
  const cli = await commandLine(t, daemon);

  await t.test('a newcomer is told what to do, makes a VM, sees it, and gets rid of it', async () => {
    const empty = await cli.run(['vm', 'list']);
    assert.deepEqual([empty.code, empty.out], [0, '']);
    assert.match(empty.err, /No VMs in project default\. Make one: lodge vm create/);
    assert.match(await cli.fails(3, 'vm', 'create', 'first', '--image', 'debian-12'), /lodge image build debian-12/);

    const made = await cli.ok('vm', 'create', 'first', '--memory', '64MiB', '--cpus', '2', '--label', 'app=web');
    assert.match(made, /^VM first is created and running/);
    assert.match(await cli.ok('vm', 'list'), /^NAME +STATE[^]*\nfirst +running +.* 2 +64 MiB/);
    assert.match(await cli.ok('vm', 'show', 'first'), /Memory: +64 MiB/);
    assert.match(await cli.fails(4, 'vm', 'create', 'first'), /first/);

    assert.match(await cli.fails(2, 'vm', 'delete', 'first'), /--yes/);
    assert.match(await cli.fails(4, 'vm', 'delete', 'first', '--yes'), /running/);
    assert.equal(await cli.ok('vm', 'stop', 'first'), 'VM first is stopped.\n');
    assert.equal(await cli.ok('vm', 'delete', 'first', '--yes'), 'VM first is deleted.\n');
    await cli.fails(3, 'vm', 'show', 'first');
  });

  await t.test('mistakes are named with what was probably meant', async () => {
    assert.match(await cli.fails(2, 'vmm', 'list'), /"vmm" is not a command[^]*Did you mean lodge vm\?/);
    assert.match(await cli.fails(2, 'vm', 'lsit'), /Did you mean lodge vm list\?/);
    assert.match(await cli.fails(2, 'vm', 'list', '--selectr', 'a=b'), /--selector/);
    assert.match(await cli.fails(2, 'vm', 'create', 'x', '--memory', '2 parsecs'), /KiB, MiB, GiB, TiB/);
    assert.match(await cli.fails(2, 'vm', 'create', 'x', '--memory', '8'), /--memory[^]*8GiB/);
    assert.match(await cli.fails(2, 'vm', 'create', 'UPPER'), /a-z, 0-9/);
    assert.match(await cli.fails(2, 'vm', 'start'), /no VM is named/);
    assert.match(await cli.fails(2, 'vm', 'list', '--filter', 'nope=1'), /nope/);
    await cli.ok('vm', 'create', 'near', '--memory', '64MiB', '--no-start');
    assert.match(await cli.fails(3, 'vm', 'show', 'naer'), /Did you mean near\?/);
    await cli.ok('vm', 'delete', 'near', '--yes');
  });

  await t.test(
    'a VM to install a system on has an empty disk, and the ISO in its drive until it is ejected',
    async () => {
      const content = join(cli.home, 'content');
      await mkdir(content);
      await writeFile(join(content, 'README'), 'setup');
      await runProgram(['xorriso', '-as', 'mkisofs', '-quiet', '-o', join(cli.home, 'Setup_1.iso'), content]);
      const create = ['vm', 'create', 'new', '--memory', '64MiB', '--disk', '1GiB', '--firmware', 'bios', '--no-start'];
      assert.match(await cli.fails(2, ...create, '--iso', './Setup_1.iso', '--image', 'x'), /--iso[^]*--cdrom/);
      assert.match(await cli.fails(3, ...create, '--iso', 'nowhere'), /nowhere/);
      await cli.ok(...create, '--iso', './Setup_1.iso');
      const read = async (): Promise<{ name: string; device?: string; image?: string; sizeMib?: number }[]> =>
        (JSON.parse(await cli.ok('vm', 'show', 'new', '-o', 'json')) as { spec: { disks: [] } }).spec.disks;
      assert.deepEqual(
        (await read()).map(({ name, device, image, sizeMib }) => [name, device, image, sizeMib]),
        [
          ['root', 'disk', undefined, 1024],
          ['cdrom', 'cdrom', 'setup-1', undefined],
        ],
      );
      assert.match(await cli.ok('vm', 'show', 'new'), /Boot order: +root, cdrom\n/);
      await cli.ok('vm', 'start', 'new', '--boot-once', 'cdrom');
      assert.match(await cli.ok('vm', 'show', 'new'), /Boot order: +root, cdrom; this once from cdrom\n/);
      await cli.ok('vm', 'cdrom', 'eject', 'new');
      assert.equal((await read())[1]?.image, undefined);
      // The same file is not brought in twice, another under its name not at all.
      await cli.ok('vm', 'create', 'again', '--iso', 'Setup_1.iso', '--memory', '64MiB', '--no-start');
      await mkdir(join(cli.home, 'other'));
      await runProgram(['cp', join(cli.home, 'Setup_1.iso'), join(cli.home, 'other')]);
      assert.match(await cli.fails(2, 'vm', 'create', 'x', '--iso', 'other/Setup_1.iso'), /setup-1[^]*image import/);
      await cli.ok('vm', 'delete', 'new', 'again', '--force', '--yes');
      await cli.ok('image', 'delete', 'setup-1', '--yes');
    },
  );

  await t.test('scripts get json, yaml and names; everything else goes to stderr', async () => {
    for (const name of ['s1', 's2', 's3'])
      await cli.ok('volume', 'create', name, '--size', '1MiB', '--label', `n=${name}`);
    const list = JSON.parse(await cli.ok('volume', 'list', '-o', 'json')) as { kind: string; name: string }[];
    assert.deepEqual(
      list.map(({ kind, name }) => `${kind} ${name}`),
      ['Volume s1', 'Volume s2', 'Volume s3'],
    );
    assert.equal(await cli.ok('volume', 'list', '-o', 'name', '--sort', '-name', '--limit', '2'), 's3\ns2\n');
    assert.equal(await cli.ok('-o', 'name', 'volume', 'list', '-l', 'n in (s1,s3)'), 's1\ns3\n');
    assert.equal(parseAllDocuments(await cli.ok('volume', 'list', '-o', 'yaml')).length, 3);
    assert.deepEqual(JSON.parse(await cli.ok('vm', 'list', '-o', 'json')), []);
    assert.equal(
      await cli.ok('volume', 'delete', 's1', 's2', 's3', '--yes', '-q'),
      'volume s1 is deleted.\nvolume s2 is deleted.\nvolume s3 is deleted.\n',
    );
  });

  await t.test('several VMs are switched at once; one that fails does not hold up the others', async () => {
    for (const name of ['m1', 'm2'])
      await cli.ok('vm', 'create', name, '--memory', '64MiB', '--no-start', '--label', 'set=m');
    const started = await cli.ok('vm', 'start', '-l', 'set=m');
    assert.match(started, /VM m1 is running\.\n/);
    assert.match(started, /VM m2 is running\.\n/);
    const stopped = await cli.run(['vm', 'stop', 'm1', 'nobody', 'm2', '--force']);
    assert.equal(stopped.code, 3);
    assert.match(stopped.out, /VM m1 is stopped\.[^]*VM m2 is stopped\./);
    assert.match(stopped.err, /nobody/);
    assert.match(await cli.fails(4, 'vm', 'pause', 'm1'), /stopped/);
    await cli.ok('vm', 'delete', '-l', 'set=m', '--yes');
  });

  await t.test('fields are set by key and value, and say when they take effect', async () => {
    await cli.ok('vm', 'create', 'conf', '--memory', '64MiB');
    assert.match(
      await cli.ok('vm', 'set', 'conf', 'cpu.count=4', 'memoryMib=128MiB', 'labels.a=b'),
      /cpu\.count: 1 → 4, at the next start\.[^]*lodge vm restart conf/,
    );
    const vm = JSON.parse(await cli.ok('vm', 'show', 'conf', '-o', 'json')) as {
      labels: object;
      spec: { cpu: { count: number }; memoryMib: number };
    };
    assert.deepEqual([vm.spec.cpu.count, vm.spec.memoryMib, vm.labels], [4, 128, { a: 'b' }]);
    assert.match(await cli.ok('vm', 'set', 'conf', 'cpu.count=4'), /nothing was changed/);
    assert.match(await cli.fails(2, 'vm', 'set', 'conf', 'cpu.cuont=4'), /did you mean count/);
    await cli.ok('vm', 'delete', 'conf', '--force', '--yes');
  });

  await t.test('a program in the guest gets its input and gives its output and exit code', async () => {
    await cli.ok('vm', 'create', 'agent', '--memory', '64MiB', '--wait-for', 'up');
    assert.equal(await cli.ok('vm', 'exec', 'agent', '--', 'echo', '-n', 'a b'), '-n a b\n');
    assert.equal(await cli.ok('vm', 'exec', 'agent', 'echo', '-o', 'json'), '-o json\n');
    assert.equal((await cli.run(['vm', 'exec', '-i', 'agent', 'cat'], { input: 'piped' })).out, 'piped');
    await cli.fails(1, 'vm', 'exec', 'agent', 'false');
    await cli.fails(125, 'vm', 'exec', 'nobody', 'true');

    await writeFile(join(cli.home, 'in.bin'), Buffer.from([0, 255, 10, 13]));
    await cli.ok('vm', 'cp', 'in.bin', 'agent:/tmp/');
    await cli.ok('vm', 'cp', 'agent:/tmp/in.bin', 'out.bin');
    assert.deepEqual(await readFile(join(cli.home, 'out.bin')), Buffer.from([0, 255, 10, 13]));
    assert.match(await cli.fails(2, 'vm', 'cp', 'a', 'b'), /one side of a copy/);
    assert.match(await cli.ok('vm', 'guest', 'agent'), /Guest agent:/);

    assert.match(await cli.ok('vm', 'serial-log', 'agent', '--grep', '^lodge: (ready|up)'), /^lodge: ready$/m);
    assert.equal(await cli.ok('vm', 'serial-log', 'agent', '--grep', 'LODGE', '-i', '--tail', '1'), 'lodge: ready\n');
    assert.equal((await cli.run(['vm', 'serial-log', 'agent', '--grep', 'no such line'])).code, 1);
    assert.match(await cli.fails(2, 'vm', 'serial-log', 'agent', '--grep', '('), /not a regular expression/);
    const timed = ['vm', 'serial-log', 'agent', '--since', '1h', '--timestamps', '--grep', 'ready'] as const;
    assert.match(await cli.ok(...timed), /^\d{4}-\d\d-\d\dT[\d:.]{12}Z lodge: ready\n$/);
    assert.equal(await cli.ok('vm', 'serial-log', 'agent', '--since', '0s'), '');

    await cli.ok('vm', 'screenshot', 'agent');
    assert.equal((await readFile(join(cli.home, 'agent.png'))).subarray(1, 4).toString(), 'PNG');
  });

  await t.test('the console is replayed, takes what is piped in, and ends when it is told', async () => {
    const { code, out } = await cli.run(['vm', 'console', 'agent', '--for', '2s'], { input: 'typed by a script' });
    assert.equal(code, 0);
    assert.match(out, /fake guest: booting[^]*typed by a script/);
    assert.match(await cli.fails(2, 'vm', 'console', 'agent', '--detach-key', 'q'), /ctrl-/);
  });

  await t.test('on a terminal the console is left with its key, and the terminal is as it was', async () => {
    // script(1) gives the command a terminal of its own; what is typed comes from a pipe.
    const inside = 'lodge vm console agent; echo "left with $?"; stty -a; echo over';
    const terminal = cli.spawnShell(`script -qefc '${inside}' /dev/null`);
    let out = '';
    terminal.stdout?.setEncoding('utf8').on('data', (text: string) => (out += text));
    const over = once(terminal, 'close');
    await eventually(() => out.includes('fake guest'), { describe: 'the console is shown', timeoutMs: 30_000 });
    terminal.stdin?.write('typed\u001d');
    await eventually(() => /^over/m.test(out), { describe: 'the console is left', timeoutMs: 30_000 });
    terminal.stdin?.end();
    await over;
    assert.match(out, /Console of agent\. Ctrl-\] leaves it/);
    assert.match(out, /Left the console of agent; the VM goes on\.[^]*left with 0/);
    assert.match(out, /(^|[ ;])icanon/m);
    assert.match(out, /(^|[ ;])echo /m);
    assert.match(await cli.ok('vm', 'serial-log', 'agent'), /typed/);
    await cli.ok('vm', 'delete', 'agent', '--force', '--yes');
  });

  await t.test('a watched list tells each change in a line, and on a terminal redraws its table', async () => {
    const watching = cli.start(['vm', 'list', '--watch']);
    const documents = cli.start(['vm', 'list', '--watch', '-o', 'json']);
    // The shell around it hears Ctrl-C too, and must not die of it before it has told the exit code.
    const inside = 'trap : INT; lodge vm list --watch; echo "left with $?"';
    const terminal = cli.spawnShell(`script -qefc '${inside}' /dev/null`);
    const texts = [watching, documents, terminal].map((child) => {
      const text = { out: '' };
      child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (text.out += chunk));
      return text;
    });
    const [lines, json, screen] = texts as [{ out: string }, { out: string }, { out: string }];
    const overs = [watching, documents, terminal].map((child) => once(child, 'close'));
    const shown = (text: { out: string }, what: RegExp): Promise<boolean> =>
      eventually(
        () => {
          if (what.test(text.out)) return true;
          throw new Error(`shown so far: ${JSON.stringify(text.out.slice(-500))}`);
        },
        { describe: `${what} is shown`, timeoutMs: 60_000 },
      );
    await shown(screen, /No VMs in project default/);
    await cli.ok('vm', 'create', 'seen', '--memory', '64MiB', '--no-start');
    // On a loaded machine it may begin to watch only now, and then lists what is there.
    await shown(lines, /^(listed|added|changed) +seen +stopped/m);
    // Drawn over the one line that said that there is none.
    const drawn = (): string => screen.out.split('\u001b[1A\r\u001b[0J').at(-1) ?? '';
    await eventually(() => /NAME[^]*seen[^\n]*stopped/.test(drawn()), { describe: 'redrawn', timeoutMs: 60_000 });
    assert.match(await cli.ok('vm', 'rename', 'seen', 'seen2'), /VM seen is called seen2 now/);
    await shown(lines, /^changed +seen2/m);
    await cli.ok('vm', 'delete', 'seen2', '--yes');
    await shown(lines, /^removed +seen2/m);
    await shown(json, /"change":"removed"/);
    for (const line of json.out.trim().split('\n')) {
      const { change, object } = JSON.parse(line) as { change: string; object: { kind: string; name: string } };
      assert.match(`${change} ${object.kind} ${object.name}`, /^(listed|added|changed|removed) Vm seen2?$/);
    }
    watching.kill('SIGINT');
    documents.kill('SIGINT');
    terminal.stdin?.write('\u0003');
    const codes = (await Promise.all(overs)).map(([code]) => code as number | null);
    assert.deepEqual(codes.slice(0, 2), [0, 0]);
    assert.match(screen.out, /left with 0/);
    assert.match(await cli.fails(2, 'vm', 'list', '--watch', '-o', 'yaml'), /--watch does not go with -o yaml/);
    assert.match(await cli.ok('task', 'list', '--limit', '1'), /vm\.delete .* succeeded +100 % .* delete/);
  });

  await t.test('files are applied in the order of need, and a second run changes nothing', async () => {
    const file = join(cli.home, 'site.yaml');
    const site = (cpus: number): string => `kind: Vm
name: app
labels: {tier: front}
spec:
  cpu: {count: ${cpus}}
  memoryMib: 64MiB
  disks: [{name: data, volume: app-data}]
  nics: [{network: app-net}]
---
kind: Volume
name: app-data
spec: {sizeMib: 2}
---
kind: Network
name: app-net
spec: {mode: user}
`;
    await writeFile(file, site(1));
    const plan = await cli.run(['apply', '-f', file, '--dry-run', '--exit-code']);
    assert.equal(plan.code, 8);
    assert.match(
      plan.out,
      /Network app-net would be created[^]*Volume app-data would be[^]*Vm app would be created[^]*spec\.cpu\.count: 1/,
    );
    await cli.fails(3, 'vm', 'show', 'app');

    assert.equal(
      await cli.ok('apply', '-f', file),
      'Network app-net created\nVolume app-data created\nVm app created\n',
    );
    assert.equal(
      await cli.ok('apply', '-f', file),
      'Network app-net unchanged\nVolume app-data unchanged\nVm app unchanged\n',
    );
    await cli.ok('apply', '-f', file, '--dry-run', '--exit-code');

    for (const format of ['yaml', 'json']) {
      const exported = await cli.ok('vm', 'show', 'app', '-o', format);
      const again = await cli.run(['apply', '-f', '-'], { input: exported });
      assert.deepEqual([again.code, again.out], [0, 'Vm app unchanged\n'], again.err);
    }
    await writeFile(file, site(4));
    assert.match(await cli.ok('apply', '-f', file), /Vm app changed\n +~ spec\.cpu\.count: 1 → 4\n/);
    assert.equal(
      await cli.ok('delete', '-f', file, '--yes'),
      'Vm app deleted\nVolume app-data deleted\nNetwork app-net deleted\n',
    );
    assert.match(await cli.ok('delete', '-f', file, '--yes'), /Vm app is not there/);
  });

  await t.test('a file with mistakes changes nothing, and every mistake is named with its line', async () => {
    const file = join(cli.home, 'bad.yaml');
    await writeFile(
      file,
      'kind: Network\nname: fine\nspec: {mode: user}\n---\nkind: Vm\nname: bad\nspec:\n  cpu:\n    cuont: 2\n  memoryMib: -1\n---\nkind: Vmm\nname: x\n',
    );
    const complaint = await cli.fails(2, 'apply', '-f', file);
    assert.match(complaint, /document 2, line 9: spec\.cpu\.cuont: .*did you mean count/);
    assert.match(complaint, /document 2, line 10: spec\.memoryMib/);
    assert.match(complaint, /document 3, line 12: kind: .*did you mean Vm/);
    await cli.fails(3, 'network', 'show', 'fine');
    await writeFile(file, 'kind: Vm\nname: lost\nspec: {image: no-such}\n');
    assert.match(await cli.fails(2, 'apply', '-f', file), /there is no image no-such/);
    await writeFile(file, 'a: [1\n');
    assert.match(await cli.fails(2, 'apply', '-f', file), /is not YAML/);
  });

  await t.test('events are followed as they happen', async () => {
    const following = cli.start(['events', '--follow', '--changes', '--kinds', 'volume', '-o', 'json']);
    let text = '';
    following.stdout?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    const over = once(following, 'close');
    await eventually(() => text.includes('"synced"'), { describe: 'the stream has begun' });
    await cli.ok('volume', 'create', 'seen', '--size', '1MiB');
    await eventually(() => text.includes('"seen"'), { describe: 'the volume was told' });
    following.kill('SIGINT');
    assert.deepEqual((await over)[0], 0);
    for (const line of text.trim().split('\n')) JSON.parse(line);
    await cli.ok('volume', 'delete', 'seen', '--yes');
  });

  await t.test('who waits for a guest in vain sees what its console says', async () => {
    await cli.ok('vm', 'create', 'silent', '--memory', '64MiB', '--no-agent', '--wait-for', 'running');
    const log = async (text: string): Promise<void> => {
      const { id } = await daemon.client.vm.get({ params: { vm: 'silent' } });
      await appendFile(join(daemon.folder, 'data/vms', id, 'serial.log'), text);
    };
    await log('\u001b[1mWaiting for root device...\u001b[0m\r\n');
    const waiting = await cli.fails(7, 'vm', 'wait', 'silent', '--for', 'up', '--timeout', '1s');
    assert.match(waiting, /last console line: Waiting for root device\.\.\./);
    await log('Kernel panic - not syncing: no init found\r\n');
    const said = await cli.fails(7, 'vm', 'wait', 'silent', '--for', 'up', '--timeout', '15s');
    assert.match(said, /the console says: Kernel panic - not syncing: no init found/);
    assert.match(await cli.ok('vm', 'show', 'silent'), /The console says: +Kernel panic - not syncing/);
    assert.match(await cli.fails(125, 'vm', 'exec', 'silent', '--', 'true'), /hasAgentChannel/);
    await cli.ok('vm', 'delete', 'silent', '--force', '--yes');
  });

  await t.test('Ctrl-C ends the waiting, and says how to go on', async () => {
    await cli.ok('vm', 'create', 'slow', '--memory', '64MiB', '--no-start');
    const waiting = cli.start(['vm', 'wait', 'slow', '--for', 'stopped']);
    assert.equal((await ended(waiting)).code, 0);
    await cli.ok('vm', 'start', 'slow');
    const stuck = cli.start(['vm', 'wait', 'slow', '--for', 'stopped']);
    let err = '';
    stuck.stderr?.setEncoding('utf8').on('data', (chunk: string) => (err += chunk));
    const over = once(stuck, 'close');
    await eventually(() => err.includes('still running'), { describe: 'it waits' });
    stuck.kill('SIGINT');
    assert.equal((await over)[0], 130);
    assert.match(err, /lodge vm wait slow --for stopped/);
    await cli.ok('vm', 'delete', 'slow', '--force', '--yes');
  });

  await t.test('bash completes nouns, verbs and the names of objects', async () => {
    await cli.ok('vm', 'create', 'complete-me', '--memory', '64MiB', '--no-start');
    const { out, err } = await cli.shell(`source <(lodge completion bash)
try() { COMP_LINE=$1 COMP_POINT=\${#1}; _lodge 2>/dev/null; echo "\${COMPREPLY[*]}"; }
try 'lodge netw'; try 'lodge vm start comp'; try 'lodge vm create x --machine=q'; try 'lodge vm cp comp'`);
    assert.equal(out, 'network\ncomplete-me\nq35\ncomplete-me:/\n', err);
    await cli.ok('vm', 'delete', 'complete-me', '--yes');
  });

  await t.test('a machine is checked, with what to do and an exit code for scripts', async () => {
    const { out, code } = await cli.run(['node', 'check']);
    assert.match(out, /^(pass|warn|fail) {2}Hypervisor$/m);
    assert.match(out, /^\d+ passed, \d+ noted, \d+ warned, \d+ failed$/m);
    const { checks } = JSON.parse((await cli.run(['node', 'check', '-o', 'json'])).out) as NodeChecks;
    assert.equal(code, checks.some(({ result }) => result === 'fail') ? 1 : 0);
    for (const { name, result, remedy } of checks) if (result === 'fail') assert.ok(remedy, name);
  });

  await t.test('every noun shows itself', async () => {
    const commands = [
      ['node', 'list'],
      ['node', 'show'],
      ['node', 'hardware', '--explain'],
      ['node', 'stats', '--since', '2h'],
      ['node', 'measure'],
      ['network', 'list', '-o', 'wide'],
      ['network', 'show', 'default'],
      ['network', 'leases', 'default'],
      ['image', 'list'],
      ['volume', 'list'],
      ['task', 'list'],
      ['task', 'list', '--running'],
      ['event', 'list'],
      ['token', 'list'],
      ['server', 'show'],
      ['server', 'health'],
      ['server', 'metrics'],
      ['version'],
      ['top', '--once'],
      ['vm', 'usage'],
      ['context', 'show'],
      ['api'],
      ['api', 'vm.list'],
    ];
    // A few at once: most of their time they wait for each other's processors anyway.
    while (commands.length > 0) await Promise.all(commands.splice(0, 4).map((args) => cli.ok(...args)));
  });
});

test('a daemon elsewhere is spoken to over HTTPS, with a token, by a context', async (t) => {
  const daemon = await startDaemon(t, { driver: 'fake', listen: '127.0.0.1:0' });
  const here = await commandLine(t, daemon);
  const server = (JSON.parse(await here.ok('server', 'show', '-o', 'json')) as { httpsAddress: string }).httpsAddress;
  const away = new CommandLine(await temporaryFolder(t), {});
  await writeFile(join(away.home, 'ca.pem'), await here.ok('server', 'ca'));
  const admin = (await here.ok('token', 'create', 'boss', '--role', 'admin')).trim();
  const viewer = (await here.ok('token', 'create', 'guest')).trim();

  assert.match(await away.fails(5, '--server', server, '--token', admin, 'vm', 'list'), /certificate[^]*--ca/);
  assert.match(await away.fails(6, '--server', server, '--ca', 'ca.pem', 'vm', 'list'), /token|credentials/i);
  await away.ok('--server', server, '--ca', 'ca.pem', '--token', admin, 'vm', 'list');

  const added = await away.run(['context', 'add', 'prod', '--server', server, '--ca', 'ca.pem', '--token-stdin'], {
    input: `${viewer}\n`,
  });
  assert.equal(added.out, 'Context prod is added and current.\n', added.err);
  const config = join(away.home, '.config/lodge/config.yaml');
  assert.equal((await stat(config)).mode & 0o777, 0o600);
  assert.doesNotMatch(await away.ok('context', 'list', '-o', 'json'), new RegExp(viewer));
  await away.ok('vm', 'list');
  assert.match(await away.fails(6, 'vm', 'create', 'x'), /vm\.create/);
  await away.ok('vm', 'create', 'x', '--memory', '64MiB', '--token', admin, '--no-start');
  assert.match(await away.ok('vm', 'list'), /^x +stopped/m);

  await chmod(config, 0o644);
  assert.match((await away.run(['vm', 'list'])).err, /chmod 600/);
  await away.ok('context', 'use', '-');
  await away.fails(5, 'vm', 'list', '--socket', '/nonexistent/lodge.sock');
  assert.match(await away.fails(3, 'context', 'use', 'prud'), /prod/);
  await here.ok('token', 'delete', 'guest', '--yes');
  await away.fails(6, '--context', 'prod', 'vm', 'list');
});

test('Ctrl-C leaves a task to itself; it can be found, followed and cancelled', async (t) => {
  const daemon = await startDaemon(t, { driver: 'fake' });
  const cli = await commandLine(t, daemon);
  // Sends the beginning of an image and then nothing more, until it is closed.
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-length': 64 * 1024 * 1024 });
    response.write(Buffer.alloc(1024 * 1024));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;

  const importing = cli.start(['image', 'import', 'slow', `http://127.0.0.1:${port}/slow.qcow2`]);
  let err = '';
  importing.stderr?.setEncoding('utf8').on('data', (chunk: string) => (err += chunk));
  const over = once(importing, 'close');
  await eventually(() => err.includes('import image slow:'), { describe: 'the import has begun', timeoutMs: 30_000 });
  importing.kill('SIGINT');
  assert.equal((await over)[0], 130);
  const [, id = ''] = /lodge task wait ([0-9a-f-]+)/.exec(err) ?? [];
  assert.match(err, new RegExp(`lodge task cancel ${id}`));

  assert.equal(await cli.ok('task', 'list', '--running', '-o', 'name'), `${id}\n`);
  assert.match(await cli.fails(7, 'task', 'wait', id, '--timeout', '300ms'), /It goes on/);
  assert.match(await cli.ok('task', 'cancel', id), /is cancelled and undone/);
  assert.match(await cli.ok('task', 'show', id), /State: +cancelled/);
  assert.match(await cli.fails(1, 'task', 'wait', id), /cancelled/);
});

test('without a daemon it says so and what to do, and help works all the same', async (t) => {
  const cli = new CommandLine(await temporaryFolder(t), { LODGE_SOCKET: '/nonexistent/lodge.sock' });
  assert.match(await cli.fails(5, 'vm', 'list'), /no daemon listens on \/nonexistent\/lodge\.sock[^]*npm start/);
  assert.match(await cli.ok('--help'), /Exit codes:/);
  assert.match(await cli.ok('vm', 'create', '--help'), /--ssh-key/);
  assert.match(await cli.ok('help', 'vm', 'start'), /Usage: lodge vm start/);
  assert.match(await cli.ok('--version'), /^lodge \d+\.\d+\.\d+\n$/);
  assert.match(await cli.ok('version'), /no daemon listens/);
  assert.match(await cli.fails(3, 'vm', 'list', '--context', 'none'), /context/);
  await mkdir(join(cli.home, '.config/lodge'), { recursive: true });
  await writeFile(join(cli.home, '.config/lodge/config.yaml'), 'contexts: [\n');
  assert.match(await cli.fails(2, 'vm', 'list'), /config\.yaml is not YAML/);
});
