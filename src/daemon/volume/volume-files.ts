// The files of volumes: what may be made, making it, and reading back what came of it.
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Image } from '../../api/image.ts';
import { type VolumeSpec, type VolumeStatus } from '../../api/volume.ts';
import { type DiskLayer } from '../../drivers/driver.ts';
import { createOverlay, createVolume, readVolumeInfo, resizeVolume } from '../../host/image/volume.ts';
import { readDiskSpace } from '../../host/machine.ts';
import { describeImageProblem } from '../image/image-problem.ts';

const mib = 2 ** 20;

export class VolumeFiles {
  /** Refuses what can't be made: without a size, smaller than its image, raw on top of an image. */
  check(spec: Pick<VolumeSpec, 'sizeMib' | 'format'>, image: Image | null, field: string): void {
    if (image) {
      if (image.status.state !== 'ready') {
        throw new LodgeError(
          'wrong_state',
          `${field}.image: image ${image.name} is ${image.status.state}: ${image.status.reason}`,
          { hint: 'Wait until it is ready (lodge image list).' },
        );
      }
      if (image.status.kind === 'kernel')
        throw invalidField(`${field}.image`, `image ${image.name} holds a kernel and no disk`, image.name);
      if (spec.format === 'raw')
        throw invalidField(`${field}.format`, 'a copy-on-write copy of an image is qcow2', spec.format);
      const least = image.status.virtualSizeMib ?? 0;
      if (spec.sizeMib !== undefined && spec.sizeMib < least)
        throw invalidField(
          `${field}.sizeMib`,
          `is at least ${least} MiB, the size of image ${image.name}`,
          spec.sizeMib,
        );
    } else if (spec.sizeMib === undefined) throw invalidField(`${field}.sizeMib`, 'is needed for a blank disk, in MiB');
  }

  /** Makes the file unless it is there already. */
  async make(
    path: string,
    spec: VolumeSpec,
    base: DiskLayer | null,
  ): Promise<Pick<VolumeStatus, 'virtualSizeMib' | 'allocatedBytes'>> {
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o711 });
      const isThere = await stat(path).then(
        () => true,
        () => false,
      );
      if (!isThere) {
        // A raw volume takes its blocks as they are written, like qcow2, but no file may be larger than its file system.
        const sizeBytes = spec.sizeMib === undefined ? undefined : spec.sizeMib * mib;
        if (spec.format === 'raw' && spec.sizeMib !== undefined) await this.requireFit(dirname(path), spec.sizeMib);
        if (base)
          await createOverlay({
            path,
            backingPath: base.path,
            backingFormat: base.format,
            ...(sizeBytes === undefined ? {} : { sizeBytes }),
          });
        else await createVolume({ path, format: spec.format, sizeBytes: sizeBytes! });
      }
      const info = await readVolumeInfo(path, spec.format);
      return { virtualSizeMib: Math.ceil(info.virtualSizeBytes / mib), allocatedBytes: info.allocatedBytes };
    } catch (error) {
      throw describeImageProblem(error);
    }
  }

  async grow(path: string, format: VolumeSpec['format'], sizeMib: number): Promise<void> {
    if (format === 'raw') await this.requireFit(dirname(path), sizeMib);
    await resizeVolume({ path, format, sizeBytes: sizeMib * mib }).catch((error: unknown) => {
      throw describeImageProblem(error);
    });
  }

  /** Removes files that belong to no volume: what a daemon that died left of one it was making. */
  async removeStrays(directory: string, isWanted: (file: string) => boolean): Promise<void> {
    for (const file of await readdir(directory).catch(() => []))
      if (!isWanted(file)) await rm(join(directory, file), { recursive: true, force: true });
  }

  /** Refuses a raw volume that is larger than the file system it is to lie in. */
  async requireFit(directory: string, sizeMib: number): Promise<void> {
    const { totalBytes } = await readDiskSpace(directory);
    if (sizeMib * mib <= totalBytes) return;
    const message = `a raw volume of ${sizeMib} MiB is larger than the file system that would hold it (${Math.floor(totalBytes / mib)} MiB)`;
    throw new LodgeError('insufficient_resources', `spec.sizeMib: ${message}.`, {
      fields: [{ field: 'spec.sizeMib', message, value: sizeMib }],
      hint: 'Choose qcow2, which takes only what is written, or a smaller size.',
    });
  }
}
