// What is installed from: the image of an ISO that is there, or one that is brought in from an address or a file.
import { basename, resolve } from 'node:path';
import type { Image } from '../../api/image.ts';
import { LodgeError } from '../../api/errors.ts';
import type { Session } from '../connect/session.ts';
import { getImage, importImage } from '../noun/image.ts';
import { usageError } from '../usage-error.ts';

/** Longest name of an image (objectName in src/api/object.ts). */
const longestName = 63;

/** Whether a word is an address or a path: names of images have neither dots nor slashes. */
function isSource(given: string): boolean {
  return /[./]/.test(given);
}

/** Name of the image of an ISO that is brought in: that of its file, as far as names go. */
export function nameOfIso(source: string): string {
  const file = basename(/^https?:/i.test(source) ? new URL(source).pathname : source);
  const name = decodeURIComponent(file)
    .replace(/\.(gz|xz|zst)$/i, '')
    .replace(/\.(iso|img)$/i, '')
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .slice(0, longestName)
    .replaceAll(/^[^a-z]+|-+$/g, '');
  return name === '' ? 'iso' : name;
}

/** The image of an ISO by its name, or from an address or file; brought in once. */
export async function provideIso(session: Session, given: string): Promise<Image> {
  if (!isSource(given)) return requireIso(await getImage(session, given), given);
  const isAddress = /^https?:\/\//i.test(given);
  const source = isAddress || !session.isLocal ? given : resolve(given);
  const name = nameOfIso(source);
  const before = await findImage(session, name);
  if (before === null) {
    await importImage(session, name, source, { wait: true }, '');
    return requireIso(await getImage(session, name), given);
  }
  const { source: from } = before.spec;
  const isSame = (from.type === 'url' && from.url === source) || (from.type === 'file' && from.path === source);
  if (isSame) return requireIso(before, given);
  throw usageError(`--iso: there is an image ${name} already, from elsewhere`, {
    hint: `Use it (--iso ${name}), or bring yours in under another name: lodge image import NAME ${given}`,
  });
}

function requireIso(image: Image, given: string): Image {
  if (image.status.state === 'ready' && image.status.kind !== 'iso')
    throw usageError(`--iso: ${given} is no ISO image but ${image.status.kind ?? 'something else'}`, {
      hint: 'A disk image is what a VM is made of: --image.',
    });
  return image;
}

async function findImage(session: Session, name: string): Promise<Image | null> {
  try {
    return await session.client.image.get({ params: { image: name }, query: { project: session.project } });
  } catch (failure) {
    if (failure instanceof LodgeError && failure.code === 'not_found') return null;
    throw failure;
  }
}
