import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Vm } from '../../api/vm.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { type Guest } from '../../drivers/driver.ts';
import { silentLog } from '../store/informer.ts';
import { GuestFacts, newOf, panicIn } from './guest-facts.ts';
import { initialVmStatus, type VmRecords } from './vm-records.ts';

test('a panic is found on the console as the kernel words it', () => {
  const linux = [
    'VFS: Cannot open root device',
    '[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)',
    '[    1.3] CPU: 0 PID: 1',
    '[    1.4] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---',
  ].join('\r\n');
  assert.equal(panicIn(linux), 'Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)');
  assert.equal(panicIn('login: \r\npanic: page fault\r\ncpuid = 0\r\n'), 'panic: page fault');
  assert.equal(panicIn('no need to panic: all is well\r\n'), null);
});

test('what an earlier run has left on the console is not of this one', () => {
  const before = 'Kernel panic - not syncing: old\r\n';
  assert.equal(newOf(before, before), '');
  assert.equal(newOf(before, `${before}booting\r\n`), 'booting\r\n');
  assert.equal(newOf('', 'booting'), 'booting');
  assert.equal(newOf('a'.repeat(8192), 'quite another end'), 'quite another end');
});

test('a guest without an agent gets advice, which goes when an agent answers; its clock is set then', async () => {
  const status = { ...initialVmStatus(''), state: 'running' as const, clockStaleSince: '2026-01-01T00:00:00.000Z' };
  let vm = { id: 'x', spec: vmSpec.parse({}), status } as unknown as Vm;
  const changed = { promise: Promise.resolve(), resolve: (): void => {} };
  const untilChanged = async (isSo: () => boolean): Promise<void> => {
    while (!isSo()) {
      const next = Promise.withResolvers<void>();
      Object.assign(changed, next);
      const late = setTimeout(() => next.reject(new Error('nothing changed')), 30_000);
      await next.promise.finally(() => clearTimeout(late));
    }
  };
  const collection = {
    get: () => vm,
    setStatus: (_id: string, change: (now: Vm['status']) => Vm['status']) => {
      vm = { ...vm, status: change(vm.status) };
      changed.resolve();
      return Promise.resolve(vm);
    },
  };
  let isAnswering = false;
  let setTo: number | null = null;
  const agent = {
    isAnswering: () => Promise.resolve(isAnswering),
    setTime: (timeMs: number) => Promise.resolve(void (setTo = timeMs)),
    glance: () => Promise.resolve({ agentVersion: '1', hostname: 'web1', os: null, interfaces: [] }),
  };
  const facts = new GuestFacts({
    records: { collection } as unknown as VmRecords,
    log: silentLog,
    guestOf: () => ({ agent }) as unknown as Guest,
    serialLog: () => Promise.resolve(new Uint8Array()),
    adviseAfterMs: 0,
  });
  facts.begin('x');
  await untilChanged(() => vm.status.agentAdvice !== null);
  assert.equal(setTo, null);
  assert.equal(vm.status.isUp, false);
  isAnswering = true;
  facts.wake('x');
  await untilChanged(() => vm.status.agentAdvice === null && vm.status.guest !== null);
  assert.ok(setTo !== null && vm.status.clockStaleSince === null);
  facts.end('x');
});
