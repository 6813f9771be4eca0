// A TPM as the operating system in a guest uses it: its driver finds it, measures into it, keeps something in it that
// outlives the guest, and can prove from the firmware's event log what was booted.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { makeTinyIso } from '../support/tiny-iso.ts';
import { nvDefine, nvRead, nvWrite, pcrExtend, replayEventLog } from '../support/tpm-commands.ts';

const query = { project: 'default' } as const;
const params = { vm: 'web1' };
/** By firmware and boot loader, with a compressed kernel. */
const bootMs = 300_000;
const isUp = (vm: Vm): boolean => vm.status.isUp;

test(
  'a guest measures into its TPM, and what it keeps there survives its restart',
  { timeout: 900_000 },
  async (context) => {
    const host = await qemuDaemon(context, { images: [] });
    const inGuest = async (script: string): Promise<string> => {
      const { output, code } = await host.exec('web1', ['sh', '-c', `exec 2>&1; ${script}`]);
      assert.equal(code, 0, `${script}: ${output}`);
      return output.trim();
    };
    const ask = async (command: Buffer): Promise<Buffer> => {
      const bytes = [...command].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('');
      // The driver takes a command in one write, and gives its answer in one read.
      const script = `exec 3<>/dev/tpm0; printf '${bytes}' >&3; dd bs=4096 count=1 <&3 2>/dev/null | xxd -p | tr -d '\\n'`;
      const answer = Buffer.from(await inGuest(script), 'hex');
      assert.equal(answer.readUInt32BE(2), answer.length);
      return answer;
    };
    const pcr = async (index: number): Promise<string> =>
      (await inGuest(`cat /sys/class/tpm/tpm0/pcr-sha256/${index}`)).toLowerCase();

    // A kernel that is booted directly has no firmware to measure it.
    const folder = join(host.daemon.folder, 'media');
    await mkdir(folder, { mode: 0o755 });
    const path = join(folder, 'tiny.iso');
    await makeTinyIso(path, folder);
    await host.done(host.client.image.create({ body: { name: 'media', spec: { source: { type: 'file', path } } } }));
    await host.create('web1', {
      image: undefined,
      memoryMib: 256,
      display: 'none',
      firmware: { type: 'bios' },
      tpm: { isEnabled: true },
      disks: [{ name: 'cdrom', device: 'cdrom', image: 'media', bus: 'scsi' }],
    });
    await host.until('web1', 'is up', isUp, bootMs);
    assert.equal(await inGuest('cat /sys/class/tpm/tpm0/tpm_version_major'), '2');
    assert.match(await inGuest('readlink /sys/class/tpm/tpm0/device/driver'), /\/tpm_(crb|tis)$/);

    // What the firmware says it has measured is what the TPM was given.
    await inGuest('mount -t securityfs securityfs /sys/kernel/security');
    const log = Buffer.from(
      await inGuest("xxd -p /sys/kernel/security/tpm0/binary_bios_measurements | tr -d '\\n'"),
      'hex',
    );
    const replayed = replayEventLog(log);
    assert.ok(replayed.size > 3, `${replayed.size} registers were measured into`);
    for (const [index, value] of replayed) assert.equal(await pcr(index), value.toString('hex'), `register ${index}`);

    // Register 16 is there for tries: https://trustedcomputinggroup.org/resource/pc-client-specific-platform-firmware-profile-specification/
    assert.equal(await pcr(16), '00'.repeat(32));
    const measured = createHash('sha256').update('measured by the guest').digest();
    assert.equal((await ask(pcrExtend(16, measured))).readUInt32BE(6), 0);
    const extended = createHash('sha256').update(Buffer.alloc(32)).update(measured).digest('hex');
    assert.equal(await pcr(16), extended);

    const secret = Buffer.from('kept by the TPM!');
    const index = 0x0150_0016;
    assert.equal((await ask(nvDefine(index, secret.length))).readUInt32BE(6), 0);
    assert.equal((await ask(nvWrite(index, secret))).readUInt32BE(6), 0);
    assert.deepEqual((await ask(nvRead(index, secret.length))).subarray(16, 16 + secret.length), secret);

    await host.done(host.client.vm.restart({ params, query, body: { timeoutS: 100 } }));
    await host.until('web1', 'is up', isUp, bootMs);
    const answer = await ask(nvRead(index, secret.length));
    assert.equal(answer.readUInt32BE(6), 0);
    assert.deepEqual(answer.subarray(16, 16 + secret.length), secret);
    // Registers begin anew, and the same boot measures the same.
    assert.equal(await pcr(16), '00'.repeat(32));
    for (const [register, value] of replayed) assert.equal(await pcr(register), value.toString('hex'));
  },
);
