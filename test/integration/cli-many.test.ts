// The command line with many VMs at once, and with groups of them, as somebody types it.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { commandLine } from '../support/command-line.ts';
import { makeVm, readVm, startFakeLodge } from '../support/fake-lodge.ts';

test('many VMs and groups on the command line', async (t) => {
  const { daemon } = await startFakeLodge(t);
  const cli = await commandLine(t, daemon);
  const stateOf = async (name: string): Promise<string> => (await readVm(daemon, name)).status.state;

  await t.test('a verb is for all with a label, shows first which these are, and tells of each', async () => {
    for (const name of ['web1', 'web2', 'web3'])
      await makeVm(daemon, name, { disks: [{ name: 'data', sizeMib: 2 }] }, { labels: { role: 'web' } });
    await makeVm(daemon, 'db1', {}, { start: true });
    await cli.ok('vm', 'start', 'web1');

    const planned = await cli.ok('vm', 'start', '-l', 'role=web', '--dry-run');
    assert.match(planned, /^NAME +STATE +MEANT +WHY NOT\nweb1 +running +no +It is running\.\nweb2 +stopped +yes/);
    assert.equal(await stateOf('web2'), 'stopped');
    const started = await cli.run(['vm', 'start', '-l', 'role=web', '--parallel', '2']);
    assert.deepEqual([started.code, started.out], [0, 'VM web2 is running.\nVM web3 is running.\n']);
    assert.match(started.err, /web1: It is running/);

    const again = await cli.run(['vm', 'start', '-l', 'role=web']);
    assert.deepEqual([again.code, again.out], [0, '']);
    assert.match(again.err, /No VM to start\. web1 is running, web2 is running/);
    const none = await cli.run(['vm', 'stop', '-l', 'role=mail']);
    assert.deepEqual([none.code, none.out], [0, '']);
    assert.match(none.err, /no VM with the labels role=mail/);

    const mixed = await cli.run(['vm', 'stop', 'web1', 'wbe2', 'web2', '--force']);
    assert.deepEqual([mixed.code, mixed.out], [3, 'VM web1 is stopped.\nVM web2 is stopped.\n']);
    assert.match(mixed.err, /no VM wbe2.*Did you mean web2/);
    assert.match(await cli.fails(2, 'vm', 'stop', 'web1', '--all'), /more than one way/);
    assert.match(await cli.fails(2, 'vm', 'stop'), /no VM is named/);
    assert.match(await cli.fails(2, 'vm', 'stop', '--all', '--parallel', '17'), /from 1 to 16/);
    assert.equal(await stateOf('db1'), 'running');
  });

  await t.test('fields, snapshots and deletion are for many too, and deletion asks', async () => {
    assert.match(
      await cli.ok('vm', 'set', '-l', 'role=web', 'memoryMib=96MiB', 'labels.tier=front'),
      /VM web3 is changed/,
    );
    const web3 = await readVm(daemon, 'web3');
    assert.deepEqual([web3.spec.memoryMib, web3.labels], [96, { role: 'web', tier: 'front' }]);
    assert.match(await cli.fails(2, 'vm', 'set', '-l', 'role=web', 'disks.data.cache=none'), /differ from VM to VM/);
    assert.match(await cli.fails(2, 'vm', 'set', 'web1'), /nothing is said that is to be changed of VM web1/);
    const taken = await cli.ok('snapshot', 'create', '-l', 'role=web', 'before');
    assert.match(taken, /VM web1 has the snapshot before\.\nVM web2 has/);
    assert.match(await cli.fails(2, 'snapshot', 'create', 'web1'), /needs its VM and a name/);

    const asked = await cli.fails(2, 'vm', 'delete', '-l', 'role=web');
    assert.match(asked, /3 VMs \(web1, web2, web3\)\? Nobody can be asked here/);
    const deleted = await cli.ok('vm', 'delete', '-l', 'role=web', '--force', '--yes');
    assert.equal(deleted, 'VM web1 is deleted.\nVM web2 is deleted.\nVM web3 is deleted.\n');
  });

  await t.test('a group is made, shown as stages, started, stopped, changed and deleted', async () => {
    for (const name of ['web1', 'web2']) await makeVm(daemon, name);
    await cli.ok('vm', 'stop', 'db1');
    const made = await cli.ok(
      ...['group', 'create', 'shop', '--member', 'db1,ready=agent,ready-timeout=1m'],
      ...['--member', 'web1,order=2', '--member', 'web2,order=2'],
    );
    assert.match(
      made,
      /stage 1 {2}db1 +stopped +ready when its agent answers \(within 1m\)\n.*│\n.*▼\n.*stage 2 {2}web1/,
    );
    assert.match(await cli.ok('group', 'list'), /shop +stopped +0 of 3 +db1 → web1, web2/);
    const started = await cli.ok('group', 'start', 'shop');
    assert.match(started, /^VM db1 is ready\.\nVM web1 runs\.\nVM web2 runs\.\n$/);
    assert.match(await cli.ok('group', 'show', 'shop'), /State: +running[^]*stage 2 {2}web1 +running/);
    assert.match(await cli.ok('group', 'stop', 'shop'), /VM web1 is stopped\.[^]*VM db1|VM db1[^]*VM web1 is stopped/);
    assert.equal(await stateOf('db1'), 'stopped');

    await cli.ok('group', 'set', 'shop', '--remove', 'web2', '--add', 'web1,ready=command:false,ready-timeout=1s');
    const failed = await cli.run(['group', 'start', 'shop']);
    assert.equal(failed.code, 7);
    assert.match(failed.out, /^VM db1 is ready\.\n$/);
    assert.match(failed.err, /VM web1 was not ready within 1 s: false ended with 1/);
    assert.match(
      await cli.fails(2, 'group', 'create', 'x', '--member', 'web2,ready=soon'),
      /ready is running, agent, port/,
    );
    assert.match(await cli.fails(4, 'group', 'create', 'x', '--member', 'web1'), /member of group shop/);
    assert.match(await cli.fails(3, 'group', 'start', 'shpo'), /Did you mean shop/);
  });

  await t.test('a group is described by a file, beside its VMs, and what it prints is taken', async () => {
    const file = join(cli.home, 'site.yaml');
    const text = [
      ...['kind: Group', 'name: mail', 'spec:', '  members:', '    - vm: mx1', '      ready: {type: port, port: 25}'],
      ...['---', 'kind: Vm', 'name: mx1', 'spec: {memoryMib: 64MiB, nics: []}', ''],
    ];
    await writeFile(file, text.join('\n'));
    assert.match(await cli.ok('apply', '-f', file), /Vm mx1 created\nGroup mail created/);
    assert.match(await cli.ok('apply', '-f', file), /Group mail unchanged/);
    const printed = await cli.ok('group', 'show', 'mail', '-o', 'yaml');
    await writeFile(file, printed);
    assert.match(await cli.ok('apply', '-f', file), /Group mail unchanged/);
    await writeFile(file, printed.replace('vm: mx1', 'vm: mx2'));
    assert.match(await cli.fails(2, 'apply', '-f', file), /spec\.members\.0\.vm.*no vm mx2.*did you mean mx1/);
    await cli.ok('group', 'delete', 'mail', 'shop', '--yes');
    assert.match((await cli.run(['group', 'list'])).err, /No groups in project default\. Make one/);
    const words = await cli.ok('__complete', 'group', 'start', '');
    assert.equal(words, '');
    assert.match(await cli.ok('__complete', 'group', 'create', 'x', '--member', 'we'), /^web1\t/);
    assert.match(await cli.ok('__complete', 'vm', 'stop', '--'), /--selector[^]*--parallel[^]*--dry-run/);
  });

  await t.test(
    'security groups that name one another and address sets are described by a file, with their VM',
    async () => {
      const file = join(cli.home, 'firewall.yaml');
      const group = (name: string, peer: string): string[] => [
        ...[
          '---',
          'kind: SecurityGroup',
          `name: ${name}`,
          'spec:',
          '  rules:',
          '    - {name: ssh, protocol: tcp, ports: ["22"]}',
        ],
        `    - {name: in, protocol: tcp, ports: ["443"], peers: [{securityGroup: ${peer}}, {addressSet: office}]}`,
      ];
      const text = [
        ...['kind: Vm', 'name: edge1', 'spec: {memoryMib: 64MiB, nics: [{network: edge, securityGroups: [front]}]}'],
        ...['---', 'kind: Network', 'name: edge', 'spec: {mode: isolated, ipv4Cidr: 10.233.0.0/24}'],
        ...group('front', 'back'),
        ...group('back', 'front'),
        ...['---', 'kind: address-set', 'name: office', 'spec: {addresses: [198.51.100.0/24]}', ''],
      ].join('\n');
      await writeFile(file, text);
      const names = ['AddressSet office', 'SecurityGroup back', 'SecurityGroup front', 'Network edge', 'Vm edge1'];
      const said = (word: string): string => names.map((name) => `${name} ${word}\n`).join('');
      assert.equal(await cli.ok('apply', '-f', file), said('created'));
      assert.match(await cli.fails(2, 'firewall', 'show', '--counters'), /goes with a VM/);
      assert.match(await cli.ok('security-group', 'show', 'front'), /group:back, set:office/);
      const again = await cli.ok('apply', '-f', file);
      assert.deepEqual(again.split('\n').toSorted(), said('unchanged').split('\n').toSorted());
      const printed = await cli.ok('security-group', 'show', 'back', '-o', 'yaml');
      assert.equal((await cli.run(['apply', '-f', '-'], { input: printed })).out, 'SecurityGroup back unchanged\n');
      await writeFile(
        file,
        text.replace('ports: ["443"], peers: [{securityGroup: back}', 'ports: ["443"], peers: [{securityGroup: front}'),
      );
      assert.match(await cli.ok('apply', '-f', file), /SecurityGroup front changed\n +~ .*peers.*: back → front/);
      // A change of rules is answered when they are in the kernel, and nobody has sent anything since.
      assert.match(
        await cli.ok('firewall', 'show', 'edge1', '--counters'),
        /WHAT +PACKETS +BYTES\n[^]*tcp 22.* 0 +0 B\n/,
      );
      assert.equal(
        await cli.ok('delete', '-f', file, '--yes'),
        'Vm edge1 deleted\nNetwork edge deleted\nSecurityGroup back deleted\nSecurityGroup front deleted\nAddressSet office deleted\n',
      );
    },
  );
});
