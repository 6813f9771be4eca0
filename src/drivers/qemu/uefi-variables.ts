// The UEFI variable store of a VM: a flash image in its folder, which QEMU writes through a descriptor. It holds what the
// firmware must remember: boot entries, and for Secure Boot the keys whose signatures count.
//
//   none ──(first start)──▶ fresh, with the keys of the spec ──(starts)──▶ the same
//                             ▲ lodge vm firmware reset          missing, damaged, other keys: refused, with what to do
//
// Promises: a store is there whole or not at all; one that was there and is not, or is not sound, is never replaced unasked.
import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { type VmSecureBoot } from '../../api/vm-firmware.ts';
import { CommandError, run } from '../../host/command.ts';
import { type GuestDefinition } from '../driver.ts';
import { hasFile, type VmFolder } from './folder.ts';
import { type UefiFirmware } from './installation.ts';

/** Of which code a store is a part, and with which keys it begins. */
interface StoreKind {
  templatePath: string;
  /** Identifies the keys: none, microsoft, or own and a hash of the certificates. */
  keys: string;
  /** Certificates that are enrolled, in PEM. */
  certificates: readonly string[];
}

/** The firmware code a VM boots by: with Secure Boot another build, whose flash only its system management mode writes. */
export function chooseUefiCode(
  { name, spec }: Pick<GuestDefinition, 'name' | 'spec'>,
  uefi: UefiFirmware | null,
): { codePath: string; isSecure: boolean } {
  const isSecure = spec.firmware.secureBoot?.isEnabled ?? false;
  if (!uefi) {
    throw new LodgeError('unsupported', `VM ${name} boots by UEFI, and no UEFI firmware is installed on this node.`, {
      hint: 'Install ovmf, or set firmware.type to bios.',
    });
  }
  if (!isSecure) return { codePath: uefi.codePath, isSecure };
  if (!uefi.secureBoot) {
    throw new LodgeError(
      'unsupported',
      `VM ${name} is to boot by Secure Boot, and no UEFI firmware for that is installed on this node.`,
      { hint: 'Install ovmf, or set firmware.secureBoot.isEnabled to false.' },
    );
  }
  return { codePath: uefi.secureBoot.codePath, isSecure };
}

/** Sees to it that the VM has a sound store with the right keys. Only while no process of the VM runs. */
export async function provideVariables(
  folder: VmFolder,
  definition: Pick<GuestDefinition, 'id' | 'name' | 'spec' | 'pinned'>,
  uefi: UefiFirmware,
): Promise<void> {
  const { name, pinned } = definition;
  const kind = storeKind(definition, uefi);
  const hasStore = await hasFile(folder.uefiVariables);
  if (!hasStore && pinned?.firmware !== 'uefi') return makeStore(folder, definition.id, kind);
  const refuse = (what: string): LodgeError =>
    new LodgeError('wrong_state', `The UEFI variable store of VM ${name} ${what}.`, {
      hint: `Put the file ${folder.uefiVariables} back from a copy, or make a new one, without the boot entries and keys of the old: lodge vm firmware reset ${name}.`,
    });
  if (!hasStore) throw refuse('is missing');
  const problem = storeProblem(await readFile(folder.uefiVariables), await readFile(kind.templatePath));
  if (problem) throw refuse(`is damaged: ${problem}`);
  const has = await keysOf(folder);
  // Keys in the store don't matter to a firmware that asks for none.
  if (kind.keys === 'none' || has === kind.keys) return;
  throw new LodgeError(
    'wrong_state',
    `The UEFI variable store of VM ${name} ${describeKeys(has)}, and spec.firmware.secureBoot asks for ${kind.keys === 'microsoft' ? 'Microsoft’s' : 'those of ownCertificates'}.`,
    {
      hint: `Make a new store with these keys (lodge vm firmware reset ${name}; its boot entries go, its disks stay), or set firmware.secureBoot as it was.`,
    },
  );
}

/** Gives a copy of a guest that stands still its store, where the guest has one. What the copy has of its own goes. */
export async function copyVariables(from: VmFolder, to: VmFolder): Promise<void> {
  if (!(await hasFile(from.uefiVariables))) return;
  await mkdir(to.directory, { recursive: true, mode: 0o711 });
  await rm(to.uefiVariables, { force: true });
  if (await hasFile(from.uefiKeys)) await copyFile(from.uefiKeys, to.uefiKeys);
  await copyFile(from.uefiVariables, `${to.uefiVariables}.new`);
  await rename(`${to.uefiVariables}.new`, to.uefiVariables);
}

/** Makes the store anew, whatever was there. */
export async function resetVariables(
  folder: VmFolder,
  definition: Pick<GuestDefinition, 'id' | 'name' | 'spec'>,
  uefi: UefiFirmware,
): Promise<void> {
  await makeStore(folder, definition.id, storeKind(definition, uefi));
}

