import assert from 'node:assert/strict';
import { test } from 'node:test';
import { plainStyle } from '../output/style.ts';
import { planLines } from './diff-text.ts';
import type { Vm } from '../../api/vm.ts';
import { deletionOrder, writeSteps } from './group-order.ts';
import { parseManifests, type Manifest } from './manifest.ts';
import { complaintsAbout, inOrder, planObject, referencesOf, type Existing } from './plan.ts';

const manifests = (text: string): Manifest[] => parseManifests([{ name: 'f', text }], 'default');
const one = (text: string): Manifest => manifests(text)[0] as Manifest;

/** An object as the daemon has it: what a manifest made, and what was changed since. */
function existing(text: string, status: object = {}, spec: object = {}): Existing {
  const manifest = one(text);
  return {
    name: manifest.name,
    id: `id-of-${manifest.name}`,
    labels: manifest.labels ?? {},
    revision: 7,
    spec: { ...(manifest.spec as object), ...spec },
    status,
  } as unknown as Existing;
}

const vm = 'kind: Vm\nname: web1\nspec: {memoryMib: 64, cpu: {count: 2}}\n';

test('what is not there is created, what is the same is left alone, what differs is changed', () => {
  assert.equal(planObject(one(vm), null).action, 'create');
  assert.equal(planObject(one(vm), existing(vm)).action, 'unchanged');
  const changed = planObject(one(vm.replace('count: 2', 'count: 4')), existing(vm));
  assert.equal(changed.action, 'update');
  assert.deepEqual(changed.changes, [{ path: ['spec', 'cpu', 'count'], before: 2, after: 4 }]);
});

test('a field that the file leaves out goes back to its default', () => {
  const planned = planObject(one('kind: Vm\nname: web1\nspec: {memoryMib: 64}\n'), existing(vm));
  assert.deepEqual(planned.changes, [{ path: ['spec', 'cpu', 'count'], before: 2, after: 1 }]);
});

test('labels stay when the file has none, and are replaced when it has some', () => {
  const labelled = existing(`${vm}labels: {a: b}\n`);
  assert.equal(planObject(one(vm), labelled).action, 'unchanged');
  assert.deepEqual(planObject(one(`${vm}labels: {}\n`), labelled).changes, [
    { path: ['labels', 'a'], before: 'b', after: undefined },
  ]);
});

test('what the daemon chose stays: the size of a volume, the prefix of a network', () => {
  const volume = 'kind: Volume\nname: d\nspec: {image: tiny}\n';
  assert.equal(planObject(one(volume), existing(volume, {}, { sizeMib: 4096 })).action, 'unchanged');
  const network = 'kind: Network\nname: n\n';
  assert.equal(planObject(one(network), existing(network, {}, { ipv4Cidr: '10.1.0.0/24' })).action, 'unchanged');
});

test('a password in plain text can not be compared with the hash that is kept', () => {
  const withPassword = 'kind: Vm\nname: p\nspec: {cloudInit: {password: secret}}\n';
  const kept = { cloudInit: { sshKeys: [], password: '$6$salt$hash' } };
  assert.equal(planObject(one(withPassword), existing(withPassword, {}, kept)).action, 'unchanged');
  const lines = planLines(planObject(one(withPassword), null), plainStyle).join('\n');
  assert.doesNotMatch(lines, /secret/);
});

test('what a VM leaves out comes from what it names, which changes a VM only when it is named anew', () => {
  const file = 'kind: Vm\nname: w\nspec: {profiles: [web], autostart: false}\n';
  const web = (spec: object) => () => [{ kind: 'profile', name: 'web', spec } as const];
  const before = planObject(one(file), null, web({ memoryMib: 96, autostart: true }));
  assert.deepEqual(before.sent, { profiles: ['web'], autostart: false });
  const there = existing('kind: Vm\nname: w\n', {}, before.spec as object);
  assert.equal((there as Vm).spec.memoryMib, 96);
  assert.equal(planObject(one(file), there, web({ memoryMib: 128 })).action, 'unchanged');
  const own = planObject(one(file.replace('false', 'false, memoryMib: 64')), there, web({ memoryMib: 128 }));
  assert.deepEqual(own.changes, [{ path: ['spec', 'memoryMib'], before: 96, after: 64 }]);
  const other = planObject(one(file.replace('[web]', '[]')), there, () => []);
  assert.deepEqual(
    other.changes.map(({ path }) => path.join('.')),
    ['spec.memoryMib', 'spec.profiles'],
  );
});

test('a template needs a VM to be made of, and none when it is there', () => {
  const file = 'kind: Template\nname: base\nspec: {description: x}\n';
  const complaints = (text: string, before: Existing | null): string[] =>
    complaintsAbout([planObject(one(text), before)], () => []).map(({ message }) => message);
  assert.match(complaints(file, null).join(), /says not of which VM/);
  assert.match(complaints(`${file}vm: web1\n`, null).join(), /there is no vm web1/);
  const there = existing(file);
  assert.deepEqual(complaints(`${file}vm: gone\n`, there), []);
  assert.equal(planObject(one(file), there).action, 'unchanged');
  assert.equal(planObject(one(file.replace('x', 'y')), there).action, 'update');
});

test('networks come before images, volumes and VMs', () => {
  const planned = manifests(`${vm}---\nkind: Volume\nname: d\nspec: {sizeMib: 1}\n---\nkind: Network\nname: n\n`).map(
    (manifest) => planObject(manifest, null),
  );
  assert.deepEqual(
    inOrder(planned).map(({ manifest }) => manifest.kind),
    ['Network', 'Volume', 'Vm'],
  );
});

