import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from './errors.ts';
import { expandSpec, hasOtherSources, profileChangesOf, withoutSource, type SpecSource } from './expand-spec.ts';
import { profileSpec } from './profile.ts';
import { vmSpec, type VmSpec, type VmSpecInput } from './vm-spec.ts';

const web: SpecSource = {
  kind: 'profile',
  name: 'web',
  spec: { description: 'of the profile', cpu: { count: 2, model: 'max' }, autostart: true, tpm: {} },
};
const ssd: SpecSource = { kind: 'profile', name: 'ssd', spec: { cpu: { model: 'host' }, memoryMib: 2048 } };
const small: SpecSource = { kind: 'instance-type', name: 'small', spec: { cpu: { count: 1 }, memoryMib: 1024 } };

function made(given: VmSpecInput, sources: SpecSource[]): VmSpec {
  return expandSpec(given, { previous: null, sources });
}

/** What a client does that reads a VM, changes a field and sends all of it back. */
function changed(previous: VmSpec, change: VmSpecInput, sources: SpecSource[] | null = null): VmSpec {
  return expandSpec(JSON.parse(JSON.stringify({ ...previous, ...change })) as VmSpecInput, { previous, sources });
}

function sourcesOf(spec: VmSpec): Record<string, string> {
  return Object.fromEntries(
    (spec.inherited ?? []).map((one) => [one.field, one.isOverridden ? 'the VM' : `${one.kind} ${one.name}`]),
  );
}

test('without profiles and type, a spec is what the schema makes of it', () => {
  const given = { memoryMib: 64, cpu: {}, disks: [{ name: 'root', sizeMib: 5 }] };
  assert.deepEqual(made(given, []), vmSpec.parse(given));
});

test('of profiles the last counts, above them the instance type, and above all what the VM says itself', () => {
  const spec = made({ profiles: ['web', 'ssd'], instanceType: 'small', autostart: false }, [web, ssd, small]);
  assert.deepEqual(
    [spec.cpu.count, spec.cpu.model, spec.memoryMib, spec.autostart, spec.tpm, spec.description],
    [1, 'host', 1024, false, { isEnabled: true }, ''],
  );
  assert.deepEqual(sourcesOf(spec), {
    autostart: 'the VM',
    'cpu.count': 'instance-type small',
    'cpu.model': 'profile ssd',
    memoryMib: 'instance-type small',
    tpm: 'profile web',
  });
});

test('a field that the VM gives stays its own, also where it is the default', () => {
  const spec = made({ profiles: ['ssd'], memoryMib: 512 }, [ssd]);
  assert.equal(spec.memoryMib, 512);
  assert.equal(changed(spec, { description: 'x' }).memoryMib, 512);
  assert.equal(changed(spec, {}, [{ ...ssd, spec: { memoryMib: 4096 } }]).memoryMib, 512);
});

test('sending back what was read changes nothing, and one changed field becomes the VM’s own', () => {
  const spec = made({ profiles: ['web'] }, [web]);
  assert.deepEqual(changed(spec, {}), spec);
  const next = changed(spec, { cpu: { ...spec.cpu, count: 3 } });
  assert.deepEqual([next.cpu.count, next.cpu.model], [3, 'max']);
  assert.deepEqual(sourcesOf(next)['cpu.count'], 'the VM');
  assert.deepEqual(sourcesOf(next)['cpu.model'], 'profile web');
});

test('a field that is left out goes back to what the profile gave', () => {
  const spec = made({ profiles: ['web'], cpu: { count: 3 } }, [web]);
  const back = expandSpec({ profiles: ['web'] }, { previous: spec, sources: null });
  assert.equal(back.cpu.count, 2);
  assert.equal(sourcesOf(back)['cpu.count'], 'profile web');
});

test('a new profile gives what the VM has by default or from elsewhere, and not what is its own', () => {
  const spec = made({ memoryMib: 256, profiles: ['web'] }, [web]);
  const next = changed(spec, { profiles: ['web', 'ssd'] }, [web, ssd]);
  assert.deepEqual([next.memoryMib, next.cpu.model, next.cpu.count], [256, 'host', 2]);
});

