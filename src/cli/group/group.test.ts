import assert from 'node:assert/strict';
import { test } from 'node:test';
import { groupSpec, type Group } from '../../api/group.ts';
import { plainStyle } from '../output/style.ts';
import { parseMember } from './member.ts';
import { pictureOf } from './picture.ts';

test('a member is a VM, with what is waited for behind it', () => {
  assert.deepEqual(parseMember('db1'), { vm: 'db1' });
  assert.deepEqual(parseMember('web1,order=2,delay=1m30s,ready=port:80,ready-timeout=5m,if-not-ready=continue'), {
    vm: 'web1',
    order: 2,
    delayS: 90,
    ready: { type: 'port', port: 80 },
    readyTimeoutS: 300,
    ifNotReady: 'continue',
  });
  assert.deepEqual(parseMember('db1, ready=command:/usr/bin/pg_isready -q, stop-timeout=2m'), {
    vm: 'db1',
    ready: { type: 'command', command: ['/usr/bin/pg_isready', '-q'] },
    stopTimeoutS: 120,
  });
  for (const wrong of ['', 'order=1', 'db1,order', 'db1,order=0', 'db1,ready=port', 'db1,ready=port:70000'])
    assert.throws(() => parseMember(wrong), /--member/, wrong);
  for (const wrong of ['db1,ready=command:', 'db1,ready=soon', 'db1,delay=x', 'db1,if-not-ready=no', 'db1,colour=red'])
    assert.throws(() => parseMember(wrong), /--member/, wrong);
});

test('the picture shows the stages from top to bottom', () => {
  const spec = groupSpec.parse({
    members: [
      { vm: 'db1', ready: { type: 'port', port: 5432 }, readyTimeoutS: 60 },
      { vm: 'web1', order: 2, delayS: 5 },
      { vm: 'worker1', order: 2, ready: { type: 'agent' }, ifNotReady: 'continue' },
    ],
  });
  const status: Group['status'] = {
    state: 'partial',
    reason: '',
    taskId: null,
    members: [
      { vm: 'db1', id: 'a', order: 1, state: 'running' },
      { vm: 'web1', id: 'b', order: 2, state: 'stopped' },
      { vm: 'worker1', id: 'c', order: 2, state: 'stopped' },
    ],
  };
  assert.deepEqual(pictureOf({ spec, status }, plainStyle), [
    'stage 1  db1      running  ready when port 5432 is open (within 1m)',
    '  │',
    '  ▼',
    'stage 2  web1     stopped  after 5.0s',
    '         worker1  stopped  ready when its agent answers (within 5m), the start goes on without it',
  ]);
  assert.deepEqual(pictureOf({ spec: groupSpec.parse({}), status: { ...status, members: [] } }, plainStyle), []);
});
