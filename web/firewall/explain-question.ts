// A question to the firewall as it stands in the address of the page: who connects to whom, and how. Pure.

/** What is asked; all of it as it was typed. */
export interface ExplainQuestion {
  from: string;
  to: string;
  protocol: string;
  /** Port, or ICMP type; empty: none. */
  detail: string;
  project: string;
}

export const explainProtocols = ['tcp', 'udp', 'icmp', 'icmpv6', 'sctp'] as const;

export function isIcmp(protocol: string): boolean {
  return protocol === 'icmp' || protocol === 'icmpv6';
}

/** The question that an address asks; what is missing in it is empty, or the default. */
export function questionOf(search: Readonly<Record<string, unknown>>): ExplainQuestion {
  const text = (name: string): string => {
    const value = search[name];
    return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
  };
  return {
    from: text('from'),
    to: text('to'),
    protocol: text('protocol') || 'tcp',
    detail: text('detail'),
    project: text('project') || 'default',
  };
}

/** What the daemon is asked; null: both ends are needed first. */
export function queryOf({ from, to, protocol, detail, project }: ExplainQuestion): {
  from: string;
  to: string;
  protocol: string;
  project: string;
  port?: string;
  icmpType?: string;
} | null {
  const ends = { from: from.trim(), to: to.trim() };
  if (ends.from === '' || ends.to === '') return null;
  const number = detail.trim();
  return {
    ...ends,
    protocol,
    project,
    ...(number === '' ? {} : isIcmp(protocol) ? { icmpType: number } : { port: number }),
  };
}

/** The command that asks the same. */
export function commandOf(question: ExplainQuestion): string {
  const query = queryOf(question);
  if (query === null) return '';
  const detail = question.detail.trim();
  const connection = detail === '' ? query.protocol : `${query.protocol}/${detail}`;
  const project = query.project === 'default' ? '' : ` --project ${query.project}`;
  return `lodge firewall explain ${query.from} ${query.to} ${connection}${project}`;
}
