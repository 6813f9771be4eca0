// Routes of events.
import { type NounHandlers } from '../../api/contract.ts';
import { event } from '../../api/event.ts';
import { type ByteSource, type Caller, type RequestContext } from '../http/context.ts';
import { lister } from '../store/list-page.ts';
import { type Store } from '../store/store.ts';
import { parseKinds, streamChanges, type ChangeSource } from './change-stream.ts';
import { type EventService } from './event-service.ts';

export function eventHandlers(parts: {
  store: Store;
  events: EventService;
  /** What is streamed, as this caller may see it. */
  sources: (caller: Caller) => readonly ChangeSource[];
}): NounHandlers<'event', RequestContext, ByteSource> {
  const list = lister(event, { all: () => parts.events.all(), revision: () => parts.events.revision }, { sort: '-id' });
  return {
    list: async ({ query }) => list(query),
    stream: async ({ query }, { caller, signal }) =>
      streamChanges(parts.store, parts.sources(caller), { since: query.since, kinds: parseKinds(query.kinds), signal }),
  };
}
