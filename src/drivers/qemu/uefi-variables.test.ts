import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { chooseUefiCode, storeProblem } from './uefi-variables.ts';

/** A store with sound headers and no variables, as OVMF's template is. */
function soundStore(): Buffer {
  const store = Buffer.alloc(4096, 0xff);
  store.fill(0, 0, 72);
  Buffer.from('8d2bf1ff96768b4ca9852747075b4f50', 'hex').copy(store, 16);
  store.writeBigUInt64LE(4096n, 32);
  store.write('_FVH', 40, 'latin1');
  store.writeUInt16LE(72, 48);
  let sum = 0;
  for (let at = 0; at < 72; at += 2) sum += store.readUInt16LE(at);
  store.writeUInt16LE((0x10000 - (sum & 0xffff)) & 0xffff, 50);
  Buffer.from('782cf3aa7b949a43a1802e144ec37792', 'hex').copy(store, 72);
  store.writeUInt8(0x5a, 92);
  store.writeUInt8(0xfe, 93);
  return store;
}

suite('a store of UEFI variables', () => {
  test('with sound headers is taken', () => {
    assert.equal(storeProblem(soundStore(), soundStore()), null);
  });

  const damages: [string, (store: Buffer) => Buffer, RegExp][] = [
    ['of another size', (store) => store.subarray(0, 2048), /2048 bytes/],
    ['full of zeros', (store) => store.fill(0), /does not begin/],
    ['with another kind of volume', (store) => store.fill(0x11, 16, 20), /does not begin/],
    ['with a changed header', (store) => store.fill(0x01, 33, 34), /checksum/],
    ['with an impossible length', (store) => store.fill(0xff, 48, 50), /impossible length/],
    ['without variables', (store) => store.fill(0, 72, 88), /no variables/],
    ['marked as not healthy', (store) => store.fill(0xff, 93, 94), /not healthy/],
  ];
  for (const [title, damage, words] of damages) {
    test(`${title} is refused`, () => {
      assert.match(storeProblem(damage(soundStore()), soundStore()) ?? 'nothing', words);
    });
  }
});

suite('the firmware code', () => {
  const define = (firmware: VmSpecInput['firmware']): Parameters<typeof chooseUefiCode>[0] => ({
    name: 'web1',
    spec: vmSpec.parse({ firmware }),
  });
  const uefi = {
    codePath: '/code.fd',
    variablesPath: '/vars.fd',
    secureBoot: { codePath: '/code.secboot.fd', variablesPath: '/vars.fd', microsoftVariablesPath: '/vars.ms.fd' },
  };

  test('is another one with Secure Boot', () => {
    assert.deepEqual(chooseUefiCode(define({}), uefi), { codePath: '/code.fd', isSecure: false });
    const secure = define({ secureBoot: {} });
    assert.deepEqual(chooseUefiCode(secure, uefi), { codePath: '/code.secboot.fd', isSecure: true });
    assert.equal(chooseUefiCode(define({ secureBoot: { isEnabled: false } }), uefi).isSecure, false);
  });

  test('that is not installed is missed by name', () => {
    assert.throws(() => chooseUefiCode(define({}), null), /no UEFI firmware is installed/);
    assert.throws(() => chooseUefiCode(define({ secureBoot: {} }), { ...uefi, secureBoot: null }), /Secure Boot/);
  });
});
