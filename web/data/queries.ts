// What was read from the daemon, kept by TanStack Query. Keys are [kind, 'list', query] and [kind, 'one', name], so that the
// event stream (live.ts) knows what a change of an object is to be written into.
import { QueryCache, QueryClient, MutationCache } from '@tanstack/react-query';
import { LodgeError } from '../../src/api/errors.ts';
import { noteFailure } from './client.ts';

/** Errors that the same request meets again. */
function isLasting(failure: unknown): boolean {
  return failure instanceof LodgeError && !['unavailable', 'timeout', 'rate_limited'].includes(failure.code);
}

export const queryClient = new QueryClient({
  queryCache: new QueryCache({ onError: noteFailure }),
  mutationCache: new MutationCache({ onError: noteFailure }),
  defaultOptions: {
    queries: {
      // The event stream tells what has changed.
      staleTime: 30_000,
      refetchOnWindowFocus: false,
      retry: (count, failure) => !isLasting(failure) && count < 3,
      retryDelay: (attempt) => Math.min(500 * 2 ** attempt, 5000),
      networkMode: 'always',
    },
    mutations: { networkMode: 'always' },
  },
});
