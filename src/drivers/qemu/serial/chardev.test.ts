import assert from 'node:assert/strict';
import { test } from 'node:test';
import { serialChardevArguments } from './chardev.ts';

test('with a hub the log is beside the socket, without one it is the socket’s own', () => {
  assert.deepEqual(serialChardevArguments('serial0', '/run/a,b/s', '/var/l', new Set(['socket', 'ringbuf', 'hub'])), [
    '-chardev',
    'socket,id=serial0-socket,server=on,wait=off,path=/run/a,,b/s',
    '-chardev',
    'ringbuf,id=serial0-log,size=1024,logfile=/var/l,logappend=on',
    '-chardev',
    'hub,id=serial0,chardevs.0=serial0-socket,chardevs.1=serial0-log',
  ]);
  assert.deepEqual(serialChardevArguments('serial0', '/run/s', '/var/l', new Set(['socket', 'ringbuf'])), [
    '-chardev',
    'socket,id=serial0,server=on,wait=off,path=/run/s,logfile=/var/l,logappend=on',
  ]);
});
