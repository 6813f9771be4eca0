// The long operations on images: building, importing, deleting. What is made lies in the image's own folder, which is
// removed with the object when anything fails.
import { createWriteStream } from 'node:fs';
import { copyFile, link, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import * as z from 'zod';
import { type Image, type ImageRecipe, type ImageStatus } from '../../api/image.ts';
import { LodgeError } from '../../api/errors.ts';
import { buildDebian } from '../../host/image/debian.ts';
import { importImage, type ImageSource, type ImportOptions, type ImportProgress } from '../../host/image/import.ts';
import { PartialDownloads } from '../../host/image/partial-downloads.ts';
import { type ImageManifest } from '../../host/image/manifest.ts';
import { type OnBuildProgress } from '../../host/image/progress.ts';
import { buildTiny } from '../../host/image/tiny.ts';
import { type Collection } from '../store/collection.ts';
import { defineTask, type StepProgress, type TaskType } from '../task/task.ts';
import { describeImageProblem } from './image-problem.ts';
import { downloadsFolder, imageFileNames, imageFolder, initialImageStatus } from './image-service.ts';
import { uploadFailure } from './upload-failure.ts';

export interface ImageTasksParts {
  images: Collection<Image>;
  /** Folder in which every image has its own. */
  directory: string;
  /** Downloads and built images, shared by everything that builds on this machine. */
  cacheDirectory: string;
}

export interface ImageTasks {
  create: TaskType<{ id: string }>;
  importUpload: TaskType<{ id: string }>;
  delete: TaskType<{ id: string }>;
  /** Stores what is uploaded, for importUpload. */
  receive(image: Image, content: AsyncIterable<Uint8Array>): Promise<void>;
  forgetUpload(image: Image): Promise<void>;
  /** Removes what is kept of downloads that broke off too long ago. */
  forgetOldDownloads(): Promise<void>;
}

const input = z.strictObject({ id: z.string() });
const importTimeoutMs = 24 * 3_600_000;
const mib = 2 ** 20;

type Facts = Partial<ImageStatus>;

export function imageTasks(parts: ImageTasksParts): ImageTasks {
  const { images, directory } = parts;
  const partialDownloads = new PartialDownloads(join(directory, downloadsFolder));
  const uploadPath = (id: string): string => join(directory, `${id}.upload`);

  const require = (id: string): Image => {
    const image = images.get(id);
    if (!image) throw new LodgeError('not_found', `There is no image with the id ${id}.`);
    return image;
  };
  const removeFiles = async (id: string): Promise<void> => {
    await rm(imageFolder(directory, id), { recursive: true, force: true });
    await rm(uploadPath(id), { force: true });
  };
  const markReady = async (id: string, facts: Facts): Promise<void> => {
    await images.setStatus(id, (status) => ({
      ...status,
      ...facts,
      state: 'ready',
      reason: 'Its files are in place.',
    }));
  };
  const bringIn = async (
    image: Image,
    source: ImageSource,
    expected: { checksum?: string | undefined; format?: ImportOptions['format'] },
    progress: (progress: StepProgress) => void,
    signal: AbortSignal,
  ): Promise<void> => {
    const folder = imageFolder(directory, image.id);
    await mkdir(folder, { recursive: true, mode: 0o711 });
    const imported = join(folder, 'imported');
    await rm(imported, { force: true });
    const [algorithm, value] = expected.checksum?.split(':') ?? [];
    const facts = await importImage({
      source,
      outPath: imported,
      partialDownloads,
      ...(value ? { checksum: { algorithm: algorithm as 'sha256' | 'sha512', value } } : {}),
      ...(expected.format ? { format: expected.format } : {}),
      onProgress: (step) => progress(importProgress(step)),
      signal,
    });
    await rename(imported, join(folder, imageFileNames[facts.format]));
    await markReady(image.id, {
      kind: facts.kind,
      // What boot loader it holds is only known when it has booted; BIOS is what every disk image of old can do.
      firmware: [],
      format: facts.format,
      virtualSizeMib: Math.ceil(facts.virtualSizeBytes / mib),
      sizeBytes: facts.sizeBytes,
      checksum: `sha256:${facts.sourceSha256}`,
    });
  };

  return {
    create: defineTask({
      type: 'image.create',
      input,
      steps: [
        {
          name: 'make the image',
          timeoutMs: importTimeoutMs,
          run: async ({ input: { id }, signal, progress }) => {
            const image = require(id);
            const { source } = image.spec;
            if (image.status.state === 'ready') return;
            try {
              if (source.type === 'upload') {
                await images.setStatus(id, (status) => ({
                  ...status,
                  state: 'waiting-for-upload',
                  reason: 'Send its content: lodge image upload, or PUT /v1/images/{image}/content.',
                }));
                return;
              }
              await images.setStatus(id, (status) => ({
                ...status,
                state: 'importing',
                reason: source.type === 'build' ? 'It is being built.' : 'It is being imported.',
              }));
              if (source.type === 'build') {
                await markReady(
                  id,
                  await build(
                    parts,
                    id,
                    source.recipe,
                    ({ step, percent }) => progress({ percent, message: step }),
                    signal,
                  ),
                );
              } else {
                const from: ImageSource =
                  source.type === 'url' ? { kind: 'url', url: source.url } : { kind: 'file', path: source.path };
                await bringIn(image, from, source, progress, signal);
              }
            } catch (error) {
              throw describeImageProblem(error, source);
            }
          },
          undo: async ({ input: { id } }) => {
            await removeFiles(id);
            if (images.get(id)) await images.delete(id);
          },
        },
      ],
    }),
    importUpload: defineTask({
      type: 'image.upload',
      input,
      steps: [
        {
          name: 'import what was sent',
          timeoutMs: importTimeoutMs,
          run: async ({ input: { id }, signal, progress, remember }) => {
            const image = require(id);
            if (image.status.state === 'ready') return;
            const { source } = image.spec;
            try {
              await bringIn(
                image,
                { kind: 'file', path: uploadPath(id), label: 'what was uploaded' },
                source.type === 'upload' ? source : {},
                progress,
                signal,
              );
              await rm(uploadPath(id), { force: true });
            } catch (error) {
              const problem = describeImageProblem(error, source);
              if (problem instanceof LodgeError && !signal.aborted) await remember({ problem: problem.message });
              throw problem;
            }
          },
          undo: async ({ input: { id }, state }) => {
            await removeFiles(id);
            if (images.get(id))
              await images.setStatus(id, (status) => ({
                ...initialImageStatus(),
                usedBy: status.usedBy,
                state: 'waiting-for-upload',
                reason: uploadFailure(state['problem']),
              }));
          },
        },
      ],
    }),
    delete: defineTask({
      type: 'image.delete',
      input,
      steps: [
        {
          name: 'delete the files',
          timeoutMs: 600_000,
          isPivot: true,
          run: async ({ input: { id } }) => {
            if (images.get(id))
              await images.setStatus(id, (status) => ({
                ...status,
                state: 'deleting',
                reason: 'It is being deleted.',
              }));
            await removeFiles(id);
            if (images.get(id)) await images.delete(id);
          },
        },
      ],
    }),
    receive: async (image, content) => {
      await mkdir(directory, { recursive: true, mode: 0o711 });
      await pipeline(content, createWriteStream(uploadPath(image.id), { mode: 0o600 })).catch((error: unknown) => {
        throw describeImageProblem(error);
      });
    },
    forgetUpload: (image) => rm(uploadPath(image.id), { force: true }),
    forgetOldDownloads: () => partialDownloads.cleanUp(),
  };
}

/** Builds a recipe in the cache, where a second image of it costs nothing, and gives the image its own links to the files. */
async function build(
  parts: ImageTasksParts,
  id: string,
  recipe: ImageRecipe,
  onProgress: OnBuildProgress,
  signal: AbortSignal,
): Promise<Facts> {
  const built = join(parts.cacheDirectory, 'images', recipe);
  const options = { outDir: built, cacheDir: parts.cacheDirectory, onProgress, signal };
  const manifest: ImageManifest =
    recipe === 'tiny' || recipe === 'tiny-pc'
      ? await buildTiny({ ...options, variant: recipe })
      : await buildDebian({ ...options, release: recipe === 'debian-12' ? 'bookworm' : 'trixie' });
  const folder = imageFolder(parts.directory, id);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o711 });
  for (const file of await readdir(built)) {
    const target = join(
      folder,
      file === manifest.disk
        ? imageFileNames.qcow2
        : file === manifest.kernel
          ? imageFileNames.kernel
          : file === manifest.initramfs
            ? imageFileNames.initramfs
            : file,
    );
    // The same file under two names where both lie on one file system: images are never written to.
    await link(join(built, file), target).catch(() => copyFile(join(built, file), target));
  }
  const isKernel = manifest.firmware === 'direct';
  const main = join(folder, isKernel ? imageFileNames.kernel : imageFileNames.qcow2);
  const mainName = isKernel ? manifest.kernel : manifest.disk;
  return {
    kind: isKernel ? 'kernel' : 'disk',
    firmware: isKernel ? ['direct'] : ['uefi', 'bios'],
    format: isKernel ? null : 'qcow2',
    virtualSizeMib: manifest.virtualSizeBytes === undefined ? null : Math.ceil(manifest.virtualSizeBytes / mib),
    sizeBytes: isKernel ? manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0) : (await stat(main)).size,
    checksum: `sha256:${manifest.files.find((file) => file.name === mainName)?.sha256 ?? ''}`,
    hasAgent: manifest.hasAgent,
    hasCloudInit: manifest.hasCloudInit,
    minMemoryMib: manifest.minMemoryMib,
    version: manifest.version,
    commandLine: manifest.commandLine ?? null,
  };
}

/** Parts of an import in percent of the whole, as far as they usually take. */
const stepStarts: Record<ImportProgress['step'], [number, number]> = {
  fetching: [0, 60],
  verifying: [60, 65],
  unpacking: [65, 75],
  converting: [75, 95],
  checking: [95, 100],
};

function importProgress({ step, done, total }: ImportProgress): StepProgress {
  const [from, to] = stepStarts[step];
  const share = total ? Math.min(1, done / total) : 0;
  return {
    percent: from + (to - from) * share,
    message: step,
    ...(step === 'converting' || total === null ? {} : { bytesDone: done, bytesTotal: total }),
  };
}