test('references lead to objects of the files or of the daemon', () => {
  const manifest = one(
    'kind: Vm\nname: w\nspec: {image: tiny, disks: [{name: root, volume: dta}], nics: [{network: lab}]}\n',
  );
  assert.deepEqual(
    referencesOf(manifest).map(({ kind, name, path }) => `${kind} ${name} ${path}`),
    ['Image tiny spec.image', 'Volume dta spec.disks.0.volume', 'Network lab spec.nics.0.network'],
  );
  const planned = [planObject(manifest, null), planObject(one('kind: Network\nname: lab\n'), null)];
  const none = {
    AddressSet: [],
    SecurityGroup: [],
    Network: [],
    Vm: [],
    Profile: [],
    InstanceType: [],
    Template: [],
    Group: [],
  };
  const known = { Image: [{ name: 'x', id: 'tiny' }], Volume: [{ name: 'data', id: 'i' }], ...none };
  assert.deepEqual(
    complaintsAbout(planned, (kind) => known[kind]),
    [
      {
        field: 'f, line 1: spec.disks.0.volume',
        message: 'there is no volume dta, neither here nor in these files (did you mean data?)',
      },
    ],
  );
});

const securityGroup = (name: string, ...peers: string[]): string =>
  `---\nkind: security-group\nname: ${name}\nspec: {rules: [{name: in, peers: [${peers.map((peer) => `{securityGroup: ${peer}}`).join(', ')}]}]}\n`;

test('groups that others name are written first, and such as name one another at first without rules', () => {
  const files = manifests(
    [securityGroup('db', 'web'), securityGroup('web', 'web', 'lb'), securityGroup('lb')].join('') +
      [securityGroup('left', 'right'), securityGroup('right', 'left')].join(''),
  );
  const steps = (planned: Parameters<typeof writeSteps>[0]): string[] =>
    writeSteps(planned).map(({ one: { manifest }, step }) => `${step} ${manifest.name}`);
  const whole = ['whole lb', 'whole web', 'whole db'];
  const created = files.map((manifest) => planObject(manifest, null));
  assert.deepEqual(steps(created), [...whole, 'bare left', 'whole right', 'fill left']);
  // What is there already can be named.
  const there = existing(securityGroup('right'));
  const half = files.map((manifest) => planObject(manifest, manifest.name === 'right' ? there : null));
  assert.deepEqual(steps(half), [...whole, 'whole left', 'whole right']);
  assert.deepEqual(
    deletionOrder(files).map(({ name }) => name),
    ['db', 'web', 'lb', 'left', 'right'],
  );
});

test('groups and address sets are looked for, of rules, networks and NICs', () => {
  const files = manifests(
    'kind: SecurityGroup\nname: web\nspec: {includes: [base], rules: [{name: in, peers: [{cidr: 10.0.0.0/8}, {addressSet: office}]}]}\n' +
      '---\nkind: Network\nname: lan\nspec: {firewall: {securityGroups: [base]}}\n' +
      '---\nkind: Vm\nname: w\nspec: {nics: [{network: lan, securityGroups: [web, bse]}]}\n' +
      '---\nkind: AddressSet\nname: offices\n---\nkind: SecurityGroup\nname: base\n',
  );
  const planned = files.map((manifest) => planObject(manifest, null));
  assert.deepEqual(
    inOrder(planned).map(({ manifest }) => manifest.kind),
    ['AddressSet', 'SecurityGroup', 'SecurityGroup', 'Network', 'Vm'],
  );
  assert.deepEqual(
    complaintsAbout(planned, () => []).map(({ field, message }) => `${field} ${message}`),
    [
      'f, document 1, line 1: spec.rules.0.peers.1.addressSet there is no address set office, neither here nor in these files (did you mean offices?)',
      'f, document 3, line 9: spec.nics.0.securityGroups.1 there is no security group bse, neither here nor in these files (did you mean base?)',
    ],
  );
});

test('what the daemon would refuse half-way is refused before anything is changed', () => {
  const image = (recipe: string): string => `kind: Image\nname: i\nspec: {source: {type: build, recipe: ${recipe}}}\n`;
  const other = planObject(one(image('tiny')), existing(image('debian-12')));
  assert.match(complaintsAbout([other], () => [])[0]?.message ?? '', /source of an image can not be changed/);
  const volume = planObject(
    one('kind: Volume\nname: d\nspec: {sizeMib: 10}\n'),
    existing('kind: Volume\nname: d\nspec: {sizeMib: 20}\n', { virtualSizeMib: 20 }),
  );
  assert.match(complaintsAbout([volume], () => [])[0]?.message ?? '', /can not shrink/);
});

test('a plan is shown field by field', () => {
  const text = (manifest: string, before: Existing | null): string[] =>
    planLines(planObject(one(manifest), before), plainStyle);
  assert.deepEqual(text(vm, null), [
    '+ Vm web1 would be created',
    '    + spec.memoryMib: 64',
    '    + spec.cpu.count: 2',
  ]);
  assert.deepEqual(text(vm, existing(vm)), ['  Vm web1 is as it should be']);
  assert.deepEqual(text(vm.replace('64', '128'), existing(vm)), [
    '~ Vm web1 would be changed',
    '    ~ spec.memoryMib: 64 → 128',
  ]);
  assert.deepEqual(
    text('kind: Vm\nname: w\nspec: {disks: [{name: root, sizeMib: 5}], description: "a\\u001b[2J"}\n', null).slice(1),
    ['    + spec.disks.root.name: root', '    + spec.disks.root.sizeMib: 5', '    + spec.description: "a\\u001b[2J"'],
  );
});
