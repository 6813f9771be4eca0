// Images: what disks and guests are made from. Built here, imported from files and addresses, or uploaded.
import * as z from 'zod';
import { creation, inProject, listQuery, metadata, page, update } from './object.ts';
import { bytes, route, type RouteTable } from './route.ts';
import { task } from './task.ts';

/** Images that Lodge builds from the distribution's packages. */
export const imageRecipe = z.enum(['tiny', 'tiny-pc', 'debian-12', 'debian-13']);
export type ImageRecipe = z.output<typeof imageRecipe>;

export const checksum = z
  .string()
  .regex(
    /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/,
    'is sha256: and 64, or sha512: and 128, lower-case hexadecimal digits',
  )
  .describe('sha256:… or sha512:…, of the data as it comes from the source');

export const importFormat = z
  .enum(['qcow2', 'raw', 'vmdk', 'vdi', 'vhdx', 'vpc', 'iso'])
  .describe('What the source is. Told from its content; only a raw disk without a partition table has to be named')
  .meta({ id: 'ImportFormat' });

export const imageSource = z
  .discriminatedUnion('type', [
    z.strictObject({ type: z.literal('build'), recipe: imageRecipe }).describe('Built on the node'),
    z
      .strictObject({
        type: z.literal('url'),
        url: z
          .url({ protocol: /^https?$/ })
          .max(4096)
          .describe('http or https'),
        checksum: checksum.optional(),
        format: importFormat.optional(),
      })
      .describe('Downloaded, with resume'),
    z
      .strictObject({
        type: z.literal('file'),
        path: z
          .string()
          .max(4096)
          .regex(/^\/[^\0\n]*$/, 'is an absolute path')
          .describe('Absolute path on the node'),
        checksum: checksum.optional(),
        format: importFormat.optional(),
      })
      .describe('Copied from a file on the node'),
    z
      .strictObject({ type: z.literal('upload'), checksum: checksum.optional(), format: importFormat.optional() })
      .describe('Sent with PUT /v1/images/{image}/content'),
  ])
  .meta({ id: 'ImageSource' });

export const operatingSystemKind = z.enum(['linux', 'windows', 'bsd', 'other']);

export const imageSpec = z
  .strictObject({
    description: z.string().max(1000).default(''),
    source: imageSource,
    os: operatingSystemKind.default('linux'),
    minMemoryMib: z
      .int()
      .min(0)
      .max(16_777_216)
      .default(0)
      .describe('A VM of this image needs at least this much, MiB'),
  })
  .meta({ id: 'ImageSpec' });
export type ImageSpec = z.output<typeof imageSpec>;

export const imageStatus = z
  .object({
    state: z.enum(['pending', 'waiting-for-upload', 'importing', 'ready', 'failed', 'deleting']),
    reason: z.string().describe('Why it is in this state'),
    kind: z
      .enum(['disk', 'iso', 'kernel'])
      .nullable()
      .describe('disk: bootable disk; iso: CD-ROM; kernel: kernel and initramfs for direct boot'),
    firmware: z.array(z.enum(['bios', 'uefi', 'direct'])).describe('Ways it is known to boot'),
    format: z.enum(['qcow2', 'raw']).nullable().describe('As it is stored'),
    virtualSizeMib: z.int().nullable().describe('Size a disk made from it has at least'),
    sizeBytes: z.int().nullable().describe('Space it takes on the node'),
    checksum: z.string().nullable().describe('sha256 of the stored file'),
    hasAgent: z.boolean().describe('A guest agent is known to be installed'),
    hasCloudInit: z.boolean(),
    minMemoryMib: z.int(),
    version: z.string().nullable(),
    commandLine: z.string().nullable().describe('Kernel command line of an image for direct boot'),
    usedBy: z.array(z.string()).describe('Names of volumes and VMs that need it'),
  })
  .meta({ id: 'ImageStatus' });
export type ImageStatus = z.output<typeof imageStatus>;

export const image = z.object({ ...metadata, spec: imageSpec, status: imageStatus }).meta({ id: 'Image' });
export type Image = z.output<typeof image>;

export const imageRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/images',
    tag: 'images',
    summary: 'List images',
    permission: 'image.read',
    query: listQuery,
    response: page('ImagePage', image),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/images',
    tag: 'images',
    summary: 'Build or import an image',
    permission: 'image.create',
    body: creation('ImageCreate', imageSpec),
    status: 202,
    response: task,
    errors: ['name_taken', 'idempotency_conflict'],
    isIdempotentByKey: true,
  }),
  get: route({
    method: 'GET',
    path: '/v1/images/{image}',
    tag: 'images',
    summary: 'Read an image',
    permission: 'image.read',
    query: inProject,
    response: image,
    errors: ['not_found'],
  }),
  update: route({
    method: 'PUT',
    path: '/v1/images/{image}',
    tag: 'images',
    summary: 'Change labels, description and hints of an image',
    description: 'The source can not be changed.',
    permission: 'image.update',
    query: inProject,
    body: update('ImageUpdate', imageSpec),
    response: image,
    errors: ['not_found', 'revision_conflict'],
  }),
  upload: route({
    method: 'PUT',
    path: '/v1/images/{image}/content',
    tag: 'images',
    summary: 'Send the content of an image whose source is an upload',
    permission: 'image.create',
    query: inProject,
    body: bytes(
      'application/octet-stream',
      'qcow2, raw, vmdk, vdi, vhdx, vpc or ISO; may be compressed with gzip, xz or zstd',
    ),
    status: 202,
    response: task,
    errors: ['not_found', 'wrong_state', 'storage_full', 'checksum_mismatch', 'image_invalid'],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/images/{image}',
    tag: 'images',
    summary: 'Delete an image that nothing uses',
    permission: 'image.delete',
    query: inProject,
    status: 202,
    response: task,
    errors: ['not_found', 'in_use', 'busy'],
  }),
} as const satisfies RouteTable;
