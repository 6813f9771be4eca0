// Tickets for consoles: a browser can't send credentials with a WebSocket, so it first gets a secret that is good for
// one connection within a minute. Tickets live in memory: after a restart of the daemon there is nothing they could open.
import { randomBytes } from 'node:crypto';
import { LodgeError } from '../../api/errors.ts';

export interface ConsoleTicketContent {
  vmId: string;
  type: 'serial' | 'vnc';
  /** Who asked for it, for the log. */
  caller: string;
}

const lifetimeMs = 60_000;
/** More are not kept at once; who needs more leaves the oldest unused. */
const maxTickets = 10_000;

export class ConsoleTickets {
  readonly #tickets = new Map<string, ConsoleTicketContent & { expiresAt: number }>();
  readonly #now: () => number;

  constructor(now: () => number = Date.now) {
    this.#now = now;
  }

  issue(content: ConsoleTicketContent): { ticket: string; expiresAt: Date } {
    this.#removeExpired();
    if (this.#tickets.size >= maxTickets) this.#tickets.delete(this.#tickets.keys().next().value!);
    const ticket = randomBytes(32).toString('base64url');
    const expiresAt = this.#now() + lifetimeMs;
    this.#tickets.set(ticket, { ...content, expiresAt });
    return { ticket, expiresAt: new Date(expiresAt) };
  }

  /** Uses a ticket up. */
  redeem(ticket: string): ConsoleTicketContent {
    const found = this.#tickets.get(ticket);
    this.#tickets.delete(ticket);
    if (!found || found.expiresAt <= this.#now()) {
      throw new LodgeError('not_found', 'The console ticket is unknown, was used already, or has expired.', {
        hint: 'Ask for a new one: POST /v1/vms/{vm}/console-tickets.',
      });
    }
    return found;
  }

  #removeExpired(): void {
    // Tickets all live equally long, so they expire in the order they were issued.
    for (const [ticket, { expiresAt }] of this.#tickets) {
      if (expiresAt > this.#now()) return;
      this.#tickets.delete(ticket);
    }
  }
}
