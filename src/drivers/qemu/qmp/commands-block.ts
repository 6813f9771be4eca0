// The part of the command table about disks: nodes, media, jobs, snapshots, bitmaps and exports.
import { command, commandOf } from './command.ts';
import {
  alternate,
  any,
  array,
  boolean,
  enumeration,
  integer,
  object,
  oneOf,
  openObject,
  optional,
  string,
  union,
} from './shape.ts';

/** QAPI type JobStatus; the way from one to the next stands in QEMU's qapi/job.json. */
export const jobStatus = enumeration(
  'undefined',
  'created',
  'running',
  'paused',
  'ready',
  'standby',
  'waiting',
  'pending',
  'aborting',
  'concluded',
  'null',
);

export const jobType = enumeration(
  'commit',
  'stream',
  'mirror',
  'backup',
  'create',
  'amend',
  'snapshot-load',
  'snapshot-save',
  'snapshot-delete',
);

const ioStatus = enumeration('ok', 'failed', 'nospace');
const syncMode = enumeration('top', 'full', 'none', 'incremental', 'bitmap');
const onError = enumeration('report', 'ignore', 'enospc', 'stop', 'auto');

const imageInfo = object({
  filename: string,
  format: string,
  'actual-size': optional(integer),
  'virtual-size': integer,
  'cluster-size': optional(integer),
  encrypted: optional(boolean),
  'backing-filename': optional(string),
  'full-backing-filename': optional(string),
  'backing-filename-format': optional(string),
});

const blockDevice = object({
  file: string,
  'node-name': optional(string),
  ro: boolean,
  drv: string,
  backing_file: optional(string),
  backing_file_depth: integer,
  encrypted: boolean,
  image: imageInfo,
  cache: object({ writeback: boolean, direct: boolean, 'no-flush': boolean }),
  write_threshold: integer,
  'dirty-bitmaps': optional(
    array(
      object({
        name: optional(string),
        count: integer,
        granularity: integer,
        recording: boolean,
        busy: boolean,
        persistent: boolean,
        inconsistent: optional(boolean),
      }),
    ),
  ),
});

const backup = {
  'job-id': optional(string),
  device: string,
  target: string,
  sync: syncMode,
  speed: optional(integer),
  bitmap: optional(string),
  'bitmap-mode': optional(enumeration('on-success', 'never', 'always')),
  compress: optional(boolean),
  'on-source-error': optional(onError),
  'on-target-error': optional(onError),
  'auto-finalize': optional(boolean),
  'auto-dismiss': optional(boolean),
};
const bitmapAdd = {
  node: string,
  name: string,
  granularity: optional(integer),
  persistent: optional(boolean),
  disabled: optional(boolean),
};
const bitmapName = { node: string, name: string };
const bitmapMerge = {
  node: string,
  target: string,
  bitmaps: array(alternate(string, object(bitmapName))),
};
const snapshot = { node: string, overlay: string };

const exportAddress = union(
  'type',
  {},
  { unix: { path: string }, inet: { host: string, port: string }, fd: { str: string } },
);

/** Boundaries in nanoseconds; one more bin than boundaries. */
const latencyHistogram = object({ boundaries: array(integer), bins: array(integer) });

