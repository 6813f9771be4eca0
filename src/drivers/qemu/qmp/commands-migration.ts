// The part of the command table about migration, which also carries saving, restoring and forking of a VM's state.
import { command } from './command.ts';
import {
  alternate,
  array,
  boolean,
  enumeration,
  integer,
  nothing,
  number,
  object,
  oneOf,
  optional,
  string,
  union,
} from './shape.ts';

/** QAPI type MigrationStatus. */
export const migrationStatus = enumeration(
  'none',
  'setup',
  'cancelling',
  'cancelled',
  'active',
  'postcopy-active',
  'postcopy-paused',
  'postcopy-recover-setup',
  'postcopy-recover',
  'completed',
  'failed',
  'colo',
  'pre-switchover',
  'device',
  'wait-unplug',
);

const capability = oneOf(
  'xbzrle',
  'auto-converge',
  'events',
  'postcopy-ram',
  'release-ram',
  'return-path',
  'pause-before-switchover',
  'multifd',
  'dirty-bitmaps',
  'late-block-activate',
  'x-ignore-shared',
  'validate-uuid',
  'background-snapshot',
  'zero-copy-send',
  'postcopy-preempt',
  'switchover-ack',
  'mapped-ram',
);

const channel = object({
  'channel-type': oneOf('main', 'cpr'),
  addr: union(
    'transport',
    {},
    {
      // A socket's address is a union inside the union: `unix` takes path, `inet` host and port, `fd` str.
      socket: {
        type: oneOf('unix', 'inet', 'fd'),
        path: optional(string),
        host: optional(string),
        port: optional(string),
        str: optional(string),
      },
      file: { filename: string, offset: integer },
      exec: { args: array(string) },
    },
  ),
});

const stringOrNull = alternate(string, nothing);

export const migrationCommands = {
  migrate: command({
    uri: optional(string),
    channels: optional(array(channel)),
    resume: optional(boolean),
  }),
  'migrate-incoming': command({
    uri: optional(string),
    channels: optional(array(channel)),
    'exit-on-error': optional(boolean),
  }),
  migrate_cancel: command({}),
  'migrate-continue': command({ state: migrationStatus }),
  'migrate-start-postcopy': command({}),
  'migrate-pause': command({}, undefined, { allowsOutOfBand: true }),
  'migrate-recover': command({ uri: string }, undefined, { allowsOutOfBand: true }),
  'migrate-set-capabilities': command({
    capabilities: array(object({ capability, state: boolean })),
  }),
  'query-migrate-capabilities': command({}, array(object({ capability: string, state: boolean }))),
  'migrate-set-parameters': command({
    'announce-initial': optional(integer),
    'announce-max': optional(integer),
    'announce-rounds': optional(integer),
    'announce-step': optional(integer),
    'throttle-trigger-threshold': optional(integer),
    'cpu-throttle-initial': optional(integer),
    'cpu-throttle-increment': optional(integer),
    'max-cpu-throttle': optional(integer),
    'tls-creds': optional(stringOrNull),
    'tls-hostname': optional(stringOrNull),
    'tls-authz': optional(stringOrNull),
    'max-bandwidth': optional(integer),
    'avail-switchover-bandwidth': optional(integer),
    'downtime-limit': optional(integer),
    'max-postcopy-bandwidth': optional(integer),
    'multifd-channels': optional(integer),
    'multifd-compression': optional(oneOf('none', 'zlib', 'zstd')),
    'multifd-zstd-level': optional(integer),
    mode: optional(oneOf('normal', 'cpr-reboot', 'cpr-transfer')),
    'direct-io': optional(boolean),
    'block-bitmap-mapping': optional(
      array(
        object({
          'node-name': string,
          alias: string,
          bitmaps: array(object({ name: string, alias: string })),
        }),
      ),
    ),
  }),
  'query-migrate-parameters': command(
    {},
    object({
      'max-bandwidth': optional(integer),
      'downtime-limit': optional(integer),
      'multifd-channels': optional(integer),
      'tls-creds': optional(string),
      'tls-hostname': optional(string),
    }),
  ),
  'query-migrate': command(
    {},
    object({
      status: optional(migrationStatus),
      ram: optional(
        object({
          transferred: integer,
          remaining: integer,
          total: integer,
          duplicate: integer,
          normal: integer,
          'normal-bytes': integer,
          'dirty-pages-rate': integer,
          mbps: number,
          'dirty-sync-count': integer,
          'page-size': integer,
          'multifd-bytes': integer,
          'precopy-bytes': integer,
          'downtime-bytes': integer,
          'postcopy-bytes': integer,
        }),
      ),
      'total-time': optional(integer),
      'expected-downtime': optional(integer),
      downtime: optional(integer),
      'setup-time': optional(integer),
      'cpu-throttle-percentage': optional(integer),
      'error-desc': optional(string),
      'blocked-reasons': optional(array(string)),
    }),
  ),
  yank: command(
    {
      instances: array(
        union('type', {}, { 'block-node': { 'node-name': string }, chardev: { id: string }, migration: {} }),
      ),
    },
    undefined,
    { allowsOutOfBand: true },
  ),
};
