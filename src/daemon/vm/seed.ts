// First-boot data for cloud-init (NoCloud): from the fields of a VM's spec to the drive that carries them.
import { createHash } from 'node:crypto';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { type Vm } from '../../api/vm.ts';
import { buildSeed, hashPassword as hash } from '../../host/image/seed.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { mountOf, mountPointOf } from '../../api/vm-shared-folder.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import {
  CloudConfigError,
  composeMetaData,
  composeNetworkConfig,
  composeUserData,
  type CloudConfigMount,
} from '../../lib/cloud-config.ts';
import { installScript } from './agent-install.ts';
import { describeImageProblem } from '../image/image-problem.ts';

/** A password as crypt(5) writes it. */
export async function hashPassword(password: string): Promise<string> {
  return hash(password).catch((error: unknown) => {
    throw describeImageProblem(error);
  });
}

/** What a seed says besides the spec. */
interface SeedOptions {
  isAgentInstalled?: boolean;
  /** What the guest is about to have, where that is known. */
  hardware?: Pick<VmHardware, 'sharedFolders'>;
}

/** The texts of a seed. Throws invalid_request for user-data that is none. */
export function composeSeed(
  vm: Pick<Vm, 'id' | 'name' | 'spec'> & {
    status: Pick<Vm['status'], 'nics'> & Partial<Pick<Vm['status'], 'lineage'>>;
  },
  { isAgentInstalled = false, hardware }: SeedOptions = {},
): {
  metaData: string;
  userData: string;
  networkConfig: string;
  vendorData?: string;
} {
  const { cloudInit } = vm.spec;
  const hostname = cloudInit?.hostname ?? vm.name;
  // A fork had its own by the time it could boot.
  const isCopy = (vm.status.lineage?.kind ?? 'fork') !== 'fork';
  try {
    return {
      metaData: composeMetaData({ instanceId: vm.id, hostname }),
      userData: composeUserData(
        {
          hostname,
          user: cloudInit?.user,
          sshAuthorizedKeys: cloudInit?.sshKeys ?? [],
          passwordHash: cloudInit?.password,
          isSshPasswordAllowed: cloudInit?.password !== undefined,
          isCopy,
          mounts: mountsOf(vm.spec, hardware),
        },
        cloudInit?.userData,
      ),
      networkConfig:
        cloudInit?.networkConfig ??
        composeNetworkConfig(vm.status.nics.map((nic) => ({ macAddress: nic.mac, isKnownByMac: isCopy }))),
      ...(isAgentInstalled ? { vendorData: installScript } : {}),
    };
  } catch (error) {
    if (!(error instanceof CloudConfigError)) throw error;
    const field = `spec.cloudInit.${error.field}`;
    throw new LodgeError('invalid_request', `${field}: ${error.message}`, {
      fields: [{ field, message: error.message }],
      cause: error,
    });
  }
}

function mountsOf({ sharedFolders }: VmSpec, hardware: SeedOptions['hardware']): CloudConfigMount[] {
  return sharedFolders.flatMap((folder) => {
    const driver = hardware?.sharedFolders.find(({ name }) => name === folder.name)?.model;
    if (!driver) return [];
    return [{ source: folder.name, mountPoint: mountPointOf(folder), ...mountOf({ driver, access: folder.access }) }];
  });
}

/** Writes the drive at `path`, unless it holds the same already. */
export async function writeSeed(
  vm: Pick<Vm, 'id' | 'name' | 'spec' | 'status'>,
  path: string,
  options: SeedOptions = {},
): Promise<void> {
  const content = composeSeed(vm, options);
  const hash = createHash('sha256').update(JSON.stringify(content)).digest('hex');
  const hashPath = `${path}.sha256`;
  const written = await readFile(hashPath, 'utf8').catch(() => null);
  if (written === hash) return;
  await removeSeed(path);
  await buildSeed(content, path).catch((error: unknown) => {
    throw describeImageProblem(error);
  });
  // Last, so that its being there says that the drive is complete.
  await writeFile(hashPath, hash, { mode: 0o600 }).catch((error: unknown) => {
    throw describeImageProblem(error);
  });
}

/** Removes the drive, and what an interrupted writing of it has left. */
export async function removeSeed(path: string): Promise<void> {
  const folder = dirname(path);
  const files = (await readdir(folder).catch(() => [])).filter((file) => file.startsWith(basename(path)));
  // Its hash goes first: without it nothing counts.
  for (const file of files.toSorted((left, right) => right.length - left.length))
    await rm(join(folder, file), { recursive: true, force: true });
}
