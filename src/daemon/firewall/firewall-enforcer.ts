// Keeps the kernel's filter of NICs in step with what was written, and as it should be.
//
//   something changed ─▶ planned ─▶ applied: one transaction with what differs ─▶ status
//   every checkIntervalMs ─▶ read back ─▶ differs: replaced as a whole, with an event that says what was wrong
//
// Invariants:
// - One application at a time; whoever asks while one is under way gets the next one, which has everything.
// - A NIC's port is filtered before it is made: whoever makes one asks `guard` first.
// - Where rules can't be enforced, a NIC with rules gets no port, and a change of rules is refused. A guard against
//   spoofing that can't be loaded is a problem that is shown, and no more: guests had none before either.
// - The filter is the kernel's: it goes on as it is while the daemon is down.
import { LodgeError } from '../../api/errors.ts';
import { type FirewallStatus } from '../../api/firewall.ts';
import { type Subject } from '../../api/object.ts';
import { buildRuleset, type FilterMethod, type Ruleset } from '../../host/firewall/filter-ruleset.ts';
import {
  chooseMethod,
  countsOfLink,
  emptyRuleset,
  FilterTables,
  followBridges,
} from '../../host/firewall/filter-tables.ts';
import { hasRules } from '../../host/firewall/nic-filter.ts';
import { type NetworkScope } from '../../host/network/netns.ts';
import { type EventService } from '../event/event-service.ts';
import { describeHostProblem } from '../network/host-problem.ts';
import { type Log } from '../store/informer.ts';
import { effectiveNics, filterPlan, type FirewallWorld, type NicRules } from './effective-rules.ts';
import { type RuleCounts } from './explain.ts';
import { type FirewallEnforcement } from './firewall-service.ts';

export interface FirewallEnforcerParts {
  instance: string;
  world: () => FirewallWorld;
  events: EventService;
  log: Log;
  /** What events of the firewall are about. */
  subject: () => Subject;
  checkIntervalMs: number;
  scope?: NetworkScope;
}

/** Should networks not come up, rules are enforced all the same. */
const longestBeginMs = 60_000;

type Method = { method: FilterMethod | 'none'; reason: string };

export class FirewallEnforcer implements FirewallEnforcement {
  readonly #parts: FirewallEnforcerParts;
  readonly #tables: FilterTables;
  #ruleset: Ruleset = emptyRuleset;
  #method: Method | null = null;
  #running: Promise<void> = Promise.resolve();
  #next: Promise<void> | null = null;
  #planned: NodeJS.Timeout | null = null;
  #timer: NodeJS.Timeout | null = null;
  #isClosed = false;
  #begin: () => void = () => {};
  /** Before it, who has which address is not known, and what is loaded is that of the daemon before. */
  readonly #begun: Promise<void>;
  #nicCount = 0;
  #problems: string[] = [];
  #failure: string | null = null;

  constructor(parts: FirewallEnforcerParts) {
    this.#parts = parts;
    this.#tables = new FilterTables(parts.instance, parts.scope);
    this.#begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
  }

  /** Takes over what an earlier daemon has left, and begins to keep it as it should be. */
  async start(hasRebooted: boolean): Promise<void> {
    await this.#queue(() => this.#check(hasRebooted ? null : 'repaired')).catch((error: unknown) => this.#warn(error));
    this.#begin();
    if (this.#isClosed) return;
    this.#timer = setInterval(() => {
      void this.#queue(() => this.#check('repaired')).catch((error: unknown) => this.#warn(error));
    }, this.#parts.checkIntervalMs).unref();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#begin();
    if (this.#timer) clearInterval(this.#timer);
    if (this.#planned) clearTimeout(this.#planned);
    await this.#running.catch(() => {});
  }

  status(): Pick<FirewallStatus, 'state' | 'reason' | 'method' | 'nicCount' | 'problems'> {
    const method = this.#method?.method ?? 'none';
    const nicCount = this.#nicCount;
    const problems = [...this.#problems];
    if (this.#failure !== null)
      return { state: 'failed', reason: this.#failure, method, nicCount, problems: [this.#failure, ...problems] };
    if (nicCount === 0) return { state: 'idle', reason: 'There is no NIC to be filtered.', method, nicCount, problems };
    const how = this.#method?.reason ?? 'No NIC has rules; senders’ addresses are checked.';
    if (problems.length > 0) return { state: 'degraded', reason: problems[0]!, method, nicCount, problems };
    return { state: 'enforcing', reason: how, method, nicCount, problems };
  }

  /** Ends when everything that was written before is enforced. */
  apply(): Promise<void> {
    this.#next ??= this.#afterBegin().then(() =>
      this.#queue(() => {
        this.#next = null;
        return this.#apply();
      }),
    );
    return this.#next;
  }

  /** Soon, many changes at once. What fails is shown, and tried again at the next look. */
  plan(): void {
    if (this.#planned !== null || this.#isClosed) return;
    this.#planned = setTimeout(() => {
      this.#planned = null;
      this.apply().catch((error: unknown) => this.#warn(error));
    }, 5);
  }

  /** Ends when a NIC that is to be connected is filtered; refuses one whose rules can't be enforced. */
  async guard(vmId: string, mac: string): Promise<void> {
    try {
      await this.apply();
    } catch (error) {
      const nic = effectiveNics(this.#parts.world()).find((one) => one.vm.id === vmId && one.mac === mac);
      if (nic && nic.unfiltered === null && hasRules(nic)) throw error;
      this.#warn(error);
    }
  }

  async counters(links: readonly string[]): Promise<Map<string, RuleCounts>> {
    const found = new Map<string, RuleCounts>();
    // Between applications: what is read belongs to the ruleset that is known.
    await this.#queue(async () => {
      try {
        const counters = await this.#tables.counters();
        for (const link of links) {
          const counts = countsOfLink(this.#ruleset, link, counters);
          if (counts) found.set(link, counts);
        }
      } catch (error) {
        throw describeFirewallProblem(error);
      }
    });
    return found;
  }

  async #afterBegin(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, longestBeginMs).unref();
    });
    await Promise.race([this.#begun, late]);
    clearTimeout(timer);
  }

  #queue(work: () => Promise<void>): Promise<void> {
    const done = this.#running.then(work, work);
    this.#running = done.catch(() => {});
    return done;
  }

