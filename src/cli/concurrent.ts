// Does something for many things, a few at once, results in the order of the things.

/** Maps with at most `limit` calls under way; the first failure is thrown when those under way have ended. */
export async function mapConcurrently<Item, Result>(
  items: readonly Item[],
  limit: number,
  each: (item: Item, index: number) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  let next = 0;
  let failure: { reason: unknown } | null = null;
  const worker = async (): Promise<void> => {
    while (next < items.length && failure === null) {
      const index = next;
      next += 1;
      try {
        results[index] = await each(items[index] as Item, index);
      } catch (reason) {
        failure ??= { reason };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, worker));
  if (failure !== null) throw (failure as { reason: unknown }).reason;
  return results;
}