test('what a profile gave stays when a client takes it off', () => {
  const spec = made({ profiles: ['web'] }, [web]);
  const { profiles: _profiles, ...rest } = spec;
  const next = expandSpec(rest, { previous: spec, sources: [] });
  assert.deepEqual([next.cpu.count, next.autostart, next.inherited, next.profiles], [2, true, undefined, undefined]);
  assert.deepEqual(
    withoutSource(spec, 'profile', (name) => name === 'web'),
    next,
  );
});

test('beside an instance type, its fields can be no others, and naming another type changes them', () => {
  assert.throws(
    () => made({ instanceType: 'small', memoryMib: 64 }, [small]),
    (error) =>
      error instanceof LodgeError &&
      error.fields?.[0]?.field === 'spec.memoryMib' &&
      /1024 in instance type small.*given: 64/.test(error.message),
  );
  const spec = made({ instanceType: 'small', memoryMib: 1024 }, [small]);
  assert.equal(sourcesOf(spec)['memoryMib'], 'instance-type small');
  assert.throws(() => changed(spec, { memoryMib: 64 }), LodgeError);
  const large: SpecSource = { ...small, name: 'large', spec: { cpu: { count: 4 }, memoryMib: 8192 } };
  const next = changed(spec, { instanceType: 'large' }, [large]);
  assert.deepEqual([next.cpu.count, next.memoryMib], [4, 8192]);
  const own = made({ memoryMib: 96, cpu: { count: 2 } }, []);
  assert.equal(changed(own, { instanceType: 'small' }, [small]).memoryMib, 1024);
  assert.throws(() => changed(own, { instanceType: 'small', memoryMib: 97 }, [small]), LodgeError);
});

test('what a profile has changed to is told, and not what the VM has of its own', () => {
  const spec = made({ profiles: ['web'], cpu: { model: 'host' } }, [web]);
  const later = { ...web, spec: { cpu: { count: 4, model: 'qemu64' }, stopTimeoutS: 5 } };
  const from = { kind: 'profile', name: 'web' };
  assert.deepEqual(profileChangesOf(spec, [web]), []);
  assert.deepEqual(profileChangesOf(spec, [later]), [
    { field: 'autostart', current: true, wanted: false, from: null },
    { field: 'cpu.count', current: 2, wanted: 4, from },
    { field: 'tpm', current: '{"isEnabled":true}', wanted: null, from: null },
    { field: 'stopTimeoutS', current: 90, wanted: 5, from },
  ]);
  const next = changed(spec, {}, [later]);
  assert.deepEqual([next.cpu.count, next.cpu.model, next.tpm, next.stopTimeoutS], [4, 'host', undefined, 5]);
  assert.deepEqual(profileChangesOf(next, [later]), []);
});

test('other profiles, another order and another type are other sources', () => {
  const { profiles, ...one } = { profiles: ['web', 'ssd'], instanceType: 'small' };
  assert.equal(hasOtherSources({ profiles, ...one }, { profiles, ...one }), false);
  assert.equal(hasOtherSources({ profiles: ['ssd', 'web'], ...one }, { profiles, ...one }), true);
  assert.equal(hasOtherSources({ profiles: [], ...one }, { profiles, ...one }), true);
  assert.equal(hasOtherSources({ profiles }, { profiles, ...one }), true);
  assert.equal(hasOtherSources({ profiles: [] }, {}), false);
});

test('a profile is checked as a VM is, takes part of a record, and nothing that is one VM’s', () => {
  const problems = (spec: object): string[] =>
    profileSpec.safeParse(spec).error?.issues.map((issue) => [...issue.path, issue.code].join('.')) ?? [];
  assert.deepEqual(profileSpec.parse({ cpu: { count: 2 }, cloudInit: { user: 'ada' } }), {
    description: '',
    cpu: { count: 2 },
    cloudInit: { user: 'ada' },
  });
  assert.deepEqual(problems({ cpu: { count: 0 } }), ['cpu.count.too_small']);
  assert.deepEqual(problems({ cpu: { cuont: 1 } }), ['cpu.unrecognized_keys']);
  for (const spec of [
    { image: 'tiny' },
    { disks: [] },
    { instanceType: 'small' },
    { profiles: [] },
    { cloudInit: { password: 'x' } },
    { smbios: { serial: '1' } },
    { nics: [{ mac: '52:54:00:00:00:01' }] },
  ])
    assert.match(problems(spec).join(), /unrecognized_keys/, JSON.stringify(spec));
});
