// The launcher against the real kernel: what a launched process holds, who it is, and what is said when it can't start.
// Needs root, as everything does that attaches taps and changes users.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, rmdirSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { run } from '../../src/host/command.ts';
import { launchConfined, LaunchError, type LaunchOptions, type LaunchStep } from '../../src/host/launch/launch.ts';
import { atEnd, type Cleanup } from '../support/cleanup.ts';
import { MARK_VARIABLE, markedName, runMark } from '../support/mark.ts';
import { networkNamespace } from '../support/namespace.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

// An id that no user of the machine has.
const nobody = 61234;
const tapName = markedName();
const queuedTapName = markedName();
const started: number[] = [];

const suite: Cleanup = { after: after as Cleanup['after'] };
const folder = await temporaryFolder(suite);
const netns = (await networkNamespace(suite)).name;
for (const [name, ...flags] of [[tapName], [queuedTapName, 'multi_queue']] as const) {
  await run(['ip', 'tuntap', 'add', 'dev', name, 'mode', 'tap', 'vnet_hdr', ...flags]);
  atEnd(suite, () => run(['ip', 'link', 'delete', name]));
}
await run(['ip', '-n', netns, 'tuntap', 'add', 'dev', tapName, 'mode', 'tap', 'vnet_hdr']);

afterEach(async () => {
  for (const pid of started.splice(0)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended by itself.
    }
    await eventually(() => !isRunning(pid));
  }
});

function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

async function launch(options: Partial<LaunchOptions>): ReturnType<typeof launchConfined> {
  const launched = await launchConfined({
    argv: ['sleep', '600'],
    uid: nobody,
    gid: nobody,
    env: { [MARK_VARIABLE]: runMark() },
    ...options,
  });
  started.push(launched.pid);
  return launched;
}

async function refused(options: Partial<LaunchOptions>, step: LaunchStep, code: string | null): Promise<LaunchError> {
  const error = await launch(options).then(
    () => assert.fail('it was launched'),
    (error: unknown) => error,
  );
  assert.ok(error instanceof LaunchError, String(error));
  assert.deepEqual({ step: error.step, code: error.code }, { step, code }, error.message);
  return error;
}

function status(pid: number): Record<string, string> {
  const lines = readFileSync(`/proc/${pid}/status`, 'utf8').trim().split('\n');
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]),
  );
}

