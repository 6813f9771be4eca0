// Waiting for many works at once without waiting for those that hang.

/**
 * Waits for all works, but not for those that are left when none has ended for `quietMs`; answers with these. A machine
 * that is only busy goes on ending one after the other. Works with `isWaitedFor` are waited for however long they take.
 */
export async function unlessSlow<Key>(
  works: readonly { key: Key; work: Promise<void>; isWaitedFor: boolean }[],
  quietMs: number,
): Promise<{ key: Key; work: Promise<void> }[]> {
  const open = new Set(works);
  const quiet = Promise.withResolvers<void>();
  let timer = setTimeout(quiet.resolve, quietMs);
  let hasReturned = false;
  const all = Promise.all(
    works.map(async (each) => {
      await each.work;
      open.delete(each);
      if (hasReturned) return;
      clearTimeout(timer);
      timer = setTimeout(quiet.resolve, quietMs);
    }),
  );
  try {
    await Promise.race([all, quiet.promise]);
    await Promise.all(works.filter(({ isWaitedFor }) => isWaitedFor).map(({ work }) => work));
  } finally {
    clearTimeout(timer);
    hasReturned = true;
  }
  // Whoever is left is heard by the caller.
  all.catch(() => {});
  return [...open];
}
