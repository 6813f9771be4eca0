// Colours and emphasis for people: only on a terminal, and never against NO_COLOR (https://no-color.org).

/** Functions that mark text; without colours they give it back as it is. */
export interface Style {
  readonly hasColor: boolean;
  readonly bold: (text: string) => string;
  readonly dim: (text: string) => string;
  readonly red: (text: string) => string;
  readonly green: (text: string) => string;
  readonly yellow: (text: string) => string;
  readonly blue: (text: string) => string;
  readonly cyan: (text: string) => string;
}

const escape = '\u001b[';

function make(hasColor: boolean): Style {
  const mark =
    (on: number, off: number) =>
    (text: string): string =>
      hasColor && text !== '' ? `${escape}${on}m${text}${escape}${off}m` : text;
  return {
    hasColor,
    bold: mark(1, 22),
    dim: mark(2, 22),
    red: mark(31, 39),
    green: mark(32, 39),
    yellow: mark(33, 39),
    blue: mark(34, 39),
    cyan: mark(36, 39),
  };
}

export const plainStyle: Style = make(false);
const colorStyle: Style = make(true);

/** The style for a stream: coloured on a terminal unless NO_COLOR or TERM=dumb say no; FORCE_COLOR says yes anywhere. */
export function styleFor(stream: { isTTY?: boolean }, environment: NodeJS.ProcessEnv = process.env): Style {
  if ((environment['NO_COLOR'] ?? '') !== '') return plainStyle;
  const force = environment['FORCE_COLOR'] ?? '';
  if (force !== '' && force !== '0') return colorStyle;
  return stream.isTTY === true && environment['TERM'] !== 'dumb' ? colorStyle : plainStyle;
}
