// The folders that the daemon works in.
import { mkdir } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { LodgeError } from '../api/errors.ts';
import { type Config } from './config.ts';

/** Why a folder of the daemon's could not be made. */
function folderError(folder: string, cause: unknown): LodgeError {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const why =
    { EACCES: `${userInfo().username} may not write there`, EROFS: 'its file system is read-only' }[code] ?? code;
  return new LodgeError('host_failed', `the folder ${folder} can not be made: ${why}`, {
    hint: 'Run the daemon as root (sudo): bridges, and guests as users of their own, need it too. Or give folders of your own with dataDir, runDir and logDir (docs/configuration.md).',
    cause,
  });
}

/** Makes the folders where they are missing. Throws host_failed. */
export async function makeFolders(
  config: Pick<Config, 'dataDir' | 'runDir' | 'logDir'>,
): Promise<Record<'data' | 'vms' | 'images' | 'templates' | 'volumes' | 'networks' | 'shared', string>> {
  const folders = {
    data: config.dataDir,
    vms: join(config.dataDir, 'vms'),
    images: join(config.dataDir, 'images'),
    templates: join(config.dataDir, 'templates'),
    volumes: join(config.dataDir, 'volumes'),
    networks: join(config.runDir, 'networks'),
    // There is one that VMs may share without anything to configure.
    shared: join(config.dataDir, 'shared'),
  };
  // Guests' processes and dnsmasq, which have no privileges, pass through these folders but can't list them.
  for (const folder of [...Object.values(folders), config.runDir, config.logDir]) {
    await mkdir(folder, { recursive: true, mode: 0o711 }).catch((cause: unknown) => {
      throw folderError(folder, cause);
    });
  }
  return folders;
}