  async #apply(): Promise<void> {
    try {
      this.#ruleset = await this.#build();
      await this.#tables.load(this.#ruleset);
      this.#failure = null;
    } catch (error) {
      const problem = describeFirewallProblem(error);
      this.#failure = problem.message;
      throw problem;
    }
  }

  /** Compares the kernel with what should be, and puts it right. `report`: tells what was wrong. */
  async #check(report: 'repaired' | null): Promise<void> {
    if (this.#isClosed) return;
    const { events, subject } = this.#parts;
    const wasFailed = this.#failure !== null;
    try {
      const isFirst = this.#timer === null;
      const wanted = await this.#build();
      // What was loaded last is compared: what has changed since is not yet loaded for a good reason.
      const differences = await this.#tables.observe(isFirst ? wanted : this.#ruleset);
      this.#ruleset = wanted;
      const isLoaded = await this.#tables.load(wanted);
      this.#failure = null;
      if (!isLoaded || differences.length === 0 || report === null || wasFailed) return;
      if (isFirst && !this.#isWrongAtStart(differences)) return;
      await events.record({
        type: 'firewall.repaired',
        severity: 'warning',
        subject: subject(),
        message: `The filter of guests’ NICs was not as it should be and has been repaired: ${differences.slice(0, 5).join('; ')}${differences.length > 5 ? `; and ${differences.length - 5} more` : ''}.`,
        details: { changes: differences.slice(0, 100) },
      });
    } catch (error) {
      const problem = describeFirewallProblem(error);
      if (this.#failure !== problem.message)
        await events.record({
          type: 'firewall.failed',
          severity: 'error',
          subject: subject(),
          message: `The filter of guests’ NICs is not as it should be: ${problem.message}`,
        });
      this.#failure = problem.message;
      throw problem;
    }
  }

  /** At the start, who has which address may have changed while no daemon ran; that tables are gone under guests is wrong. */
  #isWrongAtStart(differences: readonly string[]): boolean {
    const isUp = this.#parts.world().vms.some(({ status }) => status.startedSpec !== null);
    return isUp && differences.some((one) => one.startsWith('the table '));
  }

  async #build(): Promise<Ruleset> {
    const { instance, world, scope } = this.#parts;
    const now = world();
    const nics = effectiveNics(now);
    const plan = filterPlan(now, nics);
    const filtered = plan.nics.filter((nic) => hasRules(nic));
    this.#nicCount = plan.nics.filter((nic) => nic.guard !== null || hasRules(nic)).length;
    this.#problems = problemsOf(nics);
    if (this.#nicCount === 0) return emptyRuleset;
    let method: FilterMethod | 'none' = 'none';
    const bridges: string[] = [];
    if (filtered.length > 0) {
      this.#method ??= await chooseMethod(instance, scope);
      ({ method } = this.#method);
      if (method === 'none') {
        const { reason } = this.#method;
        this.#method = null;
        throw new LodgeError('unsupported', `Rules of security groups can not be enforced here. ${reason}`);
      }
      const links = new Set(filtered.map(({ link }) => link));
      for (const { network, link } of nics) {
        const bridge = network?.status.bridge;
        if (bridge && link !== null && links.has(link) && !bridges.includes(bridge)) bridges.push(bridge);
      }
      bridges.sort();
      if (method === 'br-netfilter') await followBridges(bridges, scope);
    }
    return buildRuleset(plan, { method, bridges });
  }

  #warn(error: unknown): void {
    if (!this.#isClosed) this.#parts.log.warn({ err: error }, 'the filter of NICs could not be brought in step');
  }
}

function problemsOf(nics: readonly NicRules[]): string[] {
  return nics.flatMap(({ vm, missing, unfiltered, groups }) => [
    ...missing.map(
      (name) => `VM ${vm.name} names security group ${name}, which is not there; it counts as one without rules.`,
    ),
    ...(unfiltered !== null && groups.length > 0
      ? [`A NIC of VM ${vm.name} is in groups and can not be filtered: ${unfiltered}.`]
      : []),
  ]);
}

function describeFirewallProblem(error: unknown): LodgeError {
  return error instanceof LodgeError ? error : describeHostProblem(error, 'spec');
}
