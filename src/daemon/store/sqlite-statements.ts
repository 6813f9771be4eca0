// The SQL of the SQLite store: one prepared statement for each thing it does, with typed rows.
import type { DatabaseSync, SQLInputValue } from 'node:sqlite';
import type { KeyValue, StoreEvent, WatchBatch } from './store.ts';

/** A row of `current`, or of `history`, where a NULL value marks a deletion. */
export interface Row {
  key: string;
  value: string | null;
  create_revision: number;
  mod_revision: number;
  version: number;
  lease: string | null;
}

/** A row with its place among the changes of its revision. */
export interface StoredRow extends Row {
  sub: number;
}

export interface RowRange {
  start: string;
  end: string;
  /** Only keys after this one; empty means no bound. */
  after: string;
}

export type Statements = ReturnType<typeof prepareStatements>;

const columns = 'key, value, create_revision, mod_revision, version, lease';
/** Rows of history that are read at once; bounds the memory and the pause that a late reader costs. */
const rowsPerRead = 1000;

/** What the store hands out for a row. */
export function toKeyValue(row: Row): KeyValue;
export function toKeyValue(row: Row | undefined): KeyValue | null;
export function toKeyValue(row: Row | undefined): KeyValue | null {
  if (!row || row.value === null) return null;
  return {
    key: row.key,
    value: row.value,
    createRevision: row.create_revision,
    modRevision: row.mod_revision,
    version: row.version,
    leaseId: row.lease,
  };
}

/** Prepares all statements of the store on an opened database. They do no checks and start no transaction. */
export function prepareStatements(database: DatabaseSync) {
  const prepare = (sql: string) => database.prepare(sql);
  const one = <T>(sql: string) => {
    const statement = prepare(sql);
    return (...values: SQLInputValue[]): T | undefined => statement.get(...values) as T | undefined;
  };
  const many = <T>(sql: string) => {
    const statement = prepare(sql);
    return (...values: SQLInputValue[]): T[] => statement.all(...values) as T[];
  };
  const change = (sql: string) => {
    const statement = prepare(sql);
    return (...values: SQLInputValue[]): void => void statement.run(...values);
  };

  const meta = one<{ value: number }>('SELECT value FROM meta WHERE name = ?');
  const putMeta = change('UPDATE meta SET value = ? WHERE name = ?');
  const get = one<StoredRow>(`SELECT ${columns}, sub FROM current WHERE key = ?`);
  const getAt = one<Row>(
    `SELECT ${columns} FROM current WHERE key = ?1 AND mod_revision <= ?2
     UNION ALL SELECT ${columns} FROM history
     WHERE key = ?1 AND mod_revision <= ?2 AND ended_revision > ?2 AND value IS NOT NULL`,
  );
  const list = many<Row>(
    `SELECT ${columns} FROM current WHERE key >= ?1 AND key > ?2 AND key < ?3 ORDER BY key LIMIT ?4`,
  );
  const listAt = many<Row>(
    `SELECT ${columns} FROM current
     WHERE key >= ?1 AND key > ?2 AND key < ?3 AND mod_revision <= ?5
     UNION ALL SELECT ${columns} FROM history
     WHERE key >= ?1 AND key > ?2 AND key < ?3
       AND mod_revision <= ?5 AND ended_revision > ?5 AND value IS NOT NULL
     ORDER BY key LIMIT ?4`,
  );
  const put = change(`INSERT INTO current (${columns}, sub) VALUES (?, ?, ?, ?, ?, ?, ?)`);
  const insertHistory = change(`INSERT INTO history (${columns}, sub, ended_revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`);
  const insertTombstone = change(
    `INSERT INTO history (${columns}, sub, ended_revision) VALUES (?1, NULL, 0, ?2, 0, NULL, ?3, ?2 + 1)`,
  );
  // The unary plus keeps SQLite from walking the keys and sorting: these are read in the order of revisions.
  const changed = (table: string) =>
    `SELECT ${columns}, sub FROM ${table} WHERE mod_revision BETWEEN ?3 AND ?4 AND +key >= ?1 AND +key < ?2`;
  const changes = many<Row>(
    `${changed('current')} UNION ALL ${changed('history')} ORDER BY mod_revision, sub LIMIT ?5`,
  );
  const insertLease = change('INSERT INTO lease VALUES (?, ?)');
  const deleteLease = change('DELETE FROM lease WHERE id = ?');
  const leases = many<{ id: string; ttl_ms: number }>('SELECT id, ttl_ms FROM lease');
  const lease = one<{ id: string }>('SELECT id FROM lease WHERE id = ?');
  const keysOfLease = many<{ key: string }>('SELECT key FROM current WHERE lease = ? ORDER BY key');

  return {
    readMeta: (name: 'revision' | 'compacted'): number => meta(name)?.value ?? 0,
    writeMeta: (name: 'revision' | 'compacted', value: number): void => putMeta(value, name),
    get,
    getAt,
    list: (range: RowRange, limit: number): Row[] => list(range.start, range.after, range.end, limit),
    listAt: (range: RowRange, revision: number, limit: number): Row[] =>
      listAt(range.start, range.after, range.end, limit, revision),
    put: (row: Row, sub: number): void =>
      put(row.key, row.value, row.create_revision, row.mod_revision, row.version, row.lease, sub),
    delete: change('DELETE FROM current WHERE key = ?'),
    insertHistory: (row: Row, sub: number, endedRevision: number): void =>
      insertHistory(
        row.key,
        row.value,
        row.create_revision,
        row.mod_revision,
        row.version,
        row.lease,
        sub,
        endedRevision,
      ),
    insertTombstone,
    deleteHistory: change('DELETE FROM history WHERE ended_revision <= ?'),
    insertLease: (granted: { id: string; ttlMs: number }): void => insertLease(granted.id, granted.ttlMs),
    deleteLease,
    hasLease: (id: string): boolean => lease(id) !== undefined,
    allLeases: () => leases().map(({ id, ttl_ms }) => ({ id, ttlMs: ttl_ms })),
    keysOfLease: (id: string): string[] => keysOfLease(id).map(({ key }) => key),

    /** What changed in a range of keys since a revision, in whole revisions; not all at once when it is much. Empty: nothing. */
    batchesFrom: (range: { start: string; end: string }, fromRevision: number): WatchBatch[] => {
      const { start, end } = range;
      let rows = changes(start, end, fromRevision, Number.MAX_SAFE_INTEGER, rowsPerRead);
      if (rows.length === rowsPerRead) {
        // The last revision may be cut: leave it for the next read, unless it is the only one.
        const last = rows.at(-1)?.mod_revision ?? 0;
        const whole = rows.filter((row) => row.mod_revision < last);
        rows = whole.length > 0 ? whole : changes(start, end, last, last, -1);
      }
      const batches: WatchBatch[] = [];
      for (const row of rows) {
        let batch = batches.at(-1);
        if (batch?.revision !== row.mod_revision) batches.push((batch = { revision: row.mod_revision, events: [] }));
        batch.events.push(toEvent(row));
      }
      return batches;
    },
  };
}

function toEvent(row: Row): StoreEvent {
  const current = toKeyValue(row);
  return current ? { type: 'put', key: row.key, current } : { type: 'delete', key: row.key };
}
