import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { vmSpec } from '../../api/vm-spec.ts';
import { agentAdvice, installsAgent, installScript } from './agent-install.ts';
import { composeSeed } from './seed.ts';
import { initialVmStatus } from './vm-records.ts';

const image = (hasAgent: boolean, os: 'linux' | 'windows' = 'linux') => ({ spec: { os }, status: { hasAgent } });

test('an agent is installed where the image is not known to have one, unless the spec says otherwise', () => {
  const spec = (fields: object): ReturnType<typeof vmSpec.parse> => vmSpec.parse(fields);
  assert.equal(installsAgent(spec({}), image(false)), true);
  assert.equal(installsAgent(spec({}), null), true);
  assert.equal(installsAgent(spec({}), image(true)), false);
  assert.equal(installsAgent(spec({}), image(false, 'windows')), false);
  assert.equal(installsAgent(spec({ guestAgent: 'install' }), image(true)), true);
  assert.equal(installsAgent(spec({ guestAgent: 'none' }), image(false)), false);
  assert.equal(installsAgent(spec({ guestAgent: 'install', hasAgentChannel: false }), image(false)), false);
});

test('the installation goes beside the user’s own data, whatever these are', () => {
  const vm = { id: 'x', name: 'web1', spec: vmSpec.parse({ cloudInit: { userData: '#!/bin/sh\ntrue\n' } }) };
  const without = composeSeed({ ...vm, status: { nics: [] } });
  const seed = composeSeed({ ...vm, status: { nics: [] } }, { isAgentInstalled: true });
  assert.equal(seed.userData, without.userData);
  assert.equal(without.vendorData, undefined);
  assert.equal(seed.vendorData, installScript);
  assert.match(installScript, /^#!\/bin\/sh\n/);
});

test('advice comes when a guest has been silent for long, for its operating system', () => {
  const vm = (fields: object): Parameters<typeof agentAdvice>[0] => ({
    spec: vmSpec.parse(fields),
    status: initialVmStatus(''),
  });
  assert.equal(agentAdvice(vm({}), 999, 1000), null);
  assert.equal(agentAdvice(vm({ hasAgentChannel: false }), 5000, 1000), null);
  const linux = agentAdvice(vm({}), 1000, 1000);
  assert.deepEqual(
    linux?.commands.map(({ command }) => command.split(' ')[0]),
    ['apt-get', 'dnf', 'zypper', 'apk'],
  );
  assert.doesNotMatch(linux.reason, /cloud-init/);
  assert.match(agentAdvice(vm({ cloudInit: {} }), 1000, 1000)!.reason, /cloud-init/);
  assert.match(agentAdvice(vm({ os: 'windows' }), 1000, 1000)!.commands[0]!.command, /qemu-ga-x86_64\.msi/);
});

/** Runs the script with only these programs, each a line of shell; what they were called with comes back. */
function runScript(
  test: TestContext,
  programs: Record<string, string>,
): { output: string; calls: string[]; rules: string } {
  const folder = mkdtempSync(join(tmpdir(), 'install-agent-'));
  test.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const [name, body] of Object.entries(programs)) {
    writeFileSync(join(folder, name), `#!/bin/sh\necho "${name} $*" >> "${folder}/calls"\n${body}\n`);
    chmodSync(join(folder, name), 0o755);
  }
  writeFileSync(join(folder, 'calls'), '');
  const rulesPath = join(folder, 'added.rules');
  const script = installScript.replace(/^PATH=.*$/m, `PATH=${folder}`).replace(/^rules=.*$/m, `rules=${rulesPath}`);
  const { stdout, status } = spawnSync('/bin/sh', ['-c', script], { encoding: 'utf8', env: {} });
  assert.equal(status, 0);
  const calls = readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n');
  return { output: stdout, calls, rules: readFileSync(rulesPath, 'utf8') };
}

test('the script takes the package manager that is there, and starts the agent', (context) => {
  // What installs it makes it be there: the script believes only that.
  const installs = (name: string): string =>
    `case " $* " in *" $name "*|*" qemu-guest-agent "*|*" qemu-guest-agent") printf '#!/bin/sh\\n' > "\${0%/*}/qemu-ga"; /bin/chmod 755 "\${0%/*}/qemu-ga";; esac # ${name}`;
  for (const manager of ['apt-get', 'dnf', 'yum', 'zypper', 'apk', 'pacman']) {
    const { output, calls } = runScript(context, { [manager]: installs(manager), systemctl: 'exit 0' });
    assert.match(output, /was installed/, manager);
    assert.ok(calls.some((call) => call.startsWith(manager) && call.includes('qemu-guest-agent')));
    assert.ok(calls.includes('systemctl start qemu-guest-agent'));
  }
});

test('the script has vCPUs and memory that are added brought into use, with an agent or without', (context) => {
  const withAgent = { 'qemu-ga': '', systemctl: 'exit 0' };
  for (const programs of [withAgent, {}]) {
    const { rules, calls } = runScript(context, { ...programs, udevadm: '' });
    assert.match(rules, /^SUBSYSTEM=="cpu", ACTION=="add".*ATTR\{online\}="1"$/m);
    assert.match(rules, /^SUBSYSTEM=="memory", ACTION=="add".*ATTR\{state\}="online_movable"$/m);
    assert.ok(calls.includes('udevadm control --reload'));
  }
});

test('the script installs nothing where there is an agent, and fails nothing where it can not', (context) => {
  const there = runScript(context, { 'qemu-ga': '', 'apt-get': '', systemctl: 'exit 0' });
  assert.match(there.output, /is installed/);
  assert.ok(!there.calls.some((call) => call.startsWith('apt-get')));
  const offline = runScript(context, { 'apt-get': 'exit 100', systemctl: 'exit 0' });
  assert.match(offline.output, /could not be installed/);
  assert.ok(!offline.calls.some((call) => call.startsWith('systemctl')));
  assert.match(runScript(context, { uname: '' }).output, /no package manager/);
});