export const blockCommands = {
  // Nodes and media.
  'query-block': command(
    {},
    array(
      object({
        device: string,
        qdev: optional(string),
        type: string,
        removable: boolean,
        locked: boolean,
        inserted: optional(blockDevice),
        tray_open: optional(boolean),
        'io-status': optional(ioStatus),
      }),
    ),
  ),
  'query-named-block-nodes': command({ flat: optional(boolean) }, array(blockDevice)),
  'query-blockstats': command(
    { 'query-nodes': optional(boolean) },
    array(
      object({
        device: optional(string),
        qdev: optional(string),
        'node-name': optional(string),
        stats: object({
          rd_bytes: integer,
          wr_bytes: integer,
          unmap_bytes: integer,
          rd_operations: integer,
          wr_operations: integer,
          flush_operations: integer,
          unmap_operations: integer,
          rd_total_time_ns: integer,
          wr_total_time_ns: integer,
          flush_total_time_ns: integer,
          unmap_total_time_ns: integer,
          wr_highest_offset: integer,
          rd_merged: integer,
          wr_merged: integer,
          idle_time_ns: optional(integer),
          failed_rd_operations: integer,
          failed_wr_operations: integer,
          failed_flush_operations: integer,
          rd_latency_histogram: optional(latencyHistogram),
          wr_latency_histogram: optional(latencyHistogram),
          flush_latency_histogram: optional(latencyHistogram),
        }),
        // The same shape again for the node below; not described, because Lodge reads the devices' own numbers.
        parent: optional(any),
        backing: optional(any),
      }),
    ),
  ),
  'block-latency-histogram-set': command({ id: string, boundaries: optional(array(integer)) }),
  'blockdev-add': commandOf(openObject({ driver: string, 'node-name': optional(string) })),
  'blockdev-del': command({ 'node-name': string }),
  'blockdev-reopen': command({ options: array(openObject({ driver: string, 'node-name': optional(string) })) }),
  block_set_io_throttle: command({
    id: string,
    bps: integer,
    bps_rd: integer,
    bps_wr: integer,
    iops: integer,
    iops_rd: integer,
    iops_wr: integer,
    bps_max: optional(integer),
    bps_rd_max: optional(integer),
    bps_wr_max: optional(integer),
    iops_max: optional(integer),
    iops_rd_max: optional(integer),
    iops_wr_max: optional(integer),
    bps_max_length: optional(integer),
    bps_rd_max_length: optional(integer),
    bps_wr_max_length: optional(integer),
    iops_max_length: optional(integer),
    iops_rd_max_length: optional(integer),
    iops_wr_max_length: optional(integer),
  }),
  block_resize: command({ 'node-name': optional(string), size: integer }),
  'block-set-write-threshold': command({ 'node-name': string, 'write-threshold': integer }),
  'blockdev-open-tray': command({ id: optional(string), force: optional(boolean) }),
  'blockdev-close-tray': command({ id: optional(string) }),
  'blockdev-remove-medium': command({ id: string }),
  'blockdev-insert-medium': command({ id: string, 'node-name': string }),
  'blockdev-change-medium': command({
    id: optional(string),
    filename: string,
    format: optional(string),
    force: optional(boolean),
    'read-only-mode': optional(enumeration('retain', 'read-only', 'read-write')),
  }),
  eject: command({ id: optional(string), force: optional(boolean) }),

  // Jobs.
  'query-jobs': command(
    {},
    array(
      object({
        id: string,
        type: jobType,
        status: jobStatus,
        'current-progress': integer,
        'total-progress': integer,
        error: optional(string),
      }),
    ),
  ),
  'query-block-jobs': command(
    {},
    array(
      object({
        device: string,
        type: jobType,
        len: integer,
        offset: integer,
        busy: boolean,
        paused: boolean,
        speed: integer,
        'io-status': ioStatus,
        ready: boolean,
        status: jobStatus,
        'auto-finalize': boolean,
        'auto-dismiss': boolean,
        error: optional(string),
      }),
    ),
  ),
  'job-cancel': command({ id: string }),
  'job-complete': command({ id: string }),
  'job-finalize': command({ id: string }),
  'job-dismiss': command({ id: string }),
  'job-pause': command({ id: string }),
  'job-resume': command({ id: string }),
  'block-job-cancel': command({ device: string, force: optional(boolean) }),
  'block-job-set-speed': command({ device: string, speed: integer }),
  'blockdev-backup': command(backup),
  'blockdev-mirror': command({
    'job-id': optional(string),
    device: string,
    target: string,
    replaces: optional(string),
    sync: syncMode,
    speed: optional(integer),
    'on-source-error': optional(onError),
    'on-target-error': optional(onError),
    'copy-mode': optional(enumeration('background', 'write-blocking')),
    'auto-finalize': optional(boolean),
    'auto-dismiss': optional(boolean),
  }),
  'block-commit': command({
    'job-id': optional(string),
    device: string,
    'base-node': optional(string),
    'top-node': optional(string),
    'backing-file': optional(string),
    speed: optional(integer),
    'on-error': optional(onError),
    'auto-finalize': optional(boolean),
    'auto-dismiss': optional(boolean),
  }),
  'block-stream': command({
    'job-id': optional(string),
    device: string,
    'base-node': optional(string),
    'backing-file': optional(string),
    speed: optional(integer),
    'on-error': optional(onError),
    'auto-finalize': optional(boolean),
    'auto-dismiss': optional(boolean),
  }),

  // Snapshots and bitmaps.
  'blockdev-snapshot': command(snapshot),
  'snapshot-save': command({ 'job-id': string, tag: string, vmstate: string, devices: array(string) }),
  'snapshot-load': command({ 'job-id': string, tag: string, vmstate: string, devices: array(string) }),
  'snapshot-delete': command({ 'job-id': string, tag: string, devices: array(string) }),
  'block-dirty-bitmap-add': command(bitmapAdd),
  'block-dirty-bitmap-remove': command(bitmapName),
  'block-dirty-bitmap-clear': command(bitmapName),
  'block-dirty-bitmap-enable': command(bitmapName),
  'block-dirty-bitmap-disable': command(bitmapName),
  'block-dirty-bitmap-merge': command(bitmapMerge),
  transaction: command({
    actions: array(
      union(
        'type',
        {},
        {
          abort: { data: object({}) },
          'blockdev-snapshot': { data: object(snapshot) },
          'blockdev-backup': { data: object(backup) },
          'block-dirty-bitmap-add': { data: object(bitmapAdd) },
          'block-dirty-bitmap-remove': { data: object(bitmapName) },
          'block-dirty-bitmap-clear': { data: object(bitmapName) },
          'block-dirty-bitmap-enable': { data: object(bitmapName) },
          'block-dirty-bitmap-disable': { data: object(bitmapName) },
          'block-dirty-bitmap-merge': { data: object(bitmapMerge) },
        },
      ),
    ),
    properties: optional(object({ 'completion-mode': optional(enumeration('individual', 'grouped')) })),
  }),

  // Exports.
  'nbd-server-start': command({
    addr: union(
      'type',
      {},
      {
        unix: { data: object({ path: string }) },
        inet: { data: object({ host: string, port: string }) },
        fd: { data: object({ str: string }) },
      },
    ),
    'tls-creds': optional(string),
    'tls-authz': optional(string),
    'max-connections': optional(integer),
  }),
  'nbd-server-stop': command({}),
  'block-export-add': commandOf(
    union(
      'type',
      { id: string, 'node-name': string, writable: optional(boolean), iothread: optional(string) },
      {
        nbd: {
          name: optional(string),
          bitmaps: optional(array(alternate(string, object(bitmapName)))),
          'allocation-depth': optional(boolean),
        },
        'vhost-user-blk': { addr: exportAddress, 'num-queues': optional(integer) },
        fuse: {
          mountpoint: string,
          growable: optional(boolean),
          'allow-other': optional(oneOf('off', 'on', 'auto')),
        },
      },
    ),
  ),
  'block-export-del': command({ id: string, mode: optional(enumeration('safe', 'hard')) }),
  'query-block-exports': command(
    {},
    array(object({ id: string, type: string, 'node-name': string, 'shutting-down': boolean })),
  ),
};
