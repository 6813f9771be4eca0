// Images as objects: building and importing them, and what VMs and volumes need to know of them. The work on files is
// in src/host/image; here is what is asked, kept and refused.
import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { uuidv7 } from 'uuidv7';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Image, type ImageSpec, type ImageStatus } from '../../api/image.ts';
import { type Subject } from '../../api/object.ts';
import { type Vm } from '../../api/vm.ts';
import { type Volume } from '../../api/volume.ts';
import { type DiskLayer } from '../../drivers/driver.ts';
import { parseImageUrl } from '../../host/image/download.ts';
import { ImageProblemError } from '../../host/image/problem.ts';
import { type Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord } from '../task/task.ts';
import { type ImageTasks } from './image-tasks.ts';
import { uploadFailure } from './upload-failure.ts';

/** The files of an image, as what uses it needs them. */
export type ImageFiles =
  | { kind: 'kernel'; kernelPath: string; initramfsPath: string | null; commandLine: string }
  | { kind: 'disk' | 'iso'; layer: DiskLayer };

export interface ImageServiceParts {
  images: Collection<Image>;
  engine: TaskEngine;
  tasks: ImageTasks;
  /** Folder in which every image has its own. */
  directory: string;
  references: ReferenceLock;
  log: Log;
  /** All VMs and volumes; they say what they are made from. */
  vms: () => Iterable<Vm>;
  /** Whether a layer of a disk reads from it, be the disk's volume gone. */
  isNeededByLayers: (imageId: string) => boolean;
  volumes: () => Iterable<Volume>;
}

export function initialImageStatus(): ImageStatus {
  return {
    state: 'pending',
    reason: 'It waits for its turn.',
    kind: null,
    firmware: [],
    format: null,
    virtualSizeMib: null,
    sizeBytes: null,
    checksum: null,
    hasAgent: false,
    hasCloudInit: false,
    minMemoryMib: 0,
    version: null,
    commandLine: null,
    usedBy: [],
  };
}

/** Names of the files in an image's folder. */
export const imageFileNames = {
  kernel: 'vmlinux',
  initramfs: 'initramfs.cpio',
  qcow2: 'disk.qcow2',
  raw: 'disk.raw',
} as const;

/** Beside the images' own folders: what arrived of downloads that broke off. */
export const downloadsFolder = 'downloads';

export class ImageService {
  readonly #parts: ImageServiceParts;
  #isShowPlanned = false;

  constructor(parts: ImageServiceParts) {
    this.#parts = parts;
  }

  get(id: string): Image | null {
    return this.#parts.images.get(id);
  }

  /** An image by name or id; null: none. Images of the project "default" serve all projects, as a library. */
  find(project: string, reference: string): Image | null {
    return this.#parts.images.find(project, reference) ?? this.#parts.images.find('default', reference);
  }

  require(project: string, reference: string): Image {
    return this.find(project, reference) ?? this.#parts.images.require(project, reference);
  }

  /** Refuses an image that nothing can be made of, not yet or not any more. */
  requireUsable(image: Image, field: string): void {
    const { state, reason } = image.status;
    if (state === 'ready') return;
    throw new LodgeError('wrong_state', `${field}: image ${image.name} is ${state}: ${reason}`, {
      fields: [{ field, message: `image ${image.name} is ${state}`, value: image.name }],
      hint: 'Wait until it is ready (lodge image list), or choose another.',
    });
  }

  all(): IterableIterator<Image> {
    return this.#parts.images.all();
  }

