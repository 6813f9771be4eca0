// Shows how tasks get on: on a terminal a few lines that are redrawn, elsewhere a plain line whenever a step begins or
// another tenth is done. Pure text from tasks; the drawing is at the end.
import { finalTaskStates, type Task } from '../../api/task.ts';
import { formatDuration } from '../../lib/duration.ts';
import { formatBytes, formatRate } from '../../lib/quantity.ts';
import { displayWidth, escapeControls, truncateToWidth } from '../../lib/terminal-text.ts';
import type { Style } from './style.ts';
import type { Terminal } from './terminal.ts';

const barColumns = 24;
const spinner = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'] as const;

/** A bar of fixed width: "━━━━━━╺─────". */
export function progressBar(percent: number, style: Style): string {
  const done = Math.round((Math.min(100, Math.max(0, percent)) / 100) * barColumns);
  return style.cyan('━'.repeat(done)) + style.dim('─'.repeat(barColumns - done));
}

/** How fast bytes move, smoothed over about five seconds. */
export class RateMeter {
  #bytes: number | null = null;
  #atMs = 0;
  #rate: number | null = null;

  /** Notes how many bytes are done at a time. */
  note(bytes: number, atMs: number): void {
    if (this.#bytes === null || bytes < this.#bytes) {
      this.#bytes = bytes;
      this.#atMs = atMs;
      this.#rate = null;
      return;
    }
    const elapsedMs = atMs - this.#atMs;
    if (elapsedMs < 200 || bytes === this.#bytes) return;
    const rate = ((bytes - this.#bytes) / elapsedMs) * 1000;
    const weight = 1 - Math.exp(-elapsedMs / 5000);
    this.#rate = this.#rate === null ? rate : this.#rate + (rate - this.#rate) * weight;
    this.#bytes = bytes;
    this.#atMs = atMs;
  }

  get bytesPerSecond(): number | null {
    return this.#rate;
  }
}

/** Bytes, rate and time left, as far as they are known: "120 MiB of 230 MiB, 12 MiB/s, 9s left". */
export function describeBytes(done: number, total: number | undefined, rate: number | null): string {
  const parts = [total === undefined ? formatBytes(done) : `${formatBytes(done)} of ${formatBytes(total)}`];
  if (rate !== null && rate >= 1) {
    parts.push(formatRate(rate));
    if (total !== undefined && total > done) parts.push(`${formatDuration(((total - done) / rate) * 1000)} left`);
  }
  return parts.join(', ');
}

/** What is being followed: a task, or a wait of this command line itself. */
export interface Followed {
  /** Names it among others: "create vm web1". */
  title: string;
  task?: Task;
  /** What is waited for, where it is not a task. */
  waitingFor?: string;
  /** How it ended. */
  outcome?: { isGood: boolean; text: string };
  startedAtMs: number;
  endedAtMs?: number;
}

/** What the current step is, in words. */
export function currentStep(task: Task): string {
  if (task.state === 'queued') return 'waiting for its turn';
  const undoing = task.state === 'undoing' ? 'undoing: ' : task.state === 'cancelling' ? 'cancelling: ' : '';
  const running =
    task.steps.find((step) => step.state === 'running') ?? task.steps.find((step) => step.state === 'pending');
  const words = task.progress.message ?? running?.name ?? 'finishing';
  return `${undoing}${words.replaceAll('-', ' ')}`;
}

/** One line about one of several. */
export function overviewLine(followed: Followed, frame: number, meter: RateMeter, nowMs: number, style: Style): string {
  const elapsed = style.dim(formatDuration((followed.endedAtMs ?? nowMs) - followed.startedAtMs));
  const title = style.bold(escapeControls(followed.title));
  if (followed.outcome) {
    const mark = followed.outcome.isGood ? style.green('✓') : style.red('✗');
    return `${mark} ${title}  ${escapeControls(followed.outcome.text)}  ${elapsed}`;
  }
  const mark = style.cyan(spinner[frame % spinner.length] ?? '…');
  const { task } = followed;
  if (!task) return `${mark} ${title}  ${escapeControls(followed.waitingFor ?? '')}  ${elapsed}`;
  const { percent, bytesDone, bytesTotal } = task.progress;
  const bytes =
    bytesDone === undefined || bytesDone === 0 ? '' : `  ${describeBytes(bytesDone, bytesTotal, meter.bytesPerSecond)}`;
  return `${mark} ${title}  ${progressBar(percent, style)} ${String(Math.floor(percent)).padStart(3)} %  ${escapeControls(currentStep(task))}${bytes}  ${elapsed}`;
}

/** The steps of a task that have been done, one line each; where there is only one task to show. */
export function stepLines(task: Task, style: Style): string[] {
  return task.steps
    .filter((step) => step.state === 'done' || step.state === 'failed' || step.state === 'undone')
    .map((step) => {
      const mark =
        step.state === 'done' ? style.green('✓') : step.state === 'failed' ? style.red('✗') : style.yellow('↩');
      const took =
        step.startedAt !== null && step.endedAt !== null
          ? `  ${style.dim(formatDuration(Date.parse(step.endedAt) - Date.parse(step.startedAt)))}`
          : '';
      return `  ${mark} ${escapeControls(step.name.replaceAll('-', ' '))}${step.state === 'undone' ? ' (undone)' : ''}${took}`;
    });
}

const itemMarks: Readonly<Record<Task['items'][number]['state'], string>> = {
  pending: '·',
  running: '…',
  done: '✓',
  failed: '✗',
  skipped: '−',
};

/** How each of the objects of a task gets on, one line each. */
export function itemLines(task: Task, style: Style): string[] {
  return task.items.map(({ name, state, message }) => {
    const mark = itemMarks[state];
    const colored = state === 'done' ? style.green(mark) : state === 'failed' ? style.red(mark) : style.dim(mark);
    const words = state === 'pending' ? '' : `  ${style.dim(escapeControls(message))}`;
    return `  ${colored} ${escapeControls(name)}${words}`;
  });
}

/** What a plain line says when this moment differs from the last line's; null when there is nothing new. */
export function plainLine(followed: Followed, before: string | undefined): { key: string; line: string } | null {
  const { title, task, waitingFor, outcome } = followed;
  if (outcome) return null;
  if (!task)
    return waitingFor === undefined || waitingFor === before
      ? null
      : { key: waitingFor, line: `${title}: ${waitingFor}` };
  const step = currentStep(task);
  const tenth = Math.floor(task.progress.percent / 10) * 10;
  const key = `${step} ${tenth}`;
  // That it waits its turn is worth a line only when it lasts, and then the steps will tell.
  if (finalTaskStates.has(task.state) || task.state === 'queued' || key === before) return null;
  return { key, line: `${title}: ${step} (${Math.floor(task.progress.percent)} %)` };
}

/** Draws what is followed, until it is closed. */
export class ProgressBoard {
  readonly #terminal: Terminal;
  readonly #all: Followed[] = [];
  readonly #meters = new Map<Followed, RateMeter>();
  readonly #said = new Map<Followed, string>();
  #drawnLines = 0;
  #frame = 0;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    if (terminal.canRedraw) {
      this.#timer = setInterval(() => {
        this.#frame += 1;
        this.#draw();
      }, 100);
      this.#timer.unref();
    }
  }

  /** Adds something to follow; change it through {@link update}. */
  add(title: string): Followed {
    const followed: Followed = { title, startedAtMs: Date.now() };
    this.#all.push(followed);
    this.#meters.set(followed, new RateMeter());
    return followed;
  }

  update(followed: Followed, change: Partial<Followed>): void {
    Object.assign(followed, change);
    if (change.outcome) {
      followed.endedAtMs = Date.now();
      // What another client has changed meanwhile is not said twice.
      if (this.#timer === undefined) this.#sayOutcome(followed);
    }
    const done = followed.task?.progress.bytesDone;
    if (done !== undefined) this.#meters.get(followed)?.note(done, Date.now());
    if (this.#timer !== undefined) return;
    const said = plainLine(followed, this.#said.get(followed));
    if (said === null) return;
    this.#said.set(followed, said.key);
    this.#terminal.note(escapeControls(said.line));
  }

  #sayOutcome(followed: Followed): void {
    const { outcome } = followed;
    if (outcome) this.#terminal.note(escapeControls(`${followed.title}: ${outcome.text}`));
  }

  /** Takes the moving lines off the screen and leaves the outcomes; ends the drawing. */
  close(): void {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#erase();
    for (const followed of this.#all) {
      if (followed.outcome) this.#terminal.note(this.#overview(followed));
    }
  }

  #overview(followed: Followed): string {
    const meter = this.#meters.get(followed) ?? new RateMeter();
    return overviewLine(followed, this.#frame, meter, Date.now(), this.#terminal.noteStyle);
  }

  #draw(): void {
    const columns = process.stderr.columns ?? 80;
    const rows = process.stderr.rows ?? 24;
    const [only] = this.#all;
    const lines = this.#all.map((followed) => this.#overview(followed));
    if (this.#all.length === 1 && only?.task && !only.outcome)
      lines.push(...(only.task.items.length > 0 ? itemLines : stepLines)(only.task, this.#terminal.noteStyle));
    const room = Math.max(1, rows - 1);
    const shown = lines.length > room ? [...lines.slice(0, room - 1), `… and ${lines.length - room + 1} more`] : lines;
    this.#erase();
    process.stderr.write(shown.map((line) => `${fit(line, columns - 1)}\n`).join(''));
    this.#drawnLines = shown.length;
  }

  #erase(): void {
    if (this.#drawnLines > 0) process.stderr.write(`\u001b[${this.#drawnLines}A\u001b[0J`);
    this.#drawnLines = 0;
  }
}

/** A coloured line in at most `columns` columns; one that is too long loses its colours with its end. */
function fit(line: string, columns: number): string {
  if (displayWidth(line) <= columns) return line;
  return truncateToWidth(line.replace(/\p{Cc}\[[0-9;]*m/gu, ''), columns);
}