function descriptors(pid: number): Record<string, string> {
  const found: Record<string, string> = {};
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      found[fd] = readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch (error) {
      // The dynamic linker of a program that has only just begun closes what it has read.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return found;
}

describe('a launched process', () => {
  it('is an unprivileged user without capabilities, groups or a way to gain any', async () => {
    const { pid } = await launch({});
    const seen = status(pid);
    assert.equal(seen['Name'], 'sleep');
    for (const field of ['Uid', 'Gid']) assert.deepEqual(new Set(seen[field]?.split('\t')), new Set([String(nobody)]));
    assert.equal(seen['Groups'], '');
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
      assert.equal(Number(`0x${seen[set]}`), 0, set);
    }
    assert.equal(seen['NoNewPrivs'], '1');
    assert.equal(seen['Umask'], '0077');
  });

  it('gets the supplementary groups it was given', async () => {
    const { pid } = await launch({ groups: [61300, 61301] });
    assert.equal(status(pid)['Groups'], '61300 61301');
  });

  it('holds exactly the descriptors that were asked for, whatever their order, with the right to write only where asked', async () => {
    const readOnly = path.join(folder, 'read-only');
    const readWrite = path.join(folder, 'read-write');
    for (const file of [readOnly, readWrite]) await run(['touch', file]);
    // 4 before 3 and a gap: the launcher's own descriptors must not stand in the way.
    const { pid } = await launch({
      files: [
        { path: readWrite, mode: 'rw', fd: 4 },
        { path: readOnly, mode: 'ro', fd: 3 },
        { path: '/dev/zero', mode: 'rw', fd: 40 },
      ],
      taps: [{ name: tapName, fd: 7 }],
      stdoutPath: path.join(folder, 'out'),
    });
    assert.deepEqual(descriptors(pid), {
      0: '/dev/null',
      1: path.join(folder, 'out'),
      2: '/dev/null',
      3: readOnly,
      4: readWrite,
      7: '/dev/net/tun',
      40: '/dev/zero',
    });
    const accessMode = (fd: number): number =>
      parseInt(/^flags:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))![1]!, 8) & 3;
    assert.equal(accessMode(3), 0);
    assert.equal(accessMode(4), 2);
    assert.match(readFileSync(`/proc/${pid}/fdinfo/7`, 'utf8'), new RegExp(`^iff:\\s+${tapName}$`, 'm'));
    const { stdout } = await run(['stat', '-c', '%a %u', path.join(folder, 'out')]);
    assert.equal(stdout.trim(), '600 0');
  });

  it('holds a descriptor for each queue of a tap', async () => {
    const { pid } = await launch({ taps: [{ name: queuedTapName, fd: 10, queues: 3 }] });
    for (const fd of [10, 11, 12]) {
      assert.match(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'), new RegExp(`^iff:\\s+${queuedTapName}$`, 'm'));
    }
    assert.equal(descriptors(pid)[13], undefined);
  });

  it('leads a session of its own and works in the folder that was named', async () => {
    const { pid } = await launch({ cwd: folder });
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    assert.equal(Number(fields[3]), pid, 'the session is named after its leader');
    assert.equal(readlinkSync(`/proc/${pid}/cwd`), folder);
  });

  it('is in the cgroups, has the limits and the OOM adjustment that were asked for', async () => {
    const [mount] = (await run(['findmnt', '-rno', 'TARGET', '-t', 'cgroup', '-O', 'pids'])).stdout.split('\n');
    // Version 1 has a hierarchy for each controller, version 2 one for all.
    const group = path.join(mount || '/sys/fs/cgroup', `lodge-launch-${tapName}`);
    mkdirSync(group);
    try {
      const { pid, exited } = await launch({
        cgroupProcsFiles: [path.join(group, 'cgroup.procs')],
        oomScoreAdjust: 321,
        limits: { core: 0, nofile: 777 },
      });
      assert.match(readFileSync(`/proc/${pid}/cgroup`, 'utf8'), new RegExp(`/lodge-launch-${tapName}$`, 'm'));
      assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '321');
      const limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
      assert.match(limits, /^Max open files\s+777\s+777/m);
      assert.match(limits, /^Max core file size\s+0\s+0/m);
      process.kill(pid, 'SIGKILL');
      await settled(exited);
    } finally {
      rmdirSync(group);
    }
  });

  it('gets nothing of the environment but what was given', async () => {
    const { pid } = await launch({ env: { LODGE_TEST: 'yes' } });
    const names = readFileSync(`/proc/${pid}/environ`, 'utf8')
      .split('\0')
      .filter(Boolean)
      .map((pair) => pair.split('=')[0]);
    assert.deepEqual(new Set(names), new Set(['LC_ALL', 'LODGE_TEST', 'PATH']));
  });

  it('runs in the network namespace that was named, with the tap of that namespace', async () => {
    const { pid } = await launch({ netns, taps: [{ name: tapName, fd: 3 }] });
    const [own, its] = ['self', pid].map((id) => readlinkSync(`/proc/${id}/ns/net`));
    assert.notEqual(its, own);
    // The tap in this namespace has the same name and is still free.
    const other = await launch({ taps: [{ name: tapName, fd: 3 }] });
    assert.ok(isRunning(other.pid));
  });

  it('tells its exit code and its signal', async () => {
    const first = await launch({ argv: ['sh', '-c', 'exit 7'] });
    assert.deepEqual(await settled(first.exited), { code: 7, signal: null });
    const second = await launch({});
    process.kill(second.pid, 'SIGTERM');
    assert.deepEqual(await settled(second.exited), { code: null, signal: 'SIGTERM' });
  });

  it('outlives a parent that is killed', async () => {
    const module = fileURLToPath(new URL('../../src/host/launch/launch.ts', import.meta.url));
    const program = `
      const { launchConfined } = await import(${JSON.stringify(module)});
      const { pid } = await launchConfined({ argv: ['sleep', '600'], uid: ${nobody}, gid: ${nobody}, env: { ${MARK_VARIABLE}: '${runMark()}' } });
      console.log(pid);
      setInterval(() => {}, 1000);`;
    const parent = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const pid = await new Promise<number>((resolve, reject) => {
      parent.stdout.once('data', (chunk: Buffer) => resolve(Number(chunk)));
      parent.once('exit', () => reject(new Error('the parent ended early')));
    });
    started.push(pid);
    const ended = new Promise((resolve) => parent.once('exit', resolve));
    parent.kill('SIGKILL');
    await ended;
    assert.ok(isRunning(pid));
    assert.equal(status(pid)['Name'], 'sleep');
    assert.notEqual(Number(status(pid)['PPid']), parent.pid);
  });
});