  /** Where an image's files are. Throws wrong_state while it isn't ready. */
  files(image: Image): ImageFiles {
    const { status } = image;
    if (status.state !== 'ready' || status.kind === null) {
      throw new LodgeError('wrong_state', `Image ${image.name} is ${status.state}: ${status.reason}`, {
        hint: 'Wait until it is ready (lodge image list), or choose another.',
      });
    }
    const folder = imageFolder(this.#parts.directory, image.id);
    if (status.kind === 'kernel') {
      return {
        kind: 'kernel',
        kernelPath: join(folder, imageFileNames.kernel),
        initramfsPath: join(folder, imageFileNames.initramfs),
        commandLine: status.commandLine ?? '',
      };
    }
    const format = status.format ?? 'qcow2';
    return { kind: status.kind, layer: { path: join(folder, imageFileNames[format]), format } };
  }

  /** The disk of an image by its id, for what is based on it. */
  diskLayer(id: string): DiskLayer {
    const image = this.#parts.images.get(id);
    const files = image && this.files(image);
    if (files && files.kind !== 'kernel') return files.layer;
    throw new LodgeError('internal', `A disk is based on the image ${image?.name ?? id}, which has none.`);
  }

  async create(given: Pick<Image, 'name' | 'project' | 'labels' | 'spec'>, requestedBy: string): Promise<TaskRecord> {
    const { source } = given.spec;
    if (source.type === 'file') {
      const found = await stat(source.path).catch(() => null);
      if (!found?.isFile())
        throw invalidField('spec.source.path', 'is no file that the daemon can read on this node', source.path);
    }
    if (source.type === 'url') checkUrl(source.url);
    const id = uuidv7();
    const { record, part } = this.#parts.engine.prepare(this.#parts.tasks.create, {
      target: subject({ ...given, id }),
      input: { id },
      requestedBy,
    });
    await this.#parts.images.create({ ...given, id }, part);
    return this.#parts.engine.written(record);
  }

  /** Takes the content of an image whose source is an upload, and begins to import it. */
  async upload(image: Image, content: AsyncIterable<Uint8Array>, requestedBy: string): Promise<TaskRecord> {
    if (image.spec.source.type !== 'upload')
      throw new LodgeError(
        'wrong_state',
        `Image ${image.name} comes from ${image.spec.source.type}, not from an upload.`,
        { hint: 'Create an image with source.type upload.' },
      );
    await this.#setState(image, 'waiting-for-upload', 'importing', 'Its content is being received.');
    try {
      await this.#parts.tasks.receive(image, content);
      return await this.#parts.engine.submit(this.#parts.tasks.importUpload, {
        target: subject(image),
        input: { id: image.id },
        requestedBy,
      });
    } catch (error) {
      await this.#parts.tasks.forgetUpload(image);
      const reason = uploadFailure(error instanceof LodgeError ? error.message : undefined);
      await this.#setState(image, 'importing', 'waiting-for-upload', reason).catch((cause: unknown) =>
        this.#parts.log.warn(
          { err: cause, image: image.name },
          'an image could not be made to wait for another upload',
        ),
      );
      throw error;
    }
  }

  async update(
    image: Image,
    change: { revision?: number | undefined; labels?: Record<string, string> | undefined; spec: ImageSpec },
  ): Promise<Image> {
    if (JSON.stringify(change.spec.source) !== JSON.stringify(image.spec.source)) {
      throw invalidField('spec.source', 'can not be changed; create another image', change.spec.source.type);
    }
    return this.#parts.images.update(image.id, change.revision, (draft) => {
      draft.spec = change.spec;
      if (change.labels) draft.labels = change.labels;
    });
  }

  async delete(given: Image, requestedBy: string): Promise<TaskRecord> {
    const { references, images, engine, tasks } = this.#parts;
    return references.hold(async () => {
      const image = images.require(given.project, given.id);
      const users = this.#usersOf(image);
      if (users.length > 0) {
        throw new LodgeError('in_use', `Image ${image.name} is used by ${users.join(', ')}.`, {
          hint: 'Delete these first: their disks read what they have not written from the image.',
        });
      }
      const [active] = engine.activeOn({ kind: 'image', id: image.id });
      if (active) {
        throw new LodgeError('busy', `Image ${image.name} is being worked on by task ${active.id} (${active.type}).`, {
          hint: `Wait for it, or cancel it: lodge task cancel ${active.id}.`,
        });
      }
      // From here on nothing can be made of it; without its task, the next start of the daemon removes it.
      await images.setStatus(image.id, (status) => ({ ...status, state: 'deleting', reason: 'It is being deleted.' }));
      return engine.submit(tasks.delete, { target: subject(image), input: { id: image.id }, requestedBy });
    });
  }

  /** Shows who uses an image soon; many changes at once are shown together. */
  planShowUsers(): void {
    if (this.#isShowPlanned) return;
    this.#isShowPlanned = true;
    setImmediate(() => {
      this.#isShowPlanned = false;
      this.showUsers().catch((error: unknown) => {
        if (!(error instanceof LodgeError && error.code === 'not_found'))
          this.#parts.log.warn({ err: error }, 'the users of images could not be shown');
      });
    });
  }

  /** Shows who uses an image. */
  async showUsers(): Promise<void> {
    for (const image of [...this.#parts.images.all()]) {
      const usedBy = this.#usersOf(image);
      if (usedBy.join() !== image.status.usedBy.join())
        await this.#parts.images.setStatus(image.id, (status) => ({ ...status, usedBy }));
    }
  }

  /** After the daemon's start: images that a task no longer works on are what their files are; folders of none are removed. */
  async recover(folders: readonly string[]): Promise<void> {
    for (const image of [...this.#parts.images.all()]) {
      if (this.#parts.engine.activeOn({ kind: 'image', id: image.id }).length > 0) continue;
      if (image.status.state === 'importing' && image.spec.source.type === 'upload') {
        await this.#parts.tasks.forgetUpload(image);
        await this.#setState(
          image,
          'importing',
          'waiting-for-upload',
          'The last upload was cut off; it waits for another.',
        );
      } else if (image.status.state !== 'ready' && image.status.state !== 'waiting-for-upload')
        await this.#parts.images.delete(image.id);
    }
    await this.#parts.tasks.forgetOldDownloads();
    for (const folder of folders) {
      if (folder === downloadsFolder) continue;
      const id = folder.split('.')[0] ?? folder;
      if (!this.#parts.images.get(id)) await rm(join(this.#parts.directory, folder), { recursive: true, force: true });
    }
  }

  /** Names of the VMs and volumes that need an image. */
  #usersOf(image: Image): string[] {
    const isIt = (project: string, reference: string | undefined): boolean =>
      reference !== undefined && this.find(project, reference)?.id === image.id;
    // One that is still being made says only in its spec what it is made from.
    const ofVolumes = [...this.#parts.volumes()]
      .filter(({ project, spec, status }) =>
        status.imageId === null ? isIt(project, spec.image) : status.imageId === image.id,
      )
      .map((volume) => volume.name);
    const ofVms = [...this.#parts.vms()].filter(({ project, spec: wanted, status }) =>
      [wanted, ...(status.startedSpec ? [status.startedSpec] : [])].some(
        (spec) => isIt(project, spec.image) || spec.disks.some((disk) => isIt(project, disk.image)),
      ),
    );
    const users = [...new Set([...ofVms.map((vm) => vm.name), ...ofVolumes])];
    return users.length === 0 && this.#parts.isNeededByLayers(image.id)
      ? ['a disk kept by a snapshot or a clone']
      : users;
  }

  #setState(image: Image, from: ImageStatus['state'], state: ImageStatus['state'], reason: string): Promise<Image> {
    return this.#parts.images.setStatus(image.id, (status) => {
      if (status.state !== from) {
        throw new LodgeError('wrong_state', `Image ${image.name} is ${status.state}, not ${from}.`, {
          hint: 'lodge image show tells what it is doing.',
        });
      }
      return { ...status, state, reason };
    });
  }
}

function checkUrl(url: string): void {
  try {
    parseImageUrl(url);
  } catch (error) {
    throw error instanceof ImageProblemError ? invalidField('spec.source.url', error.message) : error;
  }
}

export function imageFolder(directory: string, id: string): string {
  return join(directory, id);
}

function subject(image: Pick<Image, 'id' | 'name' | 'project'>): Subject {
  return { kind: 'image', id: image.id, name: image.name, project: image.project };
}
