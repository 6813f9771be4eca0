// What systemd is told about the daemon, and what peers of a unix socket are known by: both need programs of the host.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { existsSync } from 'node:fs';
import { chmod, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { peerCredentials, userName } from '../../src/host/peer-credentials.ts';
import { notifySystemd } from '../../src/host/systemd.ts';
import { atEnd } from '../support/cleanup.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

test('without NOTIFY_SOCKET nothing is sent', async () => {
  assert.equal(await notifySystemd('ready', 'serving', {}), false);
  assert.equal(await notifySystemd('ready', 'serving', { NOTIFY_SOCKET: '' }), false);
});

test('systemd gets the state, and a status of one line', async (t) => {
  const folder = await temporaryFolder(t, 0o755);
  // Where systemd is not installed, its program is stood in for, so that what it is given can be seen all the same.
  const isReal = existsSync('/usr/bin/systemd-notify') || existsSync('/bin/systemd-notify');
  const socket = join(folder, 'notify');
  const out = join(folder, 'out');
  const path = process.env['PATH'];
  if (isReal) {
    const listen = `use Socket; socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; bind($s, sockaddr_un($ARGV[0])) or die; $| = 1; print "up\\n"; while (1) { recv($s, my $text, 4096, 0); print "$text\\n"; }`;
    const listener = spawn('perl', ['-e', listen, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
    atEnd(t, () => listener.kill('SIGKILL'));
    let heard = '';
    listener.stdout.setEncoding('utf8').on('data', (chunk: string) => (heard += chunk));
    await eventually(() => heard.includes('up'));
    assert.equal(await notifySystemd('ready', 'serving\nfast', { NOTIFY_SOCKET: socket }), true);
    await eventually(() => heard.includes('READY=1') && heard.includes('STATUS=serving fast'));
    return;
  }
  await writeFile(join(folder, 'systemd-notify'), `#!/bin/sh\necho "$NOTIFY_SOCKET $*" > ${out}\n`);
  await chmod(join(folder, 'systemd-notify'), 0o755);
  process.env['PATH'] = `${folder}:${path}`;
  atEnd(t, () => {
    process.env['PATH'] = path;
  });
  assert.equal(await notifySystemd('ready', 'serving\nfast', { NOTIFY_SOCKET: socket }), true);
  const { readFile } = await import('node:fs/promises');
  assert.equal(await readFile(out, 'utf8'), `${socket} READY=1 STATUS=serving fast\n`);
});

test('the peer of a unix socket is known by the kernel’s word, and the connection goes on', async (t) => {
  const path = join(await temporaryFolder(t), 's');
  const server = createServer();
  atEnd(t, () => server.close());
  server.listen(path);
  await once(server, 'listening');
  const client = connect(path);
  atEnd(t, () => client.destroy());
  const [socket] = (await once(server, 'connection')) as [Socket];
  atEnd(t, () => socket.destroy());
  const peer = await peerCredentials(socket);
  assert.equal(peer?.pid, process.pid);
  assert.equal(peer?.uid, process.getuid?.());
  assert.equal(peer?.gid, process.getgid?.());
  assert.equal(await userName(0), 'root');
  client.write('ping');
  const [heard] = (await once(socket, 'data')) as [Buffer];
  assert.equal(heard.toString(), 'ping');
  socket.write('pong');
  const [answer] = (await once(client, 'data')) as [Buffer];
  assert.equal(answer.toString(), 'pong');
  client.destroy();
  await once(socket.resume(), 'close');
  assert.equal(await peerCredentials(socket), null);
});
