// Whether who asks has the answer already: conditional requests of RFC 9110, by entity tag.

/** Whether an If-None-Match names this tag, which stands in quotation marks (RFC 9110, 13.1.2). */
export function namesTag(header: string | undefined, tag: string): boolean {
  if (header === undefined) return false;
  return header.split(',').some((one) => {
    const named = one.trim().replace(/^W\//, '');
    return named === '*' || named === tag;
  });
}
