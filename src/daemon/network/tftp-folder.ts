// The folder that a network serves by TFTP: whether dnsmasq, which has no privileges, can read it.
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { invalidField } from '../../api/errors.ts';
import { type NetworkSpec } from '../../api/network.ts';

const othersMayPass = 0o001;
const othersMayRead = 0o004;

/** Refuses a folder that nothing could be served from. */
export async function requireServable({ boot }: Pick<NetworkSpec, 'boot'>): Promise<void> {
  const folder = boot?.tftpFolder;
  if (folder === undefined) return;
  const field = 'spec.boot.tftpFolder';
  const found = await stat(folder).catch(() => null);
  if (!found?.isDirectory()) throw invalidField(field, 'is no folder on the node', folder);
  for (let path = folder; ; path = dirname(path)) {
    const { mode } = await stat(path);
    const wanted = path === folder ? othersMayPass | othersMayRead : othersMayPass;
    if ((mode & wanted) !== wanted)
      throw invalidField(field, `can’t be read by dnsmasq, which has no privileges: chmod o+rx ${path}`, folder);
    if (path === dirname(path)) return;
  }
}
