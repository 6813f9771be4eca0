// Shows work step by step while it happens: on a terminal one line a step that moves, elsewhere plain lines now and
// then, so that a log stays readable. Promises: every step ends with a line that says how it went and how long it took.
import { stripVTControlCharacters, styleText } from 'node:util';

/** Where the lines go; the part of a terminal's stream that is used. */
export interface StepOutput {
  isTTY?: boolean;
  columns?: number;
  write: (text: string) => unknown;
}

/** Told by the work of a step while it goes on. */
export interface StepProgress {
  /** What is being done now, in a few words. */
  message?: string;
  /** Of the whole step. */
  percent?: number;
}

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
/** How often the line moves on a terminal, in milliseconds. */
const FRAME_MS = 100;
/** How often a step that goes on is mentioned where there is no terminal, in milliseconds. */
const NOTICE_MS = 10_000;

export class Steps {
  readonly #output: StepOutput;
  readonly #isLive: boolean;

  constructor(output: StepOutput = process.stdout, environment: NodeJS.ProcessEnv = process.env) {
    this.#output = output;
    this.#isLive = output.isTTY === true && (environment['CI'] ?? '') === '' && environment['TERM'] !== 'dumb';
  }

  /**
   * Does one step. `work` tells how far it is; `done`, where given, makes the words of the last line from what came of it.
   * What `work` throws is thrown on, after the step's line says that it failed.
   */
  async step<T>(
    label: string,
    work: (report: (progress: StepProgress) => void) => Promise<T>,
    done?: (value: T) => string,
  ): Promise<T> {
    const began = performance.now();
    let progress: StepProgress = {};
    let frame = 0;
    const draw = (): void => {
      const spinner = styleText('cyan', FRAMES[frame++ % FRAMES.length] ?? '');
      this.#rewrite(`${spinner} ${label}  ${describe(progress)}${elapsed(began)}`);
    };
    if (!this.#isLive) this.#line(`… ${label}`);
    const timer = this.#isLive
      ? setInterval(draw, FRAME_MS)
      : setInterval(() => this.#line(`  ${label}  ${describe(progress)}${elapsed(began)}`), NOTICE_MS);
    if (this.#isLive) draw();
    try {
      const value = await work((next) => (progress = next));
      clearInterval(timer);
      this.#line(`${styleText('green', '✔')} ${done?.(value) ?? label}  ${styleText('dim', elapsed(began))}`);
      return value;
    } catch (error) {
      clearInterval(timer);
      this.#line(`${styleText('red', '✖')} ${label}  ${styleText('dim', elapsed(began))}`);
      throw error;
    }
  }

  /** Says that there was nothing to do. */
  already(text: string): void {
    this.#line(`${styleText('green', '✔')} ${text}`);
  }

  #line(text: string): void {
    this.#output.write(this.#isLive ? `\r\u001b[K${text}\n` : `${stripVTControlCharacters(text)}\n`);
  }

  /** Draws over the line of the step; cut to the terminal's width, since a second line could not be drawn over. */
  #rewrite(text: string): void {
    const room = (this.#output.columns ?? 80) - 1;
    const plain = stripVTControlCharacters(text);
    this.#output.write(`\r\u001b[K${plain.length > room ? plain.slice(0, room) : text}`);
  }
}

function describe({ message, percent }: StepProgress): string {
  const parts = [percent === undefined ? '' : `${Math.floor(percent)} %`, message ?? ''];
  return parts.map((part) => (part === '' ? '' : `${part}  `)).join('');
}

function elapsed(began: number): string {
  const seconds = (performance.now() - began) / 1000;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}
