// The record of what happened. Events are kept in the store, the newest ones only; recording one never fails the
// operation that reports it.
import { uuidv7 } from 'uuidv7';
import { type Event } from '../../api/event.ts';
import { type Subject } from '../../api/object.ts';
import { type Store } from '../store/store.ts';
import { type Log } from '../store/informer.ts';

export interface NewEvent {
  type: string;
  severity?: Event['severity'];
  subject: Subject;
  message: string;
  details?: Record<string, unknown>;
}

/** Events kept; when there are more, the oldest tenth is removed. */
const maxEvents = 10_000;

const prefix = '/lodge/events/';

export class EventService {
  readonly #store: Store;
  readonly #log: Log;
  /** Newest last. */
  #events: Event[] = [];
  readonly #byId = new Map<string, Event>();
  #revision = 0;

  constructor(store: Store, log: Log) {
    this.#store = store;
    this.#log = log;
  }

  /** Reads what was kept. */
  async load(): Promise<void> {
    let after: string | undefined;
    for (;;) {
      const page = await this.#store.list({ prefix, limit: 1000, ...(after === undefined ? {} : { after }) });
      for (const { value } of page.items) this.#add(JSON.parse(value) as Event);
      this.#revision = page.revision;
      if (!page.next) break;
      after = page.next;
    }
  }

  /** Store revision of the last event. */
  get revision(): number {
    return this.#revision;
  }

  /** All kept events, oldest first. */
  all(): readonly Event[] {
    return this.#events;
  }

  get(id: string): Event | null {
    return this.#byId.get(id) ?? null;
  }

  async record(given: NewEvent): Promise<void> {
    const event: Event = {
      id: uuidv7(),
      at: new Date().toISOString(),
      severity: 'info',
      details: {},
      project: given.subject.project,
      ...given,
    };
    try {
      this.#add(event);
      const { revision } = await this.#store.transact({
        success: [{ put: prefix + event.id, value: JSON.stringify(event) }],
      });
      this.#revision = revision;
      if (this.#events.length > maxEvents) await this.#trim();
    } catch (error) {
      this.#log.warn({ err: error, event }, 'an event could not be recorded');
    }
  }

  #add(event: Event): void {
    this.#events.push(event);
    this.#byId.set(event.id, event);
  }

  async #trim(): Promise<void> {
    const removed = this.#events.slice(0, Math.floor(maxEvents / 10));
    this.#events = this.#events.slice(removed.length);
    for (const event of removed) this.#byId.delete(event.id);
    for (let start = 0; start < removed.length; start += 100) {
      const keys = removed.slice(start, start + 100).map((event) => prefix + event.id);
      await this.#store.transact({ success: keys.map((key) => ({ delete: key })) });
    }
  }
}