/** A detached process keeps no event loop alive; the timer of this race does. */
async function settled<T>(promise: Promise<T>): Promise<T> {
  const deadline = new AbortController();
  try {
    return await Promise.race([
      promise,
      delay(10_000, undefined, { signal: deadline.signal }).then(() => assert.fail('not within 10 s')),
    ]);
  } finally {
    deadline.abort();
  }
}

describe('a launch that fails names the step and leaves nothing', () => {
  it('when the tap does not exist, and none comes to be', async () => {
    const error = await refused({ taps: [{ name: 'lodge-absent', fd: 3 }] }, 'tap', 'ENODEV');
    assert.equal(error.subject, 'lodge-absent');
    assert.ok(!existsSync('/sys/class/net/lodge-absent'));
  });

  it('when the tap is held by another process, or is no tap', async () => {
    await launch({ taps: [{ name: tapName, fd: 3 }] });
    assert.match((await refused({ taps: [{ name: tapName, fd: 3 }] }, 'tap', 'EBUSY')).message, new RegExp(tapName));
    await refused({ taps: [{ name: 'lo', fd: 3 }] }, 'tap', 'EINVAL');
    await refused({ taps: [{ name: queuedTapName, fd: 3 }] }, 'tap', 'EINVAL');
  });

  it('when a file can not be opened: the second of two is the one that is named', async () => {
    const missing = path.join(folder, 'no such\nfile');
    const error = await refused(
      {
        files: [
          { path: '/dev/null', mode: 'rw', fd: 3 },
          { path: missing, mode: 'ro', fd: 4 },
        ],
      },
      'file',
      'ENOENT',
    );
    assert.equal(error.subject, missing);
    await refused({ files: [{ path: folder, mode: 'rw', fd: 3 }] }, 'file', 'EISDIR');
  });

  it('when the cgroup, the folder or the network namespace does not exist', async () => {
    await refused({ cgroupProcsFiles: ['/sys/fs/cgroup/lodge-absent/cgroup.procs'] }, 'cgroup', 'ENOENT');
    await refused({ cwd: path.join(folder, 'absent') }, 'cwd', 'ENOENT');
    const error = await refused({ netns: 'lodge-absent', stderrPath: path.join(folder, 'err') }, 'netns', null);
    assert.match(error.message, /lodge-absent/);
  });

  it('when the program does not exist or is not executable by its user', async () => {
    await refused({ argv: ['/nonexistent/qemu'] }, 'program', 'ENOENT');
    const file = path.join(folder, 'plain');
    await run(['touch', file]);
    await refused({ argv: [file] }, 'program', 'EACCES');
  });

  it('when prlimit or setpriv refuses, with its own words', async () => {
    const stderrPath = path.join(folder, 'said');
    const error = await refused({ limits: { nonsense: 1 }, stderrPath }, 'confine', null);
    assert.match(error.message, /nonsense/);
  });

  it('when it takes longer than its deadline', async () => {
    const fifo = path.join(folder, 'fifo');
    await run(['mkfifo', fifo]);
    // Opening a pipe for reading waits for a writer that never comes.
    const error = await refused({ files: [{ path: fifo, mode: 'ro', fd: 3 }], timeoutMs: 300 }, 'file', null);
    assert.match(error.message, /300 ms/);
  });

  it('when the arguments make no sense', async () => {
    const file = { path: '/dev/null', mode: 'ro' as const };
    await refused({ files: [{ ...file, fd: 2 }] }, 'arguments', 'EINVAL');
    await refused(
      {
        files: [
          { ...file, fd: 4 },
          { ...file, fd: 4 },
        ],
      },
      'arguments',
      'EINVAL',
    );
    await refused(
      { files: [{ ...file, fd: 4 }], taps: [{ name: queuedTapName, fd: 3, queues: 2 }] },
      'arguments',
      'EINVAL',
    );
    await refused({ taps: [{ name: 'a-name-of-16-byte', fd: 3 }] }, 'arguments', 'EINVAL');
    await refused({ uid: undefined }, 'arguments', 'EINVAL');
    await refused({ oomScoreAdjust: 1001 }, 'arguments', 'EINVAL');
    await refused({ netns: '../etc' }, 'arguments', 'EINVAL');
  });
});
