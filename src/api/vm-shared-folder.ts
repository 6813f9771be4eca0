// Folders of the host that a VM shares: what is asked for, and how a Linux guest mounts one.
import * as z from 'zod';

/** How the guest reaches a shared folder: by virtio-fs, or by the Plan 9 protocol over virtio. */
export const sharedFolderDriver = z
  .enum(['virtiofs', '9p'])
  .describe(
    'virtiofs: FUSE requests over virtio, by a virtiofsd beside QEMU; 9p: the protocol 9P2000.L over virtio, by QEMU itself',
  )
  .meta({ id: 'SharedFolderDriver' });
export type SharedFolderDriver = z.output<typeof sharedFolderDriver>;

export const vmSharedFolder = z
  .strictObject({
    name: z
      .string()
      // QEMU's MAX_TAG_LEN of 9p; virtio-fs takes 36 bytes.
      .max(31)
      .regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, 'has only a-z, 0-9 and "-", and "-" neither first nor last')
      .describe('Unique in the VM, and the tag by which the guest mounts it: data'),
    path: z
      .string()
      .max(4096)
      .regex(/^\/[^\0\n]*$/, 'is an absolute path')
      .describe('Folder of the node, in one that its configuration allows (sharedFolders.allowedRoots)'),
    access: z
      .enum(['read-only', 'read-write'])
      .default('read-write')
      .describe('read-only is enforced by the node, whatever the guest does'),
    driver: sharedFolderDriver
      .optional()
      .describe('Without it, virtiofs where the node has virtiofsd and the guest a driver for it, else 9p'),
    mountPoint: z
      .string()
      .max(4096)
      .regex(/^(\/[A-Za-z0-9._+@-]+)+$/, 'is an absolute path of letters, digits and ._+@-')
      .optional()
      .describe('Where a guest with cloud-init mounts it, from its first boot on. Without it, /mnt/ and its name'),
  })
  .meta({ id: 'VmSharedFolder' });
export type VmSharedFolder = z.output<typeof vmSharedFolder>;

/** Where a guest mounts a shared folder unless it was told otherwise. */
export function mountPointOf({ name, mountPoint }: Pick<VmSharedFolder, 'name' | 'mountPoint'>): string {
  return mountPoint ?? `/mnt/${name}`;
}

/** File system type and options by which Linux mounts a shared folder: mount(8), and fstab(5) as well. */
export function mountOf({ driver, access }: { driver: SharedFolderDriver; access: VmSharedFolder['access'] }): {
  type: 'virtiofs' | '9p';
  options: string;
} {
  const mode = access === 'read-only' ? 'ro' : 'rw';
  // msize: the largest that virtio-9p of Linux 6 takes by its descriptors for one request; its default is slow.
  return driver === 'virtiofs'
    ? { type: 'virtiofs', options: mode }
    : { type: '9p', options: `${mode},trans=virtio,version=9p2000.L,msize=512000` };
}
