// What every driver must keep of the promises in driver.ts, as tests. A driver passes with a subject that makes guests for
// it, plays the power cut, and can tell what is left of a guest on the machine.
import assert from 'node:assert/strict';
import { type TestContext } from 'node:test';
import { LodgeError } from '../api/errors.ts';
import { resolveHardware } from '../api/resolve-hardware.ts';
import { type VmHardware } from '../api/vm-hardware.ts';
import { latencyEdgesUs } from '../api/vm-latency.ts';
import { vmSpec, type VmSpec } from '../api/vm-spec.ts';
import {
  asError,
  Console,
  drain,
  driverSuite,
  failure,
  known,
  Messages,
  within,
  type DriverSubject,
} from './conformance-subject.ts';
import { type GuestDefinition } from './driver.ts';
import { forkConformance, savedMemoryConformance } from './fork.conformance.ts';

/** Runs the suite against a driver. `setup` is called for each test. */
export function driverConformance(name: string, setup: (context: TestContext) => Promise<DriverSubject>): void {
  driverSuite(`${name} keeps the promises of a driver`, setup, (check) => {
    check('a guest runs when its start has answered, and is found', async (subject) => {
      const { guest, definition } = await subject.start();
      assert.equal(guest.id, definition.id);
      assert.equal(await guest.state(), 'running');
      assert.ok((await subject.driver.discover()).has(definition.id));
      const { pinned } = guest;
      assert.equal(pinned.firmware, definition.firmware);
      assert.ok(pinned.machine && pinned.cpuModel && pinned.qemuVersion && pinned.acceleratorReason);
      assert.ok(pinned.arguments.length > 0);
    });

    check('what was pinned at the first start is pinned at the next', async (subject) => {
      const { guest, definition } = await subject.start();
      const { pinned } = guest;
      await guest.end();
      const again = await subject.start({ ...definition, pinned });
      assert.deepEqual(
        { ...again.guest.pinned, arguments: [] },
        { ...pinned, arguments: [] },
        'the same definition gives the same guest',
      );
    });

    check('a start that fails says why and leaves nothing, and the next one succeeds', async (subject) => {
      const broken = await subject.given.defineBroken();
      const error = await failure(subject.driver.start(broken), ['hypervisor_failed', 'host_failed']);
      assert.match(error.message, new RegExp(broken.name), 'the error names the VM');
      assert.deepEqual(await subject.given.traces(broken), []);
      assert.ok(!(await subject.driver.discover()).has(broken.id));

      const working = await subject.given.define();
      const { guest } = await subject.start({ ...working, id: broken.id });
      assert.equal(await guest.state(), 'running');
    });

    check('a start that was cancelled leaves nothing', async (subject) => {
      const definition = await subject.given.define();
      await failure(subject.driver.start(definition, { signal: AbortSignal.abort() }), ['cancelled']);
      assert.deepEqual(await subject.given.traces(definition), []);
      assert.ok(!(await subject.driver.discover()).has(definition.id));
    });

    check('a guest runs on without its driver, and a later one takes it over', async (subject) => {
      const { guest, definition } = await subject.start();
      const messages = new Messages(guest);
      await subject.driver.close();
      assert.deepEqual(messages.all, [], 'letting go tells nothing');
      assert.notDeepEqual(await subject.given.traces(definition), []);

      subject.replaceDriver();
      assert.ok((await subject.driver.discover()).has(definition.id));
      const adopted = await subject.adopt(guest, definition);
      assert.equal(await adopted.state(), 'running');
      assert.equal(adopted.pid, guest.pid);
      assert.deepEqual(adopted.pinned, guest.pinned);
      const later = new Messages(adopted);
      await adopted.pause();
      await later.until((message) => message.type === 'state' && message.state === 'paused');
      await adopted.end();
      assert.equal((await later.ended()).cause, 'stopped');
      assert.deepEqual(await subject.given.traces(definition), []);
    });

    check('a guest that vanished meanwhile is not taken over, and its last words can be asked for', async (subject) => {
      const { guest, definition } = await subject.start();
      await subject.driver.close();
      await subject.given.kill(guest);
      subject.replaceDriver();
      assert.ok(!(await subject.driver.discover()).has(definition.id));
      assert.equal(await subject.driver.adopt(known(guest, definition)), null);
      const words = await subject.driver.lastWords(definition);
      assert.equal(words.cause, 'hypervisor-died');
      assert.notEqual(words.message, '');
      assert.deepEqual(await subject.given.traces(definition), []);
    });

    check('a guest that dies tells its end once, and nothing after it', async (subject) => {
      const { guest, definition } = await subject.start();
      const messages = new Messages(guest);
      await subject.given.kill(guest);
      const end = await messages.ended();
      assert.equal(end.cause, 'hypervisor-died');
      assert.notEqual(end.message, '');
      assert.deepEqual(await subject.given.traces(definition), [], 'what it had is removed when the end is told');
      await guest.end();
      assert.equal(messages.all.filter(({ type }) => type === 'ended').length, 1);
      assert.equal(messages.all.at(-1)?.type, 'ended');
    });

    check('ending a guest returns when it is gone, however often and from how many sides', async (subject) => {
      const { guest, definition } = await subject.start();
      const messages = new Messages(guest);
      await Promise.all([guest.end(), guest.end()]);
      assert.deepEqual(await subject.given.traces(definition), []);
      assert.ok(!(await subject.driver.discover()).has(definition.id));
      await guest.end();
      assert.deepEqual(
        messages.all.filter(({ type }) => type === 'ended').map((message) => message.type === 'ended' && message.cause),
        ['stopped'],
      );
    });

    check('after the end every call on the guest ends too', async (subject) => {
      const { guest } = await subject.start();
      const messages = new Messages(guest);
      await subject.given.kill(guest);
      await messages.ended();
      const calls: Record<string, () => Promise<unknown>> = {
        state: () => guest.state(),
        pause: () => guest.pause(),
        resume: () => guest.resume(),
        reset: () => guest.reset(),
        powerDown: () => guest.powerDown(),
        suspend: () => guest.suspend({}),
        screenshot: () => guest.screenshot(),
        sendKeys: () => guest.sendKeys([['ret']], 1),
        injectNmi: () => guest.injectNmi(),
        openSerial: () => guest.openSerial(),
        openVnc: () => guest.openVnc(),
        info: () => guest.agent.info({ timeoutMs: 2000 }),
        glance: () => guest.agent.glance({ timeoutMs: 2000 }),
        metrics: () => guest.agent.metrics({ timeoutMs: 2000 }),
        freeze: () => guest.agent.freeze({ timeoutMs: 2000 }),
        exec: () => drain(guest.agent.exec(anyProgram, { timeoutMs: 2000 })),
        readFile: () => drain(guest.agent.readFile('/etc/hostname', { timeoutMs: 2000 })),
      };
      for (const [method, call] of Object.entries(calls)) {
        const outcome = await within(
          method,
          call().then(() => null, asError),
        );
        assert.ok(outcome instanceof LodgeError, `${method} refuses in the contract's words: ${String(outcome)}`);
      }
      await within('usage', guest.usage());
      assert.equal(await within('isAnswering', guest.agent.isAnswering({ timeoutMs: 2000 })), false);
    });

    check('pause, resume and reset are told as they happen', async (subject) => {
      const { guest } = await subject.start();
      const messages = new Messages(guest);
      await guest.pause();
      await messages.until((message) => message.type === 'state' && message.state === 'paused');
      assert.equal(await guest.state(), 'paused');
      await guest.resume();
      await messages.until((message) => message.type === 'state' && message.state === 'running');
      assert.equal(await guest.state(), 'running');
      await guest.reset();
      await messages.until((message) => message.type === 'reset');
      assert.equal(await guest.state(), 'running');
      await guest.pause();
      await guest.reset();
      assert.equal(await guest.state(), 'running', 'a paused guest runs after a reset');
      assert.deepEqual(
        messages.all.flatMap((message) => (message.type === 'state' ? [message.state] : [])).slice(0, 2),
        ['paused', 'running'],
        'each change is told once',
      );
    });

    check('who stopped watching is told nothing more', async (subject) => {
      const { guest } = await subject.start();
      const messages = new Messages(guest);
      const others = new Messages(guest);
      messages.stop();
      await guest.pause();
      await others.until((message) => message.type === 'state');
      assert.deepEqual(messages.all, []);
    });

    check('a suspended guest goes on from its saved memory, once', async (subject) => {
      const { guest, definition } = await subject.start();
      const messages = new Messages(guest);
      const progress: number[][] = [];
      await guest.suspend({ onProgress: (done, total) => progress.push([done, total]) });
      assert.equal((await messages.ended()).cause, 'stopped');
      assert.deepEqual(await subject.given.traces(definition), []);
      for (const [done = -1, total = -1] of progress) assert.ok(done >= 0 && total >= 0);

      const { guest: restored } = await subject.start({ ...definition, pinned: guest.pinned }, { isRestoring: true });
      assert.equal(await restored.state(), 'running');
      await restored.end();
      await failure(
        subject.driver.start({ ...definition, pinned: guest.pinned }, { isRestoring: true }),
        ['wrong_state'],
        'the same memory is not used twice',
      );
    });

    check('a suspension that was cancelled lets the guest run on', async (subject) => {
      const { guest, definition } = await subject.start();
      await failure(guest.suspend({ signal: AbortSignal.abort() }), ['cancelled']);
      assert.equal(await guest.state(), 'running');
      await guest.end();
      await failure(subject.driver.start(definition, { isRestoring: true }), ['wrong_state']);
    });

    check('saved memory that was discarded is not used', async (subject) => {
      const { guest, definition } = await subject.start();
      await guest.suspend({});
      await subject.driver.forget(definition, 'state');
      const error = await failure(subject.driver.start(definition, { isRestoring: true }), ['wrong_state']);
      assert.match(error.message, /memory/);
      await subject.driver.forget(definition, 'everything');
      await subject.driver.forget(definition, 'everything');
      assert.equal((await subject.driver.serialLog(definition, 1000)).bytes.length, 0);
    });

    check('the serial console shows what was before, and then lives in both directions', async (subject) => {
      const startedAtMs = Date.now();
      const { guest, definition } = await subject.start();
      await subject.given.untilUp(guest);
      const { typed, answer } = subject.given.dialogue;
      const first = new Console(await guest.openSerial());
      await first.until(/\S/);
      first.type(typed);
      const seen = await first.until(new RegExp(answer));
      first.close();

      const second = new Console(await guest.openSerial());
      assert.ok(seen.length > 0);
      await second.until(new RegExp(answer), 'a later viewer sees what an earlier one saw');
      second.type(typed);
      await second.until(new RegExp(`${answer}[^]*${answer}`), 'and what comes live');
      second.close();

      await guest.end();
      const kept = await subject.driver.serialLog(definition, 65_536);
      assert.match(Buffer.from(kept.bytes).toString('latin1'), new RegExp(answer), 'the log is there after the end');
      const { bytes, times } = await subject.driver.serialLog(definition, 5);
      assert.equal(bytes.length, 5, 'as much as was asked for');
      for (const [output, length] of [
        [kept.times, kept.bytes.length],
        [times, 5],
      ] as const) {
        assert.equal(output.at(-1)?.end, length, 'with when it came, up to its end');
        // Files have the time of the kernel's last tick.
        for (const { atMs } of output) assert.ok(atMs !== null && atMs >= startedAtMs - 20 && atMs <= Date.now());
      }
      assert.equal(typeof (await subject.driver.processLog(definition, 1000)), 'string');
    });

    forkConformance(check);
    savedMemoryConformance(check);

    check('a guest that powers itself off waits to be ended, also for a driver that was not there', async (subject) => {
      const { guest, definition } = await subject.start();
      await subject.given.untilUp(guest);
      const messages = new Messages(guest);
      await guest.powerDown();
      await messages.until((message) => message.type === 'state' && message.state === 'shutdown');
      assert.equal(await guest.state(), 'shutdown');
      assert.ok(!messages.all.some(({ type }) => type === 'ended'));
      await subject.driver.close();

      subject.replaceDriver();
      const adopted = await subject.adopt(guest, definition);
      assert.equal(await adopted.state(), 'shutdown');
      const later = new Messages(adopted);
      await adopted.end();
      assert.equal((await later.ended()).cause, 'stopped');
    });

    check('a guest that nobody knows can be ended by its id', async (subject) => {
      const { definition } = await subject.start();
      await subject.driver.close();
      subject.replaceDriver();
      await subject.driver.endUnknown(definition.id);
      assert.deepEqual(await subject.given.traces(definition), []);
      assert.ok(!(await subject.driver.discover()).has(definition.id));
      await subject.driver.endUnknown(definition.id);
    });

    check('guests do not know of each other', async (subject) => {
      const [one, other] = [await subject.start(), await subject.start()];
      const messages = new Messages(other.guest);
      await one.guest.pause();
      await one.guest.end();
      assert.equal(await other.guest.state(), 'running');
      assert.deepEqual(messages.all, []);
      assert.deepEqual([...(await subject.driver.discover())], [other.definition.id]);
    });

    check('use of resources is told in numbers, or not at all', async (subject) => {
      const { guest } = await subject.start();
      for (const [field, value] of Object.entries(await guest.usage()))
        assert.ok(value === null || (Number.isFinite(value) && value >= 0), `${field} is ${value}`);
      const { cpuSeconds, memoryMib } = await guest.usage();
      assert.ok(cpuSeconds !== null && memoryMib !== null);
    });

    check('counters are numbers that do not fall, and disks have theirs', async (subject) => {
      const { guest } = await subject.start();
      const first = await within('counters', guest.counters());
      const { disks, ...detail } = await within('detail', guest.detail());
      const shares = await within('memoryShares', guest.memoryShares());
      const second = await within('counters', guest.counters());
      assert.ok(first.cpuSeconds !== null && second.cpuSeconds !== null && second.cpuSeconds >= first.cpuSeconds);
      assert.ok(first.memoryMib !== null && first.memoryMib > 0);
      assert.ok(disks);
      const { latency, ...sums } = disks;
      for (const [field, value] of Object.entries({ ...sums, steal: detail.stealSeconds, balloon: detail.balloonMib }))
        assert.ok(value === null || value >= 0, `${field} is ${value}`);
      for (const { disk, ...kinds } of latency)
        for (const [kind, { counts, seconds }] of Object.entries(kinds)) {
          assert.equal(counts.length, latencyEdgesUs.length + 1, `${kind} of ${disk}`);
          assert.ok(seconds >= 0 && counts.every((count) => count >= 0), `${kind} of ${disk}`);
        }
      assert.ok(shares);
      for (const [field, value] of Object.entries(shares))
        assert.ok(value === null || value >= 0, `${field} is ${value}`);
    });

    check('without an agent in the guest its calls say so, soon', async (subject) => {
      const { guest } = await subject.start();
      // Nothing in a stopped guest can answer.
      await guest.pause();
      assert.equal(await within('isAnswering', guest.agent.isAnswering({ timeoutMs: 3000 })), false);
      const content = (async function* () {
        yield Buffer.from('x');
      })();
      const calls: Record<string, () => Promise<unknown>> = {
        info: () => guest.agent.info({ timeoutMs: 3000 }),
        glance: () => guest.agent.glance({ timeoutMs: 3000 }),
        metrics: () => guest.agent.metrics({ timeoutMs: 3000 }),
        exec: () => drain(guest.agent.exec(anyProgram, { timeoutMs: 3000 })),
        readFile: () => drain(guest.agent.readFile('/etc/hostname', { timeoutMs: 3000 })),
        writeFile: () => guest.agent.writeFile('/tmp/x', content, { timeoutMs: 3000 }),
        freeze: () => guest.agent.freeze({ timeoutMs: 3000 }),
        thaw: () => guest.agent.thaw({ timeoutMs: 3000 }),
      };
      for (const [method, call] of Object.entries(calls)) {
        const error = await within(method, failure(call(), ['agent_unavailable'], method));
        assert.notEqual(error.hint, '');
      }
    });

    check('a spec that can not be is refused before anything is made, with the name of the field', async (subject) => {
      await subject.driver.check(vmSpec.parse({}), plainHardware(vmSpec.parse({})));
      for (const { spec, field } of subject.given.refused) {
        const error = await failure(
          subject.driver.check(vmSpec.parse(spec), plainHardware(vmSpec.parse(spec))),
          ['invalid_request', 'unsupported'],
          JSON.stringify(spec),
        );
        assert.deepEqual(
          error.fields?.map((problem) => problem.field),
          [field],
          error.message,
        );
      }
    });

    check('looking at the hypervisor tells what there is, each thing with its reason', async (subject) => {
      const { driver, accelerators, accelerator } = await subject.driver.inspect();
      assert.equal(driver.name, subject.driver.name);
      assert.ok(driver.isReady && driver.version && driver.machines.length > 0 && driver.cpuModels.length > 0);
      for (const [capability, { reason }] of Object.entries(driver.capabilities))
        assert.notEqual(reason, '', capability);
      assert.ok(accelerator && accelerators.some(({ rung, isUsable }) => rung === accelerator.rung && isUsable));
      for (const rung of accelerators) assert.notEqual(rung.reason, '', rung.rung);
    });
  });
}

/** The devices that a spec means where nothing else is known: those of a guest without image under emulation. */
export function plainHardware(
  spec: VmSpec,
  change: Partial<Pick<GuestDefinition, 'firmware' | 'disks'>> & { accelerator?: 'kvm' | 'tcg' } = {},
): VmHardware {
  const { disks = spec.disks, firmware = 'bios', accelerator = 'tcg' } = change;
  return resolveHardware({
    spec,
    disks: disks.map((disk, index) => ({ ...disk, field: `spec.disks.${index}.bus` })),
    imageOs: null,
    hasDisplay:
      spec.machine !== 'microvm' && (spec.display === 'vnc' || (spec.display === 'auto' && firmware !== 'direct')),
    accelerator,
    mostQueues: [],
    hasVirtiofs: false,
    before: null,
  });
}

const anyProgram = { command: ['true'], environment: [], input: null, timeoutMs: 2000 } as const;
