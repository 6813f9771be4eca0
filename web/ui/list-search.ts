// What a list is asked for, as it stands in the address of its page.

export interface ListSearch {
  q?: string;
  selector?: string;
  filter?: string;
  sort?: string;
}

/** What of an address's query belongs to a list. */
export function listSearch(search: Record<string, unknown>): ListSearch {
  const text = (name: string): Record<string, string> =>
    typeof search[name] === 'string' && search[name] !== '' ? { [name]: search[name] } : {};
  return { ...text('q'), ...text('selector'), ...text('filter'), ...text('sort') };
}
