// The SQLite file itself: creating, locking, checking and migrating it, and putting SQLite's errors into Lodge's.
//
// - The file is created whole (under another name, then renamed), so an empty or partial file is always damage.
// - It is held exclusively from opening to closing. The lock is the kernel's and ends with the process, so one that
//   died leaves nothing to clean up. POSIX locks are lost when the same process closes any descriptor of the file:
//   nothing else in the daemon may open it.
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { LodgeError } from '../../api/errors.ts';
import { StoreCorruptError, StoreFailedError, StoreFullError, StoreLockedError, StoreSchemaError } from './store.ts';

/** Marks the file as Lodge's ("LDGE"), as the file format of SQLite foresees. */
const applicationId = 0x4c444745;

/** Statements that bring the schema from one version to the next; the version is the number of those done. Only ever append. */
export const migrations: readonly string[] = [
  `CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
   INSERT INTO meta VALUES ('revision', 1), ('compacted', 0);
   CREATE TABLE current (
     key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, create_revision INTEGER NOT NULL,
     mod_revision INTEGER NOT NULL, sub INTEGER NOT NULL, version INTEGER NOT NULL, lease TEXT
   ) STRICT;
   CREATE INDEX current_by_revision ON current (mod_revision, sub);
   CREATE INDEX current_by_lease ON current (lease) WHERE lease IS NOT NULL;
   CREATE TABLE history (
     key TEXT NOT NULL, value TEXT, create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL,
     sub INTEGER NOT NULL, version INTEGER NOT NULL, lease TEXT, ended_revision INTEGER NOT NULL
   ) STRICT;
   CREATE INDEX history_by_key ON history (key, mod_revision);
   CREATE INDEX history_by_revision ON history (mod_revision, sub);
   CREATE INDEX history_by_end ON history (ended_revision);
   CREATE TABLE lease (id TEXT PRIMARY KEY, ttl_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;`,
];

/** Opens the database, creating it when there is none. Throws the errors of store.ts. */
export function openDatabase(
  file: string,
  options: { maxBytes: number; migrations?: readonly string[] },
): DatabaseSync {
  const steps = options.migrations ?? migrations;
  try {
    if (!existsSync(file)) createDatabase(file, steps);
    else if (statSync(file).size === 0) throw new StoreCorruptError(file, 'the file is empty');
    const database = connect(file);
    try {
      checkSoundness(database, file);
      migrate(database, file, steps);
      const pageSize = readPragma(database, 'page_size');
      database.exec(`PRAGMA max_page_count = ${Math.floor(options.maxBytes / pageSize)}`);
      return database;
    } catch (error) {
      database.close();
      throw error;
    }
  } catch (error) {
    throw translateError(error, file);
  }
}

function connect(file: string): DatabaseSync {
  const database = new DatabaseSync(file);
  try {
    // Exclusive before the first access in WAL mode: then SQLite needs no shared memory file beside the database.
    database.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;');
    database.exec('PRAGMA journal_size_limit = 67108864; PRAGMA trusted_schema = OFF;');
    // Locks are taken with the first write transaction, and then kept.
    database.exec('BEGIN EXCLUSIVE; COMMIT;');
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

function createDatabase(file: string, steps: readonly string[]): void {
  const wal = `${file}-wal`;
  if (existsSync(wal) && statSync(wal).size > 0) {
    throw new StoreCorruptError(file, `it is missing, but its log ${wal} is there`);
  }
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  const unfinished = `${file}.new-${process.pid}`;
  for (const suffix of ['', '-wal', '-journal']) rmSync(unfinished + suffix, { force: true });
  // Made by hand so that nobody else may read it from the first moment on; SQLite gives its log the same mode.
  closeSync(openSync(unfinished, 'wx', 0o600));
  try {
    const database = connect(unfinished);
    try {
      database.exec(`PRAGMA application_id = ${applicationId}`);
      migrate(database, unfinished, steps);
    } finally {
      database.close();
    }
    renameSync(unfinished, file);
  } catch (error) {
    for (const suffix of ['', '-wal', '-journal']) rmSync(unfinished + suffix, { force: true });
    throw error;
  }
  const folder = openSync(path.dirname(file), 'r');
  fsyncSync(folder);
  closeSync(folder);
}

function checkSoundness(database: DatabaseSync, file: string): void {
  if (readPragma(database, 'application_id') !== applicationId) {
    throw new StoreCorruptError(file, 'it is a database, but not one of Lodge');
  }
  const problem = String(Object.values(database.prepare('PRAGMA quick_check(1)').get() ?? {})[0]);
  if (problem !== 'ok') throw new StoreCorruptError(file, problem.replaceAll(/\s+/g, ' ').slice(0, 300));
}

function migrate(database: DatabaseSync, file: string, steps: readonly string[]): void {
  const version = readPragma(database, 'user_version');
  if (version > steps.length) throw new StoreSchemaError(file, version, steps.length);
  for (let next = version; next < steps.length; next++) {
    database.exec('BEGIN EXCLUSIVE');
    try {
      database.exec(`${steps[next]}; PRAGMA user_version = ${next + 1};`);
      database.exec('COMMIT');
    } catch (error) {
      if (database.isTransaction) database.exec('ROLLBACK');
      throw error;
    }
  }
}

function readPragma(database: DatabaseSync, name: 'application_id' | 'user_version' | 'page_size'): number {
  return Number(Object.values(database.prepare(`PRAGMA ${name}`).get() ?? {})[0]);
}

/** SQLite's error as one of store.ts; anything else as it is. Codes: https://sqlite.org/rescode.html */
export function translateError(error: unknown, file: string): unknown {
  if (error instanceof LodgeError || !(error instanceof Error)) return error;
  if ('errcode' in error && typeof error.errcode === 'number') {
    switch (error.errcode & 0xff) {
      case 5: // SQLITE_BUSY
      case 6: // SQLITE_LOCKED
        return new StoreLockedError(file, findHolder(file));
      case 11: // SQLITE_CORRUPT
      case 26: // SQLITE_NOTADB
        return new StoreCorruptError(file, error.message, error);
      case 13: // SQLITE_FULL
        return new StoreFullError(`the database ${file} or its file system`, error);
      default:
        return new StoreFailedError(`the database ${file} failed: ${error.message}`, error);
    }
  }
  if ('code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')) {
    return new StoreFullError(`the file system of ${file}`, error);
  }
  return new StoreFailedError(`the database ${file} can not be opened: ${error.message}`, error);
}

/** Who holds the lock, from the kernel's table (`man 5 proc_locks`); without it, a general word. */
function findHolder(file: string): string {
  try {
    const { ino } = statSync(file);
    for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
      const fields = line.trim().split(/\s+/);
      if (fields[5]?.endsWith(`:${ino}`) && fields[3] === 'WRITE') return `process ${fields[4]}`;
    }
  } catch {
    // Without /proc the message is only less precise.
  }
  return 'another process';
}