function storeKind({ name, spec }: Pick<GuestDefinition, 'name' | 'spec'>, uefi: UefiFirmware): StoreKind {
  const { isSecure } = chooseUefiCode({ name, spec }, uefi);
  const secureBoot = spec.firmware.secureBoot;
  if (!isSecure || !secureBoot || !uefi.secureBoot)
    return { templatePath: uefi.variablesPath, keys: 'none', certificates: [] };
  if (secureBoot.keys === 'own') {
    const certificates = secureBoot.ownCertificates.map((one) => one.trim());
    return { templatePath: uefi.secureBoot.variablesPath, keys: ownKeys(secureBoot), certificates };
  }
  if (uefi.secureBoot.microsoftVariablesPath === null) {
    throw new LodgeError(
      'unsupported',
      `No UEFI variable store with Microsoft’s keys is installed on this node, and VM ${name} asks for them.`,
      { hint: 'Install the package that has it (Debian: ovmf), or set firmware.secureBoot.keys to own.' },
    );
  }
  return { templatePath: uefi.secureBoot.microsoftVariablesPath, keys: 'microsoft', certificates: [] };
}

function ownKeys({ ownCertificates }: VmSecureBoot): string {
  const text = ownCertificates.map((one) => one.replaceAll(/\s/g, '')).join('\n');
  return `own ${createHash('sha256').update(text).digest('hex')}`;
}

function describeKeys(keys: string): string {
  if (keys === 'none') return 'has no keys';
  return keys === 'microsoft' ? 'has Microsoft’s keys' : 'has other keys of your own';
}

/** Which keys the store was made with; a store that was made before they were written down has none. */
async function keysOf(folder: VmFolder): Promise<string> {
  if (!(await hasFile(folder.uefiKeys))) return 'none';
  return (await readFile(folder.uefiKeys, 'utf8')).trim();
}

async function makeStore(folder: VmFolder, owner: string, kind: StoreKind): Promise<void> {
  const fresh = `${folder.uefiVariables}.new`;
  await rm(fresh, { force: true });
  await copyFile(kind.templatePath, fresh);
  if (kind.certificates.length > 0) await enroll(fresh, owner, kind.certificates, folder);
  const file = await open(fresh, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
  // Without a store nobody reads its keys, so they may be there first; one from before goes before its keys change.
  await rm(folder.uefiVariables, { force: true });
  await writeFile(folder.uefiKeys, `${kind.keys}\n`, { mode: 0o600 });
  await rename(fresh, folder.uefiVariables);
}

/** Enrols certificates as platform key, key exchange key and signature database, and switches Secure Boot on. */
async function enroll(path: string, owner: string, certificates: readonly string[], folder: VmFolder): Promise<void> {
  const work = await mkdtemp(join(folder.directory, 'keys-'));
  try {
    const files = certificates.map((_, index) => join(work, `${index}.pem`));
    for (const [index, text] of certificates.entries()) await writeFile(files[index]!, `${text}\n`);
    const [first] = files;
    await run(
      [
        'virt-fw-vars',
        '--inplace',
        path,
        ...['--set-pk', owner, first!],
        ...['--add-kek', owner, first!],
        ...files.flatMap((file) => ['--add-db', owner, file]),
        '--sb',
      ],
      { timeoutMs: 30_000 },
    );
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    if (error.reason === 'missing') {
      throw new LodgeError('unsupported', 'virt-fw-vars, which enrols own keys for Secure Boot, is not installed.', {
        hint: 'Install it (Debian: python3-virt-firmware, on Debian 12 from bookworm-backports), or set firmware.secureBoot.keys to microsoft.',
        cause: error,
      });
    }
    throw new LodgeError('host_failed', 'The certificates of firmware.secureBoot could not be enrolled.', {
      hint: 'Check that each is an X.509 certificate: openssl x509 -in FILE -text.',
      cause: error,
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** EFI_SYSTEM_NV_DATA_FV_GUID of EDK II, as its bytes lie in flash. */
const volumeGuid = '8d2bf1ff96768b4ca9852747075b4f50';
/** gEfiAuthenticatedVariableGuid and gEfiVariableGuid. */
const storeGuids = ['782cf3aa7b949a43a1802e144ec37792', '1667dd8a2a5dd94595a37ce9c7ca2f1c'];

/**
 * What is wrong with a store; null: its headers are sound and its size is that of the template.
 * Layout: EFI_FIRMWARE_VOLUME_HEADER of the UEFI Platform Initialization specification, volume 3, and
 * VARIABLE_STORE_HEADER of EDK II (MdeModulePkg/Include/Guid/VariableFormat.h).
 */
export function storeProblem(store: Buffer, template: Buffer): string | null {
  if (store.length !== template.length)
    return `it has ${store.length} bytes, and the firmware’s own has ${template.length}`;
  const headerLength = store.readUInt16LE(48);
  if (store.toString('latin1', 40, 44) !== '_FVH' || store.toString('hex', 16, 32) !== volumeGuid)
    return 'it does not begin with the header of a volume of variables';
  if (headerLength < 72 || headerLength > 4096 || headerLength % 2 !== 0) return 'its header has an impossible length';
  let sum = 0;
  for (let at = 0; at < headerLength; at += 2) sum += store.readUInt16LE(at);
  if ((sum & 0xffff) !== 0) return 'the checksum of its header is wrong';
  if (!storeGuids.includes(store.toString('hex', headerLength, headerLength + 16)))
    return 'it holds no variables after its header';
  // Formatted and healthy: VARIABLE_STORE_FORMATTED, VARIABLE_STORE_HEALTHY.
  if (store[headerLength + 20] !== 0x5a || store[headerLength + 21] !== 0xfe)
    return 'its variables are marked as not healthy';
  return null;
}
