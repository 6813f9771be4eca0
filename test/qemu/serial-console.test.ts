// The serial console of a real guest through the whole daemon, as one of virtio's: what is printed is kept with its times
// and followed live, what is typed arrives.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { commandLine } from '../support/command-line.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const params = { vm: 'web1' };

test('a virtio console shows, keeps and takes what a serial port would, with the times of its lines', async (context) => {
  const host = await qemuDaemon(context);
  const { client } = host;
  const cli = await commandLine(context, host.daemon);
  await host.create('web1', { serialConsole: 'virtio-console' });
  const vm = await host.untilUp('web1');
  const device = vm.status.devices.find(({ name }) => name === 'console');
  assert.deepEqual([device?.kind, device?.model], ['paravirtual', 'virtconsole on virtio-serial-pci']);
  const inGuest = async (script: string): Promise<string> => {
    const { output, code } = await host.exec('web1', ['sh', '-c', script]);
    assert.equal(code, 0, `${script}: ${output}`);
    return output.trim();
  };
  assert.equal(await inGuest('cat /sys/class/tty/console/active'), 'hvc0');
  assert.match(await inGuest('cat /proc/cmdline'), /console=hvc0 /);
  await eventually(async () => (await host.console('web1')).includes('lodge: ready'), {
    describe: 'the guest has said on its console that it is up',
    timeoutMs: 60_000,
  });

  const following = cli.start(['vm', 'serial-log', 'web1', '--follow', '--timestamps']);
  let followed = '';
  following.stdout?.setEncoding('utf8').on('data', (text: string) => (followed += text));
  const over = once(following, 'close');
  await eventually(() => followed.includes('lodge: ready'), { describe: 'what was kept is shown', timeoutMs: 60_000 });
  const time = String.raw`^\d{4}-\d\d-\d\dT[\d:.]{12}Z`;
  // The kernel's tick, by which files have their times, may be some milliseconds old.
  const sinceMs = Date.now() - 50;
  for (const line of ['first live line', 'second live line']) {
    await inGuest(`echo ${line} > /dev/console`);
    await eventually(() => new RegExp(`${time} ${line}$`, 'm').test(followed), {
      describe: `${line} is followed`,
      timeoutMs: 60_000,
    });
  }
  following.kill('SIGINT');
  const [code] = (await over) as [number];
  assert.equal(code, 0);
  assert.equal(followed.split('lodge: ready').length, 2, followed);
  assert.equal(followed.split('first live line').length, 2, followed);

  await inGuest('(head -n 1 < /dev/hvc0 > /tmp/typed.new && mv /tmp/typed.new /tmp/typed) > /dev/null 2>&1 &');
  await cli.run(['vm', 'console', 'web1', '--for', '1s'], { input: 'typed on the console\n' });
  await inGuest('i=0; while [ ! -e /tmp/typed ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done');
  assert.equal(await inGuest('cat /tmp/typed'), 'typed on the console');

  // The next daemon knows of the lines that came before it.
  await host.daemon.stop();
  await host.daemon.start();
  await host.untilUp('web1');
  const since = new Date(sinceMs).toISOString();
  const { lines } = await client.vm.searchSerialLog({ params, query: { ...query, since } });
  const texts = lines.map(({ text }) => text);
  assert.ok(texts.includes('first live line') && texts.includes('second live line'), JSON.stringify(texts));
  assert.ok(!texts.some((text) => text.includes('lodge: ready')), JSON.stringify(texts));
  for (const { at } of lines) assert.ok(Date.parse(at ?? '') >= sinceMs && Date.parse(at ?? '') <= Date.now());
  const whole = await cli.ok('vm', 'serial-log', 'web1', '--since', '1h', '--grep', 'ready');
  assert.match(whole, /lodge: ready/);
});
