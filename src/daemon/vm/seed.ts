// First-boot data for cloud-init (NoCloud): from the fields of a VM's spec to the drive that carries them.
import { LodgeError } from '../../api/errors.ts';
import { type Vm } from '../../api/vm.ts';
import { buildSeed, hashPassword as hash } from '../../host/image/seed.ts';
import { CloudConfigError, composeMetaData, composeNetworkConfig, composeUserData } from '../../lib/cloud-config.ts';
import { describeImageProblem } from '../image/image-problem.ts';

/** A password as crypt(5) writes it. */
export async function hashPassword(password: string): Promise<string> {
  return hash(password).catch((error: unknown) => {
    throw describeImageProblem(error);
  });
}

/** The three texts of a seed. Throws invalid_request for user-data that is none. */
export function composeSeed(vm: Pick<Vm, 'id' | 'name' | 'spec' | 'status'>): {
  metaData: string;
  userData: string;
  networkConfig: string;
} {
  const { cloudInit } = vm.spec;
  const hostname = cloudInit?.hostname ?? vm.name;
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
        },
        cloudInit?.userData,
      ),
      networkConfig:
        cloudInit?.networkConfig ?? composeNetworkConfig(vm.status.nics.map((nic) => ({ macAddress: nic.mac }))),
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

/** Writes the drive at `path`. */
export async function writeSeed(vm: Pick<Vm, 'id' | 'name' | 'spec' | 'status'>, path: string): Promise<void> {
  const content = composeSeed(vm);
  await buildSeed(content, path).catch((error: unknown) => {
    throw describeImageProblem(error);
  });
}
